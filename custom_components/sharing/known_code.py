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
from custom_components.bundles import drift
from custom_components.bundles.rendering import SLOT, TEMPLATE
from custom_components.errors import InputError

__all__ = ["foreign_code", "json_files"]

PACKAGE = Path(custom_components.__file__).parent
PROJECT = PACKAGE.parent
"""The repository, where the package is used from one; its scripts and the universal bundle are known code, too."""

CONFIGS = "configs/"
DATA = {".json", ".md", ".txt", ".png", ".safetensors", ".pt", ".yml", ".sig"}
PLAIN = {"LICENSE"}
LOGGING = "configs/logging.conf"
SHOWN = 10


def foreign_code(folder: Path, files: Iterable[str]) -> list[str]:
    """One line for each thing that may run with the bundle and is not this project's.

    Args:
        folder: of the bundle.
        files: those that are in it, by their path within.
    """
    files = sorted(files)
    return [*_expressions(folder, files), *_modules(folder, files), *_values(folder)]


def json_files(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """The content of every JSON file.

    Raises:
        InputError: one is not valid JSON.
    """
    return {name: _json(folder / name) for name in sorted(files) if name.endswith(".json")}


def _expressions(folder: Path, files: Sequence[str]) -> Iterator[str]:
    known = _known()
    for name in files:
        if not name.startswith(CONFIGS) or not name.endswith(".json"):
            continue
        for place, text in _code(_json(folder / name)):
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


def _values(folder: Path) -> Iterator[str]:
    """Configurations of a domain's bundle that are not what its own sources and the template give, plain values included."""
    if not (folder / "docs" / "facts.json").is_file():
        return
    try:
        differing = [name for name in drift(folder) if name.startswith(CONFIGS)]
    except InputError as error:
        yield f"configurations cannot be made anew to compare them: {error}"
        return
    if differing:
        yield f"differ from what this project's template gives: {', '.join(differing)}"


def _known() -> list[re.Pattern[str]]:
    found: set[str] = set()
    for folder in (TEMPLATE / "configs", PROJECT / "bundles" / "universal_segmentation" / "configs"):
        for path in sorted(folder.rglob("*.json")):
            found |= {text for _, text in _code(_json(path))}
    # The universal bundle's own copies of the template's expressions are made by custom_components.bundles.universal.
    from custom_components.bundles.universal import DOMAIN, NETWORK

    found |= {text for values in (DOMAIN, NETWORK) for _, text in _code(values)}
    found.add("$from custom_components.domain import NetworkShape")
    return [re.compile(r"[A-Za-z0-9_.-]+".join(map(re.escape, SLOT.split(text)[::2]))) for text in sorted(found)]


def _code(values: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text that MONAI would evaluate, call or follow, with its place."""
    # Without recursion: what is looked at may be made to be deep.
    waiting: list[tuple[str, Any]] = [(place, values)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                where = f"{place}#{key}" if place else str(key)
                if key == "_target_" and isinstance(inner, str) and not inner.startswith(("$", "%")):
                    yield where, inner
                waiting.append((where, inner))
        elif isinstance(value, list):
            waiting += [(f"{place}#{index}", inner) for index, inner in enumerate(value)]
        elif isinstance(value, str) and value.lstrip().startswith(("$", "%")):
            yield place, value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None
