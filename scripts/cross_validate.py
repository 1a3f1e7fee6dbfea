r"""Train and score a bundle on every fold of a data set and pool the scores: a case is judged by the network that never saw it.

Every fold has a folder RUNS_DIR/fold<k> with its weights, scores and logs. A fold that is done is not done again, one that was
stopped goes on where it was. At the end RUNS_DIR/scores.json and .csv hold all cases, their means and bootstrap intervals.

The networks of the folds can be used together:

    python scripts/segment.py IMAGE --bundle BUNDLE --models RUNS_DIR/fold0/models --models RUNS_DIR/fold1/models …

Examples:

    python scripts/cross_validate.py bundles/spleen_ct_segmentation DIR/Task09_Spleen --runs-dir runs/spleen

    python scripts/cross_validate.py bundles/heart_mri_segmentation DIR/Task02_Heart --runs-dir runs/heart --processes 2 \
        --config original_recipe.json --option '--max_epochs 10'
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from custom_components.errors import InputError
from custom_components.experiments.running import bundle_command, configs_sha256, run_logged, split_options
from custom_components.experiments.settings import check_settings, note_settings

# Overrides of the training that make another network, and what an evaluation needs to make the same.
NETWORK_OF = {"original_recipe.json": "original_network.json", "adapt.json": "from_universal.json"}

OF_FOLDS = {"config_file", "bundle_root", "dataset_dir", "fold", "folds", "ckpt_dir", "output_dir"}
"""What is this script's to say, and not --option's."""
MEND = "give another --runs-dir, or move it away"

app = typer.Typer(add_completion=False)
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def cross_validate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a domain's bundle.", show_default=False)],
    dataset_dir: Annotated[Path, typer.Argument(help="Decathlon folder (TaskNN_Name).", show_default=False)],
    runs_dir: Annotated[Path, typer.Option(help="Gets a folder per fold, and the pooled scores.", show_default=False)],
    fold: Annotated[
        list[int] | None, typer.Option(help="A fold to run; can be given several times. All five if not given.")
    ] = None,
    folds: Annotated[str, typer.Option(help="auto, original, five, or a JSON file of folds.")] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Folds that run at the same time.")] = 1,
    config: Annotated[list[str] | None, typer.Option(help="Override file in the bundle's configs, for training.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="More for every training: --option '--max_epochs 10'.")] = None,
) -> None:
    try:
        for needed in ("train.json", "domain.json"):
            if not (bundle / "configs" / needed).is_file():
                raise InputError(f"{bundle}: has no configs/{needed}; give the folder of a domain's bundle")
        numbers = sorted(set(fold)) if fold else list(range(5))
        _check_folds(dataset_dir, numbers, folds)
        files = [bundle / "configs" / name for name in ("train.json", *(config or []))]
        if missing := [file for file in files if not file.is_file()]:
            raise InputError(f"{missing[0]}: no such file; --config names files in the bundle's configs")
        _check_networks(files[1:])
        extra = split_options(option or [], OF_FOLDS)
        settings = {
            "bundle": bundle.resolve().name,
            "configurations": configs_sha256(bundle),
            "data": dataset_dir.resolve().name,
            "cases": _cases_sha256(dataset_dir),
            "folds": folds,
            "configs": [file.name for file in files],
            "options": extra,
        }
        for number in numbers:  # all of them, before the first is trained
            check_settings(runs_dir / f"fold{number}", settings, MEND)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress, ThreadPoolExecutor(processes) as pool:
            task = progress.add_task("folds", total=len(numbers))

            def one(number: int) -> dict[str, Any]:
                folder = runs_dir / f"fold{number}"
                note_settings(folder, settings)
                report = _fold(bundle, dataset_dir, folder, number, folds, files, extra)
                progress.advance(task)
                return report

            reports = list(pool.map(one, numbers))
        _pool(reports, numbers, runs_dir, dataset_dir, bundle)
    except InputError as error:
        console.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None


def _check_networks(overrides: list[Path]) -> None:
    """An override that makes another network has one for the evaluation, or the fold would be trained and never scored."""
    for path in overrides:
        if path.name in NETWORK_OF:
            continue
        try:
            keys = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: is not valid JSON ({error})") from None
        if other := [key for key in keys if key.split("#")[0] == "network_def"]:
            raise InputError(
                f"{path}: makes another network ({other[0]}), of which the evaluation would not know; give that as "
                f"--option '--{other[0]} VALUE', which both get"
            )


def _check_folds(dataset_dir: Path, numbers: list[int], folds: str) -> None:
    """All folds are there, before the first is trained."""
    from custom_components.data import datalist

    for number in numbers:
        datalist(dataset_dir, "validation", number, folds)


def _cases_sha256(dataset_dir: Path) -> str:
    """A hash of the names of a data set's cases and of the sizes of their files, which are not read."""
    from custom_components.data import read_dataset

    digest = hashlib.sha256()
    for case in read_dataset(dataset_dir).cases:
        images = case["image"] if isinstance(case["image"], list) else [case["image"]]
        digest.update(repr((case["case"], [Path(file).stat().st_size for file in (*images, case["label"])])).encode())
    return digest.hexdigest()


