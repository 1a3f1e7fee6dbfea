"""Cubic B-spline coefficients on the CPU (numba).

The inverse of sampling a cubic B-spline, 6 / (z + 4 + 1/z), has the impulse response √3 · p^|k| with p = √3 − 2 (Unser,
1999, table I). It is cut off where it falls below 1e-6 of its peak and applied along each axis. A filter of finite length
needs no start values: what lies beyond the array is looked up as the boundary mode says.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numba
import numpy as np

__all__ = ["REACH", "TAPS", "filter_axis_range", "filter_rows_range"]

REACH: Final = 10
TAPS: Final = np.array([math.sqrt(3) * (math.sqrt(3) - 2) ** k for k in range(REACH + 1)], dtype=np.float32)
_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_BLOCK = 256


@_compiled
def filter_rows_range(source, taps, mode, pad, out, start, stop):  # type: ignore[no-untyped-def]
    """Along x, from the volume into the padded coefficients.

    Args:
        source: (Z, Y, X) float32.
        taps: the impulse response from the middle outwards.
        mode: number in `custom_components.kernels.boundary.BOUNDARY_MODES`.
        pad: (3,) voxels on both sides.
        out: (Z + 2 pad, Y + 2 pad, X + 2 pad) float32, written on the rows ``[start, stop)`` of Z·Y.
    """
    ny, nx = source.shape[1:]
    margin = taps.shape[0] - 1 + pad[2]
    line = np.empty(nx + 2 * margin, np.float32)
    for row in range(start, stop):
        z, y = row // ny, row % ny
        values = source[z, y]
        line[margin : margin + nx] = values
        for i in range(margin):
            line[i] = values[_map_index(i - margin, nx, mode)]
            line[margin + nx + i] = values[_map_index(nx + i, nx, mode)]
        target = out[z + pad[0], y + pad[1]]
        n = target.shape[0]
        middle = taps.shape[0] - 1
        if nx == 1:
            target[:] = values[0]
            continue
        for i in range(n):
            target[i] = taps[0] * line[middle + i]
        for k in range(1, taps.shape[0]):
            w, left, right = taps[k], line[middle - k : middle - k + n], line[middle + k : middle + k + n]
            for i in range(n):
                target[i] += w * (left[i] + right[i])


@_compiled
def filter_axis_range(out, taps, mode, pad, axis, start, stop):  # type: ignore[no-untyped-def]
    """Along y (``axis`` 1) or z (0), in place, on ``[start, stop)`` of the other one's padded length."""
    n = out.shape[axis] - 2 * pad[axis]
    values = np.empty((n, min(_BLOCK, out.shape[2])), np.float32)
    for other in range(start, stop):
        for low in range(0, out.shape[2], _BLOCK):
            high = min(low + _BLOCK, out.shape[2])
            width = high - low
            for i in range(n):
                row = out[other, i + pad[1], low:high] if axis == 1 else out[i + pad[0], other, low:high]
                values[i, :width] = row
            for i in range(n + 2 * pad[axis]):
                target = out[other, i, low:high] if axis == 1 else out[i, other, low:high]
                i -= pad[axis]
                row = values[_map_index(i, n, mode)]
                if n == 1:
                    target[:] = row[:width]
                    continue
                for x in range(width):
                    target[x] = taps[0] * row[x]
                for k in range(1, taps.shape[0]):
                    w = taps[k]
                    left, right = values[_map_index(i - k, n, mode)], values[_map_index(i + k, n, mode)]
                    for x in range(width):
                        target[x] += w * (left[x] + right[x])


@_compiled
def _map_index(i, n, mode):  # type: ignore[no-untyped-def]
    """Index of the voxel that stands at ``i`` when a signal is continued for spline filtering.

    As in SciPy, the spline of modes constant and wrap is the one of mode mirror.
    """
    if n == 1:
        return 0
    if mode == 1:
        i = i % (2 * n)
        return 2 * n - 1 - i if i >= n else i
    if mode == 3:
        return min(max(i, 0), n - 1)
    i = i % (2 * n - 2)
    return 2 * n - 2 - i if i >= n else i
