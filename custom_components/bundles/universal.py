"""The universal bundle's configurations that the template also has, so that all bundles prepare and judge images alike.

``configs/train.json`` and its overrides are the universal bundle's own. Made from the template are ``chain.json`` (what
happens to one domain's images in training), ``evaluate.json`` and ``inference.json``; ``configs/domains/<name>.json`` are
the descriptions of the domain bundles beside it. The figures of the model card and of ``metadata.json`` are those of
``docs/results/<domain>.json``, which ``evaluate.json`` wrote as ``scores.json``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from custom_components.atomic import atomic_path
from custom_components.bundles.rendering import SLOT, TEMPLATE
from custom_components.bundles.results import BEGIN, END, metrics, of_many
from custom_components.errors import InputError

__all__ = ["refresh_universal", "universal_configs", "universal_drift", "universal_files"]

NAME = "universal_segmentation"
DOMAINS = "configs/domains"
RESULTS, CARD, METADATA = "docs/results", "docs/README.md", "configs/metadata.json"

TRAINING_VALUES = ("flip_axes", "sampling", "augmentation", "image_order", "elastic_law")
DOMAIN = {
    "domain_name": "hippocampus_mri",
    "shape": None,
    "described": {
        "_target_": "custom_components.domain.Domain.from_file",
        "path": "$@bundle_root + '/configs/domains/' + @domain_name + '.json'",
    },
    "domain": "$@described if @shape is None else @described.squeezed(NetworkShape.model_validate(@shape))",
}
NETWORK = {
    "_target_": "custom_components.weights.network_on_trunk",
    "trunk": "$@ckpt_dir + '/trunk.safetensors'",
    "domain": "@domain",
    "adapter": "$@ckpt_dir + '/' + @domain_name + '.safetensors'",
}


def universal_files(folder: Path) -> dict[str, str]:
    """The generated files of the universal bundle, by their path within it.

    Args:
        folder: of the bundle; domain bundles lie beside it.

    Raises:
        InputError: it has no domains.
    """
    names = sorted(path.stem for path in (folder / DOMAINS).glob("*.json"))
    if not names:
        raise InputError(f"{folder / DOMAINS}: has no description of a domain; copy a domain bundle's configs/domain.json there")
    texts = universal_configs()
    for name in names:
        own = folder.parent / f"{name}_segmentation" / "configs" / "domain.json"
        if own.is_file():  # a domain that was imported has no bundle of its own
            texts[f"{DOMAINS}/{name}.json"] = own.read_text(encoding="utf-8")
    return texts | _figures(folder)


def universal_configs() -> dict[str, str]:
    """The configurations that the template alone gives, whatever domains the bundle has, by their path within it."""
    files = {
        "configs/chain.json": _chain(_template("train.json")),
        "configs/evaluate.json": _one_domain(_template("evaluate.json")),
        "configs/inference.json": _one_domain(_template("inference.json")),
    }
    return {name: json.dumps(values, indent=4, ensure_ascii=False) + "\n" for name, values in files.items()}


def universal_drift(folder: Path) -> list[str]:
    """Generated files that differ from what the template gives, as paths within the bundle."""
    return [name for name, text in universal_files(folder).items() if _found(folder / name) != text]


def refresh_universal(folder: Path) -> list[Path]:
    """Write the generated files anew, each whole or not at all; gives those that changed."""
    texts = universal_files(folder)
    changed = universal_drift(folder)
    for name in changed:
        with atomic_path(folder / name) as temporary:
            temporary.write_text(texts[name], encoding="utf-8")
    return [folder / name for name in changed]


def _figures(folder: Path) -> dict[str, str]:
    """Model card and metadata with the figures of ``docs/results``; none where there are no results."""
    results = {path.stem: _scores(path) for path in sorted((folder / RESULTS).glob("*.json"))}
    card, metadata = folder / CARD, folder / METADATA
    if not results or not card.is_file() or not metadata.is_file():
        return {}
    text = card.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{card}: must have {BEGIN} and {END} once each, around the figures")
    head, rest = text.split(BEGIN)
    values = json.loads(metadata.read_text(encoding="utf-8"))
    values["eval_metrics"] = {
        f"{d}_{key}": value for d, report in results.items() for key, value in metrics(report["summary"]).items()
    }
    return {
        CARD: f"{head}{BEGIN}\n{of_many(results)}\n{END}{rest.split(END)[1]}",
        METADATA: json.dumps(values, indent=4, ensure_ascii=False) + "\n",
    }


def _scores(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); copy the scores.json of an evaluation there") from None
    if not isinstance(values, dict) or not values.keys() >= {"summary", "cases", "made"}:
        raise InputError(f"{path}: is no scores.json of evaluate.json; copy that of an evaluation there")
    return values


def _chain(train: dict[str, Any]) -> dict[str, Any]:
    """One domain's transforms, in terms of ``@domain``."""
    random = copy.deepcopy(train["train"]["random_transforms"])
    for transform in random:
        if transform["_target_"] == "SelectItemsd":
            transform["keys"].append("domain")  # which domain a patch is of
    return {
        "imports": ["$import torch"],
        **{name: train[name] for name in TRAINING_VALUES},
        "deterministic_transforms": train["train"]["deterministic_transforms"],
        "random_transforms": random,
        "training": {"_target_": "Compose", "transforms": "$@deterministic_transforms + @random_transforms"},
        "validation": {"_target_": "Compose", "transforms": "@deterministic_transforms"},
        "inferer": train["validate"]["inferer"],
        "postprocessing": train["validate"]["postprocessing"],
    }


def _one_domain(config: dict[str, Any]) -> dict[str, Any]:
    """A template's configuration with the domain by its name, and the network from trunk and adapter."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key == "imports":
            value = [line for line in value if "load_model" not in line]
            value.append("$from custom_components.domain import NetworkShape")
        elif key == "domain":
            result.update(DOMAIN)
            continue
        elif key == "network_def":
            value = NETWORK
        elif key == "run":
            value = [line for line in value if "load_model" not in line]
        result[key] = value
    return result


def _template(name: str) -> dict[str, Any]:
    slots = {"bundle": NAME, "dataset": "Task04_Hippocampus", "domain": "hippocampus_mri"}
    text = (TEMPLATE / "configs" / name).read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(SLOT.sub(lambda match: str(slots.get(match[1], match[0])), text))
    values["bundle_root"] = values["bundle_root"].replace("/configs/domain.json", "/configs/chain.json")
    return values


def _found(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
