"""Describe data sets before training: tables of every case and every task, and a picture of each task.

Example:

    python scripts/explore_data.py Task04_Hippocampus --output-dir tables
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from custom_components.data import Dataset, read_dataset
from custom_components.data.exploration import CaseReport, Row, describe_cases, summarise, write_csv
from custom_components.errors import InputError

app = typer.Typer(add_completion=False)
console = Console(stderr=True, soft_wrap=True)


@app.command(help=__doc__)
def explore(
    dataset_dirs: Annotated[
        list[Path], typer.Argument(metavar="DATASET_DIR...", help="Decathlon folders (TaskNN_Name with dataset.json).")
    ],
    output_dir: Annotated[Path, typer.Option(help="Where cases.csv, intensities.csv, labels.csv, tasks.csv and TASK.png go.")],
    jobs: Annotated[int, typer.Option(min=1, help="Cases read at a time, each in a process of its own.")] = 1,
    picture: Annotated[bool, typer.Option(help="Draw TASK.png.")] = True,
) -> None:
    bad: list[str] = []
    explored: list[tuple[Dataset, list[CaseReport]]] = []
    tasks: list[Row] = []
    try:
        for folder in dataset_dirs:
            try:
                dataset = read_dataset(folder)
                if dataset.task in (other.task for other, _ in explored):
                    raise InputError(f"{folder}: a folder named {dataset.task} was given already; explore them one by one")
            except InputError as error:
                bad.append(str(error))
                continue
            reports, errors = _measure(dataset, jobs)
            bad += errors
            if reports:
                explored.append((dataset, reports))
                tasks.append(summarise(dataset, reports, len(errors)))
        if explored:
            _write(output_dir, explored, tasks, picture)
    except InputError as error:
        bad.append(str(error))
    for row in tasks:
        console.print(
            f"{row['task']}: {row['cases']} cases, {row['bad_cases']} bad, {row['cases_with_stray_labels']} with stray labels",
            markup=False,
        )
    for line in bad:
        console.print(f"Error: {line}", style="red", markup=False)
    if bad:
        raise typer.Exit(1)


def _measure(dataset: Dataset, jobs: int) -> tuple[list[CaseReport], list[str]]:
    """The reports of the good cases, and one line for each bad one, in the order of the list."""
    reports: list[CaseReport] = []
    errors: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for result in progress.track(describe_cases(dataset, jobs), total=len(dataset.cases), description=dataset.task):
            if isinstance(result, CaseReport):
                reports.append(result)
            else:
                errors.append(str(result))
    return reports, errors


def _write(output_dir: Path, explored: list[tuple[Dataset, list[CaseReport]]], tasks: list[Row], picture: bool) -> None:
    reports = [report for _, of_task in explored for report in of_task]
    write_csv(output_dir / "cases.csv", [report.case for report in reports])
    write_csv(output_dir / "intensities.csv", [row for report in reports for row in report.intensities])
    write_csv(output_dir / "labels.csv", [row for report in reports for row in report.labels])
    write_csv(output_dir / "tasks.csv", tasks)
    written = ["cases.csv", "intensities.csv", "labels.csv", "tasks.csv"]
    if picture:
        from custom_components.data.pictures import draw_dataset  # matplotlib only where it is needed

        for dataset, of_task in explored:
            draw_dataset(output_dir / f"{dataset.task}.png", dataset, of_task)
            written.append(f"{dataset.task}.png")
    console.print(f"Written to {output_dir}: {', '.join(written)}", markup=False)


if __name__ == "__main__":
    app()
