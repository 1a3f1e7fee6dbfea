"""`Deformation`: flip, elastic, rotate, scale and translate, composed in any order into one resampling.

A deformation is a small value: it prints, compares, serialises to JSON, and replays on any volume and any device. What
draws one at random is in `custom_components.transforms.random_operations`, what applies it in
`custom_components.transforms.deform`.

The mesh is zero-centred: an output voxel starts at ``index − shape / 2`` along every axis, the operations act on these
coordinates one after another, and ``shape / 2`` is added in the end. The value at the result is what the voxel reads
(pull, or backward, resampling). All values are in array order (z, y, x in 3-D; y, x in 2-D) and in voxels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from custom_components.kernels.coordinates import CoordinateField
from custom_components.transforms.elastic import smoothed_noise_lattice, spline_noise_lattice

__all__ = ["Deformation", "Elastic", "Flip", "Operation", "Rotate", "Scale", "Translate"]


@dataclass(frozen=True)
class Flip:
    """Read voxel n − 1 − i along each of ``axes``."""

    kind: ClassVar[str] = "flip"
    axes: tuple[int, ...]

    def affine(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        _check(all(0 <= a < ndim for a in self.axes), f"flip: axes {self.axes} of {ndim} dimensions")
        flipped = np.array([float(a in self.axes) for a in range(ndim)])
        # About the middle of the voxels, (n − 1) / 2, which is half a voxel below the centre of the mesh.
        return _diagonal(1 - 2 * flipped), -flipped


@dataclass(frozen=True)
class Rotate:
    """Multiply coordinates, as row vectors, by R_z · R_y · R_x, right-handed about the axes in array order.

    Attributes:
        angles: radians, about the first, second and third axis; one angle in 2-D.
        spacing: voxel size along the axes; the rotation is rigid in these units. None: voxels are cubes.
    """

    kind: ClassVar[str] = "rotate"
    angles: tuple[float, ...]
    spacing: tuple[float, ...] | None = None

    def affine(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = 3 if ndim == 3 else 1
        _check(len(self.angles) == wanted, f"rotate: {wanted} angle(s) in {ndim} dimensions, got {len(self.angles)}")
        angles = self.angles if ndim == 3 else (self.angles[0], 0.0, 0.0)
        matrix = _IDENTITY
        for axis, angle in enumerate(angles):
            if angle:
                matrix = matrix @ _rotation(axis, angle)
        matrix = matrix.T[3 - ndim :, 3 - ndim :]
        if self.spacing is not None:
            spacing = _per_axis(self.spacing, ndim, "rotate: spacing")
            _check(bool((spacing > 0).all()), f"rotate: spacing must be positive, got {self.spacing}")
            matrix = matrix * spacing[None, :] / spacing[:, None]
        return matrix, np.zeros(ndim)


@dataclass(frozen=True)
class Scale:
    """Multiply coordinates by a positive factor, the same or one per axis; below 1 enlarges the content."""

    kind: ClassVar[str] = "scale"
    factors: tuple[float, ...]

    def affine(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        factors = _per_axis(self.factors, ndim, "scale: factors")
        _check(bool((factors > 0).all()), f"scale: factors must be positive, got {self.factors} (to mirror, use Flip)")
        return _diagonal(factors), np.zeros(ndim)


@dataclass(frozen=True)
class Translate:
    """Add ``offset`` voxels to the coordinates: the content moves the other way."""

    kind: ClassVar[str] = "translate"
    offset: tuple[float, ...]

    def affine(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        return np.eye(ndim), _per_axis(self.offset, ndim, "translate: offset")


@dataclass(frozen=True, eq=False)
class Elastic:
    """Add smooth noise to the coordinates. Both laws have the same standard deviation and correlation length inside.

    Attributes:
        sigma: of the Gaussian, voxels, the same or one per axis.
        alpha: factor on the filtered noise, voxels.
        seed: of the noise, 0 … 2^32 − 1.
        law: ``spline``: white noise on a lattice √3 sigma wide under a cubic B-spline, the same at the faces as inside.
            ``gaussian``: uniform noise in [−1, 1) of every voxel and axis, filtered with the Gaussian (cut at 4 sigma,
            zero outside the volume: it fades towards the faces), as SciPy would do it.
        noise: (axes, *shape) to be used in place of the seed's, with law ``gaussian``.
    """

    kind: ClassVar[str] = "elastic"
    sigma: tuple[float, ...]
    alpha: float
    seed: int
    law: Literal["spline", "gaussian"] = "spline"
    noise: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check(all(s > 0 and math.isfinite(s) for s in self.sigma), f"elastic: sigma must be positive, got {self.sigma}")
        _check(math.isfinite(self.alpha), f"elastic: alpha must be finite, got {self.alpha}")
        _check(0 <= self.seed < 2**32, f"elastic: seed must be in 0 … 2^32 − 1, got {self.seed}")
        _check(self.law in ("spline", "gaussian"), f"elastic: law {self.law!r} is neither 'spline' nor 'gaussian'")
        _check(self.noise is None or self.law == "gaussian", "elastic: given noise needs law 'gaussian'")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Elastic) and all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    def __hash__(self) -> int:
        return hash((self.sigma, self.alpha, self.seed, self.law))

    def lattice(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Control points (axes, *l), float64, and their origin and step (see `CoordinateField`) for an output of ``shape``."""
        sigma = _per_axis(self.sigma, len(shape), "elastic: sigma")
        if self.law == "spline":
            return spline_noise_lattice(self.seed, shape, sigma, self.alpha)
        return smoothed_noise_lattice(self.seed if self.noise is None else self.noise, shape, sigma, self.alpha)


