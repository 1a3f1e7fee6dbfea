"""Resample to a grid along the same axes, one axis after another: what changes the voxel size of an image.

A cubic B-spline takes 12 values a voxel this way, where `scipy.ndimage.map_coordinates`, which knows nothing of the grid,
takes 64 and finds their weights anew for each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.spline import spline_coefficients, spline_padding
from custom_components.kernels.threads import run_ranges

__all__ = ["resample_grid", "resample_grid_reference"]

_EDGE = 12  # voxels by which SciPy continues a volume in mode nearest
_VOXELS_PER_THREAD = 2**16
_REACH = 8  # coordinates beyond the edge that are told apart, as in `custom_components.kernels.resample`


def resample_grid(volume: Tensor, origin: Sequence[float], step: Sequence[float], size: Sequence[int], order: int) -> Tensor:
    """Read a volume at ``origin + step · index`` along every axis; beyond the outermost voxels the volume goes on as they are.

    As `scipy.ndimage.map_coordinates` with ``mode="nearest"``, up to float32 rounding. On the CPU numba for orders 0 and
    3; on a GPU, and for order 1, products with one small matrix per axis.

    Args:
        volume: (C, Z, Y, X); order 0 takes any type.
        origin, step: voxels of the input, along z, y, x; a negative step reads backwards.
        size: of the output, (z, y, x).
        order: 0, the nearest voxel (of two as near, the upper one); 1, linear; 3, cubic B-spline.

    Returns:
        (C, *size), of the volume's type for order 0, else float32.

    Raises:
        ValueError: another order, an empty axis, numbers that are not finite, or too large a volume.
    """
    places = _places(volume, origin, step, size, order)
    reference = volume.device.type != "cpu" or os.environ.get("U2NET_KERNELS") == "reference"
    if order == 0:
        index = [np.floor(place + 0.5).astype(np.int64) for place in places]
        if not reference:
            return _nearest(volume, index)
        for axis, at in enumerate(index):
            volume = volume.index_select(axis + 1, torch.from_numpy(at).to(volume.device))
        return volume.contiguous()
    if order == 1 or reference:
        return resample_grid_reference(volume, origin, step, size, order)
    return _cubic(volume.float(), places, size)


def resample_grid_reference(
    volume: Tensor, origin: Sequence[float], step: Sequence[float], size: Sequence[int], order: int
) -> Tensor:
    """`resample_grid` of order 1 or 3 as products with one dense matrix per axis, on any device. Arguments as there."""
    result = volume.float()
    for axis, place in enumerate(_places(volume, origin, step, size, order)):
        matrix = torch.from_numpy(_matrix(place, volume.shape[axis + 1], order)).to(volume.device, torch.float32)
        result = torch.tensordot(result, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
    return result.contiguous()


def _places(volume: Tensor, origin: Sequence[float], step: Sequence[float], size: Sequence[int], order: int) -> list[np.ndarray]:
    """Per axis, where each output voxel reads."""
    if order not in (0, 1, 3):
        raise ValueError(f"order: 0, 1 or 3 is needed, got {order}")
    if volume.ndim != 4 or 0 in volume.shape or len(size) != 3 or min(size) < 1:
        raise ValueError(f"(C, Z, Y, X) to (z, y, x), none of them empty, is needed; got {tuple(volume.shape)} to {tuple(size)}")
    if not np.isfinite([*origin, *step]).all():
        raise ValueError(f"origin and step: finite numbers are needed, got {list(origin)} and {list(step)}")
    places = []
    for first, width, count, n in zip(origin, step, size, volume.shape[1:], strict=True):
        place = first + width * np.arange(count, dtype=np.float64)
        near = np.round(place)
        # A whole number that rounding has moved is one: the voxel itself is read, and none beside it.
        place = np.where(np.abs(place - near) < 1e-9 * max(1, n), near, place)
        # The spline through the continued voxels bends beyond the last of them, and has forgotten it `_REACH` voxels on.
        reach = _REACH if order == 3 and n > 1 else 0
        places.append(np.clip(place, -reach, n - 1 + reach))
    return places


def _nearest(volume: Tensor, index: Sequence[np.ndarray]) -> Tensor:
    from custom_components.kernels import grid_numba as kernel

    # As unsigned numbers of the same width: values are copied, and each type would be compiled by itself.
    storage = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[volume.element_size()]
    source = volume.detach().contiguous().view(storage).numpy()
    result = np.empty((len(source), *(len(at) for at in index)), source.dtype)
    for channel, out in zip(source, result, strict=True):
        rows = out.shape[0] * out.shape[1]
        run_ranges(partial(kernel.nearest_range, channel, *index, out), rows, least=-(-_VOXELS_PER_THREAD // out.shape[2]))
    return torch.from_numpy(result).view(volume.dtype)


def _cubic(volume: Tensor, places: Sequence[np.ndarray], size: Sequence[int]) -> Tensor:
    from custom_components.kernels import grid_numba as kernel

    pad = spline_padding(volume.shape[1:], "nearest")
    taps = [_taps(place, p, n) for place, p, n in zip(places, pad, volume.shape[1:], strict=True)]
    # NumPy asks for huge pages where torch does not: the first touch of a large result then costs half as much.
    result = np.empty((volume.shape[0], *size), np.float32)
    arrays = [array for pair in taps for array in pair]
    for channel, out in zip(volume, result, strict=True):
        coefficients = spline_coefficients(channel, "nearest").numpy()
        if 2 * size[0] >= volume.shape[1]:
            run_ranges(partial(kernel.sample_strips_range, coefficients, *arrays, out), -(-size[1] // kernel.STRIP))
        else:
            run_ranges(partial(kernel.sample_planes_range, coefficients, *arrays, out), size[0])
    return torch.from_numpy(result)


def _taps(place: np.ndarray, pad: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """First of the coefficients that are read, padded, and their weights (taps, places)."""
    if n == 1:  # all coefficients of the axis are the voxel itself
        return np.zeros(len(place), np.int64), np.ones((1, len(place)), np.float32)
    first = np.floor(place).astype(np.int64)
    u = place - first
    v = 1 - u
    weights = np.stack([v**3 / 6, 2 / 3 - u**2 * (1 - u / 2), 2 / 3 - v**2 * (1 - v / 2), u**3 / 6])
    return first - 1 + pad, weights.astype(np.float32)


def _matrix(place: np.ndarray, n: int, order: int) -> np.ndarray:
    """(places, n): what each place takes of each voxel."""
    from scipy.interpolate import BSpline
    from scipy.ndimage import spline_filter1d

    rows = np.arange(len(place))
    if n == 1:
        return np.ones((len(place), 1))
    if order == 1:
        low = np.minimum(np.floor(place).astype(np.int64), n - 2)
        result = np.zeros((len(place), n))
        result[rows, low], result[rows, low + 1] = 1 - (place - low), place - low
        return result
    # Voxels, continued by the outermost ones, to coefficients to places.
    continued = np.pad(np.eye(n), ((_EDGE, _EDGE), (0, 0)), mode="edge")
    coefficients = spline_filter1d(continued, order=3, axis=0, mode="mirror")
    knots = np.arange(-2.0, n + 2 * _EDGE + 2)
    design = BSpline.design_matrix(place + _EDGE, knots, 3)
    return design @ coefficients
