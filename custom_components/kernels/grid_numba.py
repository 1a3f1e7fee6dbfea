"""Sampling along the axes on the CPU (numba), in the order that leaves the least to do."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["STRIP", "nearest_range", "sample_planes_range", "sample_strips_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
STRIP = 16  # rows of the output whose planes fit in the cache of a core


@_compiled
def sample_planes_range(source, first_z, weights_z, first_y, weights_y, first_x, weights_x, out, start, stop):  # type: ignore[no-untyped-def]
    """out[z, y, x] = Σ w_z w_y w_x source[first_z[z] + i, first_y[y] + j, first_x[x] + k], along z first: for fewer planes.

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
def sample_strips_range(source, first_z, weights_z, first_y, weights_y, first_x, weights_x, out, start, stop):  # type: ignore[no-untyped-def]
    """As `sample_planes_range`, along z last: for more planes. Written on the strips of `STRIP` rows ``[start, stop)``.

    Of every plane of the input a strip is sampled once, and held as long as planes of the output are made of it.
    """
    taps, nz = weights_z.shape[0], out.shape[0]
    row = np.empty(source.shape[2], np.float32)
    held = np.empty((taps, STRIP, out.shape[2]), np.float32)
    for strip in range(start, stop):
        low = strip * STRIP
        rows = min(STRIP, out.shape[1] - low)
        planes = np.full(taps, -1, np.int64)
        for z in range(nz):
            for t in range(taps):
                plane = first_z[z] + t
                slot = plane % taps
                if planes[slot] != plane:
                    planes[slot] = plane
                    for i in range(rows):
                        _combine(source[plane], first_y[low + i], weights_y, low + i, row)
                        _gather(row, first_x, weights_x, held[slot, i])
            for i in range(rows):
                _combine_held(held[:, i], first_z[z], weights_z, z, out[z, low + i])


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
def _combine_held(held, first, weights, at, out):  # type: ignore[no-untyped-def]
    """Σ w_t held[(first + t) mod taps]."""
    taps = weights.shape[0]
    if taps == 4:
        w0, w1, w2, w3 = weights[0, at], weights[1, at], weights[2, at], weights[3, at]
        r0, r1, r2, r3 = held[first % 4], held[(first + 1) % 4], held[(first + 2) % 4], held[(first + 3) % 4]
        for x in range(out.shape[0]):
            out[x] = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
        return
    out[:] = np.float32(0)
    for t in range(taps):
        w, r = weights[t, at], held[(first + t) % taps]
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
