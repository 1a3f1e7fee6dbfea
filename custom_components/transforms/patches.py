"""`RandPatchd`: draw a training patch, rotated and scaled, in one interpolation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage
from torch.nn import functional as F

__all__ = ["Patch", "RandPatchd", "sample_patch"]


@dataclass(frozen=True)
class Patch:
    """Where a patch lies in its volume: output voxel ``j`` reads ``start + (size - 1) / 2 + matrix @ (j - (size - 1) / 2)``.

    Attributes:
        start: first voxel along z, y, x; may be negative where the volume is smaller than the patch.
        size: voxels along z, y, x.
        matrix: (3, 3), voxels; None is the identity, for which nothing is interpolated.
    """

    start: tuple[int, int, int]
    size: tuple[int, int, int]
    matrix: np.ndarray | None = None


class RandPatchd(MapTransform, Randomizable):
    """Draw a patch as `custom_components.domain.Sampling` says, and turn and scale it while it is read.

    The patch is read from the whole volume, so that a turned patch has no empty corners where the volume has voxels;
    outside the volume image and label are zero, as in sliding-window inference. The centre is moved so that the
    unturned patch lies inside the volume, or the volume inside the patch where it is the smaller one.

    Args:
        keys: (C, Z, Y, X) tensors of equal spatial shape.
        indices_key: flat indices of each class's voxels, one array per class from the background on, as
            `monai.transforms.ClassesToIndicesd` makes them; removed from the output.
        size: patch size along z, y, x, voxels.
        foreground: probability that the patch is centred on a voxel of any class.
        smallest_class: probability that it is centred on the class with the fewest voxels in the case.
        rotation_probability, angles: radians about the z, y and x axes, (low, high) each, drawn uniformly.
        scale_probability, scale: (low, high) of the factor on the sampling coordinates; below 1 enlarges the content.
        spacing: voxel size along z, y, x, mm; rotations are rigid in millimetres.
        orders: spline order for each key: 0 nearest, 1 linear, 3 cubic.
    """

    def __init__(
        self,
        keys: KeysCollection,
        indices_key: str,
        size: Sequence[int],
        foreground: float,
        smallest_class: float,
        rotation_probability: float = 0.0,
        angles: Sequence[Sequence[float]] = ((0, 0), (0, 0), (0, 0)),
        scale_probability: float = 0.0,
        scale: Sequence[float] = (1, 1),
        spacing: Sequence[float] = (1, 1, 1),
        orders: Sequence[int] = (1, 0),
    ) -> None:
        super().__init__(keys)
        if len(orders) != len(self.keys):
            raise ValueError(f"orders: {len(self.keys)} keys need as many, got {len(orders)}")
        self.indices_key = indices_key
        self.size = (int(size[0]), int(size[1]), int(size[2]))
        self.foreground = foreground
        self.smallest_class = smallest_class
        self.rotation_probability = rotation_probability
        self.angles = angles
        self.scale_probability = scale_probability
        self.scale = scale
        self.spacing = np.asarray(spacing, dtype=float)
        self.orders = tuple(orders)

    def draw(self, shape: Sequence[int], class_indices: Sequence[np.ndarray]) -> Patch:
        """Draw a patch of a volume.

        Args:
            shape: of the volume, (z, y, x).
            class_indices: flat voxel indices per class, the background first.
        """
        start = self._start(shape, self._centre(shape, class_indices))
        matrix = np.eye(3)
        turned = False
        if self.R.random_sample() < self.rotation_probability:
            angles = [self.R.uniform(low, high) for low, high in self.angles]
            matrix = np.diag(1 / self.spacing) @ _rotation(angles) @ np.diag(self.spacing)
            turned = True
        if self.R.random_sample() < self.scale_probability:
            matrix = matrix * self.R.uniform(self.scale[0], self.scale[1])
            turned = True
        return Patch(start, self.size, matrix if turned else None)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        patch = self.draw(item[self.keys[0]].shape[1:], item.pop(self.indices_key))
        for key, order in zip(self.keys, self.orders, strict=True):
            item[key] = sample_patch(item[key], patch, order)
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

    def _start(self, shape: Sequence[int], centre: Sequence[int]) -> tuple[int, int, int]:
        starts = [
            int(np.clip(c - p // 2, min(0, n - p), max(0, n - p))) for c, p, n in zip(centre, self.size, shape, strict=True)
        ]
        return starts[0], starts[1], starts[2]


def sample_patch(volume: torch.Tensor, patch: Patch, order: int) -> torch.Tensor:
    """Read a patch; zero outside the volume.

    Args:
        volume: (C, Z, Y, X).
        patch: where.
        order: spline order, 0, 1 or 3.

    Returns:
        (C, *patch.size), the volume's dtype.
    """
    if patch.matrix is None:
        return _cut(volume, patch.start, patch.size)
    size = np.asarray(patch.size)
    centre = np.asarray(patch.start) + (size - 1) / 2
    # Only the box that is read is converted and interpolated: a CT is a hundred times larger than its patch.
    reach = np.abs(patch.matrix) @ ((size - 1) / 2)
    margin = 12 if order > 1 else 1  # a cubic B-spline's prefilter forgets the border within a dozen voxels
    shape = np.asarray(volume.shape[1:])
    low = np.clip(np.floor(centre - reach).astype(int) - margin, 0, shape - 1)
    high = np.clip(np.ceil(centre + reach).astype(int) + margin + 1, low + 1, shape)
    source = volume[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    if order > 1:
        return _spline(source, patch.matrix, centre - low, patch.size, order)
    return _grid_sample(source, patch.matrix, centre - low, patch.size, "nearest" if order == 0 else "bilinear")


def _cut(volume: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    out = volume.new_zeros((volume.shape[0], *size))
    inside, target = [slice(None)], [slice(None)]
    for s, p, n in zip(start, size, volume.shape[1:], strict=True):
        low, high = max(s, 0), min(s + p, n)
        inside.append(slice(low, high))
        target.append(slice(low - s, high - s))
    out[tuple(target)] = volume[tuple(inside)]
    return out


def _grid_sample(
    source: torch.Tensor, matrix: np.ndarray, centre: np.ndarray, size: tuple[int, int, int], mode: str
) -> torch.Tensor:
    # torch's normalised coordinates (align_corners=False): (2 i + 1) / n - 1, in x, y, z order.
    n = np.asarray(source.shape[1:], dtype=float)
    grid = torch.zeros(1, 1, 1, 3)
    for axis, length in enumerate(size):
        along = np.outer(np.arange(length) - (length - 1) / 2, matrix[:, axis] * 2 / n)
        if axis == 0:
            along += (2 * centre + 1) / n - 1
        shape = [length if a == axis else 1 for a in range(3)]
        # A sum of three lines, cheaper than torch's affine_grid: image and label each need the grid.
        grid = grid + torch.as_tensor(along[:, ::-1].copy(), dtype=torch.float32).reshape(*shape, 3)
    with torch.no_grad():
        values = F.grid_sample(source[None].float(), grid[None], mode=mode, padding_mode="zeros", align_corners=False)
    return values[0].to(source.dtype)


def _spline(source: torch.Tensor, matrix: np.ndarray, centre: np.ndarray, size: tuple[int, int, int], order: int) -> torch.Tensor:
    offset = centre - matrix @ ((np.asarray(size) - 1) / 2)
    channels = [ndimage.affine_transform(c, matrix, offset, size, order=order, mode="constant") for c in source.float().numpy()]
    return torch.from_numpy(np.stack(channels)).to(source.dtype)


def _rotation(angles: Sequence[float]) -> np.ndarray:
    """Product of the rotations about the z, y and x axes acting on (z, y, x) columns."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix
