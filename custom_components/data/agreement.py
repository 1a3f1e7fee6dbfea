"""Whether a domain's description and a data set speak of the same channels and labels."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from custom_components.data.datalist import Case, Dataset, datalist, read_dataset
from custom_components.data.reading import load_volume
from custom_components.domain import Domain
from custom_components.errors import InputError

__all__ = ["check_agreement", "check_foreground", "training_cases"]

logger = logging.getLogger(__name__)


def training_cases(domain: Domain, dataset_dir: str | Path, fold: int = 0, folds: str | Path = "auto") -> list[Case]:
    """The training cases of a fold, of a data set that the description can be trained on.

    Args:
        domain: the description.
        dataset_dir, fold, folds: as in `custom_components.data.datalist`.

    Returns:
        As `custom_components.data.datalist` gives them.

    Raises:
        InputError: as `custom_components.data.datalist`, `check_agreement` and `check_foreground`.
    """
    check_agreement(domain, read_dataset(dataset_dir))
    cases = datalist(dataset_dir, "training", fold, folds)
    check_foreground(domain, cases)
    return cases


def check_foreground(domain: Domain, cases: Sequence[Case]) -> None:
    """Ask that some case have a voxel of any class: a network that sees background alone learns to find nothing.

    Label files are read up to the first such voxel, mostly one file.

    Args:
        domain: whose classes and merges count.
        cases: as `custom_components.data.datalist` gives them, at least one.

    Raises:
        InputError: no case has one, or a label file cannot be read.
    """
    targets = {**{index: index for index in domain.labels.values()}, **domain.label_merges}
    values = torch.tensor([value for value, target in targets.items() if target])
    # Rounded, for a file's scale factor can leave 0.99999 for 1.
    if any(torch.isin(load_volume(case["label"]).as_tensor().round(), values).any() for case in cases):
        return
    raise InputError(
        f"domain '{domain.name}': none of its {len(cases)} training cases has a voxel of any class (the first label is "
        f"{cases[0]['label']}); see to its labels and label_merges"
    )


def check_agreement(domain: Domain, dataset: Dataset) -> None:
    """Ask that a description be one of this data set, before hours are spent on training.

    Names are compared without case, spaces and signs. Names that differ are logged as a warning, where the values map; what
    ``dataset.json`` leaves out (``modality``, ``labels``) is not asked for.

    Args:
        domain: the description.
        dataset: as `custom_components.data.read_dataset` gives it.

    Raises:
        InputError: the number of channels differs; the same channels stand in another order; a label value in dataset.json is
            neither a class nor merged into one; a class has no value there; or one name stands for two values.
    """
    where = f"{dataset.folder / 'dataset.json'}: 'modality'"
    if dataset.channels:
        _check_channels(domain, dataset.channels, where)
    if dataset.labels:
        _check_labels(domain, dataset.labels, f"{dataset.folder / 'dataset.json'}: 'labels'")


def _check_channels(domain: Domain, given: tuple[str, ...], where: str) -> None:
    if len(given) != len(domain.channels):
        raise InputError(
            f"{where} has {len(given)} channels ({', '.join(given)}), domain '{domain.name}' has {len(domain.channels)} "
            f"({', '.join(domain.channels)}); correct 'channels' of the description"
        )
    own, other = [_plain(name) for name in domain.channels], [_plain(name) for name in given]
    if own == other:
        return
    if sorted(own) == sorted(other):
        raise InputError(
            f"{where} has the order {', '.join(given)}, domain '{domain.name}' has {', '.join(domain.channels)}; "
            "use the data's order in the description"
        )
    logger.warning(
        "%s: channels %s are called %s in domain '%s'; are they the same?",
        where,
        ", ".join(given),
        ", ".join(domain.channels),
        domain.name,
    )


def _check_labels(domain: Domain, given: dict[int, str], where: str) -> None:
    classes = {index: name for name, index in domain.labels.items()}
    target = {value: domain.label_merges.get(value, value) for value in given}
    if lost := [value for value in given if target[value] not in classes]:
        raise InputError(
            f"{where} has {_named(given, lost)}, which domain '{domain.name}' does not know; add a class, or say in "
            "label_merges what it counts as (0 for background)"
        )
    reached = {0, *target.values()}
    if empty := [index for index in classes if index not in reached]:
        raise InputError(f"{where} has no value for {_named(classes, empty)} of domain '{domain.name}'; take the class away")
    # A name on both sides must mean the same: two classes that are swapped would be learned swapped.
    values = {_plain(name): value for value, name in given.items()}
    for index, name in classes.items():
        value = values.get(_plain(name))
        if value is not None and target[value] != index:
            raise InputError(
                f"{where} has '{given[value]}' as {value}, domain '{domain.name}' has '{name}' as {index}; "
                "use the data's values in the description"
            )
    renamed = [v for v, name in given.items() if v in classes and _plain(name) != _plain(classes[v])]
    if renamed:
        pairs = ", ".join(f"{v}: '{given[v]}' is '{classes[v]}'" for v in renamed)
        logger.warning("%s: other names than in domain '%s' (%s); are they the same?", where, domain.name, pairs)
    if unused := sorted(domain.label_merges.keys() - given.keys()):
        logger.warning("%s: no such value as %s of label_merges", where, ", ".join(map(str, unused)))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _named(names: dict[int, str], values: list[int]) -> str:
    return ", ".join(f"{value} ('{names[value]}')" for value in sorted(values))
