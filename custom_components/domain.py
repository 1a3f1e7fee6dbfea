"""`Domain`: the one description of a segmentation task (organ, modality, protocol).

A domain owns everything spatial: voxel spacing, patch size, strides, kernels, sampling, augmentation and
post-processing. It is read from a bundle's ``configs/domain.json``; nothing else in the package knows a domain's
values. All triples are in z, y, x order (array order after re-orientation to ``SAR``), lengths in mm.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from custom_components.errors import InputError
from custom_components.strict_json import parse_json

__all__ = [
    "Augmentation",
    "ComponentRule",
    "Domain",
    "DomainError",
    "Elastic",
    "IntensityRule",
    "Mirror",
    "NetworkShape",
    "RandomRange",
    "Rotation",
    "Sampling",
]

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
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class DomainError(InputError):
    """A domain description is missing, unreadable or inconsistent."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class IntensityRule(_Strict):
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


class Sampling(_Strict):
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


class RandomRange(_Strict):
    """A value drawn uniformly from ``range``, applied with ``probability``."""

    probability: Probability
    range: Range


class Elastic(_Strict):
    """Gaussian-filtered uniform noise: ``sigma`` and ``alpha`` in voxels, each drawn uniformly."""

    probability: Probability
    sigma: Range
    alpha: Range


class Rotation(_Strict):
    """Angles in radians about the z, y and x axes, each drawn uniformly from its range."""

    probability: Probability
    angles: tuple[Range, Range, Range]


class Mirror(_Strict):
    """Reverses each of ``axes`` (0 = z, 1 = y, 2 = x) with ``probability``."""

    probability: Probability
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...]


class Augmentation(_Strict):
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


class ComponentRule(_Strict):
    """Post-processing of one label: binary closing, then the largest 18-connected components.

    Attributes:
        closing: iterations of the closing with the 18-neighbourhood; 0 leaves the label as predicted.
        keep: how many components stay: 1, or 2; 0 keeps all.
        second_over: with ``keep`` 2, the second stays only where its size times ``second_over`` exceeds the first's.
    """

    closing: Annotated[int, Field(ge=0, le=10)]
    keep: Literal[0, 1, 2]
    second_over: Annotated[float, Field(gt=0)] = 10.0


class NetworkShape(_Strict):
    """What a network with dense filters asks of all its domains: one patch size, one set of strides and of kernels."""

    patch_size: Patch
    strides: Strides
    kernel_sizes: Kernels


