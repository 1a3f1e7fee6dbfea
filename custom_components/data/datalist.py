"""Decathlon folders as lists of cases, and their folds.

A folder ``TaskNN_Name`` holds ``dataset.json``, whose ``training`` lists pairs of image and label by relative path.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from custom_components.data.reading import image_name
from custom_components.errors import InputError
from custom_components.strict_json import parse_json

__all__ = ["Case", "Dataset", "datalist", "five_folds", "fold_names", "read_dataset"]

logger = logging.getLogger(__name__)

Case: TypeAlias = dict[str, Any]  # {"image": str | list[str], "label": str, "case": str}
Split: TypeAlias = tuple[list[str], list[str]]  # names of the training and of the validation cases

ORIGINAL_FOLDS = Path(__file__).with_name("fold_splits.json")
FOLDS = 5
SEED = 0


@dataclass(frozen=True)
class Dataset:
    """A Decathlon folder.

    Attributes:
        folder: where it lies.
        task: the folder's name, ``TaskNN_Name``.
        channels: what each image channel is, by ``modality`` of dataset.json; empty where that is absent.
        labels: label value to class name; empty where absent.
        cases: the labelled cases, sorted by name.
    """

    folder: Path
    task: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: list[Case]


def datalist(dataset_dir: str | Path, section: str = "training", fold: int = 0, folds: str | Path = "auto") -> list[Case]:
    """The cases of one side of a fold.

    Args:
        dataset_dir: a Decathlon folder.
        section: ``training``, ``validation`` (both of the fold) or ``all``.
        fold: which fold, from 0.
        folds: ``original``: the five folds of the original's table, by the folder's name; ``five``: five folds made from
            the sorted names; ``auto``: ``original`` if every case the table names is there, else ``five``; or the path
            of a JSON file ``{"fold0": {"train": [names], "val": [names]}, …}``, or of one that has this for each task.

    Returns:
        ``{"image": path or list of paths (one per channel), "label": path, "case": name}`` each, sorted by name.

    Raises:
        InputError: the folder, its dataset.json, a file that it lists or the fold is missing or malformed.
    """
    if section not in ("training", "validation", "all"):
        raise InputError(f"section '{section}': must be training, validation or all")
    dataset = read_dataset(dataset_dir)
    if section == "all":
        return dataset.cases
    names = [case["case"] for case in dataset.cases]
    train, val = fold_names(names, dataset.task, fold, folds, str(dataset.folder))
    chosen = set(train if section == "training" else val)
    return [case for case in dataset.cases if case["case"] in chosen]


def read_dataset(dataset_dir: str | Path) -> Dataset:
    """Read ``dataset.json`` and see that every file it lists is there.

    Raises:
        InputError: the folder or dataset.json is missing or malformed, a listed file is missing, or a name comes twice.
    """
    folder = Path(dataset_dir).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a Decathlon folder (TaskNN_Name, with dataset.json in it)")
    path = folder / "dataset.json"
    described = _read_json(path)
    entries = described.get("training") if isinstance(described, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path}: has no list 'training' of image and label pairs")
    cases = [
        case for index, entry in enumerate(entries) if (case := _case(folder, entry, f"{path}: training[{index}]")) is not None
    ]
    if not cases:
        raise InputError(f"{path}: lists no training case")
    files = [file for case in cases for file in (*_files(case["image"]), case["label"])]
    labels_listed = {case["label"] for case in cases}
    if missing := [file for file in files if not _is_there(Path(file), folder, file in labels_listed)]:
        raise InputError(
            f"{path}: {len(missing)} of the files it lists are missing: {_some(missing)}; download them or take them off the list"
        )
    cases.sort(key=lambda case: case["case"])
    if doubled := sorted({a["case"] for a, b in pairwise(cases) if a["case"] == b["case"]}):
        raise InputError(f"{path}: these cases are listed twice: {_some(doubled)}")
    modality, labels = described.get("modality", {}), described.get("labels", {})
    try:
        if not isinstance(modality, dict) or not isinstance(labels, dict):
            raise TypeError
        channels = tuple(str(modality[key]) for key in sorted(modality, key=int))
        classes = {int(value): str(name) for value, name in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path}: 'modality' and 'labels' must map numbers to names") from None
    return Dataset(folder, folder.resolve().name, channels, classes, cases)


def fold_names(names: list[str], task: str, fold: int, folds: str | Path = "auto", source: str = "the data set") -> Split:
    """The case names of a fold's two sides; arguments and errors as in `datalist`."""
    if str(folds) == "five":
        return _five(names, fold, source)
    if str(folds) not in ("auto", "original"):
        return _from_table(names, task, fold, Path(folds).expanduser(), source)
    table = _read_json(ORIGINAL_FOLDS)
    named = {name for sides in table.get(task, {}).values() for side in sides.values() for name in side}
    if named and named <= set(names):
        return _from_table(names, task, fold, ORIGINAL_FOLDS, source)
    why = f"{len(named - set(names))} of the {len(named)} cases it names are not there" if named else f"it has no task '{task}'"
    if str(folds) == "original":
        raise InputError(f"{source}: the original's folds cannot be used, {why}; use folds 'five' or a file of your own")
    logger.info("%s: five folds made from the %d cases there (the original's folds: %s)", source, len(names), why)
    return _five(names, fold, source)


