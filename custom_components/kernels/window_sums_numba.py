"""Weighted scores of windows added up, and classes taken from the sums, on the CPU (numba): a pass over the memory each.

The functions work on rows ``[start, stop)`` and release the GIL.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["add_range", "decide_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def add_range(scores, weights, sums, place, start, stop):  # type: ignore[no-untyped-def]
    """sums[k] += weights · (scores[k + 1] − scores[0]), on rows of the window's z·y.

    Args:
        scores: (K, d, h, w) float32.
        weights: (d, h, w) float32.
        sums: (max(K − 1, 1), D, Y, X) float32, plane z of the volume at z mod D.
        place: first voxel of the window, (z, y, x).
    """
    last, height, width = scores.shape[0] - 1, scores.shape[2], scores.shape[3]
    for row in range(start, stop):
        z, y = row // height, row % height
        ring = (place[0] + z) % sums.shape[1]
        weight, base = weights[z, y], scores[0, z, y]
        for k in range(sums.shape[0]):
            score = scores[min(k + 1, last), z, y]
            target = sums[k, ring, place[1] + y, place[2] : place[2] + width]
            for x in range(width):
                target[x] += weight[x] * (score[x] - base[x])


@_compiled
def decide_range(sums, first, out, start, stop):  # type: ignore[no-untyped-def]
    """Index of the largest sum, where it is above 0, plus 1; else 0. The sums are set to 0 for the planes to come.

    Args:
        sums: as in `add_range`.
        first: plane of the volume that rows are counted from.
        out: (Z, Y, X) uint8.

    Returns:
        Whether a sum is NaN or infinite.
    """
    ny, nx = sums.shape[2:]
    best = np.empty(nx, np.float32)
    zero, bad = np.float32(0), np.int32(0)
    for row in range(start, stop):
        z, y = first + row // ny, row % ny
        line, target = sums[0, z % sums.shape[1], y], out[z, y]
        for x in range(nx):
            v = line[x]
            bad |= np.int32(v - v != zero)
            target[x] = np.uint8(v > zero)
            best[x] = max(v, zero)
            line[x] = zero
        for k in range(1, sums.shape[0]):
            line = sums[k, z % sums.shape[1], y]
            for x in range(nx):
                v = line[x]
                bad |= np.int32(v - v != zero)
                target[x] = np.uint8(k + 1) if v > best[x] else target[x]
                best[x] = max(v, best[x])
                line[x] = zero
    return bad != 0
