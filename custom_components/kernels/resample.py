"""Read images and labels at the coordinates of a `CoordinateField`, in one pass: one public function on every device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.threads import run_ranges

__all__ = ["BOUNDARY_MODES", "CoordinateField", "coordinates", "resample", "resample_reference"]

# As in custom_components.kernels.boundary_numba, which says what they read.
BOUNDARY_MODES = ("constant", "reflect", "mirror", "nearest", "wrap")
LABEL_TYPES = (torch.uint8, torch.int8, torch.bool, torch.int16, torch.int32, torch.int64)
NUMPY_TYPES = {torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64}


@dataclass(frozen=True, eq=False)
class CoordinateField:
    """Where each output voxel reads, for B samples: ``matrix · (z, y, x, 1) + spline(z, y, x)``, voxels of the input.

    Attributes:
        matrix: (B, 3, 4), float64.
        lattice: (B, 3, l_z, l_y, l_x), float32, control points of the displacement under a uniform cubic B-spline
            (Rueckert et al., 1999, eq. 1); None is no displacement.
        origin, step: (B, 3), along z, y, x: output index ``i`` lies at lattice position ``origin + i / step``. The
            integer part k of a position is the first of the four control points k … k + 3 that reach it.
    """

    matrix: np.ndarray
    lattice: np.ndarray | None = None
    origin: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))
    step: np.ndarray = field(default_factory=lambda: np.ones((1, 3)))

    def __post_init__(self) -> None:
        if self.matrix.ndim != 3 or self.matrix.shape[1:] != (3, 4) or not np.isfinite(self.matrix).all():
            raise ValueError(f"matrix: finite values of shape (B, 3, 4) are needed, got {self.matrix.shape}")
        if self.lattice is not None and (self.lattice.ndim != 5 or self.lattice.shape[:2] != (len(self.matrix), 3)):
            raise ValueError(f"lattice: shape (B, 3, z, y, x) with B = {len(self.matrix)} is needed, got {self.lattice.shape}")
        for name in ("origin", "step"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.shape != (len(self.matrix), 3):
                values = np.broadcast_to(values, (len(self.matrix), 3)).copy()
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.matrix)

    def moved(self, offset: Sequence[float]) -> CoordinateField:
        """The same with ``offset`` (z, y, x) added to every coordinate."""
        matrix = self.matrix.copy()
        matrix[:, :, 3] += offset
        return replace(self, matrix=matrix)

    def inverse(self) -> CoordinateField:
        """Reads back what an affine field has read.

        Raises:
            ValueError: there is a displacement, or the matrix is singular.
        """
        if self.lattice is not None:
            raise ValueError("a displacement cannot be inverted")
        whole = np.concatenate([self.matrix, np.broadcast_to([[[0.0, 0.0, 0.0, 1.0]]], (len(self), 1, 4))], axis=1)
        whole[:, :3, :3] += np.diag([not self.matrix[0, a, :3].any() for a in range(3)])  # an axis of one voxel
        try:
            return CoordinateField(np.linalg.inv(whole)[:, :3])
        except np.linalg.LinAlgError:
            raise ValueError("the matrix is singular: what it reads cannot be put back") from None

    def bounds(self, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest coordinate along z, y, x that an output of this size can read in any sample.

        A B-spline lies within the range of its control points, so the bounds hold but need not be reached.
        """
        corners = np.array(list(product(*((0, n - 1) for n in size)))).T
        at = self.matrix[:, :, :3] @ corners + self.matrix[:, :, 3:]
        low, high = at.min(axis=2), at.max(axis=2)
        if self.lattice is not None:
            low, high = low + self.lattice.min(axis=(2, 3, 4)), high + self.lattice.max(axis=(2, 3, 4))
        return low.min(axis=0), high.max(axis=0)

    @staticmethod
    def stack(fields: Sequence[CoordinateField]) -> CoordinateField:
        """Several fields as one; lattices are filled up to the size of the largest, which no voxel reads."""
        matrix = np.concatenate([f.matrix for f in fields])
        lattices = [f.lattice for f in fields if f.lattice is not None]
        if not lattices:
            return CoordinateField(matrix)
        size = np.max([lattice.shape[2:] for lattice in lattices], axis=0)
        joint = np.zeros((len(matrix), 3, *size), np.float32)
        origin, step = np.zeros((len(matrix), 3)), np.full((len(matrix), 3), 2.0**30)  # all of an output in one interval
        start = 0
        for f in fields:
            own = slice(start, start + len(f))
            if f.lattice is not None:
                nz, ny, nx = f.lattice.shape[2:]
                joint[own, :, :nz, :ny, :nx] = f.lattice
                origin[own], step[own] = f.origin, f.step
            start += len(f)
        return CoordinateField(matrix, joint, origin, step)

    def covers(self, size: Sequence[int]) -> bool:
        """Whether the lattice reaches every voxel of an output of this size."""
        if self.lattice is None:
            return True
        last = self.origin + (np.asarray(size) - 1) / self.step
        return bool((self.origin >= 0).all() and (np.floor(last) + 4 <= self.lattice.shape[2:]).all())


