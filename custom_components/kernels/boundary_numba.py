"""What an index outside an array reads: the five boundary modes of `scipy.ndimage.map_coordinates`.

| mode | an array ``a b c d`` continues as |
|---|---|
| constant | ``k k k k | a b c d | k k k k``; no interpolation with k: a coordinate outside [0, n − 1] is k |
| reflect | ``d c b a | a b c d | d c b a`` |
| mirror | ``d c b | a b c d | c b a`` |
| nearest | ``a a a a | a b c d | d d d d`` |
| wrap | period n − 1, as SciPy's ``wrap`` (not ``grid-wrap``): the first and the last voxel are taken for one |
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

__all__ = ["MODES", "map_index", "map_row"]

MODES: Final = ("constant", "reflect", "mirror", "nearest", "wrap")
# How far beyond the edge cubic interpolation goes on in mode nearest; farther out the spline has forgotten the edge.
NEAREST_REACH: Final = 8


@numba.njit(nogil=True, cache=True, error_model="numpy")
def map_row(c, n, mode):  # type: ignore[no-untyped-def]
    """Coordinates outside [0, n − 1] to the place they read, in place: not for mode constant.

    Reflect keeps half a voxel beyond the edges and nearest `NEAREST_REACH` voxels, for cubic interpolation.
    """
    last = np.float32(n - 1)
    outside = np.int32(0)
    for x in range(c.shape[0]):
        outside |= np.int32(not ((c[x] >= np.float32(0)) & (c[x] <= last)))
    if outside == 0:
        return
    for x in range(c.shape[0]):
        v = np.float64(c[x])
        if v >= 0 and v <= n - 1:
            continue
        if n == 1:
            v = 0.0
        elif mode == 1:
            v = (v + 0.5) % (2 * n)
            if v > n:
                v = 2 * n - v
            v -= 0.5
        elif mode == 2:
            v = v % (2 * n - 2)
            if v > n - 1:
                v = 2 * n - 2 - v
        elif mode == 3:
            v = min(max(v, -NEAREST_REACH), n - 1 + NEAREST_REACH)
        elif v < 0:  # SciPy's rule on the seam itself: from below the last voxel, from above the first
            v += (n - 1) * (np.floor(-v / (n - 1)) + 1)
        else:
            v -= (n - 1) * np.floor(v / (n - 1))
        c[x] = np.float32(v)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def map_index(i, n, mode):  # type: ignore[no-untyped-def]
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
