"""Write docs/RESULTS.md and its picture from the results of scripts/compare_setups.py.

The picture lies beside the page, under the same name. Text of yours, such as how the settings of the runs were found, goes into
RESULTS_DIR/notes.md; the page repeats it.

python scripts/results_page.py
python scripts/results_page.py --results-dir docs/results --output docs/RESULTS.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.experiments.results import read_results
from custom_components.experiments.results_figure import draw_results
from custom_components.experiments.results_page import results_page

app = typer.Typer(add_completion=False)
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def make_page(
    results_dir: Annotated[Path, typer.Option(help="Folder with a JSON per run.")] = Path("docs/results"),
    output: Annotated[Path, typer.Option(help="The page.")] = Path("docs/RESULTS.md"),
    bundles: Annotated[Path, typer.Option(help="Folder of the domains' bundles.")] = Path("bundles"),
) -> None:
    try:
        found = [Domain.from_file(path) for path in sorted(bundles.glob("*/configs/domain.json"))]
        results = read_results(results_dir)
        notes = path.read_text(encoding="utf-8") if (path := results_dir / "notes.md").is_file() else ""
        picture = output.with_suffix(".png")
        page = results_page(results, {domain.name: domain for domain in found}, notes, picture.name)
        draw_results(results, picture)
        with atomic_path(output) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except InputError as error:
        console.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None
    print(output)


if __name__ == "__main__":
    app()
