"""What lies beside a bundle in its zip and is followed by the person who unpacks it: ``README.md`` and ``requirements.txt``.

Both are made from this project's and from the manifest, so that a receiver can make them anew: a README that names another
command, or a list that names another package, is code that a person runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from custom_components.errors import InputError
from custom_components.sharing.known_code import PROJECT
from custom_components.sharing.manifest import DomainEntry, Manifest

__all__ = ["README", "REQUIREMENTS", "foreign_texts", "readme_text", "requirements_text"]

README, REQUIREMENTS = "README.md", "requirements.txt"
METADATA = "configs/metadata.json"
TEMPLATE = Path(__file__).with_name("README.template.md")
NOT_FOR_BUNDLES = {"nilearn"}  # the quickstart's brain


def foreign_texts(folder: Path, files: Iterable[str], manifest: Manifest) -> Iterator[str]:
    """One line for each of the two that is not what packaging would write, or could not be compared.

    Args:
        folder: of the bundle.
        files: those that are in it, by their path within.
        manifest: of the bundle.
    """
    files = set(files)
    if REQUIREMENTS in files:
        own = PROJECT / REQUIREMENTS
        if not own.is_file():
            yield f"{REQUIREMENTS}: could not be compared with this project's, which is not at hand; pip installs what it names"
        elif _bytes(folder / REQUIREMENTS) != requirements_text(own).encode():
            yield f"{REQUIREMENTS}: is not this project's (pip installs what it names)"
    if README in files:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8")) if METADATA in files else {}
        expected = readme_text(manifest.name, metadata, manifest.domains, manifest.trunk)
        if _bytes(folder / README) != expected.encode():
            yield f"{README}: is not what this project writes for such a bundle (it names commands)"


def requirements_text(source: Path) -> str:
    """The project's tested versions, without what bundles do not use."""
    lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#") and line.split("==")[0] not in NOT_FOR_BUNDLES]
    head = "# Versions that were tested together on Python 3.11. A torch build for your GPU can be installed first: it stays.\n"
    return head + "\n".join(pins) + "\n"


def readme_text(name: str, metadata: Mapping[str, Any], domains: tuple[DomainEntry, ...], trunk: str) -> str:
    """The way from an empty environment to a label, for one bundle.

    Args:
        name: of its folder.
        metadata: ``configs/metadata.json``.
        domains: at least one.
        trunk: its fingerprint.
    """
    many = len(domains) > 1
    slots = {
        "title": _line(metadata.get("name", name)),
        "description": _line(metadata.get("description", "")),
        "name": name,
        "version": _line(metadata.get("version")),
        "trunk": trunk,
        "domains": "\n".join(_row(domain) for domain in domains),
        "domain_option": f" --domain {domains[0].name}" if many else "",
        "domain_name": f" --domain_name {domains[0].name}" if many else "",
        "domain_note": "\n`--domain` says which of the domains above; it can be given several times.\n" if many else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: slots[match[1]], TEMPLATE.read_text(encoding="utf-8"))


def _row(domain: DomainEntry) -> str:
    return f"| `{domain.name}` | {domain.organ} | {domain.modality} | {', '.join(domain.classes)} |"


def _line(value: Any) -> str:
    """On one line, so that what somebody tells of a bundle cannot be a chapter with commands of its own."""
    return " ".join(str(value).split())


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
