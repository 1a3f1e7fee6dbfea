"""Spacing, patch, strides and kernels: by hand, and by property."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_components.errors import InputError
from custom_components.planning.geometry import (
    SMALLEST_PATCH,
    halvings,
    plan_levels,
    plan_patch,
    resampled_shape,
    target_spacing,
)

sizes = st.tuples(*[st.integers(8, 700)] * 3)
spacings = st.tuples(*[st.floats(0.2, 12)] * 3)
bounds = st.integers(SMALLEST_PATCH, 192**3)


def test_strides_of_an_isotropic_volume() -> None:
    """128 → 64 → 32 → 16 → 8 → 4: five halvings of every axis, and 3×3×3 everywhere."""
    assert plan_levels((1.0, 1.0, 1.0), (128, 128, 128), 5) == (((2, 2, 2),) * 5, ((3, 3, 3),) * 6)
    assert len(plan_levels((1.0, 1.0, 1.0), (128, 128, 128), 3).strides) == 3


def test_strides_of_the_hippocampus() -> None:
    """36 → 18 → 9 → 5, 50 → 25 → 13 → 7, 35 → 18 → 9 → 5: then no axis has eight voxels. The shipped domain's patch and steps."""
    assert plan_patch((36, 50, 35), (1.0, 1.0, 1.0), 128**3, 5) == (40, 56, 40)
    assert plan_levels((1.0, 1.0, 1.0), (40, 56, 40), 5).strides == ((2, 2, 2),) * 3


def test_strides_of_thick_cardiac_slices() -> None:
    """9 × 216 × 256 of 10 × 1.5 × 1.5 mm.

    10 / 1.5 and 10 / 3 are 2 or more: z waits two steps, with kernels of 1. At 6 mm, 10 / 6 < 2: it is halved, 9 → 5, which
    is less than eight: no more. y: 216 → 108 → 54 → 27 → 14 → 7; x: 256 → … → 8. So 2, 32, 32 divide the patch.
    """
    spacing, patch = (10.0, 1.5, 1.5), (10, 224, 256)
    assert plan_patch((9, 216, 256), spacing, 128**3, 5) == patch
    strides, kernels = plan_levels(spacing, patch, 5)
    assert strides == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_strides_of_a_ct() -> None:
    """100 × 512 × 512 of 2.5 × 0.8 × 0.8 mm.

    2.5 / 0.8 > 2: z waits one step; 2.5 / 1.6 < 2 from then on. 128³ voxels of this aspect are about 43 × 222 × 222; z, 43 →
    22 → 11 → 6, is halved three times, y and x five times: multiples of 8 and 32.
    """
    spacing = (2.5, 0.8, 0.8)
    patch = plan_patch((100, 512, 512), spacing, 128**3, 5)
    assert patch == (40, 224, 224)
    strides, kernels = plan_levels(spacing, patch, 5)
    assert strides == ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), *[(3, 3, 3)] * 5)


def test_a_spacing_of_exactly_twice_the_finest_waits() -> None:
    strides, kernels = plan_levels((2.0, 1.0, 1.0), (64, 64, 64), 2)
    assert strides == ((1, 2, 2), (2, 2, 2))
    assert kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3))


def test_a_short_axis_stays_whole_under_a_small_bound() -> None:
    patch = plan_patch((9, 216, 256), (10.0, 1.5, 1.5), 64**3, 5)
    assert patch[0] == 10
    assert 0.75 * 64**3 < math.prod(patch) <= 64**3


def test_an_image_of_a_few_voxels_is_refused() -> None:
    with pytest.raises(InputError, match=r"7 × 7 × 7 voxels .* too few"):
        plan_patch((7, 7, 7), (1.0, 1.0, 1.0), 128**3, 5)


@pytest.mark.parametrize(
    ("spacings", "shapes", "expected"),
    [
        ([(1, 1, 1), (2, 1, 1), (3, 1, 1)], [(100, 100, 100)] * 3, (2, 1, 1)),  # median
        ([(3.0 + i, 0.5, 0.5) for i in range(11)], [(20, 300, 300)] * 11, (4, 0.5, 0.5)),  # 10th percentile of 3 … 13
        ([(3.0 + i, 0.5, 0.5) for i in range(11)], [(200, 300, 300)] * 11, (8, 0.5, 0.5)),  # as many voxels: not thick slices
        ([(1, 1, 1)] * 2 + [(8, 1, 1)] * 9, [(20, 300, 300)] * 11, (1, 1, 1)),
        ([(0.3, 1, 1)] * 2 + [(8, 1, 1)] * 9, [(20, 300, 300)] * 11, (1, 1, 1)),  # never finer than the others
        ([(1, 1, 6)] * 3, [(200, 200, 30)] * 3, (1, 1, 6)),  # sagittal
    ],
)
def test_target_spacing(spacings: list, shapes: list, expected: tuple[float, ...]) -> None:
    assert target_spacing(spacings, shapes)[0] == pytest.approx(expected)


def test_the_median_shape_is_that_of_resampled_images() -> None:
    assert resampled_shape([(10, 100, 100), (20, 50, 60), (30, 40, 10)], [(4, 1, 1), (2, 2, 2), (1, 1, 1)], (2, 1, 1)) == (
        20,
        100,
        100,
    )


@given(shape=sizes, spacing=spacings, bound=bounds, steps=st.integers(1, 6))
def test_a_patch_is_within_its_bounds(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], bound: int, steps: int
) -> None:
    patch = plan_patch(shape, spacing, bound, steps)
    strides, kernels = plan_levels(spacing, patch, steps)
    assert 1 <= len(strides) <= steps
    assert math.prod(patch) <= bound
    for axis, times in enumerate(halvings(strides)):
        assert patch[axis] % times == 0
        assert patch[axis] < shape[axis] + times, "rounded up at most"
        assert patch[axis] * 3 <= shape[axis] * 4, "a third more at most"
        assert times == 1 or patch[axis] // times >= 4
        assert patch[axis] >= min(shape[axis], 16)
    current = list(spacing)
    for level, kernel in enumerate(kernels):
        finest = min(current)
        for axis in range(3):
            wide = kernel[axis] == 3
            assert wide or (current[axis] >= 2 * finest and level < len(strides))
            if wide and level < len(strides) and not (level and kernels[level - 1][axis] == 3):
                assert current[axis] < 2 * finest, "the first of its axis"
        if level < len(strides):
            current = [s * n for s, n in zip(current, strides[level], strict=True)]


@given(n=st.integers(8, 400), bound=st.integers(32**3, 160**3))
def test_a_cube_keeps_its_aspect_and_uses_the_bound(n: int, bound: int) -> None:
    patch = plan_patch((n, n, n), (1.0, 1.0, 1.0), bound, 5)
    assert max(patch) <= 1.5 * min(patch)
    if n**3 > bound:
        assert math.prod(patch) > 0.3 * bound
