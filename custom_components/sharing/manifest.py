"""The manifest of a bundle that travels: every file with its size and SHA-256, and what the bundle is.

It lies in the bundle's root as ``manifest.json`` and lists every file but itself and its signature. Equal bundles have equal
manifests, to the byte: no time of packaging is in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from custom_components.archives.names import check_names, check_path
from custom_components.errors import InputError
from custom_components.sharing.large_files import check_may_be_large
from custom_components.strict_json import parse_json

__all__ = [
    "MANIFEST_FILE",
    "SIGNATURE_FILE",
    "DomainEntry",
    "FileEntry",
    "Licence",
    "Manifest",
    "Provenance",
    "parse_manifest",
    "read_manifest",
]

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"

MAX_BYTES = 4 * 2**20
MAX_FILES = 10_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(_Strict):
    """One file.

    Attributes:
        path: within the bundle, with ``/``.
        size: bytes.
        sha256: of its bytes.
        large: it may be absent, to be had from where ``large_files.yml`` says; weights only.
    """

    path: str
    size: Annotated[int, Field(ge=0, lt=2**50)]
    sha256: Sha256
    large: bool = False


class DomainEntry(_Strict):
    """One domain.

    Attributes:
        name: of the domain.
        adapter: fingerprint of its adapter's tensors.
        organ, modality, classes: as its description has them.
    """

    name: Line
    adapter: Sha256
    organ: Line
    modality: Line
    classes: tuple[Line, ...]


class Licence(_Strict):
    """SPDX identifiers or names; the texts are ``LICENSE`` and ``docs/data_license.txt``."""

    code: Line
    weights: Line


class Provenance(_Strict):
    """Where the bundle comes from.

    Attributes:
        project, project_version: whose code is in it.
        commit: of git; None where the project was no checkout.
        modified: whether files differed from that commit; None where there is none.
        packages: versions that it was tested with, as its metadata names them.
    """

    project: Line
    project_version: Line
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")] | None = None
    modified: bool | None = None
    packages: dict[Line, Line]


class Manifest(_Strict):
    """See the module.

    Attributes:
        name: of the bundle's folder.
        version: of the bundle.
        trunk: fingerprint of the trunk's tensors.
        domains: by name.
        licence, provenance: what they say.
        files: by path.
    """

    format: Literal[1] = 1
    kind: Literal["u2net bundle"] = "u2net bundle"
    name: FolderName
    version: Line
    trunk: Sha256
    domains: Annotated[tuple[DomainEntry, ...], Field(min_length=1)]
    licence: Licence
    provenance: Provenance
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_FILES)]

    def to_bytes(self) -> bytes:
        """The file's bytes; `parse_manifest` of them gives an equal manifest."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=True) + "\n").encode("ascii")

    @property
    def by_path(self) -> dict[str, FileEntry]:
        """The files by their path."""
        return {entry.path: entry for entry in self.files}


def read_manifest(bundle_dir: str | Path) -> Manifest:
    """The manifest of a bundle's folder.

    Raises:
        InputError: there is none, or see `parse_manifest`.
    """
    return parse_manifest(manifest_bytes(bundle_dir), str(Path(bundle_dir) / MANIFEST_FILE))


def manifest_bytes(bundle_dir: str | Path) -> bytes:
    """The bytes of a bundle's manifest, which its signature is of.

    Raises:
        InputError: there is none, or it is no file, or too large.
    """
    path = Path(bundle_dir) / MANIFEST_FILE
    try:
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{path}: no such file, so nothing says what the bundle should hold; get one that was packaged")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES} bytes, which no manifest is")
    return data


def parse_manifest(data: bytes, source: str = MANIFEST_FILE) -> Manifest:
    """A manifest from its bytes.

    Args:
        data: of ``manifest.json``.
        source: its name for the message.

    Raises:
        InputError: it is no JSON object or repeats a key, a field is unknown, missing or malformed, or a path is one that
            a bundle may not hold or comes twice, or a file that is no weights is said to be large.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{source}: is larger than {MAX_BYTES} bytes, which no manifest is")
    try:
        values = parse_json(data)
    except ValueError as error:
        raise InputError(f"{source}: is not valid JSON ({error or type(error).__name__}); the file was changed") from None
    if not isinstance(values, dict):
        raise InputError(f"{source}: must hold one JSON object, holds {type(values).__name__}")
    if values.get("format") != 1 or values.get("kind") != "u2net bundle":
        found = f"kind {str(values.get('kind'))[:40]!r}, format {str(values.get('format'))[:40]!r}"
        raise InputError(f"{source}: is no manifest that this version reads ({found}); update the package")
    try:
        # From JSON: strict types, except that lists are what JSON has for tuples.
        manifest = Manifest.model_validate_json(json.dumps(values))
    except (ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: {_first(error)}; the file was changed, or another version wrote it") from None
    paths = [check_path(entry.path, source) for entry in manifest.files]
    check_names(paths, source)
    for entry in manifest.files:
        if entry.large:
            check_may_be_large(entry.path, source)
    if listed := {MANIFEST_FILE, SIGNATURE_FILE} & {path.lower() for path in paths}:
        raise InputError(f"{source}: lists {listed.pop()}, which cannot be in it; the file was changed")
    names = [domain.name for domain in manifest.domains]
    if len(set(names)) != len(names):
        raise InputError(f"{source}: lists a domain twice; the file was changed")
    return manifest


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    item = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}"[:300]
