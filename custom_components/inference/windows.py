"""Sliding windows with the original's distance weights, and flips at test time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.utils import convert_to_dst_type

__all__ = ["WindowInferer", "distance_weights"]

LEAST_WEIGHT = 1e-20  # of the farthest corner: not 0, so that a voxel seen by one window only still has its logits
HALF_TYPES = (torch.float16, torch.bfloat16)


def distance_weights(size: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Weight of every voxel of a window: 1 near its centre, falling linearly with the distance to it.

    ``w = 1 − (d − min d) / (max d − min d) + 1e-20``, d the Euclidean distance of the voxel's index to ``size / 2``.

    Args:
        size: of the window, (z, y, x), voxels.
        dtype: of the result; computed in float64.

    Returns:
        (z, y, x).
    """
    squares = torch.zeros(tuple(size), dtype=torch.float64)
    for axis, length in enumerate(size):
        along = [1] * len(size)
        along[axis] = length
        squares += ((torch.arange(length, dtype=torch.float64) - length / 2) ** 2).reshape(along)
    distance = squares.sqrt()
    nearest, farthest = distance.min(), distance.max()
    if farthest == nearest:
        return torch.ones(tuple(size), dtype=dtype)
    return (1 - (distance - nearest) / (farthest - nearest) + LEAST_WEIGHT).to(dtype)


class WindowInferer(SlidingWindowInferer):
    """MONAI's sliding windows (the last one flush with the border) under the distance weights, optionally flipped.

    A volume smaller than the window is padded with zeros on both sides and the result cut back.

    Args:
        roi_size: window, (z, y, x), voxels.
        sw_batch_size: windows per network call.
        overlap: of neighbouring windows, 0 ≤ overlap < 1.
        mode: ``distance`` (see `distance_weights`), or ``gaussian`` or ``constant`` as in MONAI.
        flip_axes: spatial axes (0 = z, 1 = y, 2 = x) mirrored at test time, in every combination: n axes, 2ⁿ passes. The
            result is then the logarithm of the mean softmax probability, so that it serves as logits like without.
        sw_device: device of the windows; None is the input's.
        device: device of the whole result; None is the input's.
        progress: whether a progress bar is shown.
        cpu_thresh: a volume with more voxels is put together in main memory; None never does.

    Raises:
        ValueError: an axis that is not 0, 1 or 2 or is named twice, a window length below 1, or no such mode.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.5,
        mode: str = "distance",
        flip_axes: Sequence[int] = (),
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        cpu_thresh: int | None = None,
    ) -> None:
        size = tuple(int(n) for n in roi_size)
        if min(size) < 1:
            raise ValueError(f"roi_size {size}: every length must be at least 1 voxel")
        if len(set(flip_axes)) != len(flip_axes) or not set(flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes {tuple(flip_axes)}: must be different axes out of 0 (z), 1 (y), 2 (x)")
        by_distance = mode == "distance"
        super().__init__(
            size,
            sw_batch_size,
            overlap,
            "constant" if by_distance else mode,
            sw_device=sw_device,
            device=device,
            progress=progress,
            cache_roi_weight_map=not by_distance,
            cpu_thresh=cpu_thresh,
        )
        if by_distance:
            self.roi_weight_map = distance_weights(size)
        self.flip_axes = tuple(int(axis) for axis in flip_axes)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """
        Args:
            inputs: (N, C, Z, Y, X).
            network: gives (n, K, *window) for n windows.
            args: passed to the network.
            kwargs: passed to the network (``domain="..."``).

        Returns:
            (N, K, Z, Y, X), logits, with the metadata of ``inputs``.
        """
        # Half precision has no room for the least weight: numerator and denominator would both be 0.
        image = inputs.float() if inputs.dtype in HALF_TYPES else inputs
        if not self.flip_axes:
            return super().__call__(image, network, *args, **kwargs)  # type: ignore[return-value]
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        total: torch.Tensor | None = None
        passes = [axes for n in range(len(self.flip_axes) + 1) for axes in combinations(self.flip_axes, n)]
        for axes in passes:
            dims = [axis + 2 for axis in axes]
            logits = super().__call__(plain.flip(dims) if dims else plain, network, *args, **kwargs)
            probabilities = torch.softmax(logits, dim=1).flip(dims)  # type: ignore[arg-type]
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None  # there is always the pass without a flip
        mean = total.div_(len(passes)).clamp_(min=torch.finfo(total.dtype).tiny).log_()
        return convert_to_dst_type(mean, inputs, dtype=mean.dtype, device=mean.device)[0]
