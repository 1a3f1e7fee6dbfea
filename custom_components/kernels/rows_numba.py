"""Coordinates along the rows of an output on the CPU (numba): affine map, B-spline displacement, boundary mode.

Along a row the displacement is a cubic polynomial between two control points, so a coordinate costs three multiply-adds.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from custom_components.kernels.resample_blocks import cubic_block
from custom_components.kernels.vectors import BLOCK

__all__ = [
    "combine_planes",
    "cubic_weights",
    "knot_intervals",
    "map_row",
    "polynomials",
    "row_base",
    "row_coordinates",
    "spline_weights",
]

f32 = np.float32
_compiled: Any = numba.njit(nogil=True, error_model="numpy")  # cached with the kernel that calls them
# How far beyond the edge cubic interpolation goes on in mode nearest: farther out the spline has forgotten the edge.
NEAREST_REACH = 8


@_compiled
def cubic_weights(u):  # type: ignore[no-untyped-def]
    sixth, half, two_thirds, one = f32(1 / 6), f32(0.5), f32(2 / 3), f32(1)
    v = one - u
    u2, v2 = u * u, v * v
    return v2 * v * sixth, two_thirds - u2 * (one - half * u), two_thirds - v2 * (one - half * v), u2 * u * sixth


@_compiled
def spline_weights(position, w):  # type: ignore[no-untyped-def]
    """Weights of the four control points that reach a lattice position; returns the index of the first."""
    first = int(np.floor(position))
    u = position - first
    w[0], w[1], w[2], w[3] = cubic_weights(f32(u))
    return first


@_compiled
def knot_intervals(origin, step, n, length):  # type: ignore[no-untyped-def]
    """First voxel of each knot interval along x (one more at the end), and its place within the interval."""
    knots = np.empty(length - 2, np.int64)
    places = np.empty(length - 3, f32)
    for k in range(length - 2):
        knots[k] = min(n, max(0, int(np.ceil((k - origin) * step))))
    knots[length - 3] = n
    for k in range(length - 3):
        places[k] = f32(origin + knots[k] / step - k)
    return knots, places


@_compiled
def combine_planes(lattice, b, first, w, out):  # type: ignore[no-untyped-def]
    """Control points of the plane between four planes of them."""
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for a in range(3):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                near = w0 * lattice[b, a, first, j, i] + w1 * lattice[b, a, first + 1, j, i]
                out[a, j, i] = near + w2 * lattice[b, a, first + 2, j, i] + w3 * lattice[b, a, first + 3, j, i]


@_compiled
def polynomials(points, out):  # type: ignore[no-untyped-def]
    """Coefficients of the B-spline along x, as a cubic in the place between two knots: by axis, degree, interval."""
    sixth, half, three, four = f32(1 / 6), f32(0.5), f32(3), f32(4)
    n = points.shape[2] - 3
    for j in range(points.shape[1]):
        for a in range(3):
            at = 4 * n * a
            for k in range(n):
                b0, b1, b2, b3 = points[a, j, k], points[a, j, k + 1], points[a, j, k + 2], points[a, j, k + 3]
                out[j, at + k] = (b0 + four * b1 + b2) * sixth
                out[j, at + n + k] = (b2 - b0) * half
                out[j, at + 2 * n + k] = (b0 + b2) * half - b1
                out[j, at + 3 * n + k] = (b3 - b0 + three * (b1 - b2)) * sixth


@_compiled
def row_base(matrix, b, a, z, y):  # type: ignore[no-untyped-def]
    """Coordinate along an axis where a row begins, without the displacement."""
    return f32(matrix[b, a, 3] + matrix[b, a, 0] * z + matrix[b, a, 1] * y)


@_compiled
def row_coordinates(line, intervals, step, base, along, c, at):  # type: ignore[no-untyped-def]
    """The three coordinates of a row, from ``at`` on: ``base + along · x``, and the cubics of the displacement.

    Whole blocks are written, beyond the knot and the row too, which the next interval or row then overwrites.
    """
    knots, places = intervals
    du = f32(1 / step)
    for k in range(places.shape[0]):
        low, high = knots[k], knots[k + 1]
        for x in range(low, high, BLOCK):
            u = places[k] + f32(np.int32(x - low)) * du
            cubic_block(c, c.shape[1], at + x, x, base, along, u, du, line, places.shape[0], k)


@_compiled
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
    low, high = np.float64(0), np.float64(n - 1)
    if mode == 1:
        low, high = low - 0.5, high + 0.5
    elif mode == 3:
        low, high = low - NEAREST_REACH, high + NEAREST_REACH
    for x in range(c.shape[0]):
        v = np.float64(c[x])
        if (v >= 0 and v <= n - 1) or v != v:
            continue
        if n == 1:
            v = np.float64(0)
        elif mode == 1:
            v = (v + 0.5) % (2 * n)
            if v > n:
                v = 2 * n - v
            v -= 0.5
        elif mode == 2:
            v = v % (2 * n - 2)
            if v > n - 1:
                v = 2 * n - 2 - v
        elif mode == 4 and v < 0:  # SciPy's rule on the seam itself: from below the last voxel, from above the first
            v += (n - 1) * (np.floor(-v / (n - 1)) + 1)
        elif mode == 4:
            v -= (n - 1) * np.floor(v / (n - 1))
        # The remainder of a huge coordinate is lost to rounding: what it reads must still lie within the volume.
        c[x] = np.float32(min(max(v, low), high))
