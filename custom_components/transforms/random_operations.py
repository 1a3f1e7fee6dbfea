"""What draws the operations of a `Deformation`: a probability and ranges, validated when they are given.

A range is (low, high), drawn from uniformly; a single number is drawn as it is. Where a value is per axis, one range
serves all axes with one common draw, and a list of ranges has one draw each. Axes are in array order: z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from custom_components.transforms.deformation import Deformation, Elastic, Flip, Operation, Rotate, Scale, Translate

__all__ = ["RandElastic", "RandFlip", "RandOperation", "RandRotate", "RandScale", "RandTranslate", "draw_deformation"]


class RandOperation(Protocol):
    """Draws an operation, or none."""

    def draw(self, random: np.random.RandomState) -> Operation | None:
        """
        Args:
            random: MONAI's random state; the same number of draws is taken whether the operation comes about or not.
        """


class RandFlip:
    """Reverse each of ``axes`` with ``probability``, independently.

    Args:
        probability: in [0, 1].
        axes: 0 = z, 1 = y, 2 = x; in 2-D 0 = y, 1 = x.
    """

    def __init__(self, probability: float, axes: Sequence[int]) -> None:
        self.probability = _probability(probability)
        self.axes = tuple(int(a) for a in axes)
        if any(a < 0 for a in self.axes) or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes: different numbers from 0 on are needed, got {list(axes)}")

    def draw(self, random: np.random.RandomState) -> Flip | None:
        drawn = random.random_sample(len(self.axes)) < self.probability
        axes = tuple(axis for axis, chosen in zip(self.axes, drawn, strict=True) if chosen)
        return Flip(axes) if axes else None


class RandRotate:
    """Rotate about the centre with ``probability``.

    Args:
        probability: in [0, 1].
        angles: radians, a range for each of the three axes (z, y, x), or one in 2-D.
        spacing: voxel size along the axes, mm: the rotation is then rigid in millimetres. None: voxels are cubes.
    """

    def __init__(self, probability: float, angles: Sequence[Sequence[float]], spacing: Sequence[float] | None = None) -> None:
        self.probability = _probability(probability)
        self.angles = [_range(a, "angles") for a in angles]
        if len(self.angles) not in (1, 3):
            raise ValueError(f"angles: one range in 2-D or three in 3-D, got {len(self.angles)}")
        self.spacing = tuple(float(s) for s in spacing) if spacing is not None else None
        if self.spacing is not None and not all(s > 0 for s in self.spacing):
            raise ValueError(f"spacing: must be positive, got {list(self.spacing)}")

    def draw(self, random: np.random.RandomState) -> Rotate | None:
        applies = random.random_sample() < self.probability
        angles = tuple(float(random.uniform(*a)) for a in self.angles)
        return Rotate(angles, self.spacing) if applies else None


class RandScale:
    """Scale the sampling coordinates with ``probability``; factors below 1 enlarge the content.

    Args:
        probability: in [0, 1].
        factors: one range of positive numbers for all axes, or one per axis.
    """

    def __init__(self, probability: float, factors: Sequence[float] | Sequence[Sequence[float]] | float) -> None:
        self.probability = _probability(probability)
        self.factors = _ranges(factors, "factors")
        if any(low <= 0 for low, _ in self.factors):
            raise ValueError(f"factors: must be positive, got {factors} (to mirror, use RandFlip)")

    def draw(self, random: np.random.RandomState) -> Scale | None:
        applies = random.random_sample() < self.probability
        factors = tuple(float(random.uniform(*f)) for f in self.factors)
        return Scale(factors) if applies else None


class RandTranslate:
    """Shift the sampling coordinates with ``probability``.

    Args:
        probability: in [0, 1].
        offset: voxels, one range per axis.
    """

    def __init__(self, probability: float, offset: Sequence[Sequence[float]]) -> None:
        self.probability = _probability(probability)
        self.offset = [_range(o, "offset") for o in offset]

    def draw(self, random: np.random.RandomState) -> Translate | None:
        applies = random.random_sample() < self.probability
        offset = tuple(float(random.uniform(*o)) for o in self.offset)
        return Translate(offset) if applies else None


class RandElastic:
    """Displace smoothly at random with ``probability``.

    The displacement of a voxel has, along each of d axes, a standard deviation of alpha / √3 · (2 √π sigma)^(−d/2) voxels:
    for d = 3, sigma 10 and alpha 750 that is 2.1 voxels.

    Args:
        probability: in [0, 1].
        sigma: of the Gaussian, voxels: one range of positive numbers for all axes, or one per axis.
        alpha: range of the factor on the filtered noise, voxels.
        law: ``spline`` (the default) or ``gaussian``, see `Elastic`.
    """

    def __init__(
        self,
        probability: float,
        sigma: Sequence[float] | Sequence[Sequence[float]] | float,
        alpha: Sequence[float] | float,
        law: Literal["spline", "gaussian"] = "spline",
    ) -> None:
        self.probability = _probability(probability)
        self.sigma = _ranges(sigma, "sigma")
        if any(low <= 0 for low, _ in self.sigma):
            raise ValueError(f"sigma: must be positive, got {sigma}")
        self.alpha = _range(alpha, "alpha")
        if law not in ("spline", "gaussian"):
            raise ValueError(f"law: {law!r} is neither 'spline' nor 'gaussian'")
        self.law = law

    def draw(self, random: np.random.RandomState) -> Elastic | None:
        applies = random.random_sample() < self.probability
        sigma = tuple(float(random.uniform(*s)) for s in self.sigma)
        alpha = float(random.uniform(*self.alpha))
        seed = int(random.randint(2**32, dtype=np.uint32))
        return Elastic(sigma, alpha, seed, self.law) if applies else None


def draw_deformation(operations: Sequence[RandOperation], random: np.random.RandomState) -> Deformation:
    """The operations that come about, in the order in which they are listed."""
    drawn = [operation.draw(random) for operation in operations]
    return Deformation(tuple(operation for operation in drawn if operation is not None))


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"probability: must be in [0, 1], got {value}")
    return float(value)


def _range(value: Sequence[float] | float, name: str) -> tuple[float, float]:
    pair = (value, value) if isinstance(value, (int, float)) else tuple(value)
    if len(pair) != 2 or not all(math.isfinite(v) for v in pair) or pair[0] > pair[1]:
        raise ValueError(f"{name}: a range is (low, high) of finite numbers, got {value}")
    return float(pair[0]), float(pair[1])


def _ranges(value: Sequence[float] | Sequence[Sequence[float]] | float, name: str) -> list[tuple[float, float]]:
    if isinstance(value, (int, float)) or all(isinstance(v, (int, float)) for v in value):
        return [_range(value, name)]  # type: ignore[arg-type]
    return [_range(v, name) for v in value]
