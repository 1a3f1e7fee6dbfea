"""Which plain values of a bundle's configurations are not this project's.

A value can do what code does: ``LoadImaged`` calls the reader that a string names. So it is not enough that every expression
and every ``_target_`` is known. A domain's bundle is made anew from its description and compared; one of many domains is
compared with this project's own. What cannot be compared is said to be so: nobody looked at it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_components.bundles import drift, universal_configs
from custom_components.bundles.rendering import TEMPLATE
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.sharing.known_code import CONFIGS, PROJECT, is_path, json_files, last_part

__all__ = ["foreign_values"]

FACTS, DESCRIPTION, DESCRIPTIONS = "docs/facts.json", "configs/domain.json", "configs/domains/"
METADATA = "configs/metadata.json"
UNIVERSAL = Path("bundles") / "universal_segmentation"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def foreign_values(folder: Path, files: Iterable[str]) -> list[str]:
    """One line for each way in which the values of configurations differ from this project's, or could not be compared.

    Args:
        folder: of the bundle.
        files: those that are in it, by their path within.
    """
    names = sorted(name for name in files if name.startswith(CONFIGS) and name.endswith(".json"))
    try:
        if any(name.startswith(DESCRIPTIONS) for name in names):
            return list(_of_many(folder, names))
        return list(_of_one(folder, names))
    except InputError as error:
        return [f"values of configurations could not be compared: {error}"]


def _of_one(folder: Path, names: Sequence[str]) -> Iterator[str]:
    if not (folder / FACTS).is_file():
        yield f"values of configurations could not be compared: {FACTS}, from which they are made, is not in the bundle"
        return
    differing = [name for name in drift(folder) if name.startswith(CONFIGS)]
    if differing:
        yield f"differ from what this project's template gives: {', '.join(differing)}"
    yield from _others(set(names) - {DESCRIPTION, *(f"{CONFIGS}{path.name}" for path in (TEMPLATE / "configs").iterdir())})


def _of_many(folder: Path, names: Sequence[str]) -> Iterator[str]:
    own = PROJECT / UNIVERSAL
    paths = [path.relative_to(own).as_posix() for path in sorted((own / "configs").glob("*.json"))]
    known = json_files(own, paths) | {name: json.loads(text) for name, text in universal_configs().items()}
    found = json_files(folder, names)
    differing, others = [], []
    for name in names:
        if name == METADATA:
            if any(_does_more(key) for key in _keys(found[name])):
                yield f"{name}: has keys that MONAI takes for more than metadata"
        elif name.startswith(DESCRIPTIONS) and name.count("/") == DESCRIPTIONS.count("/"):
            Domain.from_file(folder / name)
        elif name not in known:
            others.append(name)
        elif not _same(found[name], known[name]):
            differing.append(name)
    if differing:
        yield f"differ from what this project's {UNIVERSAL.name} has: {', '.join(differing)}"
    yield from _others(others)


def _others(names: Iterable[str]) -> Iterator[str]:
    if names := sorted(names):
        yield f"values could not be compared, for this project has no such configurations: {', '.join(names)}"


def _same(found: Any, known: Any) -> bool:
    """Whether two configurations are equal but for what a bundle's own domains change."""
    if isinstance(found, dict) and isinstance(known, dict):
        free = {key for key in found.keys() & known.keys() & FREE.keys() if FREE[key](found[key])}
        found, known = ({key: None if key in free else value for key, value in values.items()} for values in (found, known))
    # As text: 1, 1.0 and True are equal in Python, and the order of keys is that in which MONAI sets them.
    return json.dumps(found) == json.dumps(known)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_folders(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_name(key) and _is_text(folder) for key, folder in value.items())


FREE = {"domain_name": _is_name, "domains": _are_texts, "dataset_dir": _is_text, "dataset_dirs": _are_folders}
"""Which domains, and where their images are: a bundle's own. Expressions in them are judged as all are."""


def _does_more(key: str) -> bool:
    return is_path(key) or last_part(key).startswith("_")


def _keys(values: Any) -> Iterator[str]:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from map(str, value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
