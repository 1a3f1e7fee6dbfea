"""Scores of overlapping windows added up plane by plane, until no further window reaches a plane and its classes are taken.

Only what decides is kept: of every class but the first the weighted sum of its difference to the first. The planes of the sums
are used again and again, so that there are as many as a window is deep, however long the volume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.threads import run_ranges

__all__ = ["add_window", "add_window_reference", "decide_planes", "decide_planes_reference", "empty_sums"]

_ROWS_PER_THREAD = 512


def empty_sums(classes: int, depth: int, height: int, width: int, device: torch.device) -> Tensor:
    """Zeros (max(classes − 1, 1), depth, height, width): plane z of the volume is plane z mod depth of the sums."""
    shape = max(classes - 1, 1), depth, height, width
    # NumPy asks for huge pages where torch does not.
    return torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)


def add_window(sums: Tensor, scores: Tensor, weights: Tensor, place: Sequence[int]) -> None:
    """Add ``weights · (scores[k] − scores[0])`` of a window, in place. On the CPU numba, else plain torch.

    Args:
        sums: of `empty_sums`.
        scores: (K, d, h, w), any floating type; d at most the depth of the sums.
        weights: (d, h, w), float32.
        place: first voxel of the window in the volume, (z, y, x).
    """
    if _plain(sums):
        add_window_reference(sums, scores, weights, place)
        return
    from custom_components.kernels import window_sums_numba as kernel

    arrays = scores.detach().float().contiguous().numpy(), weights.contiguous().numpy(), sums.numpy()
    start = tuple(int(n) for n in place)
    run_ranges(partial(kernel.add_range, *arrays, start), weights.shape[0] * weights.shape[1], _ROWS_PER_THREAD)


def add_window_reference(sums: Tensor, scores: Tensor, weights: Tensor, place: Sequence[int]) -> None:
    """`add_window` in plain torch, on any device."""
    _, height, width = weights.shape
    z, y, x = place
    values = scores.float()
    for own, ring in _stretches(z, z + len(weights), sums.shape[1]):
        target = sums[:, ring, y : y + height, x : x + width]
        # Of one class alone the difference to itself is kept: 0, or NaN where the score is no number.
        target.addcmul_(values[min(1, len(values) - 1) :, own] - values[:1, own], weights[own])


def decide_planes(sums: Tensor, first: int, last: int, out: Tensor) -> bool:
    """Write the class of the largest sum for the planes ``[first, last)``, and set their sums to 0. Of equals, the lowest wins.

    Args:
        sums: of `empty_sums`; ``last − first`` at most their depth.
        out: (Z, Y, X), uint8, on the CPU.

    Returns:
        Whether all sums were finite.
    """
    if _plain(sums):
        return decide_planes_reference(sums, first, last, out)
    from custom_components.kernels import window_sums_numba as kernel

    arrays, bad = (sums.numpy(), first, out.numpy()), []
    rows = (last - first) * sums.shape[2]
    run_ranges(lambda a, b: bad.append(kernel.decide_range(*arrays, a, b)), rows, _ROWS_PER_THREAD)
    return not any(bad)


def decide_planes_reference(sums: Tensor, first: int, last: int, out: Tensor) -> bool:
    """`decide_planes` in plain torch, on any device."""
    finite = True
    for own, ring in _stretches(first, last, sums.shape[1]):
        planes = sums[:, ring]
        finite &= bool(torch.isfinite(planes.sum()))
        best = planes[0].clamp(min=0)
        largest = (planes[0] > 0).to(torch.uint8)
        for k in range(1, len(planes)):
            largest.masked_fill_(planes[k] > best, k + 1)
            torch.maximum(best, planes[k], out=best)
        out[first + own.start : first + own.stop] = largest.cpu()
        planes.zero_()
    return finite


def _plain(sums: Tensor) -> bool:
    return sums.device.type != "cpu" or os.environ.get("U2NET_KERNELS") == "reference"


def _stretches(first: int, last: int, depth: int) -> Iterator[tuple[slice, slice]]:
    """Where planes [first, last) lie in a ring: pairs of slices, counted from ``first`` and in the ring."""
    at = first
    while at < last:
        stop = min(last, (at // depth + 1) * depth)
        yield slice(at - first, stop - first), slice(at % depth, at % depth + stop - at)
        at = stop
