"""Prove that the domains of a bundle compute what they computed, to the bit, after something was done to it.

BEFORE is a copy of the bundle (or of its models folder) from before the change, AFTER is the bundle as it is. Exits with 0 if
the trunk, and every domain that was there before, are unchanged: weights, logits and segmentations; and if
models/model.pt, where it is there, holds the same weights. Exits with 1 and names
what differs, if not. Domains that were added are listed, and not looked at.

Example:

    cp -r bundles/universal_segmentation before

    python scripts/adapters.py import spleen_ct.safetensors --bundle bundles/universal_segmentation

    python scripts/prove_unchanged.py before bundles/universal_segmentation --output-file proof.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from custom_components.errors import InputError

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def prove(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Bundle or models folder as it was.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Bundle or models folder as it is.", show_default=False)],
    inputs: Annotated[
        Path | None, typer.Option(help="Folder of images, or with a folder of images per domain; random volumes if not given.")
    ] = None,
    trained: Annotated[list[str] | None, typer.Option(help="A domain that was meant to change; repeat the option.")] = None,
    max_voxels: Annotated[int, typer.Option(min=1, help="Size of the random patches at most; smaller is faster.")] = 128**3,
    output_file: Annotated[Path | None, typer.Option(help="JSON with fingerprints, hashes of all outputs, verdict.")] = None,
) -> None:
    try:
        from custom_components.atomic import atomic_path
        from custom_components.training.facts import run_facts
        from custom_components.weights.proof import prove_unchanged

        with errors.status("reading") as status:
            proof = prove_unchanged(before, after, inputs, trained or (), max_voxels, lambda name: status.update(f"{name} …"))
        if output_file is not None:
            made = {"command": ["python", "scripts/prove_unchanged.py", *sys.argv[1:]], "made": run_facts()}
            with atomic_path(output_file) as temporary:
                temporary.write_text(json.dumps({**made, **proof}, indent=4) + "\n", encoding="utf-8")
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None
    for note in proof["notes"]:
        console.print(f"note: {note}")
    compared = sum(len(domain["outputs"]) for domain in proof["domains"].values())
    if proof["verdict"] != "unchanged":
        errors.print(f"CHANGED: {after} is not what {before} was:", style="bold red")
        for difference in proof["differences"]:
            errors.print(f"  {difference}", style="red")
        raise typer.Exit(1)
    added = f"; added: {', '.join(proof['added'])}" if proof["added"] else ""
    looked_at = f"trunk, {', '.join(proof['domains'])} ({compared} outputs compared)"
    if not proof["domains"]:
        looked_at = "the trunk; every domain was left out (--trained), and no output was compared"
    console.print(f"Unchanged, to the bit: {looked_at}{added}", style="green")


if __name__ == "__main__":
    app()
