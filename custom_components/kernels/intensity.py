"""Exact percentiles and moments of large images, without sorting or copying them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from custom_components.kernels.threads import run_ranges

__all__ = ["CHOICES", "clipped_moments", "order_statistics", "percentiles", "standardize"]

CHOICES = ("all", "positive", "nonzero")
_LEAST = _BLOCK = 2**18  # voxels worth waking a thread for
_HALVES = 2**16


def percentiles(values: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """As `numpy.percentile` (linear interpolation), in two passes that count instead of a selection that moves.

    Args:
        values: float32, contiguous, at least one, none of them NaN.
        wanted: percentiles, 0 … 100.
    """
    places = [(values.size - 1) * q / 100 for q in wanted]
    ranks = sorted({int(p) for p in places} | {min(int(p) + 1, values.size - 1) for p in places})
    found = dict(zip(ranks, order_statistics(values, ranks), strict=True))
    results = []
    for place in places:
        below, above, t = found[int(place)], found[min(int(place) + 1, values.size - 1)], place - int(place)
        results.append(below + (above - below) * t)
    return results


def order_statistics(values: np.ndarray, ranks: Sequence[int]) -> list[float]:
    """The values that would stand at ``ranks``, rising, if all were sorted."""
    from custom_components.kernels import intensity_numba as kernel

    bits = values.reshape(-1).view(np.uint32)
    counts, lock = np.zeros(_HALVES, np.int64), threading.Lock()

    def count_high(start: int, stop: int) -> None:
        own = np.zeros_like(counts)
        kernel.high_histogram_range(bits, own, start, stop)
        with lock:
            counts[:] += own

    run_ranges(count_high, bits.size, _LEAST)
    below = np.concatenate([[0], np.cumsum(counts)])
    halves = np.searchsorted(below, ranks, side="right") - 1
    rows = np.unique(halves)
    wanted = np.full(_HALVES, -1, np.int8)
    wanted[rows] = np.arange(len(rows))
    lower = np.zeros((len(rows), _HALVES), np.int64)

    def count_low(start: int, stop: int) -> None:
        own = np.zeros_like(lower)
        kernel.low_histogram_range(bits, wanted, own, start, stop)
        with lock:
            lower[:] += own

    run_ranges(count_low, bits.size, _LEAST)
    keys = [
        (int(half) << 16) | int(np.searchsorted(np.cumsum(lower[wanted[half]]), rank - below[half], side="right"))
        for rank, half in zip(ranks, halves, strict=True)
    ]
    memory = [key ^ 0x80000000 if key & 0x80000000 else key ^ 0xFFFFFFFF for key in keys]
    return [float(v) for v in np.array(memory, np.uint32).view(np.float32)]


def clipped_moments(values: np.ndarray, low: float, high: float, choice: str) -> tuple[int, float, float]:
    """Number of chosen voxels, their mean and (population) standard deviation, after clipping to [low, high].

    Args:
        values: float32, contiguous.
        low, high: may be infinite.
        choice: of `CHOICES`, judged after clipping.

    Returns:
        Mean and deviation are 0 where no voxel is chosen.
    """
    from custom_components.kernels import intensity_numba as kernel

    flat = values.reshape(-1)
    bounds = np.float32(low), np.float32(high)
    pivot = float(min(max(flat[flat.size // 2], bounds[0]), bounds[1]))
    # Blocks of a fixed size, summed in their order: the number of threads must not show in the last digit.
    parts = np.zeros((-(-flat.size // _BLOCK), 3))

    def sum_blocks(start: int, stop: int) -> None:
        for i in range(start, stop):
            voxels = i * _BLOCK, min((i + 1) * _BLOCK, flat.size)
            parts[i] = kernel.moments_range(flat, *bounds, CHOICES.index(choice), pivot, *voxels)

    run_ranges(sum_blocks, len(parts))
    count = int(parts[:, 0].sum())
    if count == 0:
        return 0, 0.0, 0.0
    total, squares = (float(np.sum(parts[:, i])) for i in (1, 2))
    shift = total / count
    return count, pivot + shift, max(squares / count - shift**2, 0.0) ** 0.5


def standardize(values: np.ndarray, low: float, high: float, mean: float, deviation: float, out: np.ndarray) -> None:
    """Write (clipped value − mean) / deviation; all arrays float32 and contiguous, of one size."""
    from custom_components.kernels import intensity_numba as kernel

    flat, target = values.reshape(-1), out.reshape(-1)
    numbers = np.float32(low), np.float32(high), np.float32(mean), np.float32(deviation)
    run_ranges(lambda a, b: kernel.standardize_range(flat, *numbers, target, a, b), flat.size, _LEAST)
