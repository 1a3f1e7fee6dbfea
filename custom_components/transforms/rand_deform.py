"""`RandDeform`, `RandDeformd`, `RandDeformBatchd`: draw a deformation and apply it, as MONAI transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable, RandomizableTransform
from torch import Tensor

from custom_components.transforms.deform import deform, read_field, with_affine_of
from custom_components.transforms.deformation import Deformation
from custom_components.transforms.random_operations import RandOperation, draw_deformation

__all__ = ["RandDeform", "RandDeformBatchd", "RandDeformd", "per_key"]


class RandDeform(RandomizableTransform):
    """Deform an image at random.

    Args:
        operations: what may happen, in the order in which it acts on the coordinates: `RandFlip`, `RandElastic`,
            `RandRotate`, `RandScale`, `RandTranslate`.
        order: of the interpolation: 0 nearest (labels), 1 linear, 3 cubic.
        mode: what lies outside: ``constant``, ``reflect``, ``mirror``, ``nearest`` or ``wrap``, as in SciPy.
        value: what ``constant`` reads.
        device: where to work, for example ``cuda:1``; None: where the data is.
    """

    def __init__(
        self,
        operations: Sequence[RandOperation],
        order: int = 1,
        mode: str = "constant",
        value: float = 0.0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(prob=1.0)
        self.operations = list(operations)
        self.order = order
        self.mode = mode
        self.value = value
        self.device = torch.device(device) if device is not None else None
        self.deformation = Deformation()

    def randomize(self, data: Any = None) -> None:
        """Draw `deformation`, the parameters of the next call with ``randomize=False``."""
        super().randomize(None)
        self.deformation = draw_deformation(self.operations, self.R)

    def __call__(self, image: Tensor, randomize: bool = True) -> Tensor:
        """
        Args:
            image: (C, Z, Y, X) or (C, Y, X).
            randomize: draw anew; False replays `deformation`.

        Returns:
            The same shape; a `MetaTensor`'s affine moves along with the affine part.

        Raises:
            ValueError, RuntimeError: see `custom_components.transforms.deform.deform`.
        """
        if randomize:
            self.randomize()
        return _apply([image], self.deformation, [self.order], self.mode, [self.value], self.device)[0]


class RandDeformd(RandomizableTransform, MapTransform, InvertibleTransform):
    """Dictionary version of `RandDeform`: images and labels under the same coordinates.

    What was done to a `MetaTensor` is in its ``applied_operations``, as the dictionary of a `Deformation`. `inverse` reads
    the affine ones back: flips exactly, right-angle rotations exactly but for the plane that leaves the grid (the mesh is
    centred at shape / 2), others with a second interpolation. An elastic one cannot be inverted.

    Args:
        keys: (C, Z, Y, X) or (C, Y, X) tensors of equal spatial shape.
        operations, mode, device: as in `RandDeform`.
        orders: for each key: 0 nearest (labels), 1 linear, 3 cubic; one number serves all.
        values: for each key, what mode ``constant`` reads; one number serves all.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(
        self,
        keys: KeysCollection,
        operations: Sequence[RandOperation],
        orders: Sequence[int] | int,
        mode: str = "constant",
        values: Sequence[float] | float = 0.0,
        device: str | torch.device | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        RandomizableTransform.__init__(self, prob=1.0)
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.operations = list(operations)
        self.orders = per_key(orders, self.keys, "orders")
        self.values = per_key(values, self.keys, "values")
        self.mode = mode
        self.device = torch.device(device) if device is not None else None
        self.deformation = Deformation()

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        self.deformation = draw_deformation(self.operations, self.R)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            KeyError: a key is absent.
            ValueError, RuntimeError: see `custom_components.transforms.deform.deform`.
        """
        item = dict(data)
        self.randomize()
        present = list(self.key_iterator(item, self.orders, self.values))
        volumes = [item[key] for key, _, _ in present]
        if not volumes:
            return item
        orders, values = [o for _, o, _ in present], [v for _, _, v in present]
        results = _apply(volumes, self.deformation, orders, self.mode, values, self.device)
        for (key, order, value), result in zip(present, results, strict=True):
            if isinstance(result, MetaTensor):
                done = {"deformation": self.deformation.to_dict(), "order": order, "value": value, "mode": self.mode}
                self.push_transform(result, extra_info=done)
            item[key] = result
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            ValueError: the deformation was elastic.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            done = self.pop_transform(item[key])["extra_info"]
            item[key] = _invert(item[key], Deformation.from_dict(done["deformation"]), done["order"], done["mode"], done["value"])
        return item


class RandDeformBatchd(Randomizable, MapTransform):
    """Deform every sample of a batch differently, in one launch: for the training step, on the GPU if the batch is there.

    As a step of ``iteration_update`` or ``prepare_batch``, after the loader's workers and outside of them.

    Args:
        keys: (B, C, Z, Y, X) or (B, C, Y, X) tensors of equal batch and spatial shape.
        operations, orders, mode, values, allow_missing_keys: as in `RandDeformd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        operations: Sequence[RandOperation],
        orders: Sequence[int] | int,
        mode: str = "constant",
        values: Sequence[float] | float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.operations = list(operations)
        self.orders = per_key(orders, self.keys, "orders")
        self.values = per_key(values, self.keys, "values")
        self.mode = mode
        self.deformations: list[Deformation] = []

    def randomize(self, data: int) -> None:
        """
        Args:
            data: samples in the batch.
        """
        self.deformations = [draw_deformation(self.operations, self.R) for _ in range(data)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Returns:
            Plain tensors: one affine no longer fits a batch.

        Raises:
            ValueError, RuntimeError: see `custom_components.transforms.deform.deform`.
        """
        batch = dict(data)
        present = list(self.key_iterator(batch, self.orders, self.values))
        if not present:
            return batch
        volumes = [torch.as_tensor(batch[key]) for key, _, _ in present]
        self.randomize(len(volumes[0]))
        orders, values = [o for _, o, _ in present], [v for _, _, v in present]
        for (key, _, _), result in zip(present, deform(volumes, self.deformations, orders, self.mode, values), strict=True):
            batch[key] = result
        return batch


def _apply(
    volumes: Sequence[Any],
    deformation: Deformation,
    orders: Sequence[int],
    mode: str,
    values: Sequence[float],
    device: torch.device | None,
) -> list[Tensor]:
    """Deform tensors or arrays; metadata is kept, the affine moved along."""
    tensors = [v if isinstance(v, Tensor) else torch.as_tensor(np.asarray(v)) for v in volumes]
    if device is not None:
        tensors = [t.to(device) for t in tensors]
    if deformation.is_identity:
        plain = [t.as_tensor() if isinstance(t, MetaTensor) else t for t in tensors]
        # The same types as when something happens, and memory of its own: the caller may change what it gets.
        results = [p.float() if o and p.dtype != torch.float32 else p.clone() for p, o in zip(plain, orders, strict=True)]
    else:
        results = deform(tensors, deformation, orders, mode, values)
    if not any(isinstance(t, MetaTensor) for t in tensors):
        return results
    field = deformation.field(tensors[0].shape[1:])
    return [with_affine_of(r, t, field) for r, t in zip(results, tensors, strict=True)]


def _invert(volume: Tensor, deformation: Deformation, order: int, mode: str, value: float) -> Tensor:
    if not deformation.is_affine:
        raise ValueError("an elastic deformation cannot be inverted; keep the volume as it was")
    shape = volume.shape[1:]
    inverse = deformation.field(shape).inverse()
    result = read_field([volume[None]], inverse, shape, [order], mode, [value])[0][0]
    return with_affine_of(result, volume, inverse)


def per_key(value: Any, keys: Sequence[Hashable], name: str) -> tuple[Any, ...]:
    """One value for each key, given as such or as one number for all."""
    values = (value,) * len(keys) if isinstance(value, (int, float)) else tuple(value)
    if len(values) != len(keys):
        raise ValueError(f"{name}: {len(keys)} keys need as many, got {len(values)}")
    if name == "orders" and any(v not in (0, 1, 3) for v in values):
        raise ValueError(f"orders: 0 (nearest), 1 (linear) or 3 (cubic), got {list(values)}")
    return values
