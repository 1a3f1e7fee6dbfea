"""Sums of windows and the classes taken from them: numba, plain torch, and the largest of all scores added up in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_components.kernels.window_sums import (
    add_window,
    add_window_reference,
    decide_planes,
    decide_planes_reference,
    empty_sums,
)

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize(("add", "decide"), [(add_window, decide_planes), (add_window_reference, decide_planes_reference)])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(1, 5),
    window=st.tuples(*[st.integers(1, 19)] * 3),
    more=st.tuples(*[st.integers(0, 7)] * 3),
    data=st.data(),
)
def test_numba_and_torch_give_the_class_of_the_largest_sum(classes, window, more, data):
    """Windows at any place of a volume whose planes go round in the ring more than once."""
    depth, height, width = window
    volume = [2 * depth + more[0], height + more[1], width + more[2]]
    weights = noise(*window).abs()
    rings = [empty_sums(classes, depth, *volume[1:], CPU) for _ in range(2)]
    outs = [torch.full(volume, 9, dtype=torch.uint8) for _ in range(2)]
    whole = np.zeros((classes, *volume))
    first = 0
    while first < volume[0]:
        low = min(first, volume[0] - depth)
        for seed in range(2):
            y, x = data.draw(st.integers(0, more[1])), data.draw(st.integers(0, more[2]))
            # Planes before the first that is open are decided already: the window has nothing more to say there.
            open_weights = weights.clone()
            open_weights[: first - low] = 0
            scores = noise(classes, *window, seed=seed + first)
            whole[:, low : low + depth, y : y + height, x : x + width] += (scores.double() * open_weights.double()).numpy()
            add_window(rings[0], scores, open_weights, (low, y, x))
            add_window_reference(rings[1], scores, open_weights, (low, y, x))
        torch.testing.assert_close(rings[0], rings[1], rtol=1e-5, atol=1e-6)
        last = min(volume[0], first + max(1, depth // 2))
        assert decide_planes(rings[0], first, last, outs[0]) and decide_planes_reference(rings[1], first, last, outs[1])
        first = last
    assert not rings[0].any() and not rings[1].any(), "decided planes are free for those to come"
    best = np.sort(whole, axis=0)
    sure = best[-1] - best[-2] > 1e-4 if classes > 1 else np.ones(volume, bool)
    for out in outs:
        assert np.array_equal(out.numpy()[sure], whole.argmax(axis=0)[sure])


@BOTH
def test_of_equal_scores_the_lowest_class_wins(add, decide):
    scores = torch.zeros(4, 1, 1, 6)
    scores[:, 0, 0] = torch.tensor(
        [[5.0, 1, 0, 2, -1, 3], [5, 7, 0, 1, -1, 4], [5, 7, 8, 1, -1, 2], [5, 2, 8, 1, -1, 4]]
    )  # one column a voxel
    sums, out = empty_sums(4, 1, 1, 6, CPU), torch.empty(1, 1, 6, dtype=torch.uint8)
    for weight in (0.3, 1.0, 0.7):
        add(sums, scores, torch.full((1, 1, 6), weight), (0, 0, 0))
    assert decide(sums, 0, 1, out)
    assert out.flatten().tolist() == scores[:, 0, 0].argmax(dim=0).tolist() == [0, 1, 2, 0, 0, 1]


@BOTH
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_seen_in_any_class(add, decide, classes, bad):
    for broken in range(classes):
        scores = noise(classes, 3, 5, 17)
        scores[broken, 2, 4, 16] = bad
        sums, out = empty_sums(classes, 3, 5, 17, CPU), torch.empty(3, 5, 17, dtype=torch.uint8)
        add(sums, scores, torch.ones(3, 5, 17), (0, 0, 0))
        assert decide(sums, 0, 2, out)
        assert not decide(sums, 2, 3, out)


def test_the_environment_forces_the_reference_and_half_precision_is_widened(monkeypatch):
    scores, weights = noise(3, 4, 5, 9), noise(4, 5, 9).abs()
    fast, plain = (empty_sums(3, 4, 5, 9, CPU) for _ in range(2))
    add_window(fast, scores.to(torch.bfloat16).transpose(1, 1), weights, (2, 0, 0))
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    add_window(plain, scores.to(torch.bfloat16), weights, (2, 0, 0))
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-7)
    assert fast[:, 2:].any() and fast[:, :2].any(), "the window goes round the end of the ring"
