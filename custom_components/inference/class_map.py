"""Sliding windows straight to a class map: the logits of a whole volume are never held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_components.inference.windows import HALF_TYPES, distance_weights
from custom_components.kernels.window_sums import add_window, decide_planes, empty_sums

__all__ = ["class_map", "window_starts"]


@torch.no_grad()
def class_map(
    image: Tensor,
    network: Callable[[Tensor], Tensor],
    roi_size: Sequence[int],
    overlap: float = 0.5,
    sw_batch_size: int = 1,
    device: torch.device | str | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What `WindowInferer` and then `LargestClass` give, with memory for the sums of one window's depth.

    Windows are taken from the first plane to the last. A plane that no further window reaches is decided at once: the
    weights of its windows are the same for all classes, so their sum need not be divided by.
    (`custom_components.kernels.window_sums` says what is summed.)

    Args:
        image: (C, Z, Y, X).
        network: (n, C, *roi_size) → logits (n, K, *roi_size), on ``device``. It must leave its input as it is, which may be
            a view of the image.
        roi_size: of the windows, (z, y, x).
        overlap: of neighbouring windows, 0 ≤ overlap < 1.
        sw_batch_size: windows per network call.
        device: of the network; None is the image's. The volume stays where it is.
        advance: called with the number of windows done, and of all of them.

    Returns:
        (1, Z, Y, X), uint8, on the CPU.

    Raises:
        RuntimeError: the network gives NaN or infinite logits.
        ValueError: more classes than uint8 can number, or none.
    """
    shape = image.shape[1:]
    # Padded with zeros on both sides where the volume is the smaller one, as MONAI does.
    before = [max(0, roi - n) // 2 for roi, n in zip(roi_size, shape, strict=True)]
    after = [max(0, roi - n) - b for roi, n, b in zip(roi_size, shape, before, strict=True)]
    if any(before) or any(after):
        image = F.pad(image, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair])
    where = torch.device(device) if device is not None else image.device
    depth, height, width = (int(n) for n in roi_size)
    starts = [window_starts(n, roi, overlap) for n, roi in zip(image.shape[1:], roi_size, strict=True)]
    result = torch.empty(image.shape[1:], dtype=torch.uint8)
    weights = distance_weights(roi_size).to(where)
    across = [(y, x) for y in starts[1] for x in starts[2]]
    done, total = 0, len(starts[0]) * len(across)
    sums: Tensor | None = None
    for i, z in enumerate(starts[0]):
        for first in range(0, len(across), sw_batch_size):
            places = across[first : first + sw_batch_size]
            cuts = [image[:, z : z + depth, y : y + height, x : x + width] for y, x in places]
            windows = torch.stack(cuts) if len(cuts) > 1 else cuts[0][None]
            logits = network(windows.to(where, torch.float32 if windows.dtype in HALF_TYPES else windows.dtype))
            if sums is None:
                if not 0 < logits.shape[1] <= 256:
                    raise ValueError(f"logits: 1 to 256 classes are possible, got {logits.shape[1]}")
                sums = empty_sums(logits.shape[1], depth, image.shape[2], image.shape[3], where)
            for scores, (y, x) in zip(logits, places, strict=True):
                add_window(sums, scores, weights, (z, y, x))
            done += len(places)
            if advance is not None:
                advance(done, total)
        assert sums is not None
        last = starts[0][i + 1] if i + 1 < len(starts[0]) else image.shape[1]
        if not decide_planes(sums, z, last, result):
            raise RuntimeError(
                "the network gives NaN or infinite scores: its weights are damaged, or the image is not what it was made for"
            )
    cut = [slice(b, b + n) for b, n in zip(before, shape, strict=True)]
    return result[tuple(cut)][None]


def window_starts(length: int, roi: int, overlap: float) -> list[int]:
    """First voxel of each window along an axis, the last one flush with the end: none twice.

    Args:
        length: of the axis, at least ``roi``.
        roi: of the windows.
        overlap: 0 ≤ overlap < 1.
    """
    step = max(1, int(roi * (1 - overlap))) if length > roi else roi
    return [*range(0, length - roi, step), length - roi]
