"""Masks of bits: what SciPy does on voxels, at widths around a word's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from custom_components.kernels.bits import Bits

STRUCTURE = ndimage.generate_binary_structure(3, 2)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 2, 63, 64, 65, 127, 128, 130]))


def random_mask(shape: tuple[int, int, int], density: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@settings(deadline=None)
@given(shape=shapes, density=st.floats(0, 1), seed=st.integers(0, 99))
def test_what_is_packed_comes_back(shape, density, seed):
    mask = random_mask(shape, density, seed)
    assert np.array_equal(Bits.of(mask).mask(), mask)
    classes = np.where(mask, 7, np.random.default_rng(seed).integers(0, 7, shape))
    for kind in (np.uint8, np.int64, np.float32):
        assert np.array_equal(Bits.of(classes.astype(kind), 7).mask(), mask)
        assert np.array_equal(Bits.of(np.asfortranarray(classes.astype(kind)), 7).mask(), mask)


@settings(deadline=None)
@given(shape=shapes, density=st.floats(0, 1), seed=st.integers(0, 99), iterations=st.integers(0, 3))
def test_closing_is_scipys(shape, density, seed, iterations):
    mask = random_mask(shape, density, seed)
    expected = ndimage.binary_closing(mask, STRUCTURE, iterations) if iterations else mask
    closed = Bits.of(mask).closed(iterations)
    assert np.array_equal(closed.mask(), expected)
    assert np.array_equal((Bits.of(mask) | closed).mask(), mask | expected)


def scipy_largest(mask: np.ndarray, keep: int, second_over: float) -> np.ndarray:
    """SciPy numbers components in z, y, x order of their first voxel."""
    parts, count = ndimage.label(mask, STRUCTURE)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    kept = np.zeros_like(mask)
    if count:
        kept |= parts == order[0] + 1
    if keep == 2 and count > 1 and sizes[order[1]] * second_over > sizes[order[0]]:
        kept |= parts == order[1] + 1
    return kept


@settings(deadline=None, max_examples=150)
@given(
    shape=shapes,
    density=st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.3, 0.6, 1.0]),
    seed=st.integers(0, 99),
    keep=st.sampled_from([1, 2]),
    second_over=st.floats(1, 30),
)
def test_components_are_scipys_and_of_equal_ones_the_first(shape, density, seed, keep, second_over):
    mask = random_mask(shape, density, seed)
    assert np.array_equal(Bits.of(mask).largest(keep, second_over).mask(), scipy_largest(mask, keep, second_over))


@pytest.mark.parametrize(
    "offset", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (0, 1, -1), (1, 1, 1), (1, -1, -1)]
)
def test_two_voxels_are_neighbours_over_faces_and_edges_but_not_corners(offset):
    mask = np.zeros((3, 3, 130), bool)
    mask[1, 1, 64] = mask[tuple(np.add((1, 1, 64), offset))] = True
    assert Bits.of(mask).largest(1, 10).mask().sum() == (2 if np.count_nonzero(offset) < 3 else 1)


def test_a_spiral_is_one_component():
    """Its arms meet only at the end, so runs that seemed apart must be joined late."""
    mask = np.zeros((1, 41, 70), bool)
    mask[0, ::2] = True
    mask[0, 1::4, -1] = mask[0, 3::4, 0] = True
    mask[0, 20, 35] = False
    assert np.array_equal(Bits.of(mask).largest(2, 1e9).mask(), mask)
    assert np.array_equal(Bits.of(mask).largest(1, 0).mask(), scipy_largest(mask, 1, 0))


def test_threads_change_nothing(monkeypatch):
    mask = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(40, 130, 70)), 1.5) > 0.02
    expected = scipy_largest(ndimage.binary_closing(mask, STRUCTURE), 2, 50)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert np.array_equal(Bits.of(mask).closed(1).largest(2, 50).mask(), expected)


def test_clear_and_fill_touch_only_what_they_name():
    before, after = random_mask((4, 5, 67), 0.4, 0), random_mask((4, 5, 67), 0.4, 1)
    out = np.random.default_rng(2).integers(0, 3, before.shape).astype(np.int16)
    expected = out.copy()
    expected[before & ~after] = 0
    Bits.of(before).clear(Bits.of(after), out)
    assert np.array_equal(out, expected)
    expected[after & ~before & (expected == 0)] = 5
    Bits.of(before).fill(Bits.of(after), 5, out)
    assert np.array_equal(out, expected)