Operation: TypeAlias = Flip | Rotate | Scale | Translate | Elastic
_KINDS: dict[str, type[Any]] = {cls.kind: cls for cls in (Flip, Rotate, Scale, Translate, Elastic)}


@dataclass(frozen=True)
class Deformation:
    """Operations in the order in which they act on the coordinates; none of them: the identity.

    Raises:
        ValueError: more than one elastic operation, or values out of range.
    """

    operations: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        if sum(isinstance(o, Elastic) for o in self.operations) > 1:
            raise ValueError("a deformation has one elastic operation at most")

    @property
    def is_identity(self) -> bool:
        return not self.operations

    @property
    def is_affine(self) -> bool:
        """Whether there is nothing elastic in it."""
        return not any(isinstance(o, Elastic) for o in self.operations)

    def affine(self, shape: Sequence[int]) -> np.ndarray:
        """Index of an output voxel to the index it reads, without the elastic part: (d + 1, d + 1), float64."""
        result = np.eye(len(shape) + 1)
        result[:-1, :-1], result[:-1, -1], _ = self._compose(shape)
        return result

    def field(
        self, shape: Sequence[int], size: Sequence[int] | None = None, centre: Sequence[float] | None = None
    ) -> CoordinateField:
        """Coordinates for the kernels.

        Args:
            shape: the window that the deformation acts on, (z, y, x) or (y, x); its centre stays in place.
            size: voxels of the output, which lie evenly in the window; None takes ``shape``.
            centre: where in the volume the centre of the window lies, index; None: the window is the volume.

        Returns:
            One sample, in three dimensions: a 2-D one has z = 0.
        """
        first = 3 - len(shape)
        linear, offset, after = self._compose(shape)
        whole = np.zeros((1, 3, 4))
        whole[0, first:, first:3] = linear
        whole[0, first:, 3] = offset
        if centre is not None:
            whole[0, first:, 3] += np.asarray(centre) - np.asarray(shape) / 2
        ratio = np.ones(len(shape)) if size is None else np.asarray(shape) / np.asarray(size)
        # Voxel j of the output has its middle at (j + 1/2) · ratio from the window's lower face.
        shift = (ratio - 1) / 2
        if size is not None:
            whole[0, first:, 3] += linear @ shift
            whole[0, first:, first:3] = linear * ratio
        elastic = next((o for o in self.operations if isinstance(o, Elastic)), None)
        if elastic is None:
            return CoordinateField(whole)
        points, origin, step = elastic.lattice(shape)
        points = np.einsum("ab,b...->a...", after, points)  # BLAS would leave its threads spinning beside the kernel's
        origin, step = origin + shift / step, step / ratio
        if first:  # 2-D: four equal planes, the displacement does not depend on z
            points = np.broadcast_to(points[:, None], (2, 4, *points.shape[1:]))
            points = np.concatenate([np.zeros_like(points[:1]), points])
            origin, step = np.array([0.0, *origin]), np.array([1.0, *step])
        return CoordinateField(whole, points[None].astype(np.float32), origin[None], step[None])

    def _compose(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linear part and offset from index to index, and the linear part that acts on the displacement."""
        ndim = len(shape)
        linear, offset, after = _IDENTITY[:ndim, :ndim], np.zeros(ndim), _IDENTITY[:ndim, :ndim]
        for operation in self.operations:
            if isinstance(operation, Elastic):
                after = _IDENTITY[:ndim, :ndim]
                continue
            matrix, shift = operation.affine(ndim)
            linear, offset, after = matrix @ linear, matrix @ offset + shift, matrix @ after
        half = np.asarray(shape) / 2
        return linear, offset + half - linear @ half, after

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {"operations": [{"kind": o.kind, **_plain(asdict(o))} for o in self.operations]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Deformation:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an operation is unknown, or lacks or has unknown fields.
        """
        operations = []
        for item in values["operations"]:
            given = dict(item)
            kind = given.pop("kind", None)
            if kind not in _KINDS:
                raise ValueError(f"deformation: {kind!r} is none of {', '.join(_KINDS)}")
            if given.get("noise") is not None:
                given["noise"] = np.asarray(given["noise"])
            frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            try:
                operations.append(_KINDS[kind](**frozen))
            except TypeError as error:
                raise ValueError(f"deformation: {kind}: {error}") from None
        return cls(tuple(operations))

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Deformation:
        return cls.from_dict(json.loads(text))


_IDENTITY = np.eye(3)


def _diagonal(values: np.ndarray) -> np.ndarray:
    matrix = np.zeros((len(values), len(values)))
    matrix.flat[:: len(values) + 1] = values
    return matrix


def _rotation(axis: int, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    if abs(angle * 2 / math.pi - round(angle * 2 / math.pi)) < 1e-12:
        cos, sin = round(cos), round(sin)  # right angles exactly: voxels fall on voxels
    matrix = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix


def _per_axis(values: Sequence[float], ndim: int, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    _check(array.shape in ((1,), (ndim,)), f"{name}: one value, or one for each of {ndim} axes, got {array.size}")
    return array if array.shape == (ndim,) else np.full(ndim, array[0])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v.tolist() if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
        for k, v in values.items()
        if v is not None
    }


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
