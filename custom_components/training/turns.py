"""Whose turn it is: which domain each step of a training takes its batch from.

The turn of step ``n`` is a pure function of the settings and ``n``. So a training that stops after any epoch goes on
as if it had not stopped, and all processes of a distributed one agree without talking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["BySize", "RoundRobin", "Turns"]

BLOCK = 1024  # steps drawn at once; part of what a seed means


class Turns(Protocol):
    """Which domain has which step."""

    def turn(self, step: int) -> tuple[int, int]:
        """Index of the domain that has step ``step`` (from 0), and how many steps it had before."""
        ...


class RoundRobin:
    """Every domain in its turn, as the original trains.

    Args:
        sizes: training cases of each domain; only their number counts here.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        if not sizes:
            raise ValueError("turns need at least one domain")
        self.domains = len(sizes)

    def turn(self, step: int) -> tuple[int, int]:
        before, domain = divmod(step, self.domains)
        return domain, before


class BySize:
    """At random, in proportion to ``size ** (1 / temperature)``.

    Args:
        sizes: training cases of each domain.
        temperature: 1 draws in proportion to the sizes; larger is more even; ``inf`` draws all alike.
        seed: of the draws.

    Raises:
        ValueError: no domain, a size or the temperature is not positive.
    """

    def __init__(self, sizes: Sequence[int], temperature: float = 2.0, seed: int = 0) -> None:
        if not sizes or min(sizes) < 1 or not temperature > 0:
            raise ValueError(f"sizes and temperature must be positive, got {list(sizes)} and {temperature}")
        shares = np.asarray(sizes, dtype=np.float64) ** (1 / temperature)
        self.shares = shares / shares.sum()
        self.seed = seed
        self._blocks: list[np.ndarray] = []  # domain of each step
        self._before = [np.zeros(len(sizes), dtype=np.int64)]  # turns of each domain before each block

    def turn(self, step: int) -> tuple[int, int]:
        block, place = divmod(step, BLOCK)
        while len(self._blocks) <= block:
            rng = np.random.default_rng((self.seed, len(self._blocks)))
            drawn = rng.choice(len(self.shares), size=BLOCK, p=self.shares)
            self._blocks.append(drawn)
            self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self.shares)))
        drawn = self._blocks[block]
        domain = int(drawn[place])
        return domain, int(self._before[block][domain] + np.count_nonzero(drawn[:place] == domain))
