"""1×1×1 convolution on the CPU as a matrix product of few rows and many columns: forward and weight gradient (numba).

Libraries for matrix products are made for square ones; with tens of channels and hundreds of thousands of voxels they reach
a tenth of what the processor can do. Here a stretch of voxels of all channels is copied once into the cache, in the order
in which it is used: channels of a volume lie a power of two apart and would push each other out.

The functions work on stretches ``[start, stop)``, counted over samples, and release the GIL. Rounding may differ between
machines in the last bit (fused multiply-add).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from custom_components.kernels.pointwise_blocks import COLUMNS, PARTNERS, ROWS, copy_columns, multiply_columns, multiply_rows
from custom_components.kernels.vectors import BLOCK

__all__ = ["ROWS", "filter_range", "packed", "stretch_of", "voxels_of_a_part", "weight_gradient_range"]

STAMP = "bd83daccceb2"  # of vectors.py, stencil_blocks.py and pointwise_blocks.py, see vectors.py
STRETCH = 8 * COLUMNS  # voxels of all channels that are held at once
_LONGEST = 40 * STRETCH  # voxels whose products are summed in float32
_LEAST_PARTS = 8
_compiled: Any = numba.njit(nogil=True, cache=True)


def stretch_of(voxels: int, threads: int) -> int:
    """Voxels of a stretch for `filter_range`, so that few of them share out evenly among the threads."""
    stretches = -(-voxels // STRETCH)
    if stretches < 8 * threads:
        stretches = -(-stretches // threads) * threads
    return -(-voxels // (stretches * COLUMNS)) * COLUMNS


def voxels_of_a_part(voxels: int) -> int:
    """Voxels that `weight_gradient_range` sums at a time; the same for every number of threads, so the same bits."""
    return max(STRETCH, min(_LONGEST, voxels // _LEAST_PARTS // STRETCH * STRETCH))


def packed(weight: np.ndarray) -> np.ndarray:
    """(M, K) filters in the order in which they are read: (⌈M / ROWS⌉, K, ROWS), flat, zeros where there is no row."""
    m, k = weight.shape
    groups = -(-m // ROWS)
    filled = np.zeros((groups * ROWS, k), np.float32)
    filled[:m] = weight
    return np.ascontiguousarray(filled.reshape(groups, ROWS, k).transpose(0, 2, 1)).ravel()


@_compiled
def filter_range(x, filters, bias, stretch, out, start, stop):  # type: ignore[no-untyped-def]
    """out[n] = weight · x[n] + bias.

    Args:
        x: (N, K, V) float32, contiguous.
        filters: of `packed`.
        bias: (⌈M / ROWS⌉ · ROWS,) float32.
        stretch: of `stretch_of`.
        out: (N, M, V) float32, written on the stretches ``[start, stop)`` of N · ⌈V / stretch⌉.
    """
    k, v = x.shape[1:]
    m = out.shape[1]
    stretches = -(-v // stretch)
    panel = np.zeros(k * stretch, np.float32)
    rest = np.empty(ROWS * COLUMNS, np.float32)
    for item in range(start, stop):
        n, begin = item // stretches, item % stretches * stretch
        length = min(stretch, v - begin)
        whole = length // COLUMNS
        tiles = -(-length // COLUMNS)
        for c in range(k):
            row = x[n, c, begin : begin + length]
            for tile in range(whole):
                copy_columns(row, tile * COLUMNS, panel, (tile * k + c) * COLUMNS)
            for i in range(whole * COLUMNS, length):
                panel[(whole * k + c) * COLUMNS + i - whole * COLUMNS] = row[i]
        flat = out[n].reshape(-1)
        for r in range(0, m, ROWS):
            for tile in range(tiles):
                source, at = tile * k * COLUMNS, begin + tile * COLUMNS
                if tile < whole and r + ROWS <= m:
                    multiply_columns(panel, source, k, filters, r * k, bias, r, flat, r * v + at, v)
                    continue
                multiply_columns(panel, source, k, filters, r * k, bias, r, rest, 0, COLUMNS)
                for i in range(min(ROWS, m - r)):
                    for j in range(min(COLUMNS, v - at)):
                        flat[(r + i) * v + at + j] = rest[i * COLUMNS + j]


@_compiled
def weight_gradient_range(x, gradient, long, out, sums, start, stop):  # type: ignore[no-untyped-def]
    """Sum over voxels of gradient · x, and of the gradient, for every part of ``long`` voxels.

    Args:
        x: (N, K, V) float32, contiguous.
        gradient: (N, M, V) float32, of the output.
        long: of `voxels_of_a_part`.
        out: (N · ⌈V / long⌉, M, K) float64, written on ``[start, stop)``; the caller sums.
        sums: (N · ⌈V / long⌉, M) float64, likewise.
    """
    k, v = x.shape[1:]
    m = gradient.shape[1]
    parts = -(-v // long)
    groups, partners = -(-m // ROWS), -(-k // PARTNERS)
    a = np.zeros(groups * ROWS * STRETCH, np.float32)
    b = np.zeros(partners * PARTNERS * STRETCH, np.float32)
    totals = np.empty(groups * partners * ROWS * PARTNERS * BLOCK, np.float32)
    for item in range(start, stop):
        n, first = item // parts, item % parts * long
        last = min(v, first + long)
        totals[:] = np.float32(0)
        sums[item] = 0
        for begin in range(first, last, STRETCH):
            length = min(STRETCH, last - begin)
            _hold(gradient[n], begin, length, a)
            _hold(x[n], begin, length, b)
            for r in range(m):
                sums[item, r] += _total(a[r * STRETCH : (r + 1) * STRETCH])
            for group in range(groups):
                for partner in range(partners):
                    at = (group * partners + partner) * ROWS * PARTNERS * BLOCK
                    multiply_rows(a, group * ROWS * STRETCH, b, partner * PARTNERS * STRETCH, STRETCH, totals, at)
        for r in range(m):
            for s in range(k):
                tile = r // ROWS * partners + s // PARTNERS
                at = ((tile * ROWS + r % ROWS) * PARTNERS + s % PARTNERS) * BLOCK
                total = 0.0
                for i in range(BLOCK):
                    total += np.float64(totals[at + i])
                out[item, r, s] = total


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _total(row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(row.shape[0]):
        total += row[i]
    return total


@_compiled
def _hold(volume, begin, length, held):  # type: ignore[no-untyped-def]
    """Copy a stretch of every channel, zeros beyond it."""
    whole = length // COLUMNS * COLUMNS
    for c in range(volume.shape[0]):
        row = volume[c, begin : begin + length]
        for i in range(0, whole, COLUMNS):
            copy_columns(row, i, held, c * STRETCH + i)
        for i in range(whole, length):
            held[c * STRETCH + i] = row[i]
        for i in range(length, STRETCH):
            held[c * STRETCH + i] = np.float32(0)
