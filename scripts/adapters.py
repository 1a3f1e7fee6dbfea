"""The adapters of a bundle: which there are, one of them as a file to share, one from somebody else, one taken out.

Example:

    python scripts/adapters.py list bundles/universal_segmentation

    python scripts/adapters.py export bundles/universal_segmentation spleen_ct --output-dir shared --licence 'CC-BY-SA 4.0' \\
        --results scores.json --training training.json

    python scripts/adapters.py import shared/spleen_ct.safetensors --bundle bundles/universal_segmentation

    python scripts/adapters.py remove bundles/universal_segmentation spleen_ct

An adapter runs on the trunk that it was trained with, and on no other. What the other domains of a bundle compute does not
change by any of this; scripts/prove_unchanged.py shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from custom_components.errors import InputError

if TYPE_CHECKING:  # torch and MONAI take seconds to import: --help must not wait for them
    from custom_components.weights.bundle_files import Adapter

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="DOMAIN", help="Name of the domain.", show_default=False)]


@app.command("list")
def list_(bundle: Bundle) -> None:
    """Print a table of a bundle's domains; exits with 1 where its files do not agree."""
    from custom_components.weights.bundle_files import check_bundle, list_adapters

    with _reported():
        found, faults = list_adapters(bundle), check_bundle(bundle)
        trunks = ", ".join(sorted({adapter.header.trunk[:12] for adapter in found}))
        table = Table(title=f"{bundle}: trunk {trunks}", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        for column in ("domain", "modality", "classes", "parameters", "file", "licence"):
            number, words = column in ("classes", "parameters", "file"), column == "licence"
            table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=not words)
        for adapter in found:
            domain = adapter.domain
            table.add_row(
                adapter.header.domain,
                domain.modality if domain else "",
                str(adapter.header.shape.out_channels - 1),
                f"{adapter.parameters:,}",
                f"{adapter.size / 1024:,.0f} KiB",
                adapter.header.licence or "",
            )
        console.print(table)
        for fault in faults:
            errors.print(f"Error: {fault}", style="red")
        if faults:
            raise typer.Exit(1)


@app.command()
def show(
    bundle: Bundle,
    what: Annotated[str, typer.Argument(metavar="DOMAIN_OR_FILE", help="A domain of the bundle, or a file to be imported.")],
    as_json: Annotated[bool, typer.Option("--json", help="The header and description as JSON.")] = False,
) -> None:
    """Print all that is known of one adapter: its description, how it was trained, how good it is."""
    from custom_components.weights.adapters import TRUNK_FILE
    from custom_components.weights.bundle_files import describe_file, models_of, take_adapter

    with _reported():
        is_file = what.endswith(".safetensors")
        adapter = describe_file(what, models_of(bundle) / TRUNK_FILE) if is_file else take_adapter(bundle, what)[0]
        facts = _facts(adapter)
        if as_json:
            print(json.dumps(facts, indent=4))
            return
        for name, value in facts.items():
            console.print(f"{name}: {value if not isinstance(value, dict) else json.dumps(value, indent=4)}")


@app.command()
def export(
    bundle: Bundle,
    domain: Name,
    output_dir: Annotated[Path, typer.Option(help="Where DOMAIN.safetensors is written.", show_default=False)],
    licence: Annotated[
        str | None, typer.Option(help="Written into the file, such as 'CC-BY-SA 4.0'; else what the bundle's facts say.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="JSON object about its training (steps, cases, commit, …), written into the file.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="scores.json of an evaluation, written into the file; else those that the bundle ships."),
    ] = None,
) -> None:
    """Write one domain as a file to share: its weights, its description, its training, its scores and its licence."""
    from custom_components.weights.bundle_changes import export_adapter
    from custom_components.weights.bundle_files import describe_header

    with _reported():
        path = export_adapter(bundle, domain, output_dir, licence, training, results)
        console.print(f"written: {path}")
        said = describe_header(path)
        for what in ("training", "metrics", "licence"):
            if getattr(said, what) is None:
                errors.print(f"note: the file does not say its {what}; see --help")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An adapter of the bundle's trunk.", show_default=False)],
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.", show_default=False)],
    description: Annotated[Path | None, typer.Option(help="domain.json, for a file that has none in it.")] = None,
) -> None:
    """Add a domain to a bundle of many: its adapter, its description, and a new models/model.pt. No code in it is run."""
    from custom_components.weights.bundle_changes import import_adapter

    with _reported():
        console.print(f"imported: {import_adapter(file, bundle, description)}")


@app.command()
def remove(
    bundle: Bundle,
    domain: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take a domain out of a bundle of many; a copy that can be imported again stays in models/removed."""
    from custom_components.weights.bundle_changes import remove_adapter

    if not yes and not typer.confirm(f"Remove {domain} from {bundle}?"):
        errors.print("Nothing was removed.")
        raise typer.Exit(1)
    with _reported():
        console.print(f"removed; import this to have it back: {remove_adapter(bundle, domain)}")


def _facts(adapter: Adapter) -> dict[str, Any]:
    header = adapter.header
    return {
        "domain": header.domain,
        "file": str(adapter.path),
        "size_bytes": adapter.size,
        "parameters": adapter.parameters,
        "fingerprint": header.sha256,
        "trunk": header.trunk,
        "network": header.network.model_dump(mode="json"),
        "licence": header.licence,
        "training": header.training,
        "metrics": header.metrics,
        "description": adapter.domain.model_dump(mode="json") if adapter.domain else None,
    }


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
