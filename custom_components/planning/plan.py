"""`plan_domain`: measured facts → a domain, with the reason for every field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.planning.augmentation import plan_augmentation
from custom_components.planning.classes import Modality, class_values, plan_classes, plan_input
from custom_components.planning.components import plan_components
from custom_components.planning.decisions import Decision, Decisions, Overrides, nested, overridden
from custom_components.planning.facts import DatasetFacts
from custom_components.planning.geometry import (
    SMALLEST_MAP,
    SMALLEST_PATCH,
    Size3,
    Spacing3,
    halvings,
    plan_levels,
    plan_patch,
    resampled_shape,
    target_spacing,
)
from custom_components.planning.intensity import plan_intensity
from custom_components.planning.sampling import plan_sampling
from custom_components.planning.warnings import data_warnings

__all__ = ["MAX_STEPS", "PATCH_VOXELS", "Plan", "Reason", "plan_domain"]

PATCH_VOXELS = 128**3
MAX_STEPS = 5
CROP_MARGIN = 5


@dataclass(frozen=True)
class Reason:
    """A field of ``domain.json``, its value there, and the numbers that it comes from."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True)
class Plan:
    """A domain and why it is this one.

    Attributes:
        domain: the result.
        reasons: one for each field, in the order of ``domain.json``.
        warnings: sentences about the data that a person should look at.
    """

    domain: Domain
    reasons: list[Reason]
    warnings: list[str]


def plan_domain(
    facts: DatasetFacts,
    name: str,
    *,
    organ: str | None = None,
    modality: Modality | None = None,
    patch_voxels: int = PATCH_VOXELS,
    max_steps: int = MAX_STEPS,
    stray: Literal["refuse", "background"] = "refuse",
    overrides: Overrides | None = None,
) -> Plan:
    """Plan a domain.

    Args:
        facts: of the data set.
        name: of the domain.
        organ: for people; the name without its modality where it is None.
        modality: where it is None, dataset.json tells.
        patch_voxels: most voxels that a patch may have, at least `SMALLEST_PATCH`: memory and time of a step go with it.
        max_steps: most halvings of an axis, at least 1; a trunk with n levels takes n − 1.
        stray: what label values that dataset.json does not name mean.
        overrides: values that are set, by dotted path. What depends on spacing, crop margin, patch and strides follows them.

    Raises:
        InputError: the facts contradict one another, a bound is too small, or an override is wrong.
    """
    overrides = dict(overrides or {})
    if patch_voxels < SMALLEST_PATCH:
        raise InputError(f"--patch-voxels {patch_voxels}: must be at least {SMALLEST_PATCH}")
    if max_steps < 1:
        raise InputError(f"--max-steps {max_steps}: must be at least 1")
    received = plan_input(facts, overridden("modality", overrides) or modality)
    classes = plan_classes(facts, overridden("stray_labels", overrides) or stray)
    geometry, shape = _geometry(facts, patch_voxels, max_steps, overrides)
    spacing, patch = geometry["spacing"].value, geometry["patch_size"].value
    names = _names(facts, classes)
    decisions: Decisions = {
        "name": Decision(name, "given"),
        "organ": Decision(organ or _organ(name), "given" if organ else "the name without its modality"),
        **received,
        **classes,
        **geometry,
        **plan_intensity(facts, received["modality"].value),
        **plan_sampling(facts, shape, patch, patch_voxels),
        **plan_augmentation(names.values(), spacing, patch),
        **plan_components(facts, names),
    }
    tree, decisions = nested(decisions, overrides)
    domain = Domain.from_dict(tree, f"plan of {name}")
    reasons = [Reason(field, decision.value, decision.why) for field, decision in _ordered(decisions)]
    return Plan(domain, reasons, data_warnings(facts, domain.modality))


