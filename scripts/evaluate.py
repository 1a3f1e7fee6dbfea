"""Score segmentations: Dice, surface Dice at 1 mm and 95 % Hausdorff distance in mm, per case and class.

Saved segmentations against labels (NAME.nii.gz or NAME_seg.nii.gz against NAME.nii.gz):

    python scripts/evaluate.py predictions Task04_Hippocampus/labelsTr --domain domain.json --output-dir scores

Or a bundle's network, which first segments the cases of a Decathlon folder that it was not trained on:

    python scripts/evaluate.py --bundle bundles/hippocampus_mri_segmentation --dataset-dir Task04_Hippocampus --output-dir scores

Writes scores.json (means with bootstrap 95 % intervals, all cases, how they were made), scores.csv and scores.png.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.errors import InputError, input_error_behind
from custom_components.training import METRICS, score_picture, write_scores
from custom_components.training.files import pair_files, score_files
from custom_components.training.scoring import Scores

app = typer.Typer(add_completion=False)
console = Console(stderr=True, soft_wrap=True)


@app.command(help=__doc__)
def evaluate(
    predictions: Annotated[Path | None, typer.Argument(metavar="PREDICTIONS_DIR", help="Folder of segmentations.")] = None,
    labels: Annotated[Path | None, typer.Argument(metavar="LABELS_DIR", help="Folder of reference labels.")] = None,
    domain: Annotated[Path | None, typer.Option(help="domain.json that names the classes.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; instead of saved segmentations.")] = None,
    dataset_dir: Annotated[Path | None, typer.Option(help="Decathlon folder, with --bundle.")] = None,
    cases: Annotated[str, typer.Option(help="With --bundle: validation (of the fold) or all.")] = "validation",
    fold: Annotated[int, typer.Option(help="With --bundle: the fold.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Of the surface Dice of saved segmentations, mm.")] = 1.0,
    output_dir: Annotated[Path, typer.Option(help="Where the scores go.")] = Path("scores"),
) -> None:
    failed: dict[str, str] = {}
    try:
        if bundle is not None and dataset_dir is not None and predictions is None:
            scores = _score_bundle(bundle, dataset_dir, cases, fold, output_dir)
        elif predictions is not None and labels is not None and domain is not None and bundle is None:
            scores, failed = _score_files(predictions, labels, Domain.from_file(domain), tolerance, output_dir)
        else:
            raise InputError("give PREDICTIONS_DIR, LABELS_DIR and --domain, or --bundle and --dataset-dir (see --help)")
        with atomic_path(output_dir / "scores.png") as temporary:
            Image.fromarray(score_picture(scores)).save(temporary)
    except InputError as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    console.print(_table(json.loads((output_dir / "scores.json").read_text(encoding="utf-8"))["summary"]))
    console.print(f"{len(scores)} cases scored: {output_dir / 'scores.json'}, scores.csv, scores.png", markup=False)
    for reason in failed.values():
        console.print(f"Error: {reason}", style="red", markup=False)
    if failed:
        raise typer.Exit(1)


def _score_files(
    predictions: Path, labels: Path, domain: Domain, tolerance: float, output_dir: Path
) -> tuple[Scores, dict[str, str]]:
    """Scores by case, and the reasons why others have none."""
    pairs, failed = pair_files(predictions, labels)
    scores: Scores = {}
    with Progress(console=console) as progress:
        for case, (prediction, label) in progress.track(pairs.items(), description="scoring"):
            try:
                scores[case] = score_files(prediction, label, domain, tolerance)
            except InputError as error:
                failed[case] = str(error)
    if not scores:
        raise InputError("; ".join(failed.values()))
    facts = {"predictions": predictions.resolve().name, "labels": labels.resolve().name, "tolerance_mm": tolerance}
    write_scores(scores, output_dir, facts={**facts, "domain": domain.name, "failed": list(failed)})
    return scores, failed


def _score_bundle(bundle: Path, dataset_dir: Path, cases: str, fold: int, output_dir: Path) -> Scores:
    """Run the bundle's evaluate.json, which writes the scores."""
    from monai.bundle import ConfigWorkflow  # seconds to import, and not needed for saved segmentations

    config = bundle / "configs" / "evaluate.json"
    if not config.is_file():
        raise InputError(f"{config}: no such file; give the folder of a bundle")
    places = {"bundle_root": str(bundle), "dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    flow = ConfigWorkflow(str(config), workflow_type="eval", cases=cases, fold=fold, **places)
    try:
        flow.initialize()
        flow.run()
    except RuntimeError as error:  # MONAI wraps what goes wrong while a config runs
        raise input_error_behind(error) from None
    written = json.loads((output_dir / "scores.json").read_text(encoding="utf-8"))["cases"]
    return {
        case: {c: {m: math.nan if v is None else v for m, v in metrics.items()} for c, metrics in scores.items()}
        for case, scores in written.items()
    }


def _table(summary: dict[str, Any]) -> Table:
    """Mean and 95 % interval of every class and metric."""
    table = Table()
    table.add_column("class")
    for metric in METRICS:
        table.add_column(metric.replace("_", " "), justify="right")
    for name, metrics in summary.items():
        table.add_row(name, *(_cell(metrics[metric]) for metric in METRICS))
    return table


def _cell(values: dict[str, float | None]) -> str:
    if values["mean"] is None:
        return "undefined"
    undefined = f", {values['undefined']} undefined" if values["undefined"] else ""
    return f"{values['mean']:.3f} ({values['ci95_low']:.3f} to {values['ci95_high']:.3f}{undefined})"


if __name__ == "__main__":
    app()
