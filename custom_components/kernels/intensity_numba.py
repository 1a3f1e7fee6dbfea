"""Order statistics and moments of many voxels on the CPU (numba), a pass over the memory each.

The functions work on ``[start, stop)`` of the flattened voxels and release the GIL. Sums are taken in float64: a CT has
10⁸ voxels.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["high_histogram_range", "low_histogram_range", "moments_range", "standardize_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_SIGN, _HALF = np.uint32(0x80000000), np.uint32(16)


@_compiled
def high_histogram_range(bits, counts, start, stop):  # type: ignore[no-untyped-def]
    """Count the upper halves of the keys of float32 numbers: keys are unsigned and in the numbers' order.

    Args:
        bits: (V,) uint32, the numbers' memory.
        counts: (65536,) int64, added to.
    """
    for i in range(start, stop):
        counts[_key(bits[i]) >> _HALF] += 1


@_compiled
def low_histogram_range(bits, wanted, counts, start, stop):  # type: ignore[no-untyped-def]
    """Count the lower halves of the keys whose upper half is wanted.

    Args:
        bits: (V,) uint32.
        wanted: (65536,) int8, row of ``counts`` for an upper half, −1 for none.
        counts: (rows, 65536) int64, added to.
    """
    for i in range(start, stop):
        key = _key(bits[i])
        row = wanted[key >> _HALF]
        if row >= 0:
            counts[row, key & np.uint32(0xFFFF)] += 1


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def moments_range(values, low, high, chosen, pivot, start, stop):  # type: ignore[no-untyped-def]
    """Number, sum and sum of squares of (clipped value − pivot) over the chosen voxels, several sums side by side.

    Args:
        values: (V,) float32.
        low, high: float32, to clip to.
        chosen: 0 all, 1 where the clipped value is positive, 2 where it is not zero.
        pivot: float64 near the mean, so that the squares lose no digits.
    """
    count, total, squares = 0, 0.0, 0.0
    zero = np.float32(0)
    for i in range(start, stop):
        v = min(max(values[i], low), high)
        inside = (chosen == 0) | ((chosen == 1) & (v > zero)) | ((chosen == 2) & (v != zero))
        d = np.float64(v) - pivot if inside else 0.0
        count += 1 if inside else 0
        total += d
        squares += d * d
    return count, total, squares


@_compiled
def standardize_range(values, low, high, mean, deviation, out, start, stop):  # type: ignore[no-untyped-def]
    """out = (clipped value − mean) / deviation, all float32."""
    for i in range(start, stop):
        out[i] = (min(max(values[i], low), high) - mean) / deviation


@_compiled
def _key(bits):  # type: ignore[no-untyped-def]
    return ~bits if bits & _SIGN else bits | _SIGN
