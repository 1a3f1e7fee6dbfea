"""Spacing, patch, strides and kernels of a domain, from shapes and spacings alone.

The rules are those of nnU-Net's planner (Isensee et al., Nature Methods 2021, and its ``default_experiment_planner`` and
``get_pool_and_conv_props``), with three differences: the patch has the aspect of the median image from the start, short axes
stay whole, and the bound is a number of voxels in place of an estimate of memory. All triples are z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from custom_components.errors import InputError

__all__ = [
    "ANISOTROPY",
    "SHORT_AXIS",
    "SMALLEST_MAP",
    "SMALLEST_PATCH",
    "Levels",
    "coarse_axis",
    "halvings",
    "plan_levels",
    "plan_patch",
    "resampled_shape",
    "target_spacing",
]

Size3 = tuple[int, int, int]
Spacing3 = tuple[float, float, float]

ANISOTROPY = 3.0  # nnU-Net's threshold, of spacings and of voxel numbers
SMALLEST_MAP = 4  # voxels of a feature map along an axis that was halved
SHORT_AXIS = 16  # voxels: an axis is not cut below this
SMALLEST_PATCH = SHORT_AXIS**3  # a bound that every patch can keep


class Levels(NamedTuple):
    """Strides of each step and kernels of each level (one more)."""

    strides: tuple[Size3, ...]
    kernel_sizes: tuple[Size3, ...]


def target_spacing(spacings: Sequence[Spacing3], shapes: Sequence[Size3]) -> tuple[Spacing3, str]:
    """The voxel size to work at, and why.

    The median of each axis; of an axis that is more than three times as coarse as the others and has less than a third of
    their voxels, the 10th percentile, so that most cases keep their detail there, though never finer than the others.

    Args:
        spacings: of the cases, mm.
        shapes: of the cases, voxels.
    """
    table = np.asarray(spacings, dtype=float)
    target, size = np.median(table, axis=0), np.median(np.asarray(shapes), axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    spread = "; ".join(
        f"{a} {low:.4g}–{high:.4g}" for a, low, high in zip("zyx", table.min(axis=0), table.max(axis=0), strict=True)
    )
    why = f"median of {len(table)} cases (mm: {spread})"
    coarse = target[worst] > ANISOTROPY * target[others].max()
    if coarse and size[worst] * ANISOTROPY < size[others].min():
        ratio, fewer, more = target[worst] / target[others].max(), size[worst], size[others].min()
        target[worst] = max(np.percentile(table[:, worst], 10), target[others].max())
        why += (
            f"; {'zyx'[worst]} is {ratio:.1f} times as coarse as the others and has {fewer:.0f} voxels "
            f"against {more:.0f}: its 10th percentile, so that finer cases keep their detail"
        )
    z, y, x = (_rounded(value) for value in target)
    return (z, y, x), why


def resampled_shape(shapes: Sequence[Size3], spacings: Sequence[Spacing3], target: Spacing3) -> Size3:
    """Median over the cases of the voxels along each axis at the target spacing; at least 1."""
    voxels = np.asarray(shapes, dtype=float) * np.asarray(spacings) / np.asarray(target)
    z, y, x = (max(1, round(v)) for v in np.median(voxels, axis=0))
    return z, y, x


def plan_levels(spacing: Spacing3, patch: Size3, max_steps: int) -> Levels:
    """Strides and kernels for a patch.

    A step halves every axis that keeps at least four voxels and whose spacing is less than twice the finest of such axes.
    A kernel is 1 along an axis until the axis' spacing is less than twice the finest, then 3 on all deeper levels; the
    deepest level has 3 everywhere.

    Args:
        spacing: mm.
        patch: voxels; what an axis is halved to is rounded up.
        max_steps: no more steps than this.

    Returns:
        Without a step where no axis has eight voxels.
    """
    size, current = list(patch), list(spacing)
    kernel = [1, 1, 1]
    strides: list[Size3] = []
    kernels: list[Size3] = []
    while True:
        kernel = [3 if k == 3 or s / min(current) < 2 else 1 for k, s in zip(kernel, current, strict=True)]
        long = [axis for axis in range(3) if size[axis] >= 2 * SMALLEST_MAP]
        finest = min((current[axis] for axis in long), default=0.0)
        halved = [axis in long and current[axis] / finest < 2 for axis in range(3)]
        if len(strides) == max_steps or not any(halved):
            break
        kernels.append(_triple(kernel))
        strides.append(_triple([2 if half else 1 for half in halved]))
        size = [math.ceil(n / 2) if half else n for n, half in zip(size, halved, strict=True)]
        current = [s * 2 if half else s for s, half in zip(current, halved, strict=True)]
    return Levels(tuple(strides), (*kernels, (3, 3, 3)))


def plan_patch(shape: Size3, spacing: Spacing3, patch_voxels: int, max_steps: int) -> Size3:
    """The largest patch within a bound that has the aspect of the median image.

    Args:
        shape: of the median image at the target spacing, voxels.
        spacing: the target spacing, mm.
        patch_voxels: bound, at least `SMALLEST_PATCH`.
        max_steps: as in `plan_levels`.

    Returns:
        Divisible by the product of the strides that `plan_levels` gives for it. Along an axis it is at most the image,
        rounded up to that product, which adds less than a third; axes of up to `SHORT_AXIS` voxels stay whole.

    Raises:
        InputError: no axis of the image is long enough to be halved once.
    """
    if not plan_levels(spacing, shape, max_steps).strides:
        size, of = " × ".join(str(n) for n in shape), " × ".join(f"{s:g}" for s in spacing)
        raise InputError(
            f"the median image has {size} voxels (z, y, x) of {of} mm, too few for a network, which halves an axis of at least "
            f" {2 * SMALLEST_MAP}; check the files' spacings, or give a finer --set spacing=[z,y,x]"
        )
    scale = 1.0
    while True:
        wanted = _triple([max(min(n, SHORT_AXIS), round(n * scale)) for n in shape])
        patch = _padded(wanted, plan_levels(spacing, wanted, max_steps))
        if math.prod(patch) <= patch_voxels:
            return _grown(patch, shape, spacing, patch_voxels, max_steps)
        scale *= 0.99


def halvings(strides: Sequence[Size3]) -> Size3:
    """Product of the strides along each axis."""
    return _triple([math.prod(stride[axis] for stride in strides) for axis in range(3)])


def coarse_axis(spacing: Spacing3) -> int | None:
    """The axis that is more than three times as coarse as the finest, the coarsest of these; None where there is none."""
    return int(np.argmax(spacing)) if max(spacing) > ANISOTROPY * min(spacing) else None


def _grown(patch: Size3, shape: Size3, spacing: Spacing3, patch_voxels: int, max_steps: int) -> Size3:
    """Use what rounding left of the bound: the axis of which the patch shows least grows first, under the same strides."""
    levels = plan_levels(spacing, patch, max_steps)
    step = halvings(levels.strides)
    while True:
        for axis in sorted(range(3), key=lambda a: patch[a] / shape[a]):
            larger = _triple([n + step[a] * (a == axis) for a, n in enumerate(patch)])
            fits = math.prod(larger) <= patch_voxels and larger[axis] < shape[axis] + step[axis]
            if fits and plan_levels(spacing, larger, max_steps) == levels:
                patch = larger
                break
        else:
            return patch


def _padded(size: Size3, levels: Levels) -> Size3:
    return _triple([math.ceil(n / f) * f for n, f in zip(size, halvings(levels.strides), strict=True)])


def _rounded(value: float) -> float:
    """Four significant digits: below what scanners are built to, and readable."""
    return float(f"{value:.4g}")


def _triple(values: Sequence[int]) -> Size3:
    z, y, x = values
    return z, y, x
