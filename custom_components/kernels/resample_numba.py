"""One-pass resampling on the CPU (numba): coordinates are computed row by row in the sampling loop and never stored.

A row is all output voxels of one (sample, z, y); its coordinates are found by `custom_components.kernels.rows_numba`.
Several short rows are put together; then offsets and weights of all their voxels are found, and every channel is gathered
with them.

What runs per voxel is written as vector instructions (`custom_components.kernels.resample_blocks`). The functions work on
``[start, stop)`` of the flattened rows and release the GIL. No ``fastmath``: the arithmetic is the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from custom_components.kernels.resample_blocks import (
    affine_block,
    linear_block,
    locate_block,
    locate_cubic_block,
    tricubic_block,
)
from custom_components.kernels.rows_numba import (
    combine_planes,
    cubic_weights,
    knot_intervals,
    map_row,
    polynomials,
    row_base,
    row_coordinates,
    spline_weights,
)
from custom_components.kernels.vectors import BLOCK, combine_rows_block

__all__ = ["resample_range"]

f32 = np.float32
_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
STAMP = "fa4239638893"  # of vectors.py, resample_blocks.py and rows_numba.py, see vectors.py
ALL = 255  # bits of a block whose voxels all lie inside
GROUP = 256  # voxels whose offsets and weights are held at once, at least one row


@_compiled
def resample_range(  # type: ignore[no-untyped-def]
    matrix,
    lattice,
    origin,
    step,
    shape,
    mode,
    images,
    image_out,
    image_value,
    cubic,
    pad,
    labels,
    label_out,
    label_value,
    start,
    stop,
):
    """Read images (linear or cubic) and labels (nearest) at ``matrix · (z, y, x, 1) + displacement``.

    Args:
        matrix: (B, 3, 4) float64, output index to input index.
        lattice: (B, 3, l_z, l_y, l_x) float32, control points of a uniform cubic B-spline, voxels of the input;
            (B, 3, 0, 0, 0) is no displacement.
        origin, step: (B, 3) float64; output index ``i`` lies at lattice position ``origin + i / step``, whose integer part
            is the first of the four control points that reach it.
        shape: (3,) int64, of the input.
        mode: number in `custom_components.kernels.boundary.BOUNDARY_MODES`.
        images: (B, C, V) float32: voxels, or with ``cubic`` B-spline coefficients padded by ``pad`` on both sides.
        image_out: (B, C, Z, Y, X) float32, written on the rows ``[start, stop)`` of B·Z·Y.
        image_value: outside, with mode constant.
        cubic: whether ``images`` are coefficients.
        pad: (3,) int64, voxels.
        labels: (B, L, V), any type of 1, 2, 4 or 8 bytes.
        label_out: (B, L, Z, Y, X), the same type.
        label_value: outside, with mode constant.
    """
    nz, ny, nx = image_out.shape[2:] if image_out.shape[1] > 0 else label_out.shape[2:]
    group = max(1, min(ny, GROUP // nx))
    held = -(-group * nx // BLOCK)
    c = np.zeros((3, (held + 1) * BLOCK), f32)
    f = np.empty((3, held * BLOCK), f32)
    weights = np.empty((12 if cubic else 0, held * BLOCK), f32)
    corner, nearest = np.empty(held * BLOCK, np.int32), np.empty(held * BLOCK, np.int32)
    inside = np.empty(held, np.uint8)
    values = np.empty(held * BLOCK, f32)
    stride, padded = _strides(shape, np.zeros(3, np.int64)), _strides(shape, pad)
    elastic = lattice.shape[2] > 0
    ly, lx = max(4, lattice.shape[3]), max(4, lattice.shape[4])
    points = np.empty((3, ly, lx), f32)
    width = -(-12 * (lx - 3) // BLOCK) * BLOCK
    plane = np.zeros((ly, width), f32)
    line = np.empty(width, f32)
    w = np.empty(4, f32)
    intervals = knot_intervals(origin[start // (nz * ny), 2], step[start // (nz * ny), 2], nx, lx)
    along = f32(0), f32(0), f32(0)
    last = -1
    row = start
    while row < stop:
        y = row % ny
        z = row // ny % nz
        b = row // (ny * nz)
        if row // ny != last:
            last = row // ny
            along = f32(matrix[b, 0, 2]), f32(matrix[b, 1, 2]), f32(matrix[b, 2, 2])
            if elastic:
                if z == 0:
                    intervals = knot_intervals(origin[b, 2], step[b, 2], nx, lx)
                first = spline_weights(origin[b, 0] + z / step[b, 0], w)
                combine_planes(lattice, b, first, w, points)
                polynomials(points, plane)
        rows = min(group, ny - y, stop - row)
        for i in range(rows):
            base = row_base(matrix, b, 0, z, y + i), row_base(matrix, b, 1, z, y + i), row_base(matrix, b, 2, z, y + i)
            if elastic:
                first = spline_weights(origin[b, 1] + (y + i) / step[b, 1], w)
                places = first * width, (first + 1) * width, (first + 2) * width, (first + 3) * width
                for at in range(0, width, BLOCK):
                    combine_rows_block(plane, places, at, w[0], w[1], w[2], w[3], line)
                row_coordinates(line, intervals, step[b, 2], base, along, c, i * nx)
            else:
                for at in range(0, nx, BLOCK):
                    affine_block(c, c.shape[1], i * nx + at, at, base, along)
        row += rows
        n = rows * nx
        blocks = -(-n // BLOCK)
        if mode != 0:
            for a in range(3):
                map_row(c[a, :n], shape[a], mode)
        seen = _locate(c, shape, stride, mode, blocks, f, corner, nearest, inside)
        for k in range(labels.shape[1]):
            _nearest(labels[b, k], nearest, inside, label_out[b, k, z, y : y + rows].reshape(-1), label_value)
        if cubic and seen:
            _locate_cubic(c, shape, pad, padded, blocks, corner, weights)
        for k in range(images.shape[1]):
            if not seen:
                values[:n] = image_value
            elif cubic:
                _cubic(images[b, k], corner, weights, padded, inside, blocks, values, image_value)
            elif shape[2] > 1:
                _linear(images[b, k], corner, f, stride, inside, blocks, values, image_value)
            else:
                _bilinear(images[b, k], corner, f, stride, inside, n, values, image_value)
            image_out[b, k, z, y : y + rows].reshape(-1)[:] = values[:n]


@_compiled
def _strides(shape, pad):  # type: ignore[no-untyped-def]
    """Elements between neighbours along z, y, x; 0 along an axis of one voxel, which is then its own neighbour."""
    size = shape + 2 * pad
    stride = np.array([size[1] * size[2], size[2], 1], np.int64)
    for a in range(3):
        if size[a] == 1:
            stride[a] = 0
    return stride


@_compiled
def _locate(c, shape, stride, mode, blocks, f, corner, nearest, inside):  # type: ignore[no-untyped-def]
    """Offsets of the lower corner and of the nearest voxel, weights of the upper corner, which voxels lie inside; if any.

    Offsets are those of the closest voxels where a coordinate lies outside. The last voxel is reached with weight 1 from
    the one before it, so that no corner lies outside.
    """
    ends = f32(shape[0] - 1), f32(shape[1] - 1), f32(shape[2] - 1)
    lasts = f32(max(shape[0] - 2, 0)), f32(max(shape[1] - 2, 0)), f32(max(shape[2] - 2, 0))
    steps = np.int32(stride[0]), np.int32(stride[1]), np.int32(stride[2])
    slack = f32(0) if mode == 0 else f32(np.inf)  # of the other modes, all coordinates read something
    seen = False
    for block in range(blocks):
        at = block * BLOCK
        bits = locate_block(c, c.shape[1], at, ends, lasts, steps, slack, f, f.shape[1], corner, nearest)
        inside[block] = bits
        seen |= bits != 0
    return seen


@_compiled
def _nearest(source, nearest, inside, out, value):  # type: ignore[no-untyped-def]
    whole = out.shape[0] // BLOCK
    for block in range(whole):
        at = block * BLOCK
        if inside[block] == ALL:
            for x in range(at, at + BLOCK):
                out[x] = source[np.uintp(nearest[x])]
        else:
            for x in range(at, at + BLOCK):
                out[x] = source[np.uintp(nearest[x])] if inside[block] >> (x - at) & 1 else value
    for x in range(whole * BLOCK, out.shape[0]):
        out[x] = source[np.uintp(nearest[x])] if inside[whole] >> (x - whole * BLOCK) & 1 else value


@_compiled
def _linear(source, corner, f, stride, inside, blocks, out, value):  # type: ignore[no-untyped-def]
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    for block in range(blocks):
        at = block * BLOCK
        if inside[block] == 0:
            out[at : at + BLOCK] = value
        else:
            linear_block(source, corner, at, sz, sy, f, f.shape[1], inside[block], value, out)


@_compiled
def _bilinear(source, corner, f, stride, inside, n, out, value):  # type: ignore[no-untyped-def]
    """`_linear` where x has one voxel, and so no neighbour to be loaded with it."""
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    one = f32(1)
    for x in range(n):
        p = np.uintp(corner[x])
        u, v = f[0, x], f[1, x]
        near = source[p] * (one - v) + source[p + sy] * v
        far = source[p + sz] * (one - v) + source[p + sz + sy] * v
        out[x] = near * (one - u) + far * u if inside[x // BLOCK] >> (x % BLOCK) & 1 else value


@_compiled
def _locate_cubic(c, shape, pad, stride, blocks, corner, weights):  # type: ignore[no-untyped-def]
    """Offset of the first of 4×4×4 coefficients, and the weights of four along z, y and x."""
    steps = np.int32(stride[0]), np.int32(stride[1]), np.int32(stride[2])
    shift = np.int32((pad[0] - 1) * stride[0] + (pad[1] - 1) * stride[1] + (pad[2] - 1) * stride[2])
    # Where a coordinate lies farther outside than the coefficients reach, what is read is not used.
    lows = f32(1 - pad[0]), f32(1 - pad[1]), f32(1 - pad[2])
    highs = f32(shape[0] + pad[0] - 3), f32(shape[1] + pad[1] - 3), f32(shape[2] + pad[2] - 3)
    for block in range(blocks):
        locate_cubic_block(c, c.shape[1], block * BLOCK, lows, highs, steps, shift, corner)
    for a in range(3):
        row, low, high = c[a], lows[a], highs[a]
        first, second, third, fourth = weights[4 * a], weights[4 * a + 1], weights[4 * a + 2], weights[4 * a + 3]
        for x in range(blocks * BLOCK):
            u = row[x] - min(max(np.floor(row[x]), low), high)
            first[x], second[x], third[x], fourth[x] = cubic_weights(u)


@_compiled
def _cubic(source, corner, weights, stride, inside, blocks, out, value):  # type: ignore[no-untyped-def]
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    for block in range(blocks):
        at = block * BLOCK
        if inside[block] == 0:
            out[at : at + BLOCK] = value
        else:
            for x in range(at, at + BLOCK, 4):
                tricubic_block(source, corner, x, sz, sy, weights, weights.shape[1], out)
            if inside[block] != ALL:
                for x in range(BLOCK):
                    if not inside[block] >> x & 1:
                        out[at + x] = value
