"""`Bits`: a mask of one bit per voxel, closed and reduced to its largest components without leaving that form.

Morphology takes 64 voxels at a time. Components are those of runs of voxels along x, of which even a ragged organ has few, so
that their time is not the volume's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from custom_components.kernels.threads import run_ranges

__all__ = ["Bits"]

_ROWS_PER_THREAD = 2**10


class Bits:
    """A mask (Z, Y, X). Voxels that share a face or an edge are neighbours: the 18-neighbourhood.

    Args:
        words: (Z + 2, Y + 2, ⌈X / 64⌉ + 2), uint64, as `custom_components.kernels.bits_numba` has them.
        width: X.
    """

    def __init__(self, words: np.ndarray, width: int) -> None:
        self.words, self.width = words, width

    @classmethod
    def of(cls, classes: np.ndarray, index: int = 1) -> Bits:
        """Where a volume (Z, Y, X) of any type, none of its axes empty, has a value."""
        if classes.dtype == np.bool_:
            classes = classes.view(np.uint8)
        elif classes.dtype != np.uint8 or not 0 <= index <= 255:
            classes, index = (classes == index).view(np.uint8), 1
        bits = cls._empty(classes.shape)
        bits._rows("pack_range", np.ascontiguousarray(classes), np.uint8(index), bits.words)
        return bits

    def mask(self) -> np.ndarray:
        """(Z, Y, X), bool."""
        out = np.empty((self.words.shape[0] - 2, self.words.shape[1] - 2, self.width), np.uint8)
        self._rows("unpack_range", self.words, out)
        return out.view(np.bool_)

    def __or__(self, other: Bits) -> Bits:
        return Bits(self.words | other.words, self.width)

    def closed(self, iterations: int) -> Bits:
        """Dilations, then as many erosions; what lies outside the volume is background in both."""
        words, spare = self.words.copy(), np.zeros_like(self.words)
        for _ in range(iterations):
            self._rows("dilate_range", words, self.width, spare)
            words, spare = spare, words
        for _ in range(iterations):
            self._rows("erode_range", words, spare)
            words, spare = spare, words
        return Bits(words, self.width)

    def largest(self, keep: int, second_over: float) -> Bits:
        """The largest connected component; of equal ones, the one that comes first in z, y, x order.

        Args:
            keep: 1, or 2.
            second_over: with ``keep`` 2, the second stays only where its size times this exceeds the first's.
        """
        from custom_components.kernels import bits_numba as kernel

        ny = self.words.shape[1] - 2
        offsets = np.zeros((self.words.shape[0] - 2) * ny + 1, np.int64)
        self._rows("count_runs_range", self.words, offsets[1:])
        np.cumsum(offsets, out=offsets)
        count = int(offsets[-1])
        chosen = Bits(np.zeros_like(self.words), self.width)
        if count == 0:
            return chosen
        runs, parents, sizes = np.empty((count, 2), np.int32), np.empty(count, np.int32), np.zeros(count, np.int64)
        self._rows("find_runs_range", self.words, offsets, runs)
        kernel.join_runs(offsets, runs, ny, parents, sizes)
        one, two = int(np.argmax(sizes)), -1
        if keep == 2:
            first, sizes[one] = int(sizes[one]), 0
            second = int(np.argmax(sizes))
            two = second if sizes[second] * second_over > first else -1
        self._rows("choose_runs", offsets, runs, parents, one, two, chosen.words)
        return chosen

    def clear(self, kept: Bits, out: np.ndarray) -> None:
        """Write 0 where this mask is set and another is not."""
        self._rows("clear_range", self.words, kept.words, out)

    def fill(self, kept: Bits, index: int, out: np.ndarray) -> None:
        """Write a class where another mask is set and this one is not, in so far as 0 stands there."""
        self._rows("fill_range", self.words, kept.words, index, out)

    @classmethod
    def _empty(cls, shape: tuple[int, ...]) -> Bits:
        return cls(np.zeros((shape[0] + 2, shape[1] + 2, -(-shape[2] // 64) + 2), np.uint64), shape[2])

    def _rows(self, name: str, *arguments: Any) -> None:
        from custom_components.kernels import bits_numba as kernel

        rows = (self.words.shape[0] - 2) * (self.words.shape[1] - 2)
        run_ranges(partial(getattr(kernel, name), *arguments), rows, _ROWS_PER_THREAD)