def _fold(
    bundle: Path, dataset_dir: Path, folder: Path, number: int, folds: str, files: list[Path], extra: list[str]
) -> dict[str, Any]:
    scores = folder / "scores.json"
    if not scores.is_file():
        common = {
            "bundle_root": bundle,
            "dataset_dir": dataset_dir,
            "fold": number,
            "folds": folds,
            "ckpt_dir": folder / "models",
        }
        train = {"config_file": files, **common, "output_dir": folder / "training"}
        run_logged(bundle_command(train, extra), folder / "train.log")
        # Written beside the scores of other runs, and renamed by the evaluation itself.
        if any(file.name == "adapt.json" for file in files):  # its trunk is beside it, whichever it was trained on
            common["trunk"] = folder / "models" / "trunk.safetensors"
        networks = [bundle / "configs" / NETWORK_OF[file.name] for file in files if file.name in NETWORK_OF]
        evaluate = {"config_file": [bundle / "configs" / "evaluate.json", *networks], **common, "output_dir": folder}
        same = [part for pair in _pairs(extra) if pair[0].startswith(("--network_def", "--domain")) for part in pair]
        run_logged(bundle_command(evaluate, same), folder / "evaluate.log")
    report: dict[str, Any] = json.loads(scores.read_text(encoding="utf-8"))
    return report


def _pairs(options: list[str]) -> list[tuple[str, str]]:
    return list(zip(options[::2], options[1::2], strict=True))


def _pool(reports: list[dict[str, Any]], numbers: list[int], runs_dir: Path, dataset_dir: Path, bundle: Path) -> None:
    from custom_components.training import write_scores

    cases: dict[str, Any] = {}
    for report in reports:
        cases |= {
            case: {c: {m: float("nan") if v is None else v for m, v in s.items()} for c, s in scores.items()}
            for case, scores in report["cases"].items()
        }
    facts = {"data": dataset_dir.resolve().name, "bundle": bundle.resolve().name, "folds": numbers}
    path = write_scores(dict(sorted(cases.items())), runs_dir, "scores", facts)
    table = Table("class", "metric", "mean", "95 % interval", "cases", title=f"{len(cases)} cases of {len(numbers)} folds")
    for name, metrics in json.loads(path.read_text(encoding="utf-8"))["summary"].items():
        for metric, values in metrics.items():
            if values["mean"] is not None:
                interval = f"{values['ci95_low']:.3f} … {values['ci95_high']:.3f}"
                table.add_row(name, metric, f"{values['mean']:.3f}", interval, str(values["cases"]))
    Console().print(table)
    print(path)


if __name__ == "__main__":
    app()
