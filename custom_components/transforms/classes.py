"""Network output → class map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

__all__ = ["LargestClass", "LargestClassd"]


class LargestClass(Transform):
    """Index of the largest class score of every voxel, uint8; of equal scores the lowest index.

    The same as ``AsDiscrete(argmax=True)``, which on a CPU is five to sixty times slower: ``torch.argmax`` over the first
    axis of a (K, Z, Y, X) volume strides through all of it for every voxel. Here classes are compared one after another.
    """

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """
        Args:
            scores: (K, Z, Y, X), logits or probabilities.

        Returns:
            (1, Z, Y, X), uint8, with the metadata of ``scores``.

        Raises:
            ValueError: more classes than uint8 can number, or none.
        """
        classes = scores.shape[0]
        if not 0 < classes <= 256:
            raise ValueError(f"scores: 1 to 256 classes are possible, got {classes}")
        values = scores.as_tensor() if isinstance(scores, MetaTensor) else scores
        best = values[0].clone()
        largest = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for index in range(1, classes):
            larger = values[index] > best
            largest.masked_fill_(larger, index)
            torch.maximum(best, values[index], out=best)
        result = largest[None]
        if isinstance(scores, MetaTensor):
            return MetaTensor(result, meta=scores.meta, applied_operations=scores.applied_operations)
        return result


class LargestClassd(MapTransform):
    """Dictionary version of `LargestClass`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = LargestClass()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result
