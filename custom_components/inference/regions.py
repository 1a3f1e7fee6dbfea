"""Boxes in millimetres, cut from a large image and pasted back: pure functions of arrays and affines.

A network trained on crops of an organ needs such a crop. Here a box in world coordinates becomes a window of voxels, for
any axis order, flip, spacing and oblique direction of the image; nothing is resampled, so a label made on the crop goes
back to the image's own voxels unchanged.

World coordinates are NIfTI's: mm, x to the patient's right, y forward, z up. Arrays are in the order in which the image
is stored, one affine axis per array axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from monai.data import MetaTensor
from monai.utils import MetaKeys
from nibabel.affines import apply_affine, from_matvec, voxel_sizes

from custom_components.errors import InputError

__all__ = ["Part", "Region", "Window", "cut", "extent", "grown", "owned", "paste", "window_of"]

Triple: TypeAlias = tuple[float, float, float]
Window: TypeAlias = tuple[slice, slice, slice]

# Box faces that lie on a voxel's face up to rounding must not pull in one more layer of voxels.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Region:
    """A box aligned with the world axes.

    Attributes:
        name: what to call it in messages.
        centre: x, y, z, mm.
        size: x, y, z, mm.
    """

    name: str
    centre: Triple
    size: Triple

    @property
    def bounds(self) -> tuple[Triple, Triple]:
        """Lowest and highest x, y, z, mm."""
        low = tuple(c - s / 2 for c, s in zip(self.centre, self.size, strict=True))
        high = tuple(c + s / 2 for c, s in zip(self.centre, self.size, strict=True))
        return low, high  # type: ignore[return-value]


@dataclass(frozen=True)
class Part:
    """A label made on one region of an image.

    Attributes:
        region: the box.
        window: its voxels in the image.
        label: integers, of the window's shape.
    """

    region: Region
    window: Window
    label: np.ndarray


def extent(shape: Sequence[int], affine: np.ndarray) -> Triple:
    """Length of an image along each of its own array axes, mm."""
    return tuple(float(n * s) for n, s in zip(shape, voxel_sizes(affine), strict=True))  # type: ignore[return-value]


def window_of(region: Region, affine: np.ndarray, shape: Sequence[int]) -> Window:
    """The smallest window of voxels that covers a box.

    A voxel of index i covers i − ½ … i + ½ on its axis. In an oblique image the window is larger than the box.

    Args:
        region: the box, mm.
        affine: 4 × 4, voxel index to mm.
        shape: the image's three lengths, voxels, in the affine's axis order.

    Raises:
        InputError: the box reaches outside the image.
    """
    inside = apply_affine(np.linalg.inv(affine), _corners(*region.bounds))
    first = np.floor(inside.min(axis=0) + 0.5 + _TOLERANCE).astype(int)
    last = np.ceil(inside.max(axis=0) - 0.5 - _TOLERANCE).astype(int)
    last = np.maximum(first, last)
    if (first < 0).any() or (last >= np.asarray(shape)).any():
        low, high = region.bounds
        edges = apply_affine(affine, _corners((-0.5,) * 3, tuple(n - 0.5 for n in shape)))
        raise InputError(
            f"the {region.name} box ({_span(low, high)}) reaches outside the image, which covers "
            f"{_span(edges.min(axis=0), edges.max(axis=0))}; give the centre of the region in this image's own coordinates"
        )
    x, y, z = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return x, y, z


def grown(window: Window, label: np.ndarray, step: float, affine: np.ndarray, shape: Sequence[int]) -> Window:
    """Move those faces of a window outward that a label on it touches, as far as the image goes.

    Args:
        window: voxels of the image.
        label: of the window's shape; what is not 0 counts.
        step: mm.
        affine: 4 × 4, voxel index to mm.
        shape: of the image, voxels.

    Returns:
        The same window where the label touches no face that could be moved.
    """
    faces = []
    for axis, (s, n, size) in enumerate(zip(window, shape, voxel_sizes(affine), strict=True)):
        amount = int(np.ceil(step / size - _TOLERANCE))
        low, high = (bool(label.take(index, axis).any()) for index in (0, -1))
        faces.append(slice(max(0, s.start - amount * low), min(n, s.stop + amount * high)))
    x, y, z = faces
    return x, y, z


def cut(image: MetaTensor, window: Window) -> MetaTensor:
    """Copy a window out of an image.

    Args:
        image: (C, X, Y, Z) with its affine.
        window: voxels along the three spatial axes, within the image.

    Returns:
        (C, x, y, z): its affine puts every voxel where it was. Of the header only the source's name and space stay, since
        the rest describes the whole image; it carries no trace of the cut, so a transform that inverts itself gives the
        window's grid.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    start = [s.start for s in window]
    moved = from_matvec(affine[:3, :3], apply_affine(affine, start))
    values = image.as_tensor()[(slice(None), *window)].clone()
    kept: dict[Any, Any] = {
        key: image.meta[key] for key in ("filename_or_obj", MetaKeys.SPACE, MetaKeys.ORIGINAL_CHANNEL_DIM) if key in image.meta
    }
    kept[MetaKeys.ORIGINAL_AFFINE] = moved.copy()
    kept[MetaKeys.SPATIAL_SHAPE] = np.asarray(values.shape[1:])
    return MetaTensor(values, affine=moved, meta=kept)


