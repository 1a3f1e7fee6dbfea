"""Weighted scores of windows added up, and classes taken from the sums, on the CPU (numba): a pass over the memory each.

The functions work on rows ``[start, stop)`` and release the GIL.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["add_range", "decide_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_emitted: Any = intrinsic
_LINE = 16  # numbers of a cache line
_AHEAD = 4  # rows of the sums that are fetched before their turn: they lie apart, which no processor foresees


@_emitted
def _prefetch(typing, array, at):  # type: ignore[no-untyped-def]
    """Have the cache fetch what lies at a place of a flat array; a place outside does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [place, number(0), number(3), number(1)])  # to be read, kept at every level, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


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
    flat, pitch = sums.reshape(-1), sums.shape[3]
    planes = sums.shape[1]
    for row in range(start, stop):
        z, y = row // height, row % height
        ring = (place[0] + z) % planes
        next_z, next_y = (row + _AHEAD) // height, (row + _AHEAD) % height
        ahead = (((place[0] + next_z) % planes) * sums.shape[2] + place[1] + next_y) * pitch + place[2]
        weight, base = weights[z, y], scores[0, z, y]
        for k in range(sums.shape[0]):
            for x in range(0, width, _LINE):
                _prefetch(flat, ahead + k * planes * sums.shape[2] * pitch + x)
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
