"""Scores of one segmentation against its reference, and their summary over cases.

Three scores per class: Dice, surface Dice (the share of both surfaces within a tolerance of the other; Nikolov et al.,
2021) and the 95 % Hausdorff distance in mm. Where a class is empty:

| prediction | reference | Dice | surface Dice | HD95 |
|---|---|---|---|---|
| empty | empty | undefined | undefined | undefined |
| one of the two is empty | | 0 | 0 | undefined |

Undefined scores are ``nan`` here, ``null`` in JSON and an empty cell in CSV; they take no part in means, and the
summary says how many there are. A missed structure therefore lowers both Dice scores and is counted beside HD95.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

__all__ = ["METRICS", "score_case", "summarise"]

METRICS = ("dice", "surface_dice", "hd95_mm")


def score_case(
    prediction: torch.Tensor | np.ndarray,
    reference: torch.Tensor | np.ndarray,
    spacing: Sequence[float],
    classes: Sequence[str],
    tolerance: float = 1.0,
    metrics: Sequence[str] = METRICS,
) -> dict[str, dict[str, float]]:
    """Score one case.

    Args:
        prediction: three axes, class indices.
        reference: of the same shape, class indices.
        spacing: voxel size along the arrays' axes, mm.
        classes: names of classes 1, 2, …
        tolerance: of the surface Dice, mm.
        metrics: which of `METRICS`.

    Returns:
        Class name to metric to score; undefined scores are nan.

    Raises:
        ValueError: the shapes differ, a value is no class, or a metric is unknown.
    """
    pred, ref = (torch.as_tensor(np.asarray(a)).long()[None, None] for a in (prediction, reference))
    if pred.shape != ref.shape:
        raise ValueError(f"prediction {tuple(pred.shape[2:])} and reference {tuple(ref.shape[2:])} differ in shape")
    if not set(metrics) <= set(METRICS):
        raise ValueError(f"metrics: {list(metrics)} is not within {list(METRICS)}")
    count = len(classes) + 1
    for name, array in (("prediction", pred), ("reference", ref)):
        if array.min() < 0 or array.max() >= count:
            raise ValueError(f"{name}: values {int(array.min())} … {int(array.max())} are not within 0 … {count - 1}")
    voxel = [float(s) for s in spacing]
    return {
        name: _score_class(pred == index, ref == index, voxel, tolerance, metrics) for index, name in enumerate(classes, start=1)
    }


def summarise(
    cases: Mapping[str, Mapping[str, Mapping[str, float]]], resamples: int = 10_000, seed: int = 0
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Mean of every class and metric, with a percentile bootstrap over cases.

    Args:
        cases: case to class to metric to score, as `score_case` gives them.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same scores give the same interval.

    Returns:
        Class (and ``mean`` over the classes of each case) to metric to ``mean``, ``ci95_low``, ``ci95_high``,
        ``median``, ``cases`` (that are defined) and ``undefined``. ``None`` where no case is defined.
    """
    if not cases:
        return {}
    table: dict[str, dict[str, list[float]]] = {}
    for scores in cases.values():
        for name, metrics in {**scores, "mean": _over_classes(scores)}.items():
            for metric, value in metrics.items():
                table.setdefault(name, {}).setdefault(metric, []).append(value)
    return {
        name: {metric: _statistics(np.asarray(values), resamples, seed) for metric, values in metrics.items()}
        for name, metrics in table.items()
    }


def _score_class(
    pred: torch.Tensor, ref: torch.Tensor, spacing: Sequence[float], tolerance: float, metrics: Sequence[str]
) -> dict[str, float]:
    """Scores of one class; both masks (1, 1, ...)."""
    if not pred.any() or not ref.any():
        neither = not pred.any() and not ref.any()
        return {m: math.nan if neither or m == "hd95_mm" else 0.0 for m in metrics}
    # Within the box of both and a margin distances stay the same, and a surface at the image's border is a surface.
    where = torch.nonzero((pred | ref)[0, 0])
    z, y, x = (slice(int(low), int(high) + 1) for low, high in zip(where.min(0).values, where.max(0).values, strict=True))
    pred, ref = (torch.nn.functional.pad(mask[:, :, z, y, x].float(), (2,) * 6) for mask in (pred, ref))
    values = {}
    if "dice" in metrics:
        values["dice"] = compute_dice(pred, ref)
    if "surface_dice" in metrics:
        values["surface_dice"] = compute_surface_dice(
            pred, ref, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True
        )
    if "hd95_mm" in metrics:
        values["hd95_mm"] = compute_hausdorff_distance(pred, ref, include_background=True, percentile=95, spacing=spacing)
    return {m: float(values[m]) for m in metrics}


def _over_classes(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    metrics = next(iter(scores.values()))
    means = {}
    for metric in metrics:
        defined = [s[metric] for s in scores.values() if not math.isnan(s[metric])]
        means[metric] = float(np.mean(defined)) if defined else math.nan
    return means


def _statistics(values: np.ndarray, resamples: int, seed: int) -> dict[str, float | int | None]:
    defined = values[~np.isnan(values)]
    counts: dict[str, float | int | None] = {"cases": len(defined), "undefined": len(values) - len(defined)}
    if not len(defined):
        return {"mean": None, "ci95_low": None, "ci95_high": None, "median": None, **counts}
    picks = np.random.default_rng(seed).integers(len(defined), size=(resamples, len(defined)))
    low, high = np.percentile(defined[picks].mean(1), [2.5, 97.5])
    return {
        "mean": float(defined.mean()),
        "ci95_low": float(low),
        "ci95_high": float(high),
        "median": float(np.median(defined)),
        **counts,
    }
