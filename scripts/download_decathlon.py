"""Download tasks of the Medical Segmentation Decathlon, check them, and unpack them to OUTPUT_DIR/TaskNN_Name.

A download that was stopped goes on where it was, tasks that are there are skipped. The data is licensed CC-BY-SA 4.0:
http://medicaldecathlon.com/

Example:

    python scripts/download_decathlon.py --tasks Task04_Hippocampus --tasks Task09_Spleen --output-dir data

From a mirror:

    python scripts/download_decathlon.py --tasks Task09_Spleen --output-dir data --url https://mirror.example/Task09_Spleen.tar
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from custom_components.errors import InputError

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def download(
    tasks: Annotated[list[str], typer.Option(help="Name of a task, such as Task04_Hippocampus; repeat the option.")],
    output_dir: Annotated[Path, typer.Option(help="Where the tasks' folders go.", show_default=False)],
    url: Annotated[str | None, typer.Option(help="Address of a mirror's archive, for a single task.")] = None,
    md5: Annotated[str | None, typer.Option(help="MD5 of the mirror's archive, where it is not the original one.")] = None,
    keep_archive: Annotated[bool, typer.Option("--keep-archive", help="Leave the archive in OUTPUT_DIR/.downloads.")] = False,
) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        from custom_components.data.download import decathlon_source, download_decathlon

        names = [name for given in tasks for name in given.replace(",", " ").split()]
        if (url or md5) and len(names) != 1:
            raise InputError(f"--url and --md5 are of one archive, but there are {len(names)} tasks; run once for each")
        for name in names:
            decathlon_source(name)  # a wrong name is told before the first gigabyte
        for name in names:
            with Progress(*columns, TimeRemainingColumn(), console=errors) as progress:
                advance = partial(_advance, progress, progress.add_task(name, total=None))
                folder = download_decathlon(name, output_dir, url, md5, keep_archive, advance)
            console.print(f"ready: {folder}")
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None


def _advance(progress: Progress, bar: TaskID, got: int, total: int | None) -> None:
    progress.update(bar, completed=got, total=total)


if __name__ == "__main__":
    app()
