"""`CoordinateField`: where each voxel of an output reads, as an affine map and a B-spline displacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

__all__ = ["CoordinateField", "coordinates"]


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
    if field.lattice is None:
        return result
    for b in range(len(field)):
        weights = []
        for axis in range(3):
            at = field.origin[b, axis] + np.arange(size[axis]) / field.step[b, axis]
            knots = np.arange(-3.0, field.lattice.shape[2 + axis] + 1)
            weights.append(BSpline.design_matrix(at, knots, 3).toarray())
        result[b] += np.einsum("akji,zk,yj,xi->azyx", field.lattice[b].astype(np.float64), *weights, optimize=True)
    return result
