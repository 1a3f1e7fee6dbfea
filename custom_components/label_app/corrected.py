"""The labels that people have corrected, as a data set to train one domain with.

A viewer numbers the segments of a scene as they come: the liver may be 1 in one label and 5 in the next. So a label's values
are read by the names that it was saved with (``label_info``), and become the domain's indices.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor

from custom_components.atomic import atomic_path
from custom_components.data import image_name, read_image, read_label
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference.segmenter import Segmentation

__all__ = ["CorrectedCase", "Datastore", "corrected_cases", "write_dataset"]

logger = logging.getLogger(__name__)

TAG = "final"  # what MONAI Label calls the labels that a person has submitted
SEED = 0


class Datastore(Protocol):
    """What is used of MONAI Label's datastores."""

    def list_images(self) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...
    def get_label_by_image_id(self, image_id: str, tag: str) -> str: ...
    def get_label_uri(self, label_id: str, label_tag: str) -> str: ...
    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class CorrectedCase:
    """An image and the domain's classes on it.

    Attributes:
        name: the image's id in the datastore.
        image: its file.
        label: (1, X, Y, Z), uint8, the domain's indices, on the image's grid.
    """

    name: str
    image: Path
    label: MetaTensor


def corrected_cases(datastore: Datastore, domain: Domain, by_value: bool = False) -> list[CorrectedCase]:
    """The images whose submitted label has a class of the domain, by name. Classes of other domains become background.

    Args:
        datastore: of MONAI Label.
        domain: what is to be trained.
        by_value: take labels that were saved without names as the domain's own values; False leaves them out.

    Raises:
        InputError: a label is not on its image's grid, or has a value that has no name; or a file cannot be read.
    """
    cases = []
    for name in sorted(datastore.list_images()):
        label_id = datastore.get_label_by_image_id(name, TAG)
        if not label_id:
            continue
        path = datastore.get_label_uri(label_id, TAG)
        names = _names(datastore.get_label_info(label_id, TAG), path)
        if not names and not by_value:
            logger.warning("%s: was saved without the names of its values (label_info), so it is left out", path)
            continue
        image_path = Path(datastore.get_image_uri(name))
        image = read_image(image_path, domain.in_channels)
        label = read_label(path, image)
        values = label.as_tensor().round().to(torch.int64)
        found = _by_name(values, names, domain, path) if names else _by_value(values, domain, path)
        if not found.any():
            logger.info("%s: has no class of domain '%s', so it is left out", path, domain.name)
            continue
        absent = [c for c in domain.classes if not (found == domain.labels[c]).any()]
        if absent:
            logger.warning("%s: has no voxel of %s: the training takes that for background", path, ", ".join(absent))
        cases.append(CorrectedCase(name, image_path, MetaTensor(found.to(torch.uint8), affine=image.affine)))
    return cases


def write_dataset(cases: list[CorrectedCase], domain: Domain, folder: Path, validation: float) -> str:
    """Write a Decathlon folder: ``dataset.json``, links to the images, the labels, and ``folds.json`` with one fold.

    Args:
        cases: at least two.
        domain: of the labels.
        folder: made if it is missing.
        validation: the share of the cases that judge which weights are best; at least one of them does.

    Returns:
        Twelve digits that stand for the cases, their images and their labels: equal ones, equal digits.

    Raises:
        InputError: too few cases, or the folder cannot be written to.
    """
    if len(cases) < 2:
        raise InputError(
            f"domain '{domain.name}': {len(cases)} images have submitted labels with its classes "
            f"({', '.join(domain.classes)}), training needs 2 or more; submit labels and train again"
        )
    digest = hashlib.sha256(domain.to_json().encode())
    listed = []
    for case in cases:
        image = folder / "imagesTr" / f"{case.name}{_suffix(case.image)}"
        label = folder / "labelsTr" / f"{case.name}.nii.gz"
        _link(case.image, image)
        Segmentation(case.label, {}, {}).save(label)
        digest.update(repr((case.name, case.image.stat().st_mtime_ns, case.image.stat().st_size)).encode())
        digest.update(case.label.numpy().tobytes())
        listed.append({"image": str(image.relative_to(folder)), "label": str(label.relative_to(folder))})
    described = {
        "name": domain.name,
        "modality": {str(index): channel for index, channel in enumerate(domain.channels)},
        "labels": {str(index): name for name, index in domain.labels.items()},
        "training": listed,
    }
    names = [case.name for case in cases]
    shuffled = [names[i] for i in np.random.RandomState(SEED).permutation(len(names))]
    count = min(len(names) - 1, max(1, round(validation * len(names))))
    fold = {"fold0": {"train": sorted(shuffled[count:]), "val": sorted(shuffled[:count])}}
    for name, value in (("dataset.json", described), ("folds.json", fold)):
        with atomic_path(folder / name) as path:
            path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    digest.update(json.dumps(fold).encode())
    return digest.hexdigest()[:12]


def _names(info: Mapping[str, Any], path: str) -> dict[int, str]:
    """Label value to name: as 3D Slicer and OHIF save it, or as an inference of this server describes what it made."""
    entries, made = info.get("label_info"), info.get("params")
    try:
        if entries:
            return {int(entry["idx"] if "idx" in entry else entry["id"]): str(entry["name"]) for entry in entries}
        if isinstance(made, Mapping) and made.get("label_names"):
            return {int(value): str(name) for name, value in made["label_names"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise InputError(
            f"{path}: its label_info must be a list such as [{{'name': 'liver', 'idx': 1}}], is {entries or made}; submit again"
        ) from None
    return {}


def _by_name(values: torch.Tensor, names: Mapping[int, str], domain: Domain, path: str) -> torch.Tensor:
    own = {_plain(name): index for name, index in domain.labels.items()}
    result = torch.zeros_like(values)
    for value in values.unique().tolist():
        if value == 0:
            continue
        if value not in names:
            listed = ", ".join(f"{v} '{n}'" for v, n in sorted(names.items()))
            raise InputError(f"{path}: has the value {value}, its names (label_info) are {listed}; submit the label again")
        result[values == value] = own.get(_plain(names[value]), 0)
    return result


def _by_value(values: torch.Tensor, domain: Domain, path: str) -> torch.Tensor:
    known = {**{index: index for index in domain.labels.values()}, **domain.label_merges}
    result = torch.zeros_like(values)
    for value in values.unique().tolist():
        if value not in known:
            raise InputError(f"{path}: has the value {value}, which domain '{domain.name}' does not know; name its values")
        result[values == value] = known[value]
    return result


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _suffix(path: Path) -> str:
    return path.name[len(image_name(path)) :]


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.symlink(source.resolve(), target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another --state-dir") from None
