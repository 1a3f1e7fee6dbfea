"""Zip files of bundles: written so that equal files give equal bytes, and read only where nothing in them is doubtful.

All of an archive's table is judged before a byte of it is written to disk, and what is unpacked is held to the sizes that the
table names. An archive that two unzip programs could read in two ways (names twice, overlapping entries, bytes that belong to
no entry: programs that read from the front would find one there) is refused.
"""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from custom_components.archives.names import check_names, check_path
from custom_components.errors import InputError

__all__ = ["Archive", "ArchiveFile", "read_archive", "unpacked", "write_archive"]

MAX_FILES = 10_000
MAX_BYTES = 16 * 2**30
"""Unpacked, all files together."""
MAX_RATIO = 200
"""Of the size unpacked to that packed; only files that are large enough to do harm are held to it."""
RATIO_FROM = 2**20

BLOCK = 2**20
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
LOCAL_HEADER = struct.Struct("<6xHH4xIIIHH")
"""Flags, method, CRC, sizes packed and plain, lengths of name and extra field (APPNOTE 4.3.7)."""
END, END_SIZE = b"PK\x05\x06", 18
"""What the end of the table begins with, and its bytes after that where there is no comment (APPNOTE 4.3.16)."""
DESCRIPTOR = b"PK\x07\x08"
"""What may head the CRC and sizes that follow an entry's data (APPNOTE 4.3.9)."""
MAX_DESCRIPTOR = 24
LATER = 0xFFFFFFFF
ZIP64 = 0x0001
UTF8 = 0x800
ENCRYPTED = 0x1 | 0x40 | 0x2000
OTHER_NAMES = {0x7075, 0x6375}  # Info-ZIP's second name of an entry, which some programs prefer
UNREADABLE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    MemoryError,
)


@dataclass(frozen=True)
class ArchiveFile:
    """One file of an archive.

    Attributes:
        path: within the bundle.
        size: bytes, as the table says.
        entry: zipfile's own record.
    """

    path: str
    size: int
    entry: zipfile.ZipInfo


@dataclass(frozen=True)
class Archive:
    """A zip whose table was judged.

    Attributes:
        path: the file.
        base: the one folder that everything in it lies in: the bundle's name.
        files: by their path within the bundle.
    """

    path: Path
    base: str
    files: dict[str, ArchiveFile]


