"""Transforms that pass good data on untouched and refuse bad data with one `InputError`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from custom_components.data.checking import check_affine, check_image, check_same_grid, check_source
from custom_components.errors import InputError

__all__ = ["CheckImage", "CheckImaged", "CheckLabel", "CheckLabeld"]


class CheckImage(Transform):
    """Refuse an image that cannot be segmented; to be put right after loading, while the axes are as stored.

    Args:
        channels: how many channels it must have; None takes any number.
    """

    def __init__(self, channels: int | None = None) -> None:
        self.channels = channels

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """
        Args:
            image: (C, X, Y, Z); a `MetaTensor` is also checked for its geometry, and the file it came from for what the
                reader does not show.

        Returns:
            The same object.

        Raises:
            InputError: see `custom_components.data.check_image`, `check_affine` and `check_source`.
        """
        name = _name(image, "image")
        if isinstance(image, MetaTensor):
            source = Path(name)
            if source.exists():
                check_source(source)
            check_image(image.as_tensor(), name, self.channels)
            check_affine(image.affine.cpu().numpy(), name)
        else:
            check_image(image, name, self.channels)
        return image


class CheckImaged(MapTransform):
    """Dictionary version of `CheckImage`."""

    def __init__(self, keys: KeysCollection, channels: int | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.check = CheckImage(channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            self.check(data[key])
        return dict(data)


class CheckLabel(Transform):
    """Refuse a label that is not one channel on its image's grid."""

    def __call__(self, label: torch.Tensor, image: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """
        Args:
            label: (1, X, Y, Z).
            image: (C, X, Y, Z).

        Returns:
            The label, the same object.

        Raises:
            InputError: other number of channels, NaN or infinite values, another shape, or (for two `MetaTensor`) a
                corner more than 5 % of a voxel away.
        """
        name, of = _name(label, "label"), _name(image, "its image")
        if label.ndim != 4 or label.shape[0] != 1:
            raise InputError(f"{name}: a label must be one 3-D volume, this has shape {tuple(label.shape)}, channels first")
        if not torch.isfinite(label).all():
            raise InputError(f"{name}: has NaN or infinite values; a label must hold class numbers")
        affine = of_affine = np.eye(4)
        if isinstance(label, MetaTensor) and isinstance(image, MetaTensor):
            affine, of_affine = label.affine.cpu().numpy(), image.affine.cpu().numpy()
            check_affine(affine, name)
        check_same_grid(tuple(label.shape[1:]), affine, name, tuple(image.shape[1:]), of_affine, of)
        return label


class CheckLabeld(MapTransform):
    """Dictionary version of `CheckLabel`.

    Args:
        keys: the labels.
        image_key: the image they belong to.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.check = CheckLabel()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            self.check(data[key], data[self.image_key])
        return dict(data)


def _name(volume: torch.Tensor, otherwise: str) -> str:
    return str(volume.meta.get("filename_or_obj", otherwise)) if isinstance(volume, MetaTensor) else otherwise
