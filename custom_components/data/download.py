"""Data sets of the Medical Segmentation Decathlon from where MONAI keeps them: resumed, checked, and unpacked whole.

MONAI's own downloader begins again after every interruption, and unpacks in place; these archives have up to 28 GB.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from custom_components.errors import InputError

__all__ = ["decathlon_source", "decathlon_tasks", "download", "download_decathlon", "unpack"]

logger = logging.getLogger(__name__)

Advance = Callable[[int, int | None], None]  # bytes that are there, bytes in all (None where the server does not say)

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte
RESERVE = 256 << 20  # bytes that stay free: a disk that is full to the last byte stops other programs


def decathlon_tasks() -> tuple[str, ...]:
    """``Task01_BrainTumour`` and so on, as MONAI lists them."""
    return tuple(sorted(_monai().resource))


def decathlon_source(task: str) -> tuple[str, str]:
    """Address and MD5 of a task's archive, as MONAI lists them.

    Raises:
        InputError: no such task.
    """
    table = _monai()
    if task not in table.resource:
        raise InputError(f"{task}: no such task; there are {', '.join(decathlon_tasks())}")
    return table.resource[task], table.md5[task]


def download_decathlon(
    task: str,
    output_dir: str | Path,
    url: str | None = None,
    md5: str | None = None,
    keep_archive: bool = False,
    advance: Advance | None = None,
) -> Path:
    """Fetch a task and unpack it; what is there already is not fetched again.

    Args:
        task: ``Task04_Hippocampus``, …
        output_dir: where ``<task>`` is made; the archive lies beside it in ``.downloads`` meanwhile.
        url: of a mirror; None takes MONAI's.
        md5: of the mirror's archive; None takes MONAI's.
        keep_archive: leave the archive in ``.downloads``.
        advance: told of the bytes.

    Returns:
        The folder ``<task>``, with ``dataset.json`` in it.

    Raises:
        InputError: no such task; the server cannot be reached or has no such file; the transfer was cut (what came is kept,
            the next call goes on from there); the checksum is another; the disk is full; or the archive is damaged, is not
            safe to unpack or does not hold the task.
    """
    source, checksum = decathlon_source(task)
    folder = Path(output_dir) / task
    if (folder / "dataset.json").is_file():
        logger.info("%s: is there already", folder)
        return folder
    if folder.exists():
        raise InputError(f"{folder}: exists, but has no dataset.json; move it away")
    archive = download(url or source, Path(output_dir) / ".downloads" / f"{task}.tar", md5 or checksum, advance)
    unpack(archive, folder)
    if not keep_archive:
        archive.unlink()
        if not any(archive.parent.iterdir()):
            archive.parent.rmdir()
    return folder


def download(url: str, path: Path, md5: str, advance: Advance | None = None, attempts: int = 4) -> Path:
    """Fetch a file; a part that is there (``<path>.part``) is continued where the server allows it.

    Args:
        url: http or https.
        path: where the file appears, once its checksum is right.
        md5: 32 hexadecimal digits.
        advance: told of the bytes.
        attempts: how often a transfer that is cut is taken up again before giving up.

    Returns:
        ``path``.

    Raises:
        InputError: see `download_decathlon`. Room is asked for first, for the file and as much again for what is in it.
    """
    if not re.fullmatch(r"https?://.+", url):
        raise InputError(f"{url}: is no address of a web server; give one that begins with https://")
    if not re.fullmatch(r"[0-9a-fA-F]{32}", md5):
        raise InputError(f"md5 '{md5}': must have 32 hexadecimal digits; copy what the mirror says")
    if path.is_file() and _md5(path) == md5.lower():
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, attempts + 1):
            had = part.stat().st_size if part.exists() else 0
            complete, reason = _fetch(url, part, advance)
            if complete:
                break
            got = part.stat().st_size if part.exists() else 0
            logger.warning("%s: the transfer ended after %d bytes (%s), attempt %d of %d", url, got, reason, attempt, attempts)
            if attempt == attempts or (got <= had and attempt > 1):
                raise InputError(f"{url}: the transfer was cut after {got} bytes ({reason}); run again to go on from there")
        if (found := _md5(part)) != md5.lower():
            part.unlink()
            raise InputError(f"{url}: has MD5 {found}, not {md5}; it was damaged or is another file, and was deleted: run again")
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another folder, and run again"
        ) from None
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive that holds one folder; that folder appears as ``folder``, whole or not at all.

    Members that would land outside, links that lead outside and devices are refused (Python's ``data`` filter).

    Raises:
        InputError: the archive is damaged or unsafe, holds something else, or there is no room.
    """
    try:
        _must_have_room(folder.parent, archive.stat().st_size, "unpacking")
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True) as temporary:
            with tarfile.open(archive) as tar:
                # macOS leaves a twin of every file in such archives.
                members = [member for member in tar if not Path(member.name).name.startswith("._")]
                tar.extractall(temporary, members=members, filter="data")
            found = [path for path in Path(temporary).iterdir() if path.is_dir()]
            if len(found) != 1 or not (found[0] / "dataset.json").is_file():
                names = ", ".join(sorted(path.name for path in Path(temporary).iterdir())) or "nothing"
                raise InputError(f"{archive}: holds {names}, not one folder with a dataset.json; use a Decathlon archive")
            os.replace(found[0], folder)
    except tarfile.FilterError as error:
        raise InputError(f"{archive}: is not safe to unpack ({error}); do not use this mirror") from None
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{archive}: is damaged or no tar archive ({error}); delete it and run again") from None
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be unpacked ({error.strerror or error}); make room or choose another folder"
        ) from None


def _fetch(url: str, part: Path, advance: Advance | None) -> tuple[bool, str]:
    """One request; whether the part is complete now, or else why not."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if start and response.status != 206:
                start = 0  # the server sends all of it
            elif start and _range_start(response) != start:
                raise InputError(f"{url}: the server sends another part than it was asked for; delete {part} and run again")
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else None
            if total is not None:
                # The archive stays until its contents, which are compressed already, lie beside it.
                _must_have_room(part.parent, 2 * total - start, "the download and unpacking it")
            return _receive(response, part, start, total, advance)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send: the checksum tells whether that is right
            return True, ""
        if error.code >= 500:
            return False, f"the server answers {error.code}"
        raise InputError(f"{url}: the server answers {error.code} ({error.reason}); check the address, or use --url") from None
    except urllib.error.URLError as error:
        return False, str(error.reason)
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        return False, str(error) or type(error).__name__


def _receive(
    response: http.client.HTTPResponse, part: Path, start: int, total: int | None, advance: Advance | None
) -> tuple[bool, str]:
    got, reason = start, ""
    with part.open("ab" if start else "wb") as file:
        while True:
            try:
                block = response.read(BLOCK)
            except http.client.IncompleteRead as error:
                block, reason = error.partial, "the connection was closed"
            except (http.client.HTTPException, OSError) as error:
                block, reason = b"", str(error) or type(error).__name__
            file.write(block)
            got += len(block)
            if advance is not None:
                advance(got, total)
            if reason or not block:
                break
    if reason or (total is not None and got < total):
        return False, reason or "the connection was closed"
    return True, ""


def _range_start(response: http.client.HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return int(found.group(1)) if found else None


def _must_have_room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise InputError(
            f"{folder}: has {free / 1e9:.1f} GB free, {what} needs {(needed + RESERVE) / 1e9:.1f} GB; "
            "make room, or choose another folder"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _monai() -> Any:
    from monai.apps import DecathlonDataset

    return DecathlonDataset
