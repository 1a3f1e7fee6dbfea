"""Shifts and flips by whole voxels: nothing is interpolated, voxels are copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from custom_components.kernels.coordinates import CoordinateField

__all__ = ["copy_aligned"]


def copy_aligned(field: CoordinateField, mode: str, volumes: Sequence[tuple[Tensor | None, Tensor | None, float]]) -> bool:
    """Fill outputs by copying where every coordinate of every sample is a whole number along unturned axes.

    Args:
        field: where to read.
        mode: boundary mode; others than constant only where nothing outside is read.
        volumes: input (B, C, Z, Y, X), output (B, C, *size), value outside.

    Returns:
        False where the field is none of that kind; nothing is written then.
    """
    if field.lattice is not None:
        return False
    given = [(source, target, value) for source, target, value in volumes if source is not None and target is not None]
    shape, size = given[0][0].shape[2:], given[0][1].shape[2:]
    plans = [_plan(matrix, shape, size) for matrix in field.matrix]
    if any(p is None or (mode != "constant" and not p[2]) for p in plans):
        return False
    for source, target, value in given:
        for b, plan in enumerate(plans):
            assert plan is not None
            inside, taken, whole = plan
            if not whole:
                target[b] = value
            part = source[b][(slice(None), *taken)]
            mirrored = [axis + 1 for axis in range(3) if field.matrix[b, axis, axis] < 0]
            target[b][(slice(None), *inside)] = part.flip(mirrored) if mirrored else part
    return True


def _plan(
    matrix: np.ndarray, shape: Sequence[int], size: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...], bool] | None:
    """Part of the output that lies inside, the part of the input that it shows, and whether that is all of the output."""
    inside, taken, whole = [], [], True
    for axis in range(3):
        step, offset = matrix[axis, axis], matrix[axis, 3]
        if shape[axis] == 1 and not matrix[axis].any():
            if size[axis] != 1:
                return None
            step = 1.0
        row = matrix[axis, :3].copy()
        row[axis] = 0
        if abs(step) != 1 or offset != round(offset) or row.any():
            return None
        # Output j reads offset + step · j, which must lie in [0, n).
        n, first = shape[axis], round(offset)
        low, high = (
            (max(0, -first), min(size[axis], n - first)) if step > 0 else (max(0, first - n + 1), min(size[axis], first + 1))
        )
        if high <= low:
            return None
        inside.append(slice(low, high))
        ends = sorted((first + round(step) * low, first + round(step) * (high - 1)))
        taken.append(slice(ends[0], ends[1] + 1))
        whole = whole and high - low == size[axis]
    return tuple(inside), tuple(taken), whole
