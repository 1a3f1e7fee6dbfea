"""Clean a predicted class map: binary closing, then the largest connected components (`custom_components.domain.ComponentRule`).

Two voxels are neighbours when they share a face or an edge (the 18-neighbourhood), in the closing and in the components.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy

from custom_components.domain import ComponentRule

__all__ = ["KeepComponents", "KeepComponentsd", "close_mask", "largest_components"]

NEIGHBOURS: Final = 18


def close_mask(mask: np.ndarray, iterations: int = 1) -> np.ndarray:
    """Binary closing with the 18-neighbourhood, equal to `scipy.ndimage.binary_closing` of the whole array.

    As there, what lies outside the array counts as background, so the erosion takes voxels on the array's faces away.

    Args:
        mask: (z, y, x), bool.
        iterations: dilations, then as many erosions; 0 returns a copy.

    Returns:
        (z, y, x), bool.
    """
    box = _box(mask, margin=iterations)
    closed = np.zeros(mask.shape, dtype=bool)
    if box is not None:
        # All that is set stays within ``iterations`` voxels of the mask, so the rest of the array need not be looked at.
        part = mask[box]
        for _ in range(iterations):
            part = _dilate(part)
        for _ in range(iterations):
            part = _erode(part)
        closed[box] = part
    return closed


def largest_components(mask: np.ndarray, keep: int, second_over: float = 10.0) -> np.ndarray:
    """The largest 18-connected components of a mask.

    Args:
        mask: (z, y, x), bool.
        keep: 1, or 2; 0 keeps all.
        second_over: with ``keep`` 2, the second stays only where its size times ``second_over`` exceeds the first's.

    Returns:
        (z, y, x), bool. Of components of equal size, the one that comes first in z, y, x order is taken.
    """
    kept = np.zeros(mask.shape, dtype=bool)
    box = _box(mask)
    if box is None:
        return kept
    if keep == 0:
        return mask.astype(bool)
    parts = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=NEIGHBOURS, binary_image=True)
    sizes = cc3d.statistics(parts, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")
    chosen = parts == order[0]
    if keep == 2 and sizes[order[1]] * second_over > sizes[order[0]]:
        chosen |= parts == order[1]
    kept[box] = chosen
    return kept


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
        result = predicted.copy()
        grown: dict[int, np.ndarray] = {}
        for index, rule in self.rules.items():
            mask = predicted == index
            grown_mask = mask | close_mask(mask, rule.closing) if rule.closing else mask
            kept = largest_components(grown_mask, rule.keep, rule.second_over)
            result[mask & ~kept] = 0
            grown[index] = kept & ~mask
        for index, added in grown.items():
            result[added & (result == 0)] = index
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


def _dilate(mask: np.ndarray) -> np.ndarray:
    """By the 18-neighbourhood: of the three planes through a voxel, the 3×3 in each."""
    x, y = _along(mask, 2, np.logical_or), _along(mask, 1, np.logical_or)
    result = _along(x, 1, np.logical_or)
    result |= _along(x, 0, np.logical_or)
    result |= _along(y, 0, np.logical_or)
    return result


def _erode(mask: np.ndarray) -> np.ndarray:
    """By the 18-neighbourhood; what lies outside the array is background."""
    x, y = _along(mask, 2, np.logical_and), _along(mask, 1, np.logical_and)
    result = _along(x, 1, np.logical_and)
    result &= _along(x, 0, np.logical_and)
    result &= _along(y, 0, np.logical_and)
    return result


def _along(mask: np.ndarray, axis: int, combine: np.ufunc) -> np.ndarray:
    """Each voxel with its two neighbours along an axis; the neighbour outside the array is background."""
    result = mask.copy()
    view, source = np.moveaxis(result, axis, 0), np.moveaxis(mask, axis, 0)
    combine(view[1:], source[:-1], out=view[1:])
    combine(view[:-1], source[1:], out=view[:-1])
    if combine is np.logical_and:
        view[0] = view[-1] = False
    return result


def _box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Bounding box of what is set, wider by ``margin`` within the array; None of an empty mask."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        part = mask[tuple(box)]  # of the axes before only what is set: the rest need not be looked at again
        set_along = np.flatnonzero(part.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not set_along.size:
            return None
        box.append(slice(max(0, int(set_along[0]) - margin), int(set_along[-1]) + 1 + margin))
    return tuple(box)
