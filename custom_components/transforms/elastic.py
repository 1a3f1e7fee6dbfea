"""Smooth random displacement as control points of a cubic B-spline: two laws with the same statistics.

Filtering uniform noise in [−1, 1) with a Gaussian of standard deviation s gives a field of variance α²/3 · Π Σ g² and
correlation exp(−d² / 4 s²). White noise on a lattice of step h under a cubic B-spline β has, averaged over the place
between the control points, variance · Π ∫β² and correlation β⁷(d / h), whose variance is 2 h²/3. So h = √3 s has the same
correlation length, and the amplitude follows from the variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import ndtri

from custom_components.kernels.noise import smooth_lattice, uniform_noise

__all__ = ["gaussian_taps", "smoothed_noise_lattice", "spline_noise_lattice"]

_MEAN_SQUARE: Final = 151 / 315  # ∫β², β the cubic B-spline
_POLE: Final = math.sqrt(3) - 2


def gaussian_taps(sigma: float) -> np.ndarray:
    """Half a Gaussian filter, from the middle outwards, cut at 4 sigma and of sum 1 as `scipy.ndimage.gaussian_filter` has it."""
    taps = np.exp(-0.5 * (np.arange(int(4 * sigma + 0.5) + 1) / sigma) ** 2)
    return taps / (2 * taps.sum() - taps[0])


def spline_noise_lattice(
    seed: int, shape: Sequence[int], sigma: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """White noise on a lattice that lies at a random place, so that the field is the same everywhere in distribution.

    Args:
        seed: of the noise.
        shape: of the output.
        sigma: per axis, voxels. Below 0.58 the lattice is one voxel wide, and the field a little smoother than asked for.
        alpha: voxels.

    Returns:
        Control points (axes, *l), origin and step per axis, as `custom_components.kernels.resample.CoordinateField` has them.
    """
    step = np.maximum(math.sqrt(3) * sigma, 1.0)
    most = [int((n - 0.5) / h + 1 + 0.5 / h) + 4 for n, h in zip(shape, step, strict=True)]
    # Hashed numbers: to seed one of NumPy's generators takes longer than to deform a patch.
    uniform = uniform_noise(seed, [len(shape) * (1 + math.prod(most))]).astype(np.float64) / 2 + (0.5 + 2**-25)  # in (0, 1)
    origin = uniform[: len(shape)] + 0.5 / step  # reaches the faces, half a voxel beyond the middles
    points = [int((n - 0.5) / h + o) + 4 for n, h, o in zip(shape, step, origin, strict=True)]
    normal = ndtri(uniform[len(shape) : len(shape) * (1 + math.prod(points))]).reshape(len(shape), *points)
    deviation = alpha * math.sqrt(math.prod(_energy(s) / _MEAN_SQUARE for s in sigma) / 3)
    return deviation * normal, origin, step


def smoothed_noise_lattice(
    source: int | np.ndarray, shape: Sequence[int], sigma: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full-resolution uniform noise filtered with a Gaussian, sampled and interpolated by a cubic B-spline.

    The filtered field is smooth, so a B-spline through every n-th of its voxels does, n as large as an error of 1e-3 voxel
    allows. Gaussian and B-spline filter are one filter per axis, of which only the samples are computed. Where n must be 1
    (sigma below 8, or a large alpha), the lattice takes the memory of three volumes.

    Args:
        source: a seed, or the noise itself, (axes, *shape).
        shape: of the output.
        sigma: per axis, voxels.
        alpha: voxels.

    Returns:
        As `spline_noise_lattice`.

    Raises:
        ValueError: the given noise has another shape.
    """
    axes = len(shape)
    if isinstance(source, np.ndarray) and source.shape != (axes, *shape):
        raise ValueError(f"elastic: noise of shape {(axes, *shape)} is needed, got {source.shape}")
    deviation = alpha * math.sqrt(math.prod(_energy(s) for s in sigma) / 3)
    step = np.array([_step(s, deviation) for s in sigma])
    taps = [_sampled_filter(s, h) for s, h in zip(sigma, step, strict=True)]
    # Voxel 0 lies at lattice position 1, control point k at voxel (k − 2) · step: the faces are reached too.
    points = [int((n - 0.5) / h + 1) + 4 for n, h in zip(shape, step, strict=True)]
    flat = 3 - axes  # a 2-D output has one plane, which nothing filters
    three = (*[1] * flat, *shape)
    lattice = smooth_lattice(
        source.reshape(axes, *three) if isinstance(source, np.ndarray) else None,
        0 if isinstance(source, np.ndarray) else source,
        (axes, three[0], three[1], three[2]),
        [np.ones(1)] * flat + taps,
        [0] * flat + [-2 * int(h) for h in step],
        [1] * flat + [int(h) for h in step],
        [1] * flat + points,
    )
    return alpha * lattice.reshape(axes, *points).astype(np.float64), np.ones(axes), step.astype(float)


def _energy(sigma: float) -> float:
    """Σ g² of the Gaussian filter; from sigma 2 on that of the continuous one, which is the same to 2e-4."""
    if sigma >= 2:
        return 1 / (2 * math.sqrt(math.pi) * sigma)
    taps = gaussian_taps(sigma)
    return float(2 * (taps**2).sum() - taps[0] ** 2)


def _step(sigma: float, deviation: float) -> int:
    """Voxels between the samples: the most that keep 99.99 % of the displacements within 1e-3 voxel.

    The error's standard deviation was fitted to measurements for sigma 5 to 13 and steps 1 to 5. Its second term is the
    edge of the Gaussian, cut at 4 sigma: white noise, which no B-spline follows.
    """
    fitting = [h for h in range(2, 9) if 4 * abs(deviation) * (0.01 * (h / sigma) ** 4 + 6.5e-4 / sigma) < 1e-3]
    return max(fitting, default=1)


def _sampled_filter(sigma: float, step: int) -> np.ndarray:
    """Gaussian, then the B-spline filter √3 p^|k| at every ``step``-th voxel; all taps, from −reach to reach, float32."""
    gaussian = gaussian_taps(sigma)
    terms = 12
    reach = len(gaussian) - 1 + terms * step
    both = np.zeros(2 * reach + 1)
    symmetric = np.concatenate([gaussian[:0:-1], gaussian])
    for k in range(-terms, terms + 1):
        start = reach - (len(gaussian) - 1) + k * step
        both[start : start + len(symmetric)] += math.sqrt(3) * _POLE ** abs(k) * symmetric
    used = np.flatnonzero(np.abs(both) > 1e-7 * np.abs(both).max())
    cut = min(used[0], len(both) - 1 - used[-1])
    return both[cut : len(both) - cut].astype(np.float32)