def resample(
    image: Tensor | None,
    label: Tensor | None,
    field: CoordinateField,
    size: Sequence[int],
    *,
    order: int = 1,
    mode: str = "constant",
    image_value: float = 0.0,
    label_value: int = 0,
) -> tuple[Tensor | None, Tensor | None]:
    """Read an image and a label at the same coordinates, in one pass that stores no coordinates.

    On the CPU numba, on a GPU one CUDA launch on torch's current stream, without a copy or a synchronisation. Both give
    what `scipy.ndimage.map_coordinates` gives, up to float32 rounding.

    Args:
        image: (B, C, Z, Y, X), float32; or None.
        label: (B, L, Z, Y, X), integers or bool, read at the nearest voxel; or None. On the image's device.
        field: of as many samples.
        size: of the output, (z, y, x).
        order: of the image's interpolation: 1, linear, or 3, cubic B-spline through the voxels.
        mode: one of `BOUNDARY_MODES`.
        image_value, label_value: read outside, with mode constant.

    Returns:
        (B, C, *size) float32 and (B, L, *size) of the label's type; None for what was None.

    Raises:
        ValueError: shapes, types, devices, order or mode do not fit.
        RuntimeError: no memory for the output, or a CUDA tensor where CuPy is missing.
    """
    shape = _check(image, label, field, size, order, mode)
    given = image if image is not None else label
    assert given is not None
    where: dict[str, Any] = {"order": order, "mode": mode, "image_value": image_value, "label_value": label_value}
    if os.environ.get("U2NET_KERNELS") == "reference":
        return resample_reference(image, label, field, size, **where)
    if given.device.type == "cuda":
        from custom_components.kernels.resample_cuda import resample_cuda

        return resample_cuda(image, label, field, tuple(size), **where)
    if given.device.type != "cpu":
        raise ValueError(f"deformation runs on the CPU and on CUDA, not on {given.device}")
    return _resample_cpu(image, label, field, shape, tuple(size), **where)


def coordinates(field: CoordinateField, size: Sequence[int]) -> np.ndarray:
    """The coordinates themselves, float64: what `resample` computes on the fly.

    Args:
        field: where to read.
        size: of the output, (z, y, x).

    Returns:
        (B, 3, *size), voxels of the input.
    """
    from scipy.interpolate import BSpline

    index = np.indices(tuple(size), dtype=np.float64)
    result = np.einsum("bij,jzyx->bizyx", field.matrix[:, :, :3], index) + field.matrix[:, :, 3, None, None, None]
    for b in range(len(field) if field.lattice is not None else 0):
        weights = []
        for axis in range(3):
            at = field.origin[b, axis] + np.arange(size[axis]) / field.step[b, axis]
            knots = np.arange(-3.0, field.lattice.shape[2 + axis] + 1)
            weights.append(BSpline.design_matrix(at, knots, 3).toarray())
        result[b] += np.einsum("akji,zk,yj,xi->azyx", field.lattice[b].astype(np.float64), *weights, optimize=True)
    return result


def resample_reference(
    image: Tensor | None,
    label: Tensor | None,
    field: CoordinateField,
    size: Sequence[int],
    *,
    order: int = 1,
    mode: str = "constant",
    image_value: float = 0.0,
    label_value: int = 0,
) -> tuple[Tensor | None, Tensor | None]:
    """`resample` by `scipy.ndimage.map_coordinates`, in float64: the reference of the tests. Arguments as there."""
    from scipy import ndimage

    at = coordinates(field, size)

    def read(volume: Tensor | None, order: int, value: float) -> Tensor | None:
        if volume is None:
            return None
        values = volume.detach().cpu().numpy()
        values = values.astype(np.float64) if order else values
        flat = [
            ndimage.map_coordinates(channel, at[b], order=order, mode=mode, cval=value)
            for b, sample in enumerate(values)
            for channel in sample
        ]
        result = np.asarray(flat).reshape(*values.shape[:2], *size)
        return torch.from_numpy(result).to(volume.dtype).to(volume.device)

    return read(image, order, image_value), read(label, 0, label_value)


