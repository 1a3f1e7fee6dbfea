"""Depthwise 3×3×3 and 1×3×3 convolution of stride 1 on the CPU: forward and weight gradient (numba).

The input gradient is the forward with the filter turned round. Of a volume only the planes that a filter reaches are held
at once, padded with zeros: they stay in the fastest cache, and every voxel of the volume is read once from memory.

The functions work on ``[start, stop)`` of the flattened (N·C) axis and release the GIL. Rounding may differ between
machines in the last bit (fused multiply-add).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from custom_components.kernels.stencil_blocks import ROWS, dot_block, filter_block
from custom_components.kernels.vectors import BLOCK

__all__ = ["filter_range", "weight_gradient_range"]

STAMP = "03ea290264d3"  # of vectors.py and stencil_blocks.py, see vectors.py
_compiled: Any = numba.njit(nogil=True, cache=True)


@_compiled
def filter_range(x, weight, bias, out, start, stop):  # type: ignore[no-untyped-def]
    """out = correlation of x with weight, plus bias, zero padding.

    Args:
        x: (N·C, Z, Y, X) float32, contiguous.
        weight: (C, 1 or 3, 3, 3) float32.
        bias: (C,) float32.
        out: as x, written on ``[start, stop)``.
    """
    nz, ny, nx = x.shape[1:]
    depth = weight.shape[1]
    held, pitch, size = _planes(ny, nx, depth)
    width = pitch - BLOCK
    lines = np.empty((ROWS, width), np.float32)
    taps = np.empty(9 * depth, np.float32)
    for m in range(start, stop):
        c = m % weight.shape[0]
        taps[:] = weight[c].ravel()
        offset = bias[c]
        for z in range(-(depth // 2), nz):
            if z + depth // 2 < nz:
                _hold(x, m, z + depth // 2, held, pitch, size, depth)
            if z < 0:
                continue
            before, here, after = _places(z, nz, depth, size)
            for y in range(0, ny, ROWS):
                row = y * pitch
                for at in range(0, width, BLOCK):
                    if depth == 3:
                        planes = before + row + at, here + row + at, after + row + at
                        filter_block(held, planes, pitch, taps, offset, lines, at, width)
                    else:
                        filter_block(held, (here + row + at,), pitch, taps, offset, lines, at, width)
                for i in range(min(ROWS, ny - y)):
                    target, line = out[m, z, y + i], lines[i]
                    for i_x in range(nx):
                        target[i_x] = line[i_x]


@_compiled
def weight_gradient_range(x, gradient, out, start, stop):  # type: ignore[no-untyped-def]
    """Sum over voxels of gradient · what each tap meets, per sample.

    Args:
        x: (N·C, Z, Y, X) float32.
        gradient: as x, of the output.
        out: (N·C, 1 or 3, 3, 3) float32, written on ``[start, stop)``; the caller sums over samples.
    """
    nz, ny, nx = x.shape[1:]
    depth = out.shape[1]
    held, pitch, size = _planes(ny, nx, depth)
    width = pitch - BLOCK
    rows = np.zeros((ny + ROWS) * width, np.float32)
    sums = np.empty((depth, 9, BLOCK), np.float32)
    totals = np.empty((depth, 9), np.float64)
    for m in range(start, stop):
        totals[:] = 0
        for z in range(-(depth // 2), nz):
            if z + depth // 2 < nz:
                _hold(x, m, z + depth // 2, held, pitch, size, depth)
            if z < 0:
                continue
            for y in range(ny):
                line, source = rows[y * width : y * width + nx], gradient[m, z, y]
                for i_x in range(nx):
                    line[i_x] = source[i_x]
            sums[:] = 0
            places = _places(z, nz, depth, size)
            for y in range(0, ny, ROWS):
                for at in range(0, width, BLOCK):
                    for a in range(depth):
                        place = places[a] if depth == 3 else places[1]
                        dot_block(held, place + y * pitch + at, pitch, rows, y * width + at, width, sums, a)
            # float32 within a plane, float64 across planes: as fast as float32, as exact as torch.
            for a in range(depth):
                for t in range(9):
                    for i in range(BLOCK):
                        totals[a, t] += np.float64(sums[a, t, i])
        for a in range(depth):
            for t in range(9):
                out[m, a, t // 3, t % 3] = np.float32(totals[a, t])


@_compiled
def _planes(ny, nx, depth):  # type: ignore[no-untyped-def]
    """Room for ``depth`` padded planes and one of zeros; from row to row, and from plane to plane.

    Rows end in a block of zeros, and below the last row there are as many as a group of rows may reach.
    """
    pitch = -(-nx // BLOCK) * BLOCK + BLOCK
    size = pitch * (ny + ROWS + 2)
    return np.zeros(size * (depth + 1), np.float32), pitch, size


@_compiled
def _hold(x, m, z, held, pitch, size, depth):  # type: ignore[no-untyped-def]
    first = z % depth * size
    ny, nx = x.shape[2:]
    for y in range(ny):
        at = first + (y + 1) * pitch + 1
        line, source = held[at : at + nx], x[m, z, y]
        for i in range(nx):
            line[i] = source[i]


@_compiled
def _places(z, nz, depth, size):  # type: ignore[no-untyped-def]
    """Where the planes z − 1, z and z + 1 are held; the plane of zeros where there is none."""
    zeros = depth * size
    before = (z - 1) % depth * size if z > 0 else zeros
    after = (z + 1) % depth * size if z + 1 < nz else zeros
    return before, z % depth * size, after
