#!/usr/bin/env python
"""Turn a checkpoint of the published 3D U²-Net code into this project's weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from custom_components.errors import InputError

EXAMPLE = (
    "Example: python scripts/import_original.py universal.pth --output-dir models "
    "--domain heart_mri --domain liver_ct --domain hippocampus_mri"
)


def main(
    checkpoint: Annotated[
        Path, typer.Argument(help="The original's .pth: a state dict, or a dict with 'model_state_dict'. No code in it is run.")
    ],
    output_dir: Annotated[Path, typer.Option(help="Where trunk.safetensors, one file per domain and model.pt are written.")],
    domain: Annotated[
        list[str] | None, typer.Option(help="Name of each task, in the order of the checkpoint; repeat the option.")
    ] = None,
    pools: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="How often the z, y and x axes are halved, e.g. 4 5 5; by default at every step."),
    ] = None,
) -> None:
    """Read an original checkpoint of any set-up (independent, shared, universal) and write it in this project's form.

    Set-up, widths, levels, channels and classes are read from the checkpoint. The configuration for a bundle's
    network_def is printed.
    """
    from custom_components.weights import import_original, save_bundle_weights  # torch takes seconds; --help should not

    try:
        imported = import_original(checkpoint, domain, pools)
        network = imported.build()
        files = save_bundle_weights(network, output_dir)
    except InputError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        sys.exit(1)
    parameters = sum(p.numel() for p in network.parameters())
    print(json.dumps({"_target_": "custom_components.networks.U2Net", **imported.config}, indent=4))
    print(f"{parameters:,} parameters, {len(network.domains)} domain(s); written:")
    for file in files:
        print(f"  {file}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EXAMPLE)(main)
    app()
