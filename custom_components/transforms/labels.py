"""Label values of a data set → class indices of a domain."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from custom_components.errors import InputError

__all__ = ["MapLabels", "MapLabelsd"]


class MapLabels(Transform):
    """Merge label values into classes, and clean or refuse values that belong to no class.

    Args:
        labels: the class indices, or class name to index (`Domain.labels`).
        merges: label value to class index (`Domain.label_merges`).
        stray: what happens to any other value: ``background`` turns it into 0 and warns with the number of voxels,
            ``refuse`` raises.

    Raises:
        ValueError: ``stray`` is neither, or a merge leads to no class.
    """

    def __init__(
        self, labels: Mapping[str, int] | Iterable[int], merges: Mapping[Any, int] | None = None, stray: str = "refuse"
    ) -> None:
        values = labels.values() if isinstance(labels, Mapping) else labels
        self.classes = sorted({int(v) for v in values} | {0})
        self.merges = {int(value): int(target) for value, target in (merges or {}).items()}  # JSON has no integer keys
        self.stray = stray
        if stray not in ("background", "refuse"):
            raise ValueError(f"stray '{stray}': must be background or refuse")
        if not set(self.merges.values()) <= set(self.classes):
            raise ValueError(f"merges {self.merges}: must lead to one of the classes {self.classes}")

    def __call__(self, label: torch.Tensor) -> torch.Tensor:
        """
        Args:
            label: whole numbers of any type and shape.

        Returns:
            A new tensor of the same shape, type and metadata that holds class indices only.

        Raises:
            InputError: a value is not a whole number (within 1e-3), or is stray and ``stray`` is ``refuse``.
        """
        name = str(label.meta.get("filename_or_obj", "label")) if isinstance(label, MetaTensor) else "label"
        values = label.as_tensor() if isinstance(label, MetaTensor) else label
        found, where, counts = _distinct(values, name)
        targets = torch.zeros_like(found)
        strays: dict[int, int] = {}
        for index, (value, count) in enumerate(zip(found.tolist(), counts.tolist(), strict=True)):
            if value in self.merges:
                targets[index] = self.merges[value]
            elif value in self.classes:
                targets[index] = value
            else:
                strays[value] = count
        if strays:
            listed = ", ".join(f"{value} ({count} voxel{'s' * (count != 1)})" for value, count in strays.items())
            if self.stray == "refuse":
                allowed = ", ".join(str(v) for v in sorted({*self.classes, *self.merges}))
                raise InputError(f"{name}: label value {listed} is outside the domain ({allowed}); correct the label map")
            warnings.warn(f"{name}: stray label value {listed} set to background", stacklevel=2)
        result = targets[where].to(values.dtype)
        if isinstance(label, MetaTensor):
            return MetaTensor(result, meta=label.meta, applied_operations=label.applied_operations)
        return result


class MapLabelsd(MapTransform):
    """Dictionary version of `MapLabels`."""

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int] | Iterable[int],
        merges: Mapping[Any, int] | None = None,
        stray: str = "refuse",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.map = MapLabels(labels, merges, stray)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.map(result[key])
        return result


def _distinct(values: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The whole numbers in a label, where each is (index into them, per voxel) and how many voxels it has.

    A file's scale factor can leave 0.99999 for 1, so values are rounded; more than 1e-3 off is no label.
    """
    whole = values.double().round()
    if not ((values.double() - whole).abs() <= 1e-3).all():  # '<=' is False for NaN, and for inf - inf
        raise InputError(f"{name}: holds values that are no whole numbers (interpolated, or no label map); give it as drawn")
    numbers = whole.long()
    low, high = (int(v) for v in torch.aminmax(numbers)) if numbers.numel() else (0, 0)
    if high - low > 1 << 20:  # too wide to count in a table, and then no label map anyone drew
        return torch.unique(numbers, return_inverse=True, return_counts=True)
    counts = torch.bincount((numbers - low).flatten())
    found = counts.nonzero().flatten()
    rank = torch.cumsum(counts > 0, 0) - 1
    return found + low, rank[numbers - low], counts[found]
