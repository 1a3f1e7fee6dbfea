"""Raw intensities → network input: floor, percentile clip, z-score (`custom_components.domain.IntensityRule`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type

from custom_components.errors import InputError
from custom_components.kernels.intensity import CHOICES, clipped_moments, percentiles, standardize
from custom_components.kernels.layout import contiguous

__all__ = ["ClipAndStandardize", "ClipAndStandardized"]


class ClipAndStandardize(Transform):
    """Every channel by itself: values below the floor become the floor, then the percentile clip, then the z-score.

    The percentiles are those of all voxels of the channel after the floor, with linear interpolation (numpy's default).
    Mean and (population) standard deviation are those of the chosen voxels after the clip; all voxels are standardised.

    Args:
        floor: values below it are set to it; None leaves them.
        percentiles: lower and upper percentile, in percent, to clip to; None does not clip.
        statistics: which voxels give mean and standard deviation: ``positive`` (> 0), ``nonzero`` or ``all``.

    Raises:
        ValueError: ``statistics`` is none of the three, or the percentiles are not two rising numbers in 0 … 100.
    """

    def __init__(self, floor: float | None, percentiles: Sequence[float] | None, statistics: str) -> None:
        if statistics not in CHOICES:
            raise ValueError(f"statistics '{statistics}': must be one of {', '.join(CHOICES)}")
        if percentiles is not None and not (len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100):
            raise ValueError(f"percentiles {tuple(percentiles)}: must be a lower and an upper one between 0 and 100")
        self.floor = floor
        self.percentiles = None if percentiles is None else tuple(percentiles)
        self.statistics = statistics

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """
        Args:
            image: (C, Z, Y, X), any real type.

        Returns:
            New float32 tensor of the same shape, with the image's metadata: mean 0, standard deviation 1 over the chosen voxels.

        Raises:
            InputError: a channel has no voxel to take the statistics from, or these are all equal.
        """
        return self._convert(image, overwrite=False)

    def overwrite(self, image: torch.Tensor) -> torch.Tensor:
        """The same, in the image's own memory where that is float32, contiguous and of the CPU: half the memory.

        For an image that nobody else needs as it is. After an error its content is undefined.
        """
        return self._convert(image, overwrite=True)

    def _convert(self, image: torch.Tensor, overwrite: bool) -> torch.Tensor:
        name = str(image.meta.get("filename_or_obj", "image")) if isinstance(image, MetaTensor) else "image"
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        channels = plain.detach().to("cpu", torch.float32)
        reused = overwrite and channels.data_ptr() == plain.data_ptr() and channels.is_contiguous()
        result = channels.numpy() if reused else np.empty(tuple(channels.shape), np.float32)
        for index, (channel, out) in enumerate(zip(channels, result, strict=True)):
            self._standardize(contiguous(channel), out, f"{name}: channel {index + 1}" if len(channels) > 1 else name)
        return convert_to_dst_type(torch.from_numpy(result), image, dtype=torch.float32)[0]

    def _standardize(self, channel: np.ndarray, out: np.ndarray, name: str) -> None:
        floor = -np.inf if self.floor is None else self.floor
        low, high = floor, np.inf
        if self.percentiles is not None:
            # What comes below the floor changes no order, so the percentiles may be taken before.
            low, high = (max(value, floor) for value in percentiles(channel, self.percentiles))
        count, mean, deviation = clipped_moments(channel, low, high, self.statistics)
        if count == 0:
            raise InputError(f"{name}: has no {self.statistics} voxel to standardise its intensities by; check the image")
        if deviation <= 1e-6 * max(1.0, abs(mean)):
            between = "" if self.percentiles is None else " between its percentiles {:g} and {:g}".format(*self.percentiles)
            raise InputError(f"{name}: all intensities{between} are equal, so there is nothing to see in it; check the image")
        standardize(channel, low, high, mean, deviation, out)


class ClipAndStandardized(MapTransform):
    """Dictionary version of `ClipAndStandardize`."""

    def __init__(
        self,
        keys: KeysCollection,
        floor: float | None,
        percentiles: Sequence[float] | None,
        statistics: str,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ClipAndStandardize(floor, percentiles, statistics)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result

    def overwrite(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`ClipAndStandardize.overwrite` for the images of a dictionary."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.overwrite(result[key])
        return result
