"""Sampling along the axes on the CPU (numba): a plane of the output from few planes of the input, then rows, then voxels."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["nearest_range", "sample_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def sample_range(source, first_z, weights_z, first_y, weights_y, first_x, weights_x, out, start, stop):  # type: ignore[no-untyped-def]
    """out[z, y, x] = Σ w_z w_y w_x source[first_z[z] + i, first_y[y] + j, first_x[x] + k].

    Args:
        source: (Z, Y, X) float32.
        first_z, first_y, first_x: (n,) int64 per axis of the output: the first voxel that is read.
        weights_z, weights_y, weights_x: (taps, n) float32.
        out: (z, y, x) float32, written on the planes ``[start, stop)``.
    """
    ny, nx = source.shape[1:]
    plane = np.empty((ny, nx), np.float32)
    row = np.empty(nx, np.float32)
    for z in range(start, stop):
        for y in range(ny):
            _combine(source[:, y], first_z[z], weights_z, z, plane[y])
        for y in range(out.shape[1]):
            _combine(plane, first_y[y], weights_y, y, row)
            _gather(row, first_x, weights_x, out[z, y])


@_compiled
def nearest_range(source, at_z, at_y, at_x, out, start, stop):  # type: ignore[no-untyped-def]
    """out[z, y, x] = source[at_z[z], at_y[y], at_x[x]].

    Args:
        source: (Z, Y, X), any type.
        at_z, at_y, at_x: (n,) int64 per axis of the output.
        out: (z, y, x), the same type, written on the rows ``[start, stop)`` of z·y.
    """
    ny = out.shape[1]
    for row in range(start, stop):
        line, target = source[at_z[row // ny], at_y[row % ny]], out[row // ny, row % ny]
        for x in range(target.shape[0]):
            target[x] = line[np.uintp(at_x[x])]


@_compiled
def _combine(rows, first, weights, at, out):  # type: ignore[no-untyped-def]
    taps = weights.shape[0]
    if taps == 4:
        w0, w1, w2, w3 = weights[0, at], weights[1, at], weights[2, at], weights[3, at]
        r0, r1, r2, r3 = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
        for x in range(out.shape[0]):
            out[x] = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
        return
    out[:] = np.float32(0)
    for t in range(taps):
        w, r = weights[t, at], rows[first + t]
        for x in range(out.shape[0]):
            out[x] += w * r[x]


@_compiled
def _gather(row, first, weights, out):  # type: ignore[no-untyped-def]
    taps = weights.shape[0]
    if taps == 4:
        w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
        for x in range(out.shape[0]):
            i = np.uintp(first[x])
            near = w0[x] * row[i] + w1[x] * row[i + np.uintp(1)]
            out[x] = near + (w2[x] * row[i + np.uintp(2)] + w3[x] * row[i + np.uintp(3)])
        return
    for x in range(out.shape[0]):
        total = np.float32(0)
        for t in range(taps):
            total += weights[t, x] * row[first[x] + t]
        out[x] = total