def _geometry(facts: DatasetFacts, patch_voxels: int, max_steps: int, overrides: Overrides) -> tuple[Decisions, Size3]:
    """Crop margin, spacing, patch, strides and kernels; and the median image's shape."""
    given = overridden("crop_margin", overrides)
    margin = CROP_MARGIN if given is None else given
    shapes, spacings = [case.cropped(margin) for case in facts.cases], [case.spacing for case in facts.cases]
    spacing, spacing_why = target_spacing(spacings, shapes)
    spacing = overridden("spacing", overrides) or spacing
    shape = resampled_shape(shapes, spacings, spacing)
    patch = overridden("patch_size", overrides) or plan_patch(shape, spacing, patch_voxels, max_steps)
    levels = plan_levels(spacing, patch, max_steps)
    strides, kernels = (overridden(field, overrides) for field in ("strides", "kernel_sizes"))
    strides = strides or levels.strides
    if not strides:  # of the planned patch there always are some
        raise InputError(
            f"--set patch_size={list(patch)}: no axis has the {2 * SMALLEST_MAP} voxels that a halving needs; give a larger one"
        )
    left = _cropped_share(facts, shapes)
    return {
        "crop_margin": Decision(margin, f"the original's; the non-zero box with it leaves {100 * left:.3g} % of a median image"),
        "spacing": Decision(list(spacing), spacing_why),
        "patch_size": Decision(list(patch), _patch_why(patch, shape, patch_voxels)),
        "strides": Decision([list(s) for s in strides], _strides_why(spacing, patch, strides, max_steps)),
        "kernel_sizes": Decision([list(k) for k in kernels or levels.kernel_sizes], _kernels_why(spacing, levels.kernel_sizes)),
    }, shape


def _cropped_share(facts: DatasetFacts, shapes: list[Size3]) -> float:
    shares = sorted(math.prod(shape) / math.prod(case.shape) for shape, case in zip(shapes, facts.cases, strict=True))
    return shares[len(shares) // 2]


def _patch_why(patch: Size3, shape: Size3, patch_voxels: int) -> str:
    size = " × ".join(str(n) for n in shape)
    voxels = math.prod(patch)
    covered = math.prod(min(1.0, p / n) for p, n in zip(patch, shape, strict=True))
    why = f"median image at this spacing: {size} (z, y, x); the patch has its aspect, {voxels} voxels of at most {patch_voxels}"
    return f"{why}, {100 * covered:.3g} % of it, divisible by the strides. Memory and time of training go with --patch-voxels"


def _strides_why(spacing: Spacing3, patch: Size3, strides: tuple[Size3, ...], max_steps: int) -> str:
    times = halvings(strides)
    bottom = " × ".join(f"{p / t:g}" for p, t in zip(patch, times, strict=True))
    counts = ", ".join(f"{axis} {int(math.log2(t))}" for axis, t in zip("zyx", times, strict=True))
    why = f"halvings: {counts} (at most {max_steps}), down to {bottom} voxels; an axis keeps at least 4"
    waiting = [axis for axis in range(3) if strides[0][axis] == 1 and any(s[axis] > 1 for s in strides)]
    for axis in waiting:
        step = next(i for i, s in enumerate(strides) if s[axis] > 1)
        why += (
            f"; {'zyx'[axis]} waits until step {step + 1}: its {spacing[axis]:.3g} mm are at least "
            f"twice the finest spacing before"
        )
    return why


def _kernels_why(spacing: Spacing3, kernels: tuple[Size3, ...]) -> str:
    told = [
        f"{axis} is 1 on the first {n} level{'s' * (n > 1)}, where its spacing is at least twice the finest"
        for a, axis in enumerate("zyx")
        if (n := sum(k[a] == 1 for k in kernels))
    ]
    return "; ".join(told) or f"spacings differ by a factor {max(spacing) / min(spacing):.3g}, less than 2: 3 everywhere"


def _names(facts: DatasetFacts, classes: Decisions) -> Mapping[int, str]:
    """Label value → class name."""
    by_index = {index: label for label, index in classes["labels"].value.items()}
    return {value: by_index[index] for value, index in class_values({v: n for v, n in facts.labels.items() if v}).items()}


def _organ(name: str) -> str:
    words = [word for word in name.split("_") if word not in ("ct", "cta", "cbct", "mr", "mri")]
    return " ".join(words) or name


def _ordered(decisions: Decisions) -> list[tuple[str, Decision]]:
    fields = list(Domain.model_fields)
    return sorted(decisions.items(), key=lambda item: fields.index(item[0].split(".")[0]))