def paste(parts: Sequence[Part], shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Put labels made on windows back on the image's grid; zero outside.

    Where windows overlap, a voxel takes the label of the window whose box has its centre nearer, and at equal distance
    of the one that comes first. So the result does not depend on which label happens to be written last.

    Args:
        parts: windows and labels.
        shape: of the image, voxels.
        affine: 4 × 4, voxel index to mm.

    Returns:
        Array of ``shape``, of the labels' common type.

    Raises:
        ValueError: a label's shape is not its window's.
    """
    dtype = np.result_type(*(part.label.dtype for part in parts)) if parts else np.uint8
    whole = np.zeros(tuple(shape), dtype=dtype)
    for index, part in enumerate(parts):
        mine = owned(parts, index, affine)
        whole[part.window][mine] = part.label[mine]
    return whole


def owned(parts: Sequence[Part], index: int, affine: np.ndarray) -> np.ndarray:
    """Which voxels of a part's window `paste` takes from it: boolean, of the window's shape.

    Raises:
        ValueError: the part's label has not its window's shape.
    """
    part = parts[index]
    lengths = tuple(s.stop - s.start for s in part.window)
    if part.label.shape != lengths:
        raise ValueError(f"{part.region.name}: label of shape {part.label.shape} on a window of {lengths}")
    mine = np.ones(lengths, dtype=bool)
    for other_index, other in enumerate(parts):
        common = _overlap(part.window, other.window)
        if other_index == index or common is None:
            continue
        indices = np.meshgrid(*(np.arange(s.start, s.stop) for s in common), indexing="ij")
        points = apply_affine(affine, np.stack(indices, axis=-1))
        # Rounded, so that voxels in the plane between the centres are ties in spite of floating point.
        own = np.round(((points - part.region.centre) ** 2).sum(axis=-1), 6)
        theirs = np.round(((points - other.region.centre) ** 2).sum(axis=-1), 6)
        here = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(common, part.window, strict=True))
        mine[here] &= own <= theirs if index < other_index else own < theirs
    return mine


def _overlap(one: Window, other: Window) -> Window | None:
    common = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return common if all(s.start < s.stop for s in common) else None  # type: ignore[return-value]


def _corners(low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """The eight corners of a box, (8, 3)."""
    return np.array(list(itertools.product(*zip(low, high, strict=True))))


def _span(low: Sequence[float], high: Sequence[float]) -> str:
    return ", ".join(f"{axis} {a:.0f} to {b:.0f}" for axis, a, b in zip("xyz", low, high, strict=True)) + " mm"
