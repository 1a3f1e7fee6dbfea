"""Noise is uniform and reproducible; smoothed noise is what SciPy's filter gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from custom_components.kernels.noise import smooth_lattice, uniform_noise

STORED = [-0.8557616472244263, 0.12723422050476074, -0.23838937282562256, -0.5099023580551147]


def test_noise_is_uniform_and_white() -> None:
    values = uniform_noise(3, (3, 40, 50, 60)).astype(np.float64)
    assert values.min() >= -1
    assert values.max() < 1
    # Kolmogorov–Smirnov against the uniform law; 360,000 values.
    assert stats.kstest(values.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for axis in range(4):
        pairs = np.corrcoef(
            np.take(values, range(1, values.shape[axis]), axis).ravel(),
            np.take(values, range(values.shape[axis] - 1), axis).ravel(),
        )
        assert abs(pairs[0, 1]) < 4 / np.sqrt(values.size / 2)


def test_seeds_give_unrelated_noise() -> None:
    first = uniform_noise(0, (20000,))
    for seed in (1, 2, 2**31, 2**32 - 1):
        other = uniform_noise(seed, (20000,))
        for shift in (-2, -1, 0, 1, 2):
            assert abs(np.corrcoef(first[2:-2], np.roll(other, shift)[2:-2])[0, 1]) < 0.03
        assert not np.isin(first[:100], other).all()


def test_the_same_numbers_for_ever() -> None:
    """A deformation that was stored must replay: these values are part of the format."""
    np.testing.assert_array_equal(uniform_noise(42, (4,)), np.array(STORED, np.float32))


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("step", [1, 3])
def test_smoothing_equals_scipy(given: bool, step: int) -> None:
    shape = (2, 12, 17, 15)
    noise = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32) if given else uniform_noise(7, shape)
    taps = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
    found = smooth_lattice(noise if given else None, 7, shape, [taps] * 3, [-step] * 3, [step] * 3, [5, 6, 5])
    expected = np.pad(noise.astype(np.float64), [(0, 0)] + [(2 * step, 8 * step)] * 3)
    for axis in (1, 2, 3):
        expected = ndimage.correlate1d(expected, taps, axis, mode="constant")
    np.testing.assert_allclose(found, expected[:, step::step, step::step, step::step][:, :5, :6, :5], atol=1e-6)
