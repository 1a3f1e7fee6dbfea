"""Smoothed noise at every n-th voxel, on the CPU (numba): see `custom_components.kernels.noise`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["filter_yx_range", "filter_z_range"]

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_A, _B = np.uint32(0x21F0AAAD), np.uint32(0x735A2D97)
_S15, _S16, _S8 = np.uint32(15), np.uint32(16), np.uint32(8)


@_compiled
def filter_z_range(values, key, seed, shape, taps, first, step, out, start, stop):  # type: ignore[no-untyped-def]
    """Along z, on the rows ``[start, stop)`` of A·Y.

    Args:
        values: (A, Z, Y, X) float32, or with A = 0: the noise of ``key`` and ``seed``.
        shape: (A, Z, Y, X).
        taps: float32, odd.
        first, step: voxel of the first sample, voxels between samples.
        out: (A, K, Y, X) float32, zeros.
    """
    nz, ny, nx = shape[1], shape[2], shape[3]
    reach = taps.shape[0] // 2
    row = np.empty(nx, np.float32)
    for job in range(start, stop):
        a, y = job // ny, job % ny
        for z in range(nz):
            if values.shape[0] > 0:
                row[:] = values[a, z, y]
            else:
                _noise(np.uint32(((a * nz + z) * ny + y) * nx), key, seed, row)
            for k in range(out.shape[1]):
                tap = z - (first + k * step) + reach
                if 0 <= tap < taps.shape[0]:
                    w, target = taps[tap], out[a, k, y]
                    for x in range(nx):
                        target[x] += w * row[x]


@_compiled
def filter_yx_range(source, taps_y, taps_x, first, step, out, start, stop):  # type: ignore[no-untyped-def]
    """Along y and x, on the planes ``[start, stop)`` of A·K.

    Args:
        source: (A, K, Y, X) float32.
        taps_y, taps_x, first, step: as in `filter_z_range`, first and step along y and x.
        out: (A, K, l_y, l_x) float32.
    """
    ny, nx = source.shape[2:]
    ky, kx = out.shape[2:]
    reach_y, reach_x = taps_y.shape[0] // 2, taps_x.shape[0] // 2
    row = np.empty(nx, np.float32)
    turned = np.empty((nx, ky), np.float32)  # x is the outer axis, so that along x too whole rows are added up
    total = np.empty(ky, np.float32)
    for job in range(start, stop):
        a, k = job // out.shape[1], job % out.shape[1]
        for j in range(ky):
            row[:] = np.float32(0)
            centre = first[0] + j * step[0]
            for y in range(max(0, centre - reach_y), min(ny, centre + reach_y + 1)):
                w, values = taps_y[y - centre + reach_y], source[a, k, y]
                for x in range(nx):
                    row[x] += w * values[x]
            for x in range(nx):
                turned[x, j] = row[x]
        for i in range(kx):
            total[:] = np.float32(0)
            centre = first[1] + i * step[1]
            for x in range(max(0, centre - reach_x), min(nx, centre + reach_x + 1)):
                w, values = taps_x[x - centre + reach_x], turned[x]
                for j in range(ky):
                    total[j] += w * values[j]
            for j in range(ky):
                out[a, k, j, i] = total[j]


@_compiled
def _noise(first, key, seed, out):  # type: ignore[no-untyped-def]
    """`custom_components.kernels.noise.uniform_noise` of a row."""
    scale, one = np.float32(2**-23), np.float32(1)
    for x in range(out.shape[0]):
        h = np.uint32(np.uint32(first + np.uint32(x)) ^ key)
        for again in range(2):
            h = np.uint32(h ^ (h >> _S16))
            h = np.uint32(h * _A)
            h = np.uint32(h ^ (h >> _S15))
            h = np.uint32(h * _B)
            h = np.uint32(h ^ (h >> _S15))
            if again == 0:
                h = np.uint32(h + seed)
        out[x] = np.float32(np.int32(h >> _S8)) * scale - one
