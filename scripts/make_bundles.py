"""Write the generated files of bundles anew: configurations, metadata, model card, licences.

A bundle's own sources are configs/domain.json (the task), docs/facts.json (what a person wrote: title, data, licence, references,
changelog), docs/parts/*.md (longer texts of its model card) and docs/results.json (its scores). Everything else is made from them
and from the template in custom_components/bundles/template; weights, pictures and the sources stay as they are.

    python scripts/make_bundles.py                                        # all of them
    python scripts/make_bundles.py bundles/hippocampus_mri_segmentation   # one
    python scripts/make_bundles.py --check                                # change nothing, say which files differ
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from custom_components.bundles import drift, refresh_bundle
from custom_components.errors import InputError

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
SOURCE = Path("docs") / "facts.json"

app = typer.Typer(add_completion=False)
console = Console(stderr=True, soft_wrap=True)


@app.command(help=__doc__)
def make_bundles(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="Folders; all of the repository's.")] = None,
    check: Annotated[bool, typer.Option(help="Change nothing; exit with 1 where a file differs from the template.")] = False,
) -> None:
    changed: list[Path] = []
    try:
        folders = bundles or made_bundles(BUNDLES)
        with Progress(console=console, transient=True) as progress:
            for folder in progress.track(folders, description="bundles"):
                changed += [folder / name for name in drift(folder)] if check else refresh_bundle(folder)
    except InputError as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    for path in changed:
        print(f"{'differs' if check else 'written'}: {path}")
    if check and changed:
        message = f"Error: {len(changed)} files differ from what python scripts/make_bundles.py gives"
        console.print(message, style="red", markup=False)
        raise typer.Exit(1)
    print(f"{len(folders)} bundles, {len(changed)} files {'differ' if check else 'written'}")


def made_bundles(folder: Path) -> list[Path]:
    """The bundles that are made from the template: those with facts.

    Raises:
        InputError: there are none.
    """
    found = sorted(path.parents[1] for path in folder.glob(f"*/{SOURCE}"))
    if not found:
        raise InputError(f"{folder}: holds no bundle with {SOURCE}; name the folders of bundles")
    return found


if __name__ == "__main__":
    app()
