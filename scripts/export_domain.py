"""Write one domain's network as TorchScript or ONNX: one file that runs without this project, with its domain in it.

The file is reloaded and run before it is kept: on an input of the domain's patch size and on one of another size it must give
what the network gives, up to rounding. It takes any size that the domain's strides divide, and any batch. docs/exports.md says
what goes in, what comes out, and how to use it; docs/examples/segment_exported.py segments an image with it.

Examples:

    python scripts/export_domain.py bundles/hippocampus_mri_segmentation --output hippocampus.onnx

    python scripts/export_domain.py bundles/universal_segmentation --domain headneck_ct --output headneck.ts
"""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from custom_components.errors import InputError

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


class Format(StrEnum):
    torchscript = "torchscript"
    onnx = "onnx"


@app.command(help=__doc__)
def export_domain(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The file: .ts or .onnx.", show_default=False)],
    domain: Annotated[str | None, typer.Option(help="Name of the domain, where the bundle has several.")] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="If the suffix does not say it.")] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of weights to use instead of the bundle's models.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference of a logit from the network's, as a part of the largest logit.")
    ] = 1e-3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
) -> None:
    started = time.perf_counter()
    try:
        if output.exists() and not overwrite:
            raise InputError(f"{output}: exists already; choose another name, or --overwrite")
        with errors.status("loading"):
            from custom_components.exports import export_network
            from custom_components.inference import bundle_domain
            from custom_components.weights import load_network
            from custom_components.weights.model import check_trained

            described = bundle_domain(bundle, domain)
            folder = models or bundle / "models"
            check_trained(folder, "trunk.safetensors")
            network = load_network(folder, described)
        with errors.status(f"exporting {described.name}, then running the file"):
            found = export_network(network, described, output, format_.value if format_ else None, tolerance)
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None
    for one in found:
        console.print(
            f"input {'×'.join(map(str, one.shape))}: a logit differs by {one.absolute:.2g} at most, {one.relative:.2g} of the "
            f"largest ({one.largest:.3g}); in float32 the network itself by {one.rounding:.2g}; "
            f"another class on {one.classes} of {one.voxels} voxels"
        )
    size = output.stat().st_size / 2**20
    console.print(f"{output}: {described.name}, {size:.2f} MB ({time.perf_counter() - started:.1f} s)")


if __name__ == "__main__":
    app()
