"""Whether a bundle is whole, unchanged, of the trunk it should be, safe to load, and signed by whom it should be.

Fails closed: a bundle is verified where every check was made and none found anything.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from custom_components.errors import InputError
from custom_components.sharing.beside import foreign_texts
from custom_components.sharing.contents import check_contents
from custom_components.sharing.known_code import foreign_code
from custom_components.sharing.known_values import foreign_values
from custom_components.sharing.large_files import LARGE_FILES, read_large_files
from custom_components.sharing.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
    manifest_bytes,
    parse_manifest,
)
from custom_components.sharing.signature import check_signature, key_id, read_public_key

__all__ = ["Verification", "check_file", "signed_manifest", "verify_folder"]

BLOCK = 2**20
MADE_BY_RUNNING = "__pycache__"


@dataclass
class Verification:
    """What was found.

    Attributes:
        bundle: what was looked at.
        manifest: None where it cannot be read.
        manifest_sha256: of the file's bytes.
        signed_by: `key_id` of the key whose signature was checked and is good.
        absent: large files that are not there, as was allowed.
        errors: one line each; none where the bundle is verified.
        notes: what a person should know, one line each.
        code: what may run with the bundle and is not this project's, one line each; see `foreign_code`,
            `foreign_values`, `foreign_texts`.
    """

    bundle: str
    manifest: Manifest | None = None
    manifest_sha256: str | None = None
    signed_by: str | None = None
    absent: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        return self.manifest is not None and not self.errors

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        manifest = self.manifest
        return {
            "verdict": "verified" if self.verified else "refused",
            "bundle": self.bundle,
            "name": manifest.name if manifest else None,
            "version": manifest.version if manifest else None,
            "manifest_sha256": self.manifest_sha256,
            "signed_by": self.signed_by,
            "trunk": manifest.trunk if manifest else None,
            "domains": {domain.name: domain.adapter for domain in manifest.domains} if manifest else {},
            "licence": manifest.licence.model_dump() if manifest else None,
            "provenance": manifest.provenance.model_dump() if manifest else None,
            "files": len(manifest.files) if manifest else None,
            "absent": self.absent,
            "errors": self.errors,
            "notes": self.notes,
            "foreign_code": self.code,
        }


def verify_folder(
    folder: str | Path,
    *,
    trunk: str | None = None,
    public_key: str | Path | None = None,
    signature: str | Path | None = None,
    absent_large: bool = False,
    advance: Callable[[str], None] | None = None,
) -> Verification:
    """Check a bundle's folder.

    Args:
        folder: of the bundle.
        trunk: fingerprint that its trunk must have.
        public_key: PEM file of who must have signed.
        signature: the signature's file; None takes ``manifest.json.sig`` in the bundle.
        absent_large: files that the manifest calls large may be absent.
        advance: called with the name of each file before it is read.
    """
    folder = Path(folder)
    result = Verification(str(folder))
    try:
        result.manifest, result.manifest_sha256, result.signed_by = signed_manifest(folder, public_key, signature)
    except InputError as error:
        result.errors.append(str(error))
        return result
    manifest = result.manifest
    if public_key is None:
        signed = (folder / SIGNATURE_FILE).is_file()
        result.notes.append(
            f"not checked who made it: {'its signature needs --public-key' if signed else 'it is not signed'}, "
            "and whoever changed the files could have changed the manifest"
        )
    result.errors += _files(folder, manifest, absent_large, result.absent, advance)
    if trunk is not None and manifest.trunk != trunk.strip().lower():
        result.errors.append(f"{folder}: has the trunk {manifest.trunk}, not {trunk}; its adapters run on their own trunk only")
    if result.errors:  # what was changed is not looked at more closely
        return result
    if result.absent:
        result.notes.append(f"absent, as was allowed: {', '.join(result.absent)}; nothing was learnt of the weights in them")
    absent = frozenset(result.absent)
    result.errors += check_contents(folder, manifest, absent)
    if not result.errors:
        there = manifest.by_path.keys() - absent
        result.code += [*foreign_code(folder, there), *foreign_values(folder, there), *foreign_texts(folder, there, manifest)]
    return result


def signed_manifest(
    folder: Path, public_key: str | Path | None = None, signature: str | Path | None = None
) -> tuple[Manifest, str, str | None]:
    """A bundle's manifest, whose signature is checked where a key is given.

    Returns:
        The manifest, the SHA-256 of its bytes, and the `key_id` of the key (None where none was given).

    Raises:
        InputError: there is no manifest or it is malformed, the key cannot be used, or the signature is absent or not good.
    """
    if public_key is None and signature is not None:
        raise InputError(f"{signature}: a signature says nothing without the key of who signed; give --public-key, too")
    data = manifest_bytes(folder)  # read once: what is checked is what is used
    signed_by = None
    if public_key is not None:
        key = read_public_key(public_key)
        check_signature(data, signature or folder / SIGNATURE_FILE, key)
        signed_by = key_id(key)
    return parse_manifest(data, str(folder / MANIFEST_FILE)), hashlib.sha256(data).hexdigest(), signed_by


def check_file(folder: Path, entry: FileEntry) -> None:
    """Ask that a file have the size and the hash of its entry.

    Raises:
        InputError: it is absent, no plain file, or differs.
    """
    path = folder / entry.path
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is no plain file; get the bundle again")
        digest = hashlib.sha256()
        if found.st_size == entry.size:
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; get the bundle again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); see to its permissions") from None
    if found.st_size != entry.size:
        raise InputError(f"{path}: has {found.st_size} bytes, the manifest says {entry.size}; it was changed, get it again")
    if digest.hexdigest() != entry.sha256:
        raise InputError(f"{path}: was changed (its SHA-256 is not the manifest's); get the bundle again")


def _files(
    folder: Path, manifest: Manifest, absent_large: bool, absent: list[str], advance: Callable[[str], None] | None
) -> Iterator[str]:
    """What differs between the files and the manifest."""
    listed = manifest.by_path
    made: dict[str, int] = {}
    for name, kind in _there(folder):
        if kind is not None:
            yield f"{folder / name}: is {kind}, which no bundle has; get the bundle again"
        elif MADE_BY_RUNNING in name.split("/") and name not in listed:
            made[name.rsplit("/", 1)[0]] = made.get(name.rsplit("/", 1)[0], 0) + 1
        elif name not in listed and name not in (MANIFEST_FILE, SIGNATURE_FILE):
            yield f"{folder / name}: is not in the manifest; remove it, or unpack the bundle again"
    for name, count in made.items():
        yield f"{folder / name}: {count} files that Python made by running the code, and would run; remove it, or unpack again"
    for entry in manifest.files:
        if advance is not None:
            advance(entry.path)
        if entry.large and absent_large and not (folder / entry.path).exists() and not (folder / entry.path).is_symlink():
            absent.append(entry.path)
            continue
        try:
            check_file(folder, entry)
        except InputError as error:
            hint = "; it is large and may be left out, see --allow-absent-large" if entry.large else ""
            yield f"{error}{hint}"
    try:
        large = {entry.path: entry.sha256 for entry in manifest.files if entry.large}
        if {path: entry.hash_val for path, entry in read_large_files(folder).items()} != large:
            yield f"{folder / LARGE_FILES}: lists other files or hashes than the manifest; get the bundle again"
    except InputError as error:
        yield str(error)


def _there(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Every file of a folder by its path within, and what it is where it is no plain file; links are not followed."""
    waiting = [folder]
    while waiting:
        try:
            entries = sorted(waiting.pop().iterdir())
        except OSError as error:
            yield str(error.filename), f"unreadable ({error.strerror})"
            continue
        for path in entries:
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISDIR(mode):
                waiting.append(path)
            else:
                yield name, None if stat.S_ISREG(mode) else "a link" if stat.S_ISLNK(mode) else "a special file"
