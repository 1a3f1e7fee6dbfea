"""`CropNonzerod`: MONAI's ``CropForegroundd`` for what is not zero, which looks no farther than it must."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import CropForeground, CropForegroundd

from custom_components.errors import InputError

__all__ = ["CropNonzero", "CropNonzerod", "nonzero_box"]


def nonzero_box(image: torch.Tensor) -> tuple[list[int], list[int]] | None:
    """First voxel, and the one after the last, of what is not zero along every axis; None where all is zero.

    Planes are looked at from the faces inwards, until one has a voxel that is not zero: an image without an empty margin,
    as a CT is, is done after six planes.

    Args:
        image: (Z, Y, X), or of any other number of axes.
    """
    low, high = [0] * image.ndim, list(image.shape)
    part = image
    for axis in range(image.ndim):
        n = part.shape[axis]
        first = next((i for i in range(n) if bool((part.select(axis, i) != 0).any())), None)
        if first is None:
            return None
        last = next(i for i in range(n - 1, -1, -1) if bool((part.select(axis, i) != 0).any()))
        low[axis], high[axis] = first, last + 1
        part = part.narrow(axis, first, last + 1 - first)
    return low, high


class CropNonzero(CropForeground):
    """Cut an image to the box of what is not zero in its first channel, wider by a margin that ends at the image."""

    def __init__(self, margin: Sequence[int] | int = 0) -> None:
        super().__init__(select_fn=lambda x: x != 0, channel_indices=0, margin=margin, allow_smaller=True)  # type: ignore[arg-type]

    def compute_bounding_box(self, img: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            img: (C, Z, Y, X).

        Returns:
            First voxel, and the one after the last, with the margin.

        Raises:
            InputError: all voxels of the first channel are zero.
        """
        box = nonzero_box(img.as_tensor()[0] if isinstance(img, MetaTensor) else img[0])
        if box is None:
            name = img.meta.get("filename_or_obj", "image") if isinstance(img, MetaTensor) else "image"
            raise InputError(f"{name}: all voxels of the first channel are 0, so there is nothing to see in it; check the image")
        shape = img.shape[1:]
        margin = np.broadcast_to(np.asarray(self.margin), len(shape))
        return np.maximum(np.array(box[0]) - margin, 0), np.minimum(np.array(box[1]) + margin, shape)


class CropNonzerod(CropForegroundd):
    """Dictionary version of `CropNonzero`.

    Args:
        keys: (C, Z, Y, X) each, cut alike.
        source_key: the image whose first channel is looked at.
        margin: voxels on both sides of an axis, one or one per axis.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(
        self, keys: KeysCollection, source_key: str, margin: Sequence[int] | int = 0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, source_key=source_key, allow_smaller=True, allow_missing_keys=allow_missing_keys)
        self.cropper = CropNonzero(margin)
