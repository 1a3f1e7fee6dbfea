from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage

from custom_components.domain import ComponentRule
from custom_components.transforms import KeepComponents, KeepComponentsd, close_mask, largest_components

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "components.npz"
STRUCTURE = ndimage.generate_binary_structure(3, 2)


@pytest.mark.parametrize("case", range(4))
def test_equals_the_frozen_vectors_bit_for_bit(case: int) -> None:
    with np.load(VECTORS) as vectors:
        mask, closed, one, two = (vectors[f"{case}/{name}"] for name in ("mask", "closed", "largest_one", "largest_two"))
    assert np.array_equal(close_mask(mask > 0), closed > 0)
    assert np.array_equal(largest_components(mask > 0, 1), one > 0)
    assert np.array_equal(largest_components(mask > 0, 2), two > 0)


@given(seed=st.integers(0, 999), iterations=st.integers(0, 3), density=st.floats(0.02, 0.6))
def test_closing_in_a_box_equals_scipy_on_the_whole_array(seed: int, iterations: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((11, 12, 13), dtype=bool)
    low = rng.integers(0, 6, 3)
    box = tuple(slice(int(a), int(a + n)) for a, n in zip(low, rng.integers(1, 9, 3), strict=True))
    mask[box] = rng.random(mask[box].shape) < density
    expected = ndimage.binary_closing(mask, STRUCTURE, iterations) if iterations else mask
    assert np.array_equal(close_mask(mask, iterations), expected)


@given(seed=st.integers(0, 999), keep=st.sampled_from([0, 1, 2]), second_over=st.floats(1, 30))
def test_components_equal_scipys(seed: int, keep: int, second_over: float) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(9, 14, 12)), 1) > 0.25
    parts, count = ndimage.label(mask, STRUCTURE)
    sizes = sorted(((parts == i).sum() for i in range(1, count + 1)), reverse=True)
    got = largest_components(mask, keep, second_over)
    kept, kept_count = ndimage.label(got, STRUCTURE)
    if keep == 0:
        assert np.array_equal(got, mask)
    elif keep == 2 and count > 1 and sizes[1] * second_over > sizes[0]:
        assert sorted((kept == i).sum() for i in (1, 2)) == sorted(sizes[:2])
        assert kept_count == 2
    else:
        assert (got.sum(), kept_count) == (sizes[0], 1)
    assert not (got & ~mask).any()


def test_an_empty_mask_stays_empty() -> None:
    empty = np.zeros((4, 5, 6), dtype=bool)
    assert not close_mask(empty).any()
    assert not largest_components(empty, 1).any()


LABELS = {"background": 0, "a": 1, "b": 2}


def scene() -> np.ndarray:
    """Class a with a hole in its middle and a speck elsewhere, class b beside it and in the hole of a."""
    label = np.zeros((16, 16, 20), dtype=np.uint8)
    label[4:12, 4:12, 2:10] = 1
    label[7, 7, 5] = 0
    label[4:12, 4:12, 10:16] = 2
    label[7, 7, 7] = 2
    label[1, 1, 18] = 1
    return label


def test_each_label_by_its_own_rule_and_no_class_overwritten() -> None:
    rules = {"a": ComponentRule(closing=1, keep=1), "b": {"closing": 0, "keep": 1}}
    got = KeepComponents(LABELS, rules)(torch.from_numpy(scene()[None]))[0].numpy()
    assert got[7, 7, 5] == 1, "the hole is closed"
    assert got[7, 7, 7] == 1, "a speck of b within a is dropped and the closing of a fills it"
    assert got[1, 1, 18] == 0, "a speck of a far away is dropped"
    assert (got[4:12, 4:12, 10:16] == 2).all(), "the closing of a takes nothing from b"
    assert (got > 0).sum() == 8 * 8 * 14


def test_a_label_without_a_rule_stays() -> None:
    got = KeepComponents(LABELS, {"a": ComponentRule(closing=0, keep=1)})(torch.from_numpy(scene()[None]))[0].numpy()
    assert np.array_equal(got == 2, scene() == 2)


def test_between_two_closings_the_lower_index_wins_in_any_order_of_rules() -> None:
    label = np.zeros((7, 7, 9), dtype=np.uint8)
    label[:, [2, 4]] = 1
    label[[2, 4], 3] = 2  # two rods between the plates of a; both closings fill the row between the rods
    rule = {"closing": 1, "keep": 1}
    for order in (["a", "b"], ["b", "a"]):
        got = KeepComponents(LABELS, dict.fromkeys(order, rule))(torch.from_numpy(label[None]))[0]
        assert (got[3, 3, 1:-1] == 1).all()
        assert (got[[2, 4], 3] == 2).all()
    alone = KeepComponents(LABELS, {"b": rule})(torch.from_numpy(label[None]))[0]
    assert (alone[3, 3, 1:-1] == 2).all()


def test_an_organ_at_the_image_face_keeps_its_outermost_layer() -> None:
    label = np.zeros((1, 8, 9, 10), dtype=np.uint8)
    label[0, :4, 2:7, 2:7] = 1
    got = KeepComponents(LABELS, {"a": ComponentRule(closing=1, keep=1)})(torch.from_numpy(label))
    assert np.array_equal(got.numpy(), label)


def test_type_geometry_and_input_stay() -> None:
    for dtype in (torch.uint8, torch.float32, torch.int64):
        label = MetaTensor(torch.from_numpy(scene()[None]).to(dtype), affine=np.diag([2.0, 3, 4, 1]))
        before = label.as_tensor().clone()
        got = KeepComponentsd("pred", LABELS, {"a": ComponentRule(closing=1, keep=1)})({"pred": label})["pred"]
        assert torch.equal(label.as_tensor(), before)
        assert got.dtype == dtype
        assert torch.equal(got.affine, label.affine)


@pytest.mark.parametrize(
    "rules", [{"c": {"closing": 1, "keep": 1}}, {"background": {"closing": 1, "keep": 1}}, {"a": {"closing": 1}}]
)
def test_refuses_wrong_rules(rules: dict) -> None:
    with pytest.raises(ValueError, match=r"no such label|background|keep"):
        KeepComponents(LABELS, rules)


def test_refuses_one_hot() -> None:
    with pytest.raises(ValueError, match="class map"):
        KeepComponents(LABELS, {})(torch.zeros(3, 4, 4, 4))