def read_archive(path: str | Path) -> Archive:
    """Judge a zip by its table and its entries' heads; nothing is unpacked.

    Raises:
        InputError: it is no zip or damaged; a name is absolute, climbs out, is twice there or is another file's on some
            systems; an entry is a link, a device or encrypted, or packed by another method than deflate; its sizes are beyond
            what a bundle has; entries overlap or have bytes between them; or not everything lies in one folder.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, no zip' if path.is_dir() else 'no such file'}; give a zip of a bundle")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES:
                raise InputError(f"{path}: has {len(entries)} entries, more than the {MAX_FILES} that are allowed")
            for entry in entries:
                _check_entry(entry, path)
            _check_layout(archive, path)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: is damaged or no zip ({_line(error)}); get it again") from None
    files = [entry for entry in entries if not entry.is_dir()]
    names = [entry.filename.rstrip("/") for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: has {twice!r} twice; ask for another copy")
    check_names((entry.filename for entry in files), str(path))
    bases = {name.split("/")[0] for name in names}
    if len(bases) != 1 or not files or any("/" not in entry.filename for entry in files):
        raise InputError(f"{path}: must hold one folder with the bundle in it, holds {len(bases)}; ask for a packaged bundle")
    total = sum(entry.file_size for entry in files)
    if total > MAX_BYTES:
        raise InputError(f"{path}: would unpack to {total} bytes, more than the {MAX_BYTES} that are allowed")
    found = (ArchiveFile(entry.filename.partition("/")[2], entry.file_size, entry) for entry in files)
    return Archive(path, bases.pop(), {file.path: file for file in found})


@contextmanager
def unpacked(path: str | Path, parent: str | Path | None = None) -> Iterator[Path]:
    """Unpack a zip into a folder of its own, which is gone on leaving.

    Args:
        path: the zip.
        parent: where the temporary folder is made; None takes the system's place for such. Made if absent, and removed again
            if nothing stays in it.

    Yields:
        The bundle's folder, with the name it has in the zip. It may be renamed within ``parent``.

    Raises:
        InputError: see `read_archive`; an entry is longer than it says or damaged; or the folder cannot be written.
    """
    archive = read_archive(path)
    new = parent is not None and not Path(parent).exists()
    try:
        if parent is not None:
            Path(parent).mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".bundle.", dir=parent))
    except OSError as error:
        raise InputError(f"{parent or tempfile.gettempdir()}: cannot be written ({error.strerror})") from None
    try:
        folder = temporary / archive.base
        _extract(archive, folder)
        yield folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new and parent is not None:
            with suppress(OSError):  # a bundle lies there
                Path(parent).rmdir()


def write_archive(path: str | Path, base: str, files: Mapping[str, Path]) -> None:
    """Write a zip: sorted by name, one time and one mode for all, so that equal files give equal bytes.

    Nothing is compressed: deflate's output depends on the library, and weights hardly shrink.

    Args:
        path: the zip, overwritten.
        base: the folder that everything is put in.
        files: path within the bundle to the file.

    Raises:
        OSError: a file cannot be read or the zip not written.
    """
    check_names(files, str(path))
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{base}/{check_path(name, str(path))}", EPOCH)
            entry.compress_type = zipfile.ZIP_STORED
            entry.create_system = 3  # Unix, wherever it was made: the mode below is read so
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = files[name].stat().st_size
            with open(files[name], "rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, BLOCK)


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name = entry.filename.rstrip("/") if entry.is_dir() else entry.filename
    if entry.orig_filename != entry.filename:  # zipfile cuts a name at a zero byte
        raise InputError(f"{path}: the name {entry.orig_filename[:80]!r} is cut by some programs; ask for another copy")
    if not name.isascii() and not entry.flag_bits & UTF8:
        raise InputError(f"{path}: the name {name[:80]!r} is not UTF-8, and read differently by programs; ask for another copy")
    check_path(name, str(path))
    what = f"{path}: {name!r}"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        raise InputError(f"{what} is a link or a special file, which no bundle needs; nothing was unpacked")
    if entry.flag_bits & ENCRYPTED:
        raise InputError(f"{what} is encrypted; ask for a zip without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{what} is packed by method {entry.compress_type}, which not every program reads; ask for deflate")
    if entry.is_dir() and entry.file_size:
        raise InputError(f"{what} is a folder that holds bytes; ask for another copy")
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        raise InputError(f"{what} has two sizes; ask for another copy")
    if entry.file_size > RATIO_FROM and entry.file_size > MAX_RATIO * entry.compress_size:
        raise InputError(
            f"{what} would unpack to {entry.file_size} bytes from {entry.compress_size}, as a zip bomb does; nothing was unpacked"
        )
    extra = entry.extra
    while len(extra) >= 4:
        number, length = struct.unpack("<HH", extra[:4])
        if number in OTHER_NAMES:
            raise InputError(f"{what} has a second name, which some programs take; ask for another copy")
        extra = extra[4 + length :]


def _check_layout(archive: zipfile.ZipFile, path: Path) -> None:
    """Ask that entries fill the file from the first byte to the table, each headed as the table says, and nothing after it."""
    assert archive.fp is not None
    archive.fp.seek(-len(END) - END_SIZE, 2)
    if archive.fp.read(len(END)) != END or archive.comment:
        raise InputError(f"{path}: has bytes after its table, in which some programs find another; get it again")
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    heads = [*(entry.header_offset for entry in entries), archive.start_dir]
    if heads[0]:
        raise InputError(f"{path}: bytes lie before the first entry; get it again")
    for entry, following in zip(entries, heads[1:], strict=True):
        with archive.open(entry):  # compares the name in the entry's head with the table's
            pass
        archive.fp.seek(entry.header_offset)
        flags, method, crc, packed, size, name, extra = LOCAL_HEADER.unpack(archive.fp.read(LOCAL_HEADER.size))
        size, packed = _sizes(size, packed, archive.fp.read(name + extra)[name:])
        own, table = (crc, packed, size), (entry.CRC, entry.compress_size, entry.file_size)
        # With flag 8 the sizes follow the data, and the head has zeros in their place.
        agrees = own == table or (flags & 0x8 and all(said in (0, true) for said, true in zip(own, table, strict=True)))
        if (flags ^ entry.flag_bits) & 0x8 or method != entry.compress_type or not agrees:
            raise InputError(f"{path}: {entry.filename!r} is headed otherwise than the table says; get it again")
        end = entry.header_offset + LOCAL_HEADER.size + name + extra + entry.compress_size
        if following < end:
            raise InputError(f"{path}: {entry.filename!r} lies over another entry or over the table; get it again")
        archive.fp.seek(end)
        if archive.fp.read(min(following - end, MAX_DESCRIPTOR + 1)) not in (_descriptors(entry) if flags & 0x8 else {b""}):
            raise InputError(f"{path}: bytes that belong to nothing lie after {entry.filename!r}; get it again")


def _sizes(size: int, packed: int, extra: bytes) -> tuple[int, int]:
    """Sizes of a head, from its zip64 field where it says that they are there (APPNOTE 4.5.3)."""
    field = b""
    while len(extra) >= 4:
        number, length = struct.unpack("<HH", extra[:4])
        if number == ZIP64:
            field = extra[4 : 4 + length]
            break
        extra = extra[4 + length :]
    if size == LATER:
        size, field = struct.unpack("<Q", field[:8])[0], field[8:]
    if packed == LATER:
        packed = struct.unpack("<Q", field[:8])[0]
    return size, packed


def _descriptors(entry: zipfile.ZipInfo) -> set[bytes]:
    """What may follow an entry whose head leaves CRC and sizes open: with a signature or without, sizes of 4 or 8 bytes."""
    values = (entry.CRC, entry.compress_size, entry.file_size)
    plain = {struct.pack("<IQQ", *values)} | ({struct.pack("<III", *values)} if max(values) <= LATER else set())
    return plain | {DESCRIPTOR + data for data in plain}


def _extract(archive: Archive, folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
        with zipfile.ZipFile(archive.path) as source:
            for file in archive.files.values():
                target = folder.joinpath(*file.path.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                left = file.size
                # "x": a file that is there was put there by somebody else.
                with source.open(file.entry) as packed, open(target, "xb") as plain:
                    while block := packed.read(BLOCK):
                        left -= len(block)  # zipfile reads no more than the table says
                        plain.write(block)
                if left:
                    raise InputError(f"{archive.path}: {file.path!r} is shorter than its table says; get it again")
    except InputError:
        raise
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _line(error)
        raise InputError(f"{archive.path}: cannot be unpacked ({reason}); get it again, or see to the disk's space") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
