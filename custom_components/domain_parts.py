"""The parts of a `Domain`: what its numbers may be, and the rules that stand in it under names of their own.

Triples are in z, y, x order, lengths in mm, as in `custom_components.domain`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
PositiveInt: TypeAlias = Annotated[int, Field(gt=0)]
Millimetres: TypeAlias = Annotated[float, Field(gt=0, le=100)]
# Beyond these no machine trains, and a description from somewhere else asks for all memory.
LARGEST_PATCH = 2048
Voxels: TypeAlias = Annotated[int, Field(gt=0, le=LARGEST_PATCH)]
Step: TypeAlias = Annotated[int, Field(gt=0, le=64)]
Width: TypeAlias = Annotated[int, Field(gt=0, le=63)]
Patch: TypeAlias = tuple[Voxels, Voxels, Voxels]
Strides: TypeAlias = Annotated[tuple[tuple[Step, Step, Step], ...], Field(min_length=1, max_length=16)]
Kernels: TypeAlias = Annotated[tuple[tuple[Width, Width, Width], ...], Field(max_length=17)]


def _ordered_range(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the lower bound is above the upper")
    return value


Range: TypeAlias = Annotated[tuple[float, float], AfterValidator(_ordered_range)]

# Beside the adapters <domain>.safetensors, a bundle's models folder holds trunk.safetensors, model.pt and last.pt.
OTHER_FILES = ("trunk", "model", "last")


def check_free_name(name: str) -> str:
    """The name of a domain, whose adapter is called after it.

    Raises:
        ValueError: another file of a bundle has that name.
    """
    if name in OTHER_FILES:
        raise ValueError(f"'{name}' is another file's in a bundle's models folder; choose another name, such as liver_ct")
    return name


Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64), AfterValidator(check_free_name)]


class Strict(BaseModel):
    """No key that is unknown, no NaN, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class IntensityRule(Strict):
    """How raw intensities become network input: floor, then percentile clip, then z-score.

    Attributes:
        floor: values below it are set to it (CT padding; -1024 HU); None leaves them.
        percentiles: lower and upper percentile of the image, in percent, to clip to; None does not clip.
        statistics: which voxels give mean and standard deviation: ``positive`` (> 0), ``nonzero`` or ``all``.
    """

    floor: float | None
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] | None
    statistics: Literal["positive", "nonzero", "all"]

    @model_validator(mode="after")
    def _ordered(self) -> IntensityRule:
        if self.percentiles is not None and self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles: the lower must be below the upper")
        return self


class Sampling(Strict):
    """How training patches are drawn.

    Attributes:
        batch_size: patches per step.
        foreground: probability that a patch is centred on a voxel of any class.
        smallest_class: probability that it is centred on the class with the fewest voxels in the case.
            The rest is centred anywhere.
    """

    batch_size: PositiveInt
    foreground: Probability
    smallest_class: Probability

    @model_validator(mode="after")
    def _sum(self) -> Sampling:
        if self.foreground + self.smallest_class > 1 + 1e-9:
            raise ValueError("foreground + smallest_class exceeds 1")
        return self


class RandomRange(Strict):
    """A value drawn uniformly from ``range``, applied with ``probability``."""

    probability: Probability
    range: Range


class Elastic(Strict):
    """Gaussian-filtered uniform noise: ``sigma`` and ``alpha`` in voxels, each drawn uniformly."""

    probability: Probability
    sigma: Range
    alpha: Range


class Rotation(Strict):
    """Angles in radians about the z, y and x axes, each drawn uniformly from its range."""

    probability: Probability
    angles: tuple[Range, Range, Range]


class Mirror(Strict):
    """Reverses each of ``axes`` (0 = z, 1 = y, 2 = x) with ``probability``."""

    probability: Probability
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...]


class Augmentation(Strict):
    """What training does to a patch: geometry first, then intensities (which are z-scores by then).

    Attributes:
        elastic, rotation, scale, mirror: the geometric part; ``scale`` is a factor common to the three axes.
        noise: standard deviation of added Gaussian noise.
        blur: sigma of a Gaussian filter, voxels.
        brightness: factor on the intensities.
        contrast: factor on the deviation from the patch's mean.
        gamma: exponent on intensities rescaled to [0, 1].
    """

    elastic: Elastic
    rotation: Rotation
    scale: RandomRange
    mirror: Mirror
    noise: RandomRange
    blur: RandomRange
    brightness: RandomRange
    contrast: RandomRange
    gamma: RandomRange


class ComponentRule(Strict):
    """Post-processing of one label: binary closing, then the largest 18-connected components.

    Attributes:
        closing: iterations of the closing with the 18-neighbourhood; 0 leaves the label as predicted.
        keep: how many components stay: 1, or 2; 0 keeps all.
        second_over: with ``keep`` 2, the second stays only where its size times ``second_over`` exceeds the first's.
    """

    closing: Annotated[int, Field(ge=0, le=10)]
    keep: Literal[0, 1, 2]
    second_over: Annotated[float, Field(gt=0)] = 10.0


class NetworkShape(Strict):
    """What a network with dense filters asks of all its domains: one patch size, one set of strides and of kernels."""

    patch_size: Patch
    strides: Strides
    kernel_sizes: Kernels
