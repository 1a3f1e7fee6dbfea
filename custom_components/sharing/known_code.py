"""What in a bundle is code, and which of it is not this project's.

A MONAI configuration is code: ``$`` expressions are evaluated, ``_target_`` is called, ``%`` takes in another file, and
``logging.conf`` is evaluated as well. Python files are code. What is the same here as in the project that looks at it needs no
second reading; the rest is listed, for a person to read before MONAI's tools run it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import custom_components
from custom_components.bundles.rendering import SLOT, TEMPLATE
from custom_components.errors import InputError

__all__ = ["CONFIGS", "PROJECT", "foreign_code", "is_path", "json_files", "last_part"]

PACKAGE = Path(custom_components.__file__).parent
PROJECT = PACKAGE.parent
"""The repository, where the package is used from one; its scripts and the universal bundle are known code, too."""

CONFIGS = "configs/"
DATA = {".json", ".md", ".txt", ".png", ".safetensors", ".pt", ".yml", ".sig"}
PLAIN = {"LICENSE"}
LOGGING = "configs/logging.conf"
SHOWN = 10
SEPARATOR, MERGE = re.compile("#|::"), "+"
"""In keys: MONAI takes ``a#b`` and ``a::b`` for ``b`` within ``a``, and adds to ``a`` at ``+a`` (ConfigParser, merge_kv)."""


def foreign_code(folder: Path, files: Iterable[str]) -> list[str]:
    """One line for each thing that may run with the bundle and is not this project's.

    Args:
        folder: of the bundle.
        files: those that are in it, by their path within.
    """
    files = sorted(files)
    return [*_expressions(folder, files), *_modules(folder, files)]


def json_files(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """The content of every JSON file.

    Raises:
        InputError: one is not valid JSON.
    """
    return {name: _json(folder / name) for name in sorted(files) if name.endswith(".json")}


def is_path(key: str) -> bool:
    """Whether MONAI takes a key for a place elsewhere in the configuration."""
    return key.startswith(MERGE) or SEPARATOR.search(key) is not None


def last_part(key: str) -> str:
    """The key that is set in the end: ``_target_`` of ``a::_target_``."""
    return SEPARATOR.split(key)[-1].lstrip(MERGE)


def _expressions(folder: Path, files: Sequence[str]) -> Iterator[str]:
    known, keys = _known()
    for name in files:
        if not name.startswith(CONFIGS) or not name.endswith(".json"):
            continue
        values = _json(folder / name)
        for place, key, _ in _items(values):
            if is_path(key) and not any(pattern.fullmatch(key) for pattern in keys):
                yield f"{name}, {place[:160]}: the key {key[:160]!r} changes another part, and is none of this project's"
        for place, text in _code(values):
            if not any(pattern.fullmatch(text) for pattern in known):
                yield f"{name}, {place}: {text[:160]!r} is no expression of this project's template"
    for name in files:
        if name.startswith(CONFIGS) and not name.endswith(".json"):
            same = name == LOGGING and (folder / name).read_bytes() == (TEMPLATE / name).read_bytes()
            if not same:
                yield f"{name}: is not this project's, and MONAI evaluates such files"


def _modules(folder: Path, files: Sequence[str]) -> Iterator[str]:
    """Python and everything else that is no data: a module in the bundle's root is imported before an installed one."""
    other: dict[str, list[str]] = {"differs from this project's": [], "is not this project's": []}
    for name in files:
        path = Path(name)
        if name.startswith(f"{PACKAGE.name}/"):
            own = PROJECT / name
        elif name.startswith(CONFIGS) or path.suffix in DATA or name in PLAIN:
            continue
        else:
            own = PROJECT / "scripts" / name
        if not own.is_file():
            other["is not this project's"].append(name)
        elif own.read_bytes() != (folder / name).read_bytes():
            other["differs from this project's"].append(name)
    for what, names in other.items():
        if names:
            rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"code that {what} (version {custom_components.__version__}): {', '.join(names[:SHOWN])}{rest}"


def _known() -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
    """What this project's configurations evaluate, and their keys that are paths; a slot stands for a name."""
    found: set[str] = set()
    keys: set[str] = set()
    for folder in (TEMPLATE / "configs", PROJECT / "bundles" / "universal_segmentation" / "configs"):
        for path in sorted(folder.rglob("*.json")):
            values = _json(path)
            found |= {text for _, text in _code(values)}
            keys |= {key for _, key, _ in _items(values) if is_path(key)}
    # The universal bundle's own copies of the template's expressions are made by custom_components.bundles.universal.
    from custom_components.bundles.universal import DOMAIN, NETWORK

    found |= {text for made in (DOMAIN, NETWORK) for _, text in _code(made)}
    found.add("$from custom_components.domain import NetworkShape")
    return _patterns(found), _patterns(keys)


def _patterns(texts: Iterable[str]) -> list[re.Pattern[str]]:
    return [re.compile(r"[A-Za-z0-9_.-]+".join(map(re.escape, SLOT.split(text)[::2]))) for text in sorted(texts)]


def _code(values: Any) -> Iterator[tuple[str, str]]:
    """Every text that MONAI would evaluate, call or follow, with its place."""
    for place, key, value in _items(values):
        if isinstance(value, str) and (last_part(key) == "_target_" or value.lstrip().startswith(("$", "%"))):
            yield place, value


def _items(values: Any) -> Iterator[tuple[str, str, Any]]:
    """Everything within, with its place and the key it stands under ("" in a list)."""
    # Without recursion: what is looked at may be made to be deep.
    waiting: list[tuple[str, str, Any]] = [("", "", values)]
    while waiting:
        place, key, value = waiting.pop()
        yield place, key, value
        head = f"{place}#" if place else ""
        if isinstance(value, dict):
            waiting += [(f"{head}{name}", str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{head}{index}", "", inner) for index, inner in enumerate(value)]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None
