"""Make a pair of Ed25519 keys: KEY.pem to sign bundles with, KEY.pub.pem for everybody who is to check them.

    python scripts/signing_key.py release.pem

Keep the private key away from the machines that train and publish; give the public one by another way than the bundles.
openssl makes and reads the same files: openssl genpkey -algorithm ed25519 -out release.pem
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from custom_components.errors import InputError

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def signing_key(
    key: Annotated[Path, typer.Argument(metavar="KEY.pem", help="Where the private key goes.", show_default=False)],
    plain: Annotated[bool, typer.Option("--plain", help="Do not ask for a passphrase; whoever has the file can sign.")] = False,
) -> None:
    from custom_components.sharing.signature import key_id, make_keys, read_public_key

    passphrase = None
    if not plain:
        passphrase = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    try:
        private, public = make_keys(key, passphrase)
        console.print(f"written: {private} (keep it) and {public} (give it away); key {key_id(read_public_key(public))}")
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
