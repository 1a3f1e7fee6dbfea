"""What a person should know before training, though a plan can be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from custom_components.data.datalist import FOLDS
from custom_components.planning.decisions import rounded
from custom_components.planning.facts import DatasetFacts

__all__ = ["data_warnings"]

FEW_CASES = 20
MOSTLY_ABSENT = 0.2  # share of the cases
MIXED_SPACING = 2.0  # largest by smallest along an axis
THIN = 4  # voxels along an axis
LITTLE = 1e-4  # share of an image's voxels


def data_warnings(facts: DatasetFacts, modality: str) -> list[str]:
    """One sentence each."""
    return [*_amount(facts), *_geometry(facts), *_labels(facts), *_intensities(facts, modality)]


def _amount(facts: DatasetFacts) -> Iterator[str]:
    number = len(facts.cases)
    if number < FOLDS:
        yield f"{number} case{'s' * (number != 1)}: five folds need {FOLDS}; train with a file of folds of your own"
    elif number < FEW_CASES:
        yield f"{number} cases are few: adapt a trained trunk rather than train a network, and trust no score of so few"


def _geometry(facts: DatasetFacts) -> Iterator[str]:
    spacings = np.array([case.spacing for case in facts.cases])
    for axis, name in enumerate("zyx"):
        low, high = spacings[:, axis].min(), spacings[:, axis].max()
        if high > MIXED_SPACING * low:
            coarsest = facts.cases[int(spacings[:, axis].argmax())].name
            yield f"spacing along {name} differs from {low:.4g} to {high:.4g} mm ({coarsest}): is this one protocol?"
    orientations = Counter(case.orientation for case in facts.cases)
    if len(orientations) > 1:
        told = ", ".join(f"{name} in {count}" for name, count in orientations.most_common())
        yield f"images are stored in different orientations ({told}); all are turned to SAR, check that their headers are right"
    thin = [case.name for case in facts.cases if min(case.shape) < THIN]
    if thin:
        yield f"{len(thin)} of the images have under {THIN} slices along an axis ({_some(thin)})"


def _labels(facts: DatasetFacts) -> Iterator[str]:
    number = len(facts.cases)
    for value, name in facts.labels.items():
        absent = number - len(facts.having(value))
        if value and absent > MOSTLY_ABSENT * number:
            yield f"{name} ({value}) is absent in {absent} of {number} cases: is it not there, or not drawn?"
    empty = [case.name for case in facts.cases if not case.foreground]
    if empty:
        yield f"{len(empty)} of {number} cases have no label at all ({_some(empty)})"
    share = float(np.median([case.foreground / np.prod(case.shape) for case in facts.cases]))
    if share < LITTLE:
        yield f"labels fill {rounded(100 * share)} % of a median image: most patches that are centred anywhere show none"


def _intensities(facts: DatasetFacts, modality: str) -> Iterator[str]:
    flat = [case.name for case in facts.cases if any(c.percentiles[2.0] == c.percentiles[98.0] for c in case.channels)]
    if flat:
        yield f"{len(flat)} of the images have equal values from the 2nd to the 98th percentile ({_some(flat)}): little to see"
    lows = np.array([case.channels[0].low for case in facts.cases])
    if modality == "MR" and np.median(lows) <= -900:
        yield f"MR, but the images go down to {np.median(lows):g} as a CT in Hounsfield units does; is the modality right?"
    air = lows <= -200
    if modality == "CT" and air.any() and not air.all():
        odd = [case.name for case, low in zip(facts.cases, air, strict=True) if not low]
        yield f"CT: {len(odd)} of {len(lows)} images have no air ({_some(odd)}): Hounsfield units and offset ones mixed?"


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
