"""Scores against geometry that can be worked out by hand, and against a plain SciPy computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from custom_components.training import score_case, summarise

CLASSES = ("anterior", "posterior")


def box(low: tuple[int, int, int], high: tuple[int, int, int], index: int = 1) -> np.ndarray:
    array = np.zeros((30, 24, 20), dtype=np.uint8)
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = index
    return array


def test_equal_segmentations_score_best() -> None:
    label = box((5, 5, 5), (15, 12, 12)) + box((18, 5, 5), (25, 12, 12), 2)
    for scores in score_case(label, label, (1, 2, 3), CLASSES).values():
        assert scores == {"dice": 1.0, "surface_dice": 1.0, "hd95_mm": 0.0}


@pytest.mark.parametrize(("axis", "spacing"), [(0, (2.0, 1.0, 1.0)), (1, (1.0, 3.5, 1.0)), (2, (0.7, 0.7, 5.0))])
def test_a_shifted_box_is_as_far_away_as_its_shift_in_mm(axis: int, spacing: tuple[float, float, float]) -> None:
    reference = box((8, 6, 6), (16, 14, 14))
    prediction = np.roll(reference, 2, axis)
    scores = score_case(prediction, reference, spacing, CLASSES)["anterior"]
    assert scores["dice"] == pytest.approx(0.75)  # 6 of 8 layers
    assert scores["hd95_mm"] == pytest.approx(2 * spacing[axis])


def surface_points(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing)


def test_hausdorff_distance_equals_a_plain_computation() -> None:
    rng = np.random.default_rng(0)
    spacing = (1.5, 0.8, 2.2)
    reference = ndimage.gaussian_filter(rng.normal(size=(20, 22, 18)), 3) > 0.02
    prediction = ndimage.gaussian_filter(rng.normal(size=(20, 22, 18)), 3) > 0.02
    distances = cdist(surface_points(prediction, spacing), surface_points(reference, spacing))
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    scores = score_case(prediction.astype(int), reference.astype(int), spacing, ("organ",))["organ"]
    assert scores["hd95_mm"] == pytest.approx(expected, rel=1e-5)
    assert scores["dice"] == pytest.approx(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))


@pytest.mark.parametrize(("shift", "spacing"), [(1, 1.0), (1, 0.5), (2, 1.2), (1, 3.0), (2, 2.5)])
def test_surface_dice_counts_what_lies_within_a_millimetre(shift: int, spacing: float) -> None:
    """A box of 10 × 12 × 12 voxels against itself, shifted along the first axis."""
    reference = box((8, 4, 4), (18, 16, 16))
    distance = shift * spacing
    area = 2 * 144 + 48 * 10 * spacing
    # Lost beyond 1 mm: the end outside, the end inside but for its rim of 1 mm, the sides that stick out by more than 1 mm.
    lost = 144 + 100 + 48 * (distance - 1) if distance > 1 else 0
    scores = score_case(np.roll(reference, shift, 0), reference, (spacing, 1, 1), CLASSES)["anterior"]
    assert scores["surface_dice"] == pytest.approx(1 - lost / area, abs=0.07)  # voxels bevel edges and coarsen rims


def test_the_border_of_the_image_is_a_surface() -> None:
    inside = box((10, 8, 6), (20, 16, 14))
    cut = inside[10:20, 8:16, 6:14]
    shifted = np.roll(inside, 1, 1)
    at_border = score_case(shifted[10:20, 8:16, 6:14], cut, (1, 1, 1), CLASSES)["anterior"]
    assert at_border["hd95_mm"] == pytest.approx(1.0)


def test_empty_classes_are_undefined_or_missed() -> None:
    organ, nothing = box((5, 5, 5), (9, 9, 9)), box((0, 0, 0), (0, 0, 0))
    neither = score_case(nothing, nothing, (1, 1, 1), CLASSES)
    assert all(math.isnan(v) for s in neither.values() for v in s.values())
    for pair in ((organ, nothing), (nothing, organ)):
        scores = score_case(*pair, (1, 1, 1), CLASSES)["anterior"]
        assert (scores["dice"], scores["surface_dice"]) == (0, 0)
        assert math.isnan(scores["hd95_mm"])


@pytest.mark.parametrize(
    ("prediction", "message"),
    [(np.zeros((5, 5, 5)), "shape"), (box((1, 1, 1), (3, 3, 3), 3), "values"), (np.full((30, 24, 20), -1), "values")],
)
def test_what_cannot_be_compared_is_refused(prediction: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_case(prediction, box((1, 1, 1), (3, 3, 3)), (1, 1, 1), CLASSES)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics"):
        score_case(np.zeros((5, 5, 5)), np.zeros((5, 5, 5)), (1, 1, 1), CLASSES, metrics=("f1",))


def cases(values: list[float]) -> dict[str, dict[str, dict[str, float]]]:
    return {f"case {i}": {"anterior": {"dice": v}, "posterior": {"dice": v / 2}} for i, v in enumerate(values)}


def test_the_summary_is_the_mean_and_its_interval_the_one_of_theory() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.05, 200).tolist()
    summary = summarise(cases(values))
    anterior = summary["anterior"]["dice"]
    error = 1.96 * np.std(values) / math.sqrt(200)
    assert anterior["mean"] == pytest.approx(np.mean(values))
    assert anterior["ci95_low"] == pytest.approx(np.mean(values) - error, abs=error / 10)
    assert anterior["ci95_high"] == pytest.approx(np.mean(values) + error, abs=error / 10)
    assert summary["mean"]["dice"]["mean"] == pytest.approx(np.mean(values) * 0.75)
    assert summarise(cases(values)) == summary


def test_undefined_scores_are_counted_and_left_out() -> None:
    summary = summarise(cases([0.5, math.nan, 0.7]))
    anterior = summary["anterior"]["dice"]
    assert (anterior["mean"], anterior["cases"], anterior["undefined"]) == (pytest.approx(0.6), 2, 1)
    nothing = summarise(cases([math.nan]))["mean"]["dice"]
    assert (nothing["mean"], nothing["ci95_low"], nothing["cases"]) == (None, None, 0)
    assert summarise({}) == {}
