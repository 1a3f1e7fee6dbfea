"""Name, modality, channels and labels of a domain, from what dataset.json says and the files hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from custom_components.errors import InputError
from custom_components.planning.decisions import Decision, Decisions, rounded
from custom_components.planning.facts import DatasetFacts, label_shares

__all__ = ["check_merges", "class_values", "plan_classes", "plan_input", "plan_modality"]

_MR = re.compile(r"\b(mri?|t1\w*|t2\w*|flair|adc|dwi|pd\w*|swi|cine|bold)\b|magnetic", re.IGNORECASE)
_CT = re.compile(r"\b(cb)?cta?\b|tomography", re.IGNORECASE)

Modality = Literal["MR", "CT"]


def plan_input(facts: DatasetFacts, modality: Modality | None) -> Decisions:
    """Modality and channels.

    Raises:
        InputError: dataset.json does not tell the modality and none was given, or cases differ in their channels.
    """
    counts: dict[int, str] = {}
    for case in facts.cases:
        counts.setdefault(len(case.channels), case.name)
    if len(counts) > 1:
        told = ", ".join(f"{name} has {number}" for number, name in sorted(counts.items()))
        raise InputError(f"{facts.task}: cases differ in their number of channels ({told}); a domain has one")
    (number,) = counts
    if facts.channels and len(facts.channels) != number:
        raise InputError(
            f"{facts.task}: dataset.json names {len(facts.channels)} channels ({', '.join(facts.channels)}), "
            f"the images have {number}"
        )
    decided = plan_modality(facts.task, facts.channels, modality)
    names = list(facts.channels) or [{"MR": "MRI", "CT": "CT"}[decided.value]] * number
    why = "'modality' of dataset.json, in its order" if facts.channels else "dataset.json names none; counted in the images"
    if len(set(names)) < len(names):
        names = [f"{name} {index}" if names.count(name) > 1 else name for index, name in enumerate(names, 1)]
        why += "; numbered, for the names were equal"
    return {"modality": decided, "channels": Decision(names, why)}


def plan_classes(facts: DatasetFacts, stray: Literal["refuse", "background"]) -> Decisions:
    """Labels, merges, and what happens to values that are neither.

    A class keeps its value as index where the indices have no gap then; classes with higher values fill the gaps.

    Raises:
        InputError: no class, equal names, a class without a voxel anywhere, values that dataset.json does not name (with
            ``refuse``), or merges that domain.json cannot express.
    """
    check_merges(facts.merges, facts.labels)
    classes = _class_names(facts)
    _check_present(facts, classes)
    strays = _strays(facts, classes)
    if strays and stray == "refuse":
        cases = len(facts.cases)
        told = ", ".join(f"{value} (in {len(names)} of {cases} cases: {_some(names)})" for value, names in strays.items())
        raise InputError(
            f"{facts.task}: dataset.json does not name label value {told}; name it there, --merge it into a class, or let it "
            "count as background with --stray background"
        )
    indices = class_values(classes)
    merges = {value: index for value, index in indices.items() if value != index}
    for value, target in facts.merges.items():
        merges[value] = indices[target] if target else 0
    if taken := sorted(set(merges) & set(indices.values())):
        raise InputError(
            f"label value {taken[0]} is merged away, but is also the index of one of the {len(classes)} classes that "
            f"stay, which domain.json cannot say; number those 1 to {len(classes)} in the files first"
        )
    labels = {"background": 0, **{classes[value]: index for value, index in sorted(indices.items(), key=lambda i: i[1])}}
    return {
        "labels": Decision(labels, _labels_why(facts, classes)),
        "label_merges": Decision(merges, _merges_why(facts, indices)),
        "stray_labels": Decision(stray, _stray_why(facts, strays)),
    }


def class_values(classes: Mapping[int, str] | Mapping[int, int]) -> dict[int, int]:
    """Label value → class index without gaps: values up to the number of classes keep theirs, others fill what is free."""
    number = len(classes)
    kept = [value for value in sorted(classes) if value <= number]
    free = iter([index for index in range(1, number + 1) if index not in kept])
    return {value: value if value in kept else next(free) for value in sorted(classes)}


def check_merges(merges: Mapping[int, int], labels: Mapping[int, str]) -> None:
    """
    Raises:
        InputError: a value is to be merged into one that is neither the background nor named.
    """
    for value, target in merges.items():
        if target and target not in labels:
            named = _listed({v: n for v, n in labels.items() if v and v not in merges})
            raise InputError(f"--merge {value}:{target}: dataset.json names no label {target}; it has {named or 'none'}")


def plan_modality(task: str, channels: Sequence[str], modality: Modality | None) -> Decision:
    """MR or CT: as given, else as all channels say.

    Raises:
        InputError: none was given, and they say neither, or both.
    """
    named = ", ".join(channels) or "nothing"
    if modality is not None:
        return Decision(modality, f"given; dataset.json says {named}")
    mr, ct = ([bool(pattern.search(channel)) for channel in channels] for pattern in (_MR, _CT))
    if channels and all(mr) and not any(ct):
        return Decision("MR", f"dataset.json says {named}")
    if channels and all(ct) and not any(mr):
        return Decision("CT", f"dataset.json says {named}")
    what = "both MR and CT" if any(mr) and any(ct) else "neither MR nor CT"
    raise InputError(
        f"{task}: its channels ({named}) tell {what}, and a domain has one modality, which decides how intensities are "
        "read; give --modality MR or --modality CT"
    )


def _class_names(facts: DatasetFacts) -> dict[int, str]:
    named = {value: _identifier(name) for value, name in facts.labels.items() if value != 0}
    if not named:
        raise InputError(f"{facts.task}: dataset.json names no label beside the background; name them under 'labels'")
    if wrong := [value for value in named if not 0 < value <= 255]:
        raise InputError(f"{facts.task}: dataset.json names label value {wrong[0]}; values must lie between 1 and 255")
    for value, name in named.items():
        if name == "background" or list(named.values()).count(name) > 1 or not name:
            raise InputError(
                f"{facts.task}: label {value} is called '{facts.labels[value]}' in dataset.json, which is the background's name, "
                "another label's or empty; give every label a name of its own"
            )
    return named


def _check_present(facts: DatasetFacts, classes: Mapping[int, str]) -> None:
    present = {value for case in facts.cases for value, label in case.labels.items() if label.voxels}
    if not present & set(classes):
        raise InputError(f"{facts.task}: no case has a voxel of {_listed(classes)}: there is nothing to learn; check labelsTr")
    if absent := [value for value in classes if value not in present]:
        named = _listed({value: classes[value] for value in absent})
        raise InputError(f"{facts.task}: no case has a voxel of {named}; take it off 'labels' of dataset.json")


def _strays(facts: DatasetFacts, classes: Mapping[int, str]) -> dict[int, list[str]]:
    """Values that are no class → names of the cases that have them."""
    values = sorted({value for case in facts.cases for value in case.labels} - set(classes))
    found = {value: [case.name for case in facts.having(value)] for value in values}
    return {value: names for value, names in found.items() if names}


def _labels_why(facts: DatasetFacts, classes: Mapping[int, str]) -> str:
    shares = label_shares(facts)
    told = ", ".join(f"{classes[value]} {rounded(100 * share)} %" for value, share in shares.items())
    rarest = f"; rarest: {classes[min(shares, key=lambda value: shares[value])]}" if len(shares) > 1 else ""
    return f"'labels' of dataset.json; of a median case's labelled voxels: {told}{rarest}"


def _merges_why(facts: DatasetFacts, indices: Mapping[int, int]) -> str:
    parts = [f"--merge {value}:{target}" for value, target in facts.merges.items()]
    parts += [f"value {value} becomes class {index}: indices have no gaps" for value, index in indices.items() if value != index]
    return "; ".join(parts) or "values are class indices already"


def _stray_why(facts: DatasetFacts, strays: Mapping[int, list[str]]) -> str:
    if not strays:
        return f"no value outside 'labels' of dataset.json in {len(facts.cases)} cases"
    counts = {value: sum(case.labels[value].voxels for case in facts.having(value)) for value in strays}
    told = ", ".join(f"{value} ({counts[value]} voxels in {len(names)} cases)" for value, names in strays.items())
    return f"--stray background; dataset.json does not name {told}"


def _identifier(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _listed(classes: Mapping[int, str]) -> str:
    return ", ".join(f"{value} ({name})" for value, name in sorted(classes.items()))


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
