"""Scores of many cases: collected in an engine, written as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite import distributed as idist
from ignite.engine import Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.engines.workflow import Workflow

from custom_components.atomic import atomic_path
from custom_components.training.facts import run_facts
from custom_components.training.metrics import METRICS, score_case, summarise

__all__ = ["CaseScores", "write_scores"]

Scores = dict[str, dict[str, dict[str, float]]]


class CaseScores:
    """Score every case an evaluator sees, on the grid of its prediction and label, spacing included.

    The mean of every class and metric goes into the engine's metrics as ``<class>_<metric>``; list this handler
    before those that log. At the end ``<output_dir>/<name>.json`` and ``.csv`` are written.

    Args:
        classes: names of classes 1, 2, …
        output_dir: made if absent; None writes nothing.
        name: of the files.
        metrics: which of `custom_components.training.metrics.METRICS`.
        tolerance: of the surface Dice, mm.
        data: the folder that was scored; the file names its last part.
        facts: more to say in the file about how the scores came about.
    """

    def __init__(
        self,
        classes: Sequence[str],
        output_dir: str | Path | None,
        name: str = "scores",
        metrics: Sequence[str] = METRICS,
        tolerance: float = 1.0,
        data: str | Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.output_dir = output_dir
        self.name = name
        self.metrics = tuple(metrics)
        self.tolerance = tolerance
        self.facts = {"data": _folder(data), "tolerance_mm": tolerance, **(facts or {})}
        self.cases: Scores = {}

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def clear(self, engine: Workflow) -> None:
        self.cases = {}

    def score(self, engine: Workflow) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            pred, label = output["pred"], output["label"]
            if not isinstance(label, MetaTensor):
                raise TypeError("the label carries no geometry: its spacing is unknown")
            case = str(batch.get("case", f"case {len(self.cases)}"))
            spacing = affine_to_spacing(label.affine).tolist()
            self.cases[case] = score_case(pred[0].cpu(), label[0].cpu(), spacing, self.classes, self.tolerance, self.metrics)

    def finish(self, engine: Workflow) -> None:
        if idist.get_world_size() > 1:
            gathered: list[Scores] = idist.all_gather(self.cases)  # type: ignore[arg-type, assignment]
            self.cases = {case: scores for part in gathered for case, scores in part.items()}
        self.cases = dict(sorted(self.cases.items()))
        for name, metrics in summarise(self.cases, resamples=1).items():
            for metric, statistics in metrics.items():
                if name != "mean" and statistics["mean"] is not None:
                    engine.state.metrics[f"{name}_{metric}"] = statistics["mean"]
        if self.output_dir is not None and idist.get_rank() == 0:
            write_scores(self.cases, self.output_dir, self.name, self.facts)


def write_scores(cases: Scores, output_dir: str | Path, name: str = "scores", facts: Mapping[str, Any] | None = None) -> Path:
    """Write scores as ``<name>.json`` (summary, cases, how they were made) and ``<name>.csv`` (one row per case).

    Args:
        cases: case to class to metric to score.
        output_dir: made if absent.
        name: of both files.
        facts: added to those of `run_facts`.

    Returns:
        Path of the JSON.
    """
    folder = Path(output_dir)
    report = {
        "summary": summarise(cases),
        "cases": {case: {c: {m: _json(v) for m, v in s.items()} for c, s in scores.items()} for case, scores in cases.items()},
        "made": {**run_facts(), **(facts or {})},
    }
    _write(folder / f"{name}.csv", _csv(cases))
    _write(folder / f"{name}.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    return folder / f"{name}.json"


def _csv(cases: Scores) -> str:
    columns = [(c, m) for c, metrics in next(iter(cases.values()), {}).items() for m in metrics]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *(f"{c}_{m}" for c, m in columns)])
    for case, scores in cases.items():
        values = [scores[c][m] for c, m in columns]
        writer.writerow([case, *("" if math.isnan(v) else f"{v:.6f}" for v in values)])
    return text.getvalue()


def _json(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _folder(data: str | Path | None) -> str | None:
    """The folder's name: where it lies is the business of one machine."""
    return Path(data).resolve().name if data is not None else None


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
