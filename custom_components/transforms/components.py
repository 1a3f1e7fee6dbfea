"""Clean a predicted class map: binary closing, then the largest connected components (`custom_components.domain.ComponentRule`).

Two voxels are neighbours when they share a face or an edge (the 18-neighbourhood), in the closing and in the components.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy

from custom_components.domain import ComponentRule
from custom_components.kernels.bits import Bits

__all__ = ["KeepComponents", "KeepComponentsd", "close_mask", "largest_components"]


def close_mask(mask: np.ndarray, iterations: int = 1) -> np.ndarray:
    """Binary closing with the 18-neighbourhood, equal to `scipy.ndimage.binary_closing` of the whole array.

    As there, what lies outside the array counts as background, so the erosion takes voxels on the array's faces away.

    Args:
        mask: (z, y, x), bool.
        iterations: dilations, then as many erosions; 0 returns a copy.

    Returns:
        (z, y, x), bool.
    """
    return Bits.of(mask.astype(bool, copy=False)).closed(iterations).mask()


def largest_components(mask: np.ndarray, keep: int, second_over: float = 10.0) -> np.ndarray:
    """The largest 18-connected components of a mask.

    Args:
        mask: (z, y, x), bool.
        keep: 1, or 2; 0 keeps all.
        second_over: with ``keep`` 2, the second stays only where its size times ``second_over`` exceeds the first's.

    Returns:
        (z, y, x), bool. Of components of equal size, the one that comes first in z, y, x order is taken.
    """
    if keep == 0:
        return mask.astype(bool)
    return Bits.of(mask.astype(bool, copy=False)).largest(keep, second_over).mask()


class KeepComponents(Transform):
    """Apply the rule of every label to a class map.

    Each label is closed and reduced to its largest components by itself, as it was predicted. Where the results meet,
    a voxel goes to the class that was predicted there, if it survived; voxels that a closing added fill only what is then
    empty, and between two closings the lower index wins. So no order of the rules changes the result.

    A closing only adds here: what `close_mask` erodes on the faces of the array is put back, else an organ that the field
    of view cuts (the liver's top slice) would lose its outermost layer. Away from the faces both are the same.

    Args:
        labels: class name to index.
        rules: class name to `ComponentRule`, or to a mapping with its fields; a class that is absent stays as predicted.

    Raises:
        ValueError: a rule names a class that is not among the labels, or its fields are wrong.
    """

    def __init__(self, labels: Mapping[str, int], rules: Mapping[str, ComponentRule | Mapping[str, Any]]) -> None:
        unknown = set(rules) - set(labels)
        if unknown:
            raise ValueError(f"rules: no such label: {', '.join(sorted(unknown))}")
        self.rules = {
            int(labels[name]): rule if isinstance(rule, ComponentRule) else ComponentRule.model_validate(dict(rule))
            for name, rule in sorted(rules.items(), key=lambda item: labels[item[0]])
        }
        if 0 in self.rules:
            raise ValueError("rules: the background has no components to keep")

    def __call__(self, label: torch.Tensor) -> torch.Tensor:
        """
        Args:
            label: (1, Z, Y, X), class indices of any type.

        Returns:
            New tensor of the same shape, type and metadata.

        Raises:
            ValueError: not one channel.
        """
        if label.ndim != 4 or label.shape[0] != 1:
            raise ValueError(f"a class map (1, Z, Y, X) is needed, got shape {tuple(label.shape)}")
        predicted = convert_to_numpy(label)[0]
        result = predicted.copy(order="C")
        pairs: list[tuple[int, Bits, Bits]] = []
        for index, rule in self.rules.items():
            mask = Bits.of(predicted, index)
            grown = mask | mask.closed(rule.closing) if rule.closing else mask
            kept = grown.largest(rule.keep, rule.second_over) if rule.keep else grown
            mask.clear(kept, result)
            pairs.append((index, mask, kept))
        for index, mask, kept in pairs:
            mask.fill(kept, index, result)
        return convert_to_dst_type(result[None], label)[0]


class KeepComponentsd(MapTransform):
    """Dictionary version of `KeepComponents`."""

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        rules: Mapping[str, ComponentRule | Mapping[str, Any]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = KeepComponents(labels, rules)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result
