"""Pictures show what they are given: contours where classes end, true proportions, every case as a dot."""

from __future__ import annotations

import math

import numpy as np

from custom_components.training import overlay, score_picture

ORANGE, GREEN = (255, 127, 14), (44, 160, 44)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Number of pixels of about this colour."""
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 40).sum())


def case() -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros((20, 30, 24), dtype=np.uint8)
    label[5:15, 8:15, 6:18] = 1
    label[5:15, 15:22, 6:18] = 2
    return np.random.default_rng(0).normal(size=label.shape).astype(np.float32), label


def test_every_class_is_outlined_in_its_colour() -> None:
    image, label = case()
    both = overlay(image, label, label, ("anterior", "posterior"))
    one = overlay(image, np.where(label == 1, 1, 0), np.where(label == 1, 1, 0), ("anterior", "posterior"))
    assert near(both, ORANGE) > 300
    assert near(both, GREEN) > 300
    assert near(one, GREEN) < near(both, GREEN) / 4  # the legend stays


def test_an_empty_prediction_and_an_empty_reference_are_drawn() -> None:
    image, label = case()
    nothing = np.zeros_like(label)
    missed = overlay(image, label, nothing, ("anterior", "posterior"))
    invented = overlay(image, nothing, label, ("anterior", "posterior"))
    empty = overlay(image, nothing, nothing, ("anterior", "posterior"))
    assert near(missed, ORANGE) > near(empty, ORANGE)
    assert near(invented, ORANGE) > near(missed, ORANGE)  # solid against dashed


def test_planes_have_true_proportions() -> None:
    flat = np.ones((10, 40, 40), dtype=np.float32)
    flat[:, :2] = 0  # the coronal plane in the middle stays white
    nothing = np.zeros(flat.shape, dtype=np.uint8)
    boxes = []
    for spacing in ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0)):
        picture = overlay(flat, nothing, nothing, (), spacing=spacing)
        third = picture.shape[1] // 3
        white = picture[:, third : 2 * third].min(axis=-1) > 200
        rows = white.sum(axis=1) > 0.4 * third  # not the lines of text
        boxes.append(rows.sum() / white[rows].any(axis=0).sum())
    np.testing.assert_allclose(boxes, [0.25, 1.0], rtol=0.05)  # the coronal plane, z against x


def test_score_pictures_leave_undefined_scores_out() -> None:
    cases = {
        f"case {i}": {"anterior": {"dice": 0.9 - i / 100, "hd95_mm": math.nan}, "posterior": {"dice": math.nan, "hd95_mm": 1.0}}
        for i in range(5)
    }
    first, second = score_picture(cases), score_picture(cases)
    assert np.array_equal(first, second)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 10
