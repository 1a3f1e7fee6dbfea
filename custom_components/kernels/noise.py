"""Uniform noise under a separable filter, of which only every n-th sample is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from custom_components.kernels.threads import run_ranges

__all__ = ["smooth_lattice", "uniform_noise"]


def uniform_noise(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Uniform noise in [−1, 1): a hash of seed and place, so that any part of it can be made by itself.

    Args:
        seed: 0 … 2^32 − 1.
        shape: at most 2^32 values.

    Returns:
        float32.
    """
    bits = _mix(_mix(np.arange(int(np.prod(shape)), dtype=np.uint32) ^ noise_key(seed)) + np.uint32(seed))
    return ((bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-23) - np.float32(1)).reshape(shape)


def noise_key(seed: int) -> np.uint32:
    """What the place is combined with; with the seed itself used once more, no two seeds shift the same numbers."""
    return np.uint32(_mix(np.array([seed], np.uint32) ^ np.uint32(0x9E3779B9))[0])


def smooth_lattice(
    values: np.ndarray | None,
    seed: int,
    shape: tuple[int, int, int, int],
    taps: Sequence[np.ndarray],
    first: Sequence[int],
    step: Sequence[int],
    points: Sequence[int],
) -> np.ndarray:
    """Correlate noise with a separable symmetric filter, zero outside, at every ``step``-th voxel.

    The noise of a seed is made row by row and never stored.

    Args:
        values: (A, Z, Y, X) float32, the noise itself; None takes `uniform_noise` of the seed.
        seed: of the noise.
        shape: (A, Z, Y, X).
        taps: of odd length, float32, along z, y, x.
        first: voxel of the first sample along z, y, x; may lie outside.
        step: voxels between samples.
        points: number of samples.

    Returns:
        (A, *points), float32.
    """
    from custom_components.kernels import noise_numba as kernel

    axes, _, ny, nx = shape
    filters = [np.ascontiguousarray(t, dtype=np.float32) for t in taps]
    given = np.ascontiguousarray(values, dtype=np.float32) if values is not None else np.empty((0, 1, 1, 1), np.float32)
    along_z = np.zeros((axes, points[0], ny, nx), np.float32)
    lattice = np.empty((axes, *points), np.float32)
    key, size = noise_key(seed), np.array(shape)
    run_ranges(
        lambda a, b: kernel.filter_z_range(given, key, np.uint32(seed), size, filters[0], first[0], step[0], along_z, a, b),
        axes * ny,
    )
    run_ranges(
        lambda a, b: kernel.filter_yx_range(along_z, filters[1], filters[2], first[1:], step[1:], lattice, a, b), axes * points[0]
    )
    return lattice


def _mix(x: np.ndarray) -> np.ndarray:
    """A permutation of the 32-bit numbers: any bit of x flips about half the bits of the result."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x21F0AAAD)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x735A2D97)
    return x ^ (x >> np.uint32(15))
