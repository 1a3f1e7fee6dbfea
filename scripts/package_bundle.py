"""Package a bundle: one zip that works on a machine with nothing of this project, with a manifest of every file.

    python scripts/package_bundle.py bundles/hippocampus_mri_segmentation --output-dir shared

    python scripts/package_bundle.py bundles/universal_segmentation --weights-licence 'CC-BY-NC-SA 4.0' --sign release.pem

In the zip are the bundle, the code that it needs, segment.py, requirements.txt, and a README that leads from an empty
environment to a label. Equal input gives equal bytes. `python -m monai.bundle download --name NAME --url ...` takes it as it is.
Receivers check it with scripts/verify_bundle.py; a key to sign with is made by scripts/signing_key.py.
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
def package_bundle(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle with weights.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="Where NAME_vVERSION.zip goes.")] = Path("shared"),
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Private key (PEM, Ed25519) to sign the manifest with.")
    ] = None,
    weights_licence: Annotated[
        str | None, typer.Option(help="Such as 'CC-BY-SA 4.0'; else what docs/facts.json or the adapters say.")
    ] = None,
    large_files_url: Annotated[
        str | None, typer.Option(help="Where weights over 25 MB will be had; written into large_files.yml.")
    ] = None,
    leave_out_large: Annotated[bool, typer.Option("--leave-out-large", help="List these weights, but do not pack them.")] = False,
) -> None:
    from custom_components.sharing.package import package_bundle as package
    from custom_components.sharing.signature import key_id, read_private_key

    try:
        key = (
            read_private_key(sign, lambda: str(typer.prompt(f"Passphrase of {sign}", hide_input=True, err=True)))
            if sign
            else None
        )
        with errors.status("packaging: copies, hashes and checks every file"):
            made = package(
                bundle,
                output_dir,
                sign=key,
                weights_licence=weights_licence,
                large_files_url=large_files_url,
                leave_out_large=leave_out_large,
            )
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None
    manifest = made.manifest
    for line in made.check.code:
        errors.print(f"note: {line}")
    if manifest.provenance.modified:
        errors.print(f"note: made from files that differ from commit {manifest.provenance.commit}, and the manifest says so")
    if made.left_out:
        errors.print(f"note: not in the zip, to be had as large_files.yml says: {', '.join(made.left_out)}")
    signed = f", signed by key {key_id(key.public_key())}" if key is not None else ", not signed"
    names = ", ".join(domain.name for domain in manifest.domains)
    console.print(f"written: {made.path} ({made.path.stat().st_size / 2**20:.1f} MiB, {len(manifest.files)} files{signed})")
    console.print(f"{manifest.name} {manifest.version}: {names}; weights {manifest.licence.weights}; trunk {manifest.trunk}")


if __name__ == "__main__":
    app()
