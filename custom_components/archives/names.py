"""Names of files that mean the same file on every system: what a bundle that travels may hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from custom_components.errors import InputError

__all__ = ["check_names", "check_path"]

MAX_LENGTH = 240  # of a whole path: Windows' limit of 260, less a folder to unpack into
MAX_DEPTH = 16
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
FORBIDDEN = set('\\:*?"<>|')  # Windows' separator, drive letters and streams, and what it refuses in names


def check_path(path: str, source: str) -> str:
    """Ask that a path stay within the folder that it is put in, on Linux, macOS and Windows.

    Args:
        path: with ``/`` between its parts.
        source: of the path, for the message.

    Returns:
        The path.

    Raises:
        InputError: it is absolute or empty, climbs (``..``), has a part that some system reads as something else, or is
            too long.
    """
    parts = path.split("/")
    fault = ""
    if not path or len(path) > MAX_LENGTH or len(parts) > MAX_DEPTH:
        fault = f"is empty, longer than {MAX_LENGTH} characters, or more than {MAX_DEPTH} folders deep"
    elif path.startswith("/"):
        fault = "is absolute"
    elif any(part in ("", ".", "..") for part in parts):
        fault = "has an empty part, '.' or '..'"
    elif any(not character.isprintable() or character in FORBIDDEN for character in path):
        fault = "has a character that some systems do not take for a part of a name"
    elif unicodedata.normalize("NFC", path) != path:
        fault = "is written in letters that macOS would change (not NFC)"
    elif any(part.endswith((".", " ")) or part.startswith(" ") for part in parts):
        fault = "has a part that begins or ends with a blank, or ends with a dot"
    elif any(part.split(".")[0].rstrip().lower() in DEVICES for part in parts):
        fault = "has the name of a device"
    if fault:
        raise InputError(f"{source}: the name {path[:80]!r} {fault}; ask for a bundle that scripts/package_bundle.py made")
    return path


def check_names(paths: Iterable[str], source: str) -> None:
    """Ask that no two paths be one file on a system that does not tell upper from lower case, nor one the folder of another.

    Raises:
        InputError: naming both.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        folded = _folded(path)
        if folded in files:
            raise InputError(f"{source}: {files[folded]!r} and {path!r} are one file on some systems; ask for another copy")
        files[folded] = path
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            there = folders.setdefault(_folded(folder), folder)
            if there != folder:
                raise InputError(f"{source}: {there!r} and {folder!r} are one folder on some systems; ask for another copy")
    for folded in files.keys() & folders.keys():
        raise InputError(f"{source}: {files[folded]!r} is a file and a folder; ask for another copy")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", path).casefold())
