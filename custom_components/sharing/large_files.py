"""``large_files.yml``: weights that a bundle may leave out, and where they are to be had, as the model zoo writes it.

MONAI's ``python -m monai.bundle download_large_files --bundle_path BUNDLE`` reads the same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from custom_components.archives.names import check_path
from custom_components.errors import InputError

__all__ = ["LARGE", "LARGE_FILES", "LargeFile", "check_may_be_large", "large_files_text", "parse_large_files", "read_large_files"]

LARGE_FILES = "large_files.yml"
LARGE = 25 * 1000 * 1000
"""Bytes; what the model zoo takes into its repository."""
MAX_BYTES = 2**20
WEIGHTS = re.compile(r"models/([A-Za-z0-9_.-]+\.safetensors|model\.pt)")
"""What may be absent: were code or a configuration, nobody would have looked at it when it comes."""


class LargeFile(BaseModel):
    """One entry: where a file belongs in the bundle, where it is to be had, and its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    hash_val: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    hash_type: Literal["sha256"]


def read_large_files(bundle_dir: str | Path) -> dict[str, LargeFile]:
    """The entries of a bundle by path; empty where it has no such file.

    Raises:
        InputError: the file cannot be read, or see `parse_large_files`.
    """
    path = Path(bundle_dir) / LARGE_FILES
    try:
        if not path.is_file():
            return {}
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_large_files(data, str(path))


def parse_large_files(data: bytes, source: str = LARGE_FILES) -> dict[str, LargeFile]:
    """The entries by path.

    Raises:
        InputError: it is no YAML, has no list ``large_files``, or an entry is malformed, no SHA-256, no weights,
            or twice there.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{source}: is larger than {MAX_BYTES} bytes, which no such list is")
    try:
        values = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"{source}: is not valid YAML ({str(error).splitlines()[0][:120]})") from None
    if not isinstance(values, dict) or set(values) != {"large_files"} or not isinstance(values["large_files"], list):
        raise InputError(f"{source}: must hold one list, large_files")
    found: dict[str, LargeFile] = {}
    for item in values["large_files"]:
        entry = _entry(item, source)
        if entry.path in found:
            raise InputError(f"{source}: has {entry.path} twice")
        check_may_be_large(entry.path, source)
        found[check_path(entry.path, source)] = entry
    return found


def check_may_be_large(path: str, source: str) -> None:
    """Ask that a file which may be absent be one of weights.

    Raises:
        InputError: it is another.
    """
    if WEIGHTS.fullmatch(path) is None:
        raise InputError(
            f"{source}: says that {path[:160]!r} is large and may be absent; only models/*.safetensors and models/model.pt may be"
        )


def large_files_text(entries: Iterable[LargeFile]) -> str:
    """The file's text, sorted by path."""
    listed = [entry.model_dump() for entry in sorted(entries, key=lambda entry: entry.path)]
    return yaml.safe_dump({"large_files": listed}, sort_keys=False, width=1000)


def _entry(item: Any, source: str) -> LargeFile:
    try:
        return LargeFile.model_validate(item)
    except (ValidationError, RecursionError) as error:
        what = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'entry'}: {first['msg']}"
        raise InputError(f"{source}: {what[:200]}; an entry has path, url, hash_val and hash_type sha256") from None
