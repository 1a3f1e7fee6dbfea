"""Read images and labels at the coordinates of a `CoordinateField`, in one pass: one public function on every device."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.coordinates import CoordinateField, coordinates
from custom_components.kernels.threads import run_ranges

__all__ = ["resample", "resample_reference"]

LABEL_TYPES = (torch.uint8, torch.int8, torch.bool, torch.int16, torch.int32, torch.int64)
_VOXELS_PER_THREAD = 2**16
NUMPY_TYPES = {torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64}


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
        if math.prod(n + 20 for n in volume.shape[2:]) >= 2**31:  # with the margin of cubic coefficients
            raise ValueError(
                f"{name}: {tuple(volume.shape[2:])} has 2^31 voxels or more, with margins: more than a deformation can address"
            )
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
        read = partial(
            kernel.resample_range, *grid, images, out, np.float32(image_value), order == 3, pad, labels, labels_out, value
        )
        run_ranges(read, len(grid[0]) * size[0] * size[1], least=-(-_VOXELS_PER_THREAD // size[2]))

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
    """The lattice, empty where there is none."""
    if field.lattice is None:
        return np.empty((len(field), 3, 0, 0, 0), np.float32), field.origin, field.step
    return np.ascontiguousarray(field.lattice, dtype=np.float32), field.origin, field.step
