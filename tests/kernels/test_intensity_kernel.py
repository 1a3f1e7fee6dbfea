"""Percentiles and moments by counting are those of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from custom_components.kernels.intensity import CHOICES, clipped_moments, order_statistics, percentiles, standardize

numbers = st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=True)
images = hnp.arrays(np.float32, st.integers(1, 200), elements=numbers)


@given(values=images, wanted=st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_percentiles_are_numpys(values, wanted):
    expected = np.percentile(values.astype(np.float64), wanted)
    np.testing.assert_allclose(percentiles(values, wanted), expected, rtol=1e-12, atol=1e-30)


@given(values=images)
def test_order_statistics_sort(values):
    assert order_statistics(values, range(len(values))) == np.sort(values).tolist()


def test_a_ct_in_two_threads(monkeypatch):
    values = np.rint(np.random.default_rng(0).normal(-300, 500, (90, 100, 110))).astype(np.float32)
    expected = np.percentile(values.astype(np.float64), (0.5, 37.0, 99.5))
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert np.allclose(percentiles(values, (0.5, 37.0, 99.5)), expected, rtol=1e-12)
        results.append(clipped_moments(values, -900, 1000, "nonzero"))
    assert results[0] == results[1] == results[2]


@settings(max_examples=60)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-2000, 3000, width=32)),
    choice=st.sampled_from(CHOICES),
    bounds=st.sampled_from([(-np.inf, np.inf), (-100.0, 500.0), (0.0, np.inf)]),
)
def test_moments_are_numpys(values, choice, bounds):
    clipped = np.clip(values, *bounds).astype(np.float64)
    chosen = clipped[{"all": clipped == clipped, "positive": clipped > 0, "nonzero": clipped != 0}[choice]]
    count, mean, deviation = clipped_moments(values, *bounds, choice)
    assert count == chosen.size
    if count:
        assert mean == pytest.approx(chosen.mean(), abs=1e-8)
        assert deviation == pytest.approx(chosen.std(), abs=1e-5)


def test_a_small_spread_far_from_zero_keeps_its_digits():
    values = (1e4 + np.random.default_rng(1).standard_normal(10**6) * 0.25).astype(np.float32)
    _, mean, deviation = clipped_moments(values, -np.inf, np.inf, "all")
    assert mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert deviation == pytest.approx(values.std(dtype=np.float64), rel=1e-9)


def test_standardize_clips_first():
    values, out = np.array([-5, 0, 2, 9], np.float32), np.empty(4, np.float32)
    standardize(values, -1, 4, 1, 2, out)
    assert out.tolist() == [-1, -0.5, 0.5, 1.5]
