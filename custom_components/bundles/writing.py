"""Bundles on disk: written whole or not at all, refreshed from their own sources, compared with the template."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from custom_components.atomic import atomic_path
from custom_components.bundles.facts import Facts
from custom_components.bundles.rendering import compact_json, generated_files
from custom_components.domain import Domain
from custom_components.errors import InputError

__all__ = ["drift", "refresh_bundle", "write_bundle"]

DOMAIN = "configs/domain.json"
FACTS = "docs/facts.json"
RESULTS = "docs/results.json"
PARTS = "docs/parts"


def write_bundle(domain: Domain, folder: str | Path, *, dataset: str, facts: Facts | None = None, refresh: bool = False) -> Path:
    """Write a complete bundle of a domain, ready to train.

    Args:
        domain: the task.
        folder: of the bundle, ``bundles/<name>_segmentation``; it must not exist. Built under a temporary name beside it
            and then renamed.
        dataset: name of the data set's folder, ``TaskNN_Name``.
        facts: what a person wrote about the bundle; None takes `Facts.for_domain`, to be edited in ``docs/facts.json``.
        refresh: the folder exists and holds this domain: write its generated files anew and nothing else (see
            `refresh_bundle`; its own ``docs/facts.json`` counts).

    Returns:
        The folder.

    Raises:
        InputError: the folder exists (with ``refresh``: is no bundle, or another domain's), cannot be written, or the facts
            do not belong to the domain. Nothing is left then.
    """
    folder = Path(folder)
    if refresh:
        if Domain.from_file(folder / DOMAIN) != domain:
            raise InputError(f"{folder / DOMAIN}: is not the domain that was given; edit that file, then refresh the bundle")
        own = Facts.from_file(folder / FACTS).dataset
        if own != dataset:
            raise InputError(f"{folder / FACTS}: is about {own}, not {dataset}; edit that file, then refresh the bundle")
        refresh_bundle(folder)
        return folder
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder}: exists already; choose another folder, or refresh the generated files only")
    facts = facts or Facts.for_domain(domain, dataset)
    if facts.dataset != dataset:
        raise InputError(f"{folder}: the facts are about {facts.dataset}, not {dataset}; give facts of the same data set")
    sources = {
        DOMAIN: compact_json(domain.model_dump(mode="json")) + "\n",
        FACTS: compact_json(facts.model_dump(mode="json", exclude_defaults=True)) + "\n",
    }
    generated = generated_files(domain, facts, folder.resolve().name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to") from None
    try:
        for name, text in {**sources, **generated}.items():
            if text is not None:
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        (temporary / "models").mkdir(exist_ok=True)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)  # mkdtemp makes private folders
        os.rename(temporary, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def refresh_bundle(folder: str | Path) -> list[Path]:
    """Write the generated files of a bundle anew from its own sources, each whole or not at all.

    Sources are ``configs/domain.json``, ``docs/facts.json``, ``docs/parts/*.md`` and ``docs/results.json``; they, the
    weights and any other file stay as they are.

    Returns:
        The files that changed.

    Raises:
        InputError: a source is missing or malformed, or a file cannot be written.
    """
    folder = Path(folder)
    files = _wanted(folder)
    changed = [name for name, text in files.items() if _found(folder / name) != text]
    for name in changed:
        text = files[name]
        if text is None:
            (folder / name).unlink()
            continue
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in changed]


def drift(folder: str | Path) -> list[str]:
    """Generated files of a bundle that differ from what its sources and the template give, as paths within it.

    Raises:
        InputError: a source is missing or malformed.
    """
    return [name for name, text in _wanted(Path(folder)).items() if _found(Path(folder) / name) != text]


def _wanted(folder: Path) -> dict[str, str | None]:
    domain, facts = Domain.from_file(folder / DOMAIN), Facts.from_file(folder / FACTS)
    parts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / PARTS).glob("*.md"))}
    return generated_files(domain, facts, folder.resolve().name, parts, _results(folder / RESULTS))


def _results(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); copy the scores.json of an evaluation there") from None
    if not isinstance(values, dict) or "summary" not in values:
        raise InputError(f"{path}: is no scores.json of evaluate.json; copy that of an evaluation there")
    return values


def _found(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