def five_folds(names: list[str]) -> list[Split]:
    """Five folds: the sorted names shuffled with a fixed seed, every fifth to one validation side. Same names, same folds."""
    # RandomState's stream is frozen by NumPy's policy, so a fold means the same cases on every machine and version.
    shuffled = [sorted(names)[i] for i in np.random.RandomState(SEED).permutation(len(names))]
    sides = [set(shuffled[k::FOLDS]) for k in range(FOLDS)]
    return [(sorted(set(names) - side), sorted(side)) for side in sides]


def _five(names: list[str], fold: int, source: str) -> Split:
    if len(names) < FOLDS:
        raise InputError(
            f"{source}: has {len(names)} cases, five folds need at least {FOLDS}; give a file of folds, or section 'all'"
        )
    _check_fold(fold, FOLDS, source)
    return five_folds(names)[fold]


def _from_table(names: list[str], task: str, fold: int, path: Path, source: str) -> Split:
    table = _read_json(path)
    if isinstance(table, dict) and task in table:
        table = table[task]
    keys = sorted(k for k in table if k.startswith("fold")) if isinstance(table, dict) else []
    if not keys:
        raise InputError(f"{path}: has no folds for task '{task}' (keys fold0, fold1, … with lists 'train' and 'val')")
    _check_fold(fold, len(keys), str(path))
    sides = table.get(f"fold{fold}")
    try:
        train, val = [str(n) for n in sides["train"]], [str(n) for n in sides["val"]]
    except (KeyError, TypeError):
        raise InputError(f"{path}: fold{fold} must have the lists 'train' and 'val'") from None
    if not train or not val:
        raise InputError(f"{path}: fold{fold} has an empty side")
    if both := sorted(set(train) & set(val)):
        raise InputError(f"{path}: fold{fold} has cases on both sides: {_some(both)}")
    if missing := sorted((set(train) | set(val)) - set(names)):
        raise InputError(f"{path}: fold{fold} names {len(missing)} cases that {source} does not have: {_some(missing)}")
    if rest := sorted(set(names) - set(train) - set(val)):
        logger.warning(
            "%s: %d cases are on neither side of fold%d of %s and are left out: %s", source, len(rest), fold, path, _some(rest)
        )
    return train, val


def _case(folder: Path, entry: Any, where: str) -> Case | None:
    """One pair as a case; None for the twins of files that macOS leaves in archives (``._name``)."""
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or not entry.get("image"):
        raise InputError(f"{where}: must be an object with 'image' and 'label'")
    images = _files(entry["image"])
    if not all(isinstance(image, str) for image in images):
        raise InputError(f"{where}: 'image' must be a path or a list of paths")
    if any(Path(file).name.startswith("._") for file in (*images, entry["label"])):
        return None
    paths = [str(folder / image) for image in images]
    return {
        "image": paths if isinstance(entry["image"], list) else paths[0],
        "label": str(folder / entry["label"]),
        "case": image_name(entry["label"]),
    }


def _is_there(path: Path, folder: Path, label: bool) -> bool:
    """A file; for an image also the folder of a DICOM series, which is not one that the data set lies in."""
    try:
        return path.is_file() or (not label and path.is_dir() and not folder.resolve().is_relative_to(path.resolve()))
    except OSError:  # a name that is none to the system
        return False


def _files(image: str | list[str]) -> list[str]:
    return image if isinstance(image, list) else [image]


def _check_fold(fold: int, number: int, source: str) -> None:
    if not isinstance(fold, int) or isinstance(fold, bool) or not 0 <= fold < number:
        raise InputError(f"{source}: no fold {fold!r}; there are folds 0 to {number - 1}")


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
