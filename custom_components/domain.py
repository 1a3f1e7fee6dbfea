"""`Domain`: the one description of a segmentation task (organ, modality, protocol).

A domain owns everything spatial: voxel spacing, patch size, strides, kernels, sampling, augmentation and
post-processing. It is read from a bundle's ``configs/domain.json``; nothing else in the package knows a domain's
values. All triples are in z, y, x order (array order after re-orientation to ``SAR``), lengths in mm.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from custom_components.domain_parts import (
    Augmentation,
    ComponentRule,
    Elastic,
    IntensityRule,
    Kernels,
    Millimetres,
    Mirror,
    Name,
    NetworkShape,
    Patch,
    RandomRange,
    Rotation,
    Sampling,
    Strict,
    Strides,
)
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


class DomainError(InputError):
    """A domain description is missing, unreadable or inconsistent."""


class Domain(Strict):
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
        what = what.removeprefix("Value error, ")
        parts.append(f"{field}: {what}" if field else what)
    return "; ".join(parts)