def _check(
    image: Tensor | None, label: Tensor | None, field: CoordinateField, size: Sequence[int], order: int, mode: str
) -> tuple[int, int, int]:
    if image is None and label is None:
        raise ValueError("give an image, a label or both")
    if mode not in BOUNDARY_MODES:
        raise ValueError(f"mode: {mode!r} is none of {', '.join(BOUNDARY_MODES)}")
    if order not in (1, 3):
        raise ValueError(f"order: 1 (linear) or 3 (cubic) for an image, got {order}; labels are read at the nearest voxel")
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"size: three positive numbers are needed, got {tuple(size)}")
    for name, volume in (("image", image), ("label", label)):
        if volume is None:
            continue
        if volume.ndim != 5 or 0 in volume.shape:
            raise ValueError(f"{name}: shape (B, C, Z, Y, X) without empty axes is needed, got {tuple(volume.shape)}")
        if len(volume) != len(field):
            raise ValueError(f"{name}: {len(volume)} samples, but coordinates for {len(field)}")
        if volume[0, 0].numel() >= 2**31:
            raise ValueError(f"{name}: {tuple(volume.shape[2:])} has over 2^31 voxels, more than a deformation can address")
    if image is not None and image.dtype != torch.float32:
        raise ValueError(f"image: float32 is needed to interpolate, got {image.dtype}")
    if label is not None and label.dtype not in LABEL_TYPES:
        raise ValueError(f"label: integers or bool are needed, got {label.dtype}")
    if image is not None and label is not None and image.shape[2:] != label.shape[2:]:
        raise ValueError(f"image and label differ in shape: {tuple(image.shape[2:])} and {tuple(label.shape[2:])}")
    if image is not None and label is not None and image.device != label.device:
        raise ValueError(f"image and label are on different devices: {image.device} and {label.device}")
    if not field.covers(size):
        raise ValueError(f"the lattice of control points does not cover an output of {tuple(size)}")
    given = image if image is not None else label
    assert given is not None
    return given.shape[2], given.shape[3], given.shape[4]


def _resample_cpu(
    image: Tensor | None,
    label: Tensor | None,
    field: CoordinateField,
    shape: tuple[int, int, int],
    size: tuple[int, ...],
    *,
    order: int,
    mode: str,
    image_value: float,
    label_value: int,
) -> tuple[Tensor | None, Tensor | None]:
    from custom_components.kernels import resample_numba as kernel
    from custom_components.kernels.aligned import copy_aligned
    from custom_components.kernels.spline import spline_coefficients, spline_padding

    batch, code = len(field), BOUNDARY_MODES.index(mode)
    # NumPy asks for huge pages where torch does not: the first touch of a large result then costs half as much.
    image_out = torch.from_numpy(np.empty((batch, image.shape[1] if image is not None else 0, *size), np.float32))
    storage = _storage(label)
    label_out = torch.from_numpy(np.empty((batch, label.shape[1] if label is not None else 0, *size), NUMPY_TYPES[storage]))
    finished = (image_out if image is not None else None), (label_out.view(label.dtype) if label is not None else None)
    if copy_aligned(field, mode, [(image, finished[0], image_value), (label, finished[1], label_value)]):
        return finished
    labels = _flat(label.view(storage)) if label is not None else np.empty((batch, 0, 1), np.uint8)
    target, label_target = image_out.numpy(), label_out.numpy()
    value = label_target.dtype.type(np.array(label_value).astype(label_target.dtype))
    lattice, origin, step = _lattice(field)
    pad = np.array(spline_padding(shape, mode) if order == 3 else (0, 0, 0))

    def run(images: Any, out: Any, labels: Any, labels_out: Any, samples: slice) -> None:
        grid = (field.matrix[samples].astype(np.float64), lattice[samples], origin[samples], step[samples], np.array(shape), code)
        read = partial(kernel.resample_range, *grid, images, out, np.float32(image_value), order == 3, pad, labels, labels_out, value)
        run_ranges(read, len(grid[0]) * size[0] * size[1])

    if image is None or order == 1:
        images = _flat(image) if image is not None else np.empty((batch, 0, 1), np.float32)
        run(images, target, labels, label_target, slice(None))
    else:
        # One channel at a time: the coefficients of all would take more memory than the result.
        for b in range(batch):
            for c in range(image.shape[1]):
                coefficients = spline_coefficients(image[b, c], mode).numpy().reshape(1, 1, -1)
                n = labels.shape[1] if c == 0 else 0
                one = slice(b, b + 1)
                run(coefficients, target[one, c : c + 1], labels[one, :n], label_target[one, :n], one)
    return finished


def _flat(volume: Tensor) -> np.ndarray:
    """(B, C, Z, Y, X) as (B, C, V) over the same memory where it is contiguous."""
    return volume.detach().contiguous().flatten(2).numpy()


def _storage(label: Tensor | None) -> torch.dtype:
    """Unsigned bytes for one-byte types: the kernel copies values and needs no more compilations than widths."""
    return torch.uint8 if label is None or label.element_size() == 1 else label.dtype


def _lattice(field: CoordinateField) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lattice; where there is none, control points of zero whose one interval holds the whole output."""
    if field.lattice is None:
        return np.zeros((len(field), 3, 4, 4, 4), np.float32), np.zeros((len(field), 3)), np.full((len(field), 3), 2.0**30)
    return np.ascontiguousarray(field.lattice, dtype=np.float32), field.origin, field.step
