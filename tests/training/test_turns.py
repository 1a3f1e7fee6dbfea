"""Turns: counted against a plain walk through the steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_components.training import BySize, RoundRobin
from custom_components.training.turns import BLOCK


def test_round_robin_is_strict() -> None:
    turns = RoundRobin([5, 80, 3])
    assert [turns.turn(step) for step in range(7)] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=5),
    st.floats(0.5, 8),
    st.integers(0, 9),
    st.permutations(range(0, 3 * BLOCK, 97)),
)
def test_by_size_numbers_the_turns_of_each_domain_in_whatever_order_it_is_asked(
    sizes: list[int], temperature: float, seed: int, order: list[int]
) -> None:
    walked = BySize(sizes, temperature, seed)
    counts = [0] * len(sizes)
    expected = {}
    for step in range(3 * BLOCK):
        domain = walked.turn(step)[0]
        expected[step] = (domain, counts[domain])
        counts[domain] += 1
    asked = BySize(sizes, temperature, seed)
    assert all(asked.turn(step) == expected[step] for step in order)


@pytest.mark.parametrize("temperature", [1.0, 2.0, np.inf])
def test_by_size_draws_in_the_stated_proportion(temperature: float) -> None:
    sizes, steps = [160, 40, 10], 20 * BLOCK
    turns = BySize(sizes, temperature, seed=3)
    drawn = np.bincount([turns.turn(step)[0] for step in range(steps)], minlength=3)
    shares = np.asarray(sizes) ** (1 / temperature)
    expected = steps * shares / shares.sum()
    # Counts of a multinomial: within four standard deviations.
    assert np.all(np.abs(drawn - expected) < 4 * np.sqrt(expected * (1 - expected / steps)))


def test_another_seed_draws_otherwise() -> None:
    first, second = ([BySize([3, 4], 1, seed).turn(s)[0] for s in range(64)] for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(("sizes", "temperature"), [([], 1.0), ([3, 0], 1.0), ([3], 0.0), ([3], -1.0)])
def test_what_cannot_be_drawn_is_refused(sizes: list[int], temperature: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        BySize(sizes, temperature)
    if not sizes:
        with pytest.raises(ValueError, match="at least one"):
            RoundRobin(sizes)