class Domain(_Strict):
    """One segmentation task. See the module's docstring for axis order and units.

    Attributes:
        name: identifier, also the adapter's name (``<name>.safetensors``).
        organ, modality: for people and model cards; ``modality`` is ``MR`` or ``CT``.
        channels: what each input channel is, in order.
        labels: class name to index; 0 is the background, indices are consecutive.
        label_merges: label value in the data to class index (a tumour into its organ).
        stray_labels: what happens to label values that are neither class nor merged: ``background`` (with a warning
            that counts voxels) or ``refuse``.
        crop_margin: voxels kept around the non-zero box of the first channel.
        spacing: voxel size the network works at, mm.
        patch_size: voxels; divisible by the product of the strides.
        strides: per step between levels, per axis; their number plus one is the number of levels.
        kernel_sizes: depthwise kernel per level, per axis (odd).
        intensity, sampling, augmentation: see the classes of these names.
        postprocessing: class name to `ComponentRule`; a class that is absent stays as predicted.
    """

    name: Name
    organ: Annotated[str, Field(min_length=1)]
    modality: Literal["MR", "CT"]
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: dict[str, Annotated[int, Field(ge=0, le=255)]]
    label_merges: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    stray_labels: Literal["background", "refuse"]
    crop_margin: Annotated[int, Field(ge=0)]
    spacing: tuple[Millimetres, Millimetres, Millimetres]
    patch_size: Patch
    strides: Strides
    kernel_sizes: Kernels
    intensity: IntensityRule
    sampling: Sampling
    augmentation: Augmentation
    postprocessing: dict[str, ComponentRule]

    @model_validator(mode="after")
    def _consistent(self) -> Domain:
        if sorted(self.labels.values()) != list(range(len(self.labels))) or len(self.labels) < 2:
            raise ValueError("labels: indices must be 0, 1, 2, … without gaps, with at least one class beside 0")
        if self.labels.get("background") != 0:
            raise ValueError("labels: 'background' must be there, with index 0")
        classes = set(self.labels.values())
        for value, target in self.label_merges.items():
            if value in classes or target not in classes:
                raise ValueError(f"label_merges: {value} → {target} must lead from a value outside the classes to a class")
        if len(self.kernel_sizes) != len(self.strides) + 1:
            raise ValueError(f"kernel_sizes: {len(self.strides) + 1} levels need as many kernels, got {len(self.kernel_sizes)}")
        if any(k % 2 == 0 for kernel in self.kernel_sizes for k in kernel):
            raise ValueError("kernel_sizes: every entry must be odd")
        for axis in range(3):
            factor = math.prod(stride[axis] for stride in self.strides)
            if self.patch_size[axis] % factor:
                size = self.patch_size[axis]
                raise ValueError(
                    f"patch_size: {size} along {'zyx'[axis]} is not divisible by {factor}, the product of its strides"
                )
        unknown = set(self.postprocessing) - set(self.labels)
        if unknown:
            raise ValueError(f"postprocessing: no such label: {', '.join(sorted(unknown))}")
        if "background" in self.postprocessing:
            raise ValueError("postprocessing: the background has no components to keep")
        return self

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "domain") -> Domain:
        """Validate a mapping as read from JSON.

        Args:
            values: the fields.
            source: what to call it in an error message (a file's path).

        Raises:
            DomainError: a field is unknown, missing or inconsistent; the message names it.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DomainError(f"{source}: {_explain(error)}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Domain:
        """Read ``domain.json``.

        Raises:
            DomainError: the file is absent, is no JSON object, or a field is unknown, missing or inconsistent.
        """
        path = Path(path)
        try:
            values = parse_json(path.read_bytes())
        except OSError as error:
            message = f"{path}: cannot be read ({error.strerror}); give the path of a bundle's configs/domain.json"
            raise DomainError(message) from None
        except ValueError as error:
            raise DomainError(f"{path}: is not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise DomainError(f"{path}: must hold one JSON object, holds {type(values).__name__}")
        return cls.from_dict(values, str(path))

    @property
    def in_channels(self) -> int:
        return len(self.channels)

    @property
    def out_channels(self) -> int:
        """Number of classes, the background included."""
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names without the background, by index."""
        return tuple(sorted((n for n, i in self.labels.items() if i), key=lambda n: self.labels[n]))

    @property
    def network(self) -> dict[str, Any]:
        """What `custom_components.networks.U2Net` needs to know of the domain."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "strides": [list(s) for s in self.strides],
            "kernel_sizes": [list(k) for k in self.kernel_sizes],
        }

    def squeezed(self, shape: NetworkShape) -> Domain:
        """The same task with every image resized, so that what was one patch becomes a patch of ``shape.patch_size``.

        The original's shared network and its dense trunks see all domains so: strides and kernels are the same for all.

        Raises:
            DomainError: patch, strides and kernels of ``shape`` do not go together.
        """
        spacing = [s * own / new for s, own, new in zip(self.spacing, self.patch_size, shape.patch_size, strict=True)]
        return Domain.from_dict({**self.model_dump(), **shape.model_dump(), "spacing": spacing}, f"{self.name}, squeezed")

    def to_json(self) -> str:
        """The description as JSON text; `from_dict` of it gives an equal domain."""
        return json.dumps(self.model_dump(mode="json"), indent=4)


def _explain(error: ValidationError) -> str:
    """Pydantic's errors as one line: each field's path and what is wrong with it."""
    parts = []
    for item in error.errors(include_url=False):
        field = ".".join(str(p) for p in item["loc"])
        what = {"missing": "is missing", "extra_forbidden": "is not a known field"}.get(item["type"], item["msg"])
        parts.append(f"{field}: {what}" if field else what.removeprefix("Value error, "))
    return "; ".join(parts)
