"""Copy of a volume whose fastest axis is the first, on the CPU (numba)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["copy_turned_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_Z, _X = 16, 64  # voxels of a tile: a cache line of the source each, four of the result


@_compiled
def copy_turned_range(source, out, start, stop):  # type: ignore[no-untyped-def]
    """out = source, on ``[start, stop)`` of y, tile by tile: every cache line is read once and written once.

    Args:
        source: (Z, Y, X) float32, neighbours along z next to each other in memory.
        out: (Z, Y, X) float32, contiguous.
    """
    nz, _, nx = source.shape
    tile = np.empty((_Z, _X), np.float32)
    for y in range(start, stop):
        for z0 in range(0, nz, _Z):
            depth = min(_Z, nz - z0)
            for x0 in range(0, nx, _X):
                width = min(_X, nx - x0)
                for x in range(width):
                    for z in range(depth):
                        tile[z, x] = source[z0 + z, y, x0 + x]
                for z in range(depth):
                    row = out[z0 + z, y]
                    for x in range(width):
                        row[x0 + x] = tile[z, x]
