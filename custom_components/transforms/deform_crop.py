"""`RandDeformCropd`: draw a training patch and deform it, read straight out of the volume in one interpolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from custom_components.kernels.coordinates import CoordinateField
from custom_components.transforms.deform import read_field, with_affine_of
from custom_components.transforms.deformation import Deformation
from custom_components.transforms.rand_deform import per_key
from custom_components.transforms.random_operations import RandOperation, draw_deformation

__all__ = ["Patch", "RandDeformCropd", "read_patch"]

_MARGIN: Final = 12


@dataclasses.dataclass(frozen=True)
class Patch:
    """A window of a volume and what happens in it.

    Attributes:
        start: first voxel along z, y, x; may be negative where the volume is smaller than the window.
        window: voxels of the volume along z, y, x.
        deformation: about the window's centre.
        size: voxels of the result; None: those of the window. Otherwise the window is resized to them.
    """

    start: tuple[int, ...]
    window: tuple[int, ...]
    deformation: Deformation = dataclasses.field(default_factory=Deformation)
    size: tuple[int, ...] | None = None

    def field(self) -> CoordinateField:
        """Where each voxel of the patch reads in the volume."""
        centre = [s + w / 2 for s, w in zip(self.start, self.window, strict=True)]
        return self.deformation.field(self.window, self.size, centre)


class RandDeformCropd(Randomizable, MapTransform):
    """Draw a patch as `custom_components.domain.Sampling` says, and deform it while it is read.

    The patch is read from the whole volume, so that a turned patch has no empty corners where the volume has voxels, and
    nothing is interpolated twice. The centre is moved so that the window lies inside the volume, or the volume inside the
    window where it is the smaller one.

    Args:
        keys: (C, Z, Y, X) tensors of equal spatial shape.
        indices_key: flat indices of each class's voxels, one array per class from the background on, as
            `monai.transforms.ClassesToIndicesd` makes them once per case; removed from the output.
        window: voxels of the volume that a patch covers, along z, y, x: the domain's patch size.
        foreground: probability that the patch is centred on a voxel of any class.
        smallest_class: probability that it is centred on the class with the fewest voxels in the case. The rest is
            centred anywhere.
        operations: as in `RandDeform`, about the window's centre.
        orders: for each key: 0 nearest (labels), 1 linear, 3 cubic; one number serves all.
        size: voxels of the patch, to which the window is resized in the same interpolation; None: the window's.
        mode: what lies outside the volume, as in `RandDeform`; zeros by default, as in sliding-window inference.
        values: for each key, what mode ``constant`` reads; one number serves all.
        device: where to read the patch; None: where the volume is.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(
        self,
        keys: KeysCollection,
        indices_key: str,
        window: Sequence[int],
        foreground: float,
        smallest_class: float,
        operations: Sequence[RandOperation] = (),
        orders: Sequence[int] | int = (1, 0),
        size: Sequence[int] | None = None,
        mode: str = "constant",
        values: Sequence[float] | float = 0.0,
        device: str | torch.device | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.indices_key = indices_key
        self.window = _sizes(window, "window")
        self.size = _sizes(size, "size") if size is not None else None
        if not (foreground >= 0 and smallest_class >= 0 and foreground + smallest_class <= 1 + 1e-9):
            raise ValueError(f"foreground and smallest_class: probabilities of sum at most 1, got {foreground}, {smallest_class}")
        self.foreground = foreground
        self.smallest_class = smallest_class
        self.operations = list(operations)
        self.orders = per_key(orders, self.keys, "orders")
        self.values = per_key(values, self.keys, "values")
        self.mode = mode
        self.device = torch.device(device) if device is not None else None

    def draw(self, shape: Sequence[int], class_indices: Sequence[np.ndarray]) -> Patch:
        """Draw a patch of a volume.

        Args:
            shape: of the volume, (z, y, x).
            class_indices: flat voxel indices per class, the background first.
        """
        centre = self._centre(shape, class_indices)
        start = tuple(
            int(np.clip(c - w // 2, min(0, n - w), max(0, n - w))) for c, w, n in zip(centre, self.window, shape, strict=True)
        )
        return Patch(start, self.window, draw_deformation(self.operations, self.R), self.size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            KeyError: a key, or the indices, are absent.
            ValueError, RuntimeError: see `custom_components.transforms.deform.deform`.
        """
        item = dict(data)
        present = list(self.key_iterator(item, self.orders, self.values))
        indices = item.pop(self.indices_key)
        if not present:
            return item
        volumes = [torch.as_tensor(item[key]) for key, _, _ in present]
        if len({v.shape[1:] for v in volumes}) > 1 or volumes[0].ndim != len(self.window) + 1:
            shapes = ", ".join(str(tuple(v.shape)) for v in volumes)
            raise ValueError(f"a window of {self.window} needs channels and {len(self.window)} equal axes, got {shapes}")
        patch = self.draw(volumes[0].shape[1:], indices)
        orders, values = [o for _, o, _ in present], [v for _, _, v in present]
        for (key, _, _), result in zip(present, read_patch(volumes, patch, orders, self.mode, values, self.device), strict=True):
            item[key] = result
        return item

    def _centre(self, shape: Sequence[int], class_indices: Sequence[np.ndarray]) -> tuple[int, ...]:
        present = [np.asarray(indices) for indices in class_indices[1:] if len(indices)]
        where = self.R.random_sample()
        if present and where < self.foreground:
            pick = self.R.randint(sum(len(indices) for indices in present))
            for indices in present:
                if pick < len(indices):
                    return tuple(int(i) for i in np.unravel_index(int(indices[pick]), shape))
                pick -= len(indices)
        if present and where < self.foreground + self.smallest_class:
            smallest = min(present, key=len)
            return tuple(int(i) for i in np.unravel_index(int(smallest[self.R.randint(len(smallest))]), shape))
        return tuple(int(self.R.randint(n)) for n in shape)


def read_patch(
    volumes: Sequence[Tensor],
    patch: Patch,
    orders: Sequence[int],
    mode: str = "constant",
    values: Sequence[float] | float = 0.0,
    device: torch.device | None = None,
) -> list[Tensor]:
    """Read a patch of images and labels.

    Args:
        volumes: (C, Z, Y, X) each, of equal spatial shape; a `MetaTensor`'s affine is moved along where the patch is affine.
        patch: where.
        orders, mode, values: as in `custom_components.transforms.deform.deform`.
        device: where to read it; None: where the volumes are.

    Returns:
        (C, *size): images float32, labels of their own type.
    """
    field = patch.field()
    size = patch.size or patch.window
    plain = [v.as_tensor() if isinstance(v, MetaTensor) else v for v in volumes]
    inner = field
    converted = any(o == 3 or (o == 1 and p.dtype != torch.float32) for p, o in zip(plain, orders, strict=True))
    if mode == "constant" and (converted or device is not None):
        # What is converted, filtered or sent to a device is the box that is read: a CT is a hundred times its patch.
        box = _box(field, size, plain[0].shape[1:])
        plain = [p[(slice(None), *box)] for p in plain]
        inner = field.moved([0] * (3 - len(box)) + [-b.start for b in box])
    plain = [p.to(device) for p in plain] if device is not None else plain
    results = read_field([p[None] for p in plain], inner, size, orders, mode, values)
    return [with_affine_of(r[0], v, field) for r, v in zip(results, volumes, strict=True)]


def _box(field: CoordinateField, size: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The part of a volume that is read, and as much around it as a cubic B-spline remembers; at least one voxel."""
    low, high = field.bounds(size)
    ends = zip(low[3 - len(shape) :], high[3 - len(shape) :], shape, strict=True)
    box = []
    for a, b, n in ends:
        start = int(np.clip(np.floor(a) - _MARGIN, 0, n - 1))
        box.append(slice(start, int(np.clip(np.ceil(b) + _MARGIN + 1, start + 1, n))))
    return tuple(box)


def _sizes(values: Sequence[int], name: str) -> tuple[int, ...]:
    if len(values) not in (2, 3) or any(int(v) != v or v < 1 for v in values):
        raise ValueError(f"{name}: two or three positive whole numbers are needed, got {list(values)}")
    return tuple(int(v) for v in values)
