"""`deform`: apply a `Deformation` to images and labels, on whatever device they are. A pure function.

The kernels take float32 images and integer labels, three-dimensional and in batches; here is what leads there:
images of other types are converted to float32 (integers too: what is interpolated is no integer any more), labels keep
their type, 2-D data get a z axis of one voxel, and each image shares its pass over the coordinates with a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom_components.kernels.coordinates import CoordinateField, coordinates
from custom_components.kernels.resample import resample
from custom_components.transforms.deformation import Deformation

__all__ = ["deform", "deformed_coordinates", "read_field", "with_affine_of"]


def deform(
    volumes: Sequence[Tensor],
    deformation: Deformation | Sequence[Deformation],
    orders: Sequence[int],
    mode: str = "constant",
    values: Sequence[float] | float = 0.0,
    size: Sequence[int] | None = None,
) -> list[Tensor]:
    """Deform images and labels alike.

    Args:
        volumes: (C, Z, Y, X) or (C, Y, X) each, of equal spatial shape, on one device; with a sequence of deformations
            batches of them, (B, C, …).
        deformation: what to do; one per sample for batches.
        orders: interpolation of each volume: 0 nearest (labels), 1 linear, 3 cubic.
        mode: what lies outside: ``constant``, ``reflect``, ``mirror``, ``nearest`` or ``wrap``, as in
            `scipy.ndimage.map_coordinates`.
        values: what ``constant`` reads, one or one per volume.
        size: spatial shape of the result, the same content on another grid; None keeps the shape.

    Returns:
        New tensors, without metadata: images float32, labels (order 0) of their own type.

    Raises:
        ValueError: shapes, types, orders, mode or values do not fit, or a volume is empty.
        RuntimeError: the device has not enough memory, or lacks CuPy.
    """
    batched = not isinstance(deformation, Deformation)
    each = list(deformation) if not isinstance(deformation, Deformation) else [deformation]
    lead = 2 if batched else 1
    shape = _common_shape(volumes, lead)
    if batched and any(len(v) != len(each) for v in volumes):
        raise ValueError(f"{len(each)} deformations for batches of {[len(v) for v in volumes]}")
    field = CoordinateField.stack([d.field(shape, size) for d in each])
    given = [v if batched else v[None] for v in volumes]
    results = read_field(given, field, shape if size is None else tuple(size), orders, mode, values)
    return results if batched else [r[0] for r in results]


def deformed_coordinates(deformation: Deformation, shape: Sequence[int], size: Sequence[int] | None = None) -> np.ndarray:
    """Where each output voxel reads: (d, *size), float64, indices into a volume of ``shape``."""
    grid = tuple(shape if size is None else size)
    three = (1, *grid) if len(grid) == 2 else grid
    at = coordinates(deformation.field(shape, size), three)[0]
    return at[1:, 0] if len(grid) == 2 else at


def read_field(
    volumes: Sequence[Tensor],
    field: CoordinateField,
    size: Sequence[int],
    orders: Sequence[int],
    mode: str = "constant",
    values: Sequence[float] | float = 0.0,
) -> list[Tensor]:
    """As `deform`, for batches at the coordinates of a field.

    Args:
        volumes: (B, C, Z, Y, X) or (B, C, Y, X).
        field: of as many samples.
        size: spatial shape of the result.
        orders, mode, values: as in `deform`.
    """
    fills = [float(values)] * len(volumes) if isinstance(values, (int, float)) else [float(v) for v in values]
    if len(orders) != len(volumes) or len(fills) != len(volumes):
        raise ValueError(f"{len(volumes)} volumes need as many orders and values, got {len(orders)} and {len(fills)}")
    flat = len(size) == 2
    three = (1, *size) if flat else tuple(size)
    plain = [_plain(v).unsqueeze(2) if flat else _plain(v) for v in volumes]
    images = [i for i, order in enumerate(orders) if order]
    labels = [i for i, order in enumerate(orders) if not order]
    for i in labels:
        _check_label(plain[i], fills[i])
    results: dict[int, Tensor | None] = {}
    for i, k in zip_longest(images, labels):
        results[-1 if i is None else i], results[-2 if k is None else k] = resample(
            None if i is None else _float32(plain[i]),
            None if k is None else _whole(plain[k]),
            field,
            three,
            order=1 if i is None else orders[i],
            mode=mode,
            image_value=0.0 if i is None else fills[i],
            label_value=0 if k is None else int(fills[k]),
        )
    finished = []
    for i, volume in enumerate(plain):
        result = results[i]
        assert result is not None
        result = result if orders[i] or result.dtype == volume.dtype else result.view(volume.dtype)
        finished.append(result[:, :, 0] if flat else result)
    return finished


def with_affine_of(result: Tensor, source: Tensor, field: CoordinateField) -> Tensor:
    """Metadata of ``source``, where it has some, with the affine moved along with the field's affine part.

    Args:
        result: (C, …), read from ``source`` at the coordinates of ``field``.
        source: a tensor or `MetaTensor`.
        field: one sample.
    """
    if not isinstance(source, MetaTensor):
        return result
    ndim = result.ndim - 1
    matrix = np.eye(4)
    matrix[:ndim, :ndim] = field.matrix[0, 3 - ndim :, 3 - ndim : 3]
    matrix[:ndim, 3] = field.matrix[0, 3 - ndim :, 3]
    moved = MetaTensor(result, meta=source.meta, applied_operations=list(source.applied_operations))
    affine = source.affine.double().cpu()
    size = affine.shape[-1]
    if size != 4:  # a 2-D affine
        matrix = matrix[np.ix_([*range(ndim), 3], [*range(ndim), 3])]
    moved.affine = (affine @ torch.as_tensor(matrix)).to(source.affine)
    return moved


def _common_shape(volumes: Sequence[Tensor], lead: int) -> tuple[int, ...]:
    if not volumes:
        raise ValueError("no volume is given")
    shapes = {tuple(v.shape[lead:]) for v in volumes}
    if len(shapes) > 1:
        raise ValueError(f"volumes differ in shape: {', '.join(str(tuple(v.shape)) for v in volumes)}")
    shape = shapes.pop()
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"shape {tuple(volumes[0].shape)}: channels, then 2 or 3 axes that are not empty, are needed")
    if len({v.device for v in volumes}) > 1:
        raise ValueError(f"volumes are on different devices: {', '.join(str(v.device) for v in volumes)}")
    return shape


def _plain(volume: Tensor) -> Tensor:
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume


def _float32(image: Tensor) -> Tensor:
    if image.is_complex() or image.dtype == torch.bool:
        raise ValueError(f"an image of type {image.dtype} cannot be interpolated; labels have order 0")
    return image.float()


def _whole(label: Tensor) -> Tensor:
    """Labels held in floating point are moved as bits of the same width."""
    if label.is_floating_point():
        width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[label.element_size()]
        return label.contiguous().view(width)
    return label


def _check_label(label: Tensor, value: float) -> None:
    if label.is_floating_point():
        if value:
            raise ValueError(f"a value of {value} outside needs a label of an integer type, got {label.dtype}")
        return
    low, high = (0, 1) if label.dtype == torch.bool else (torch.iinfo(label.dtype).min, torch.iinfo(label.dtype).max)
    if not (low <= value <= high and value == int(value)):
        raise ValueError(f"a value of {value} outside does not fit a label of type {label.dtype} ({low} … {high})")
