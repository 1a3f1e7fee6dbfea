"""Zips: equal input gives equal bytes, what is doubtful is refused before anything is written, and nothing else is."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from custom_components.archives import archive as module
from custom_components.archives.archive import read_archive, unpacked, write_archive
from custom_components.errors import InputError

CONTENT = {"a.txt": b"one", "models/w.bin": os.urandom(5000), "docs/ü.md": b"zwei"}


def files(folder: Path, content: dict[str, bytes] = CONTENT) -> dict[str, Path]:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in entries:
            target.writestr(name, data)
    return path


def info(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_archive(tmp_path / "z.zip", "bundle", files(tmp_path / "in"))
    with unpacked(tmp_path / "z.zip", tmp_path / "out") as folder:
        assert folder.name == "bundle"
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert found == CONTENT
    assert not (tmp_path / "out").exists()


def test_other_programs_read_it(tmp_path: Path) -> None:
    write_archive(tmp_path / "z.zip", "bundle", files(tmp_path / "in"))
    with zipfile.ZipFile(tmp_path / "z.zip") as archive:
        assert archive.testzip() is None
        assert {name.removeprefix("bundle/"): archive.read(name) for name in archive.namelist()} == CONTENT


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    for number, path in enumerate(two.values()):
        path.chmod(0o600 + number)
        os.utime(path, (time.time() - 1e6, 1e9 + number))
    write_archive(tmp_path / "one.zip", "bundle", one)
    write_archive(tmp_path / "two.zip", "bundle", dict(reversed(two.items())))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:  # both were made within one tick of a zip's clock
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


BAD_NAMES = [
    "../evil",
    "bundle/../../evil",
    "/etc/evil",
    "bundle//evil",
    "bundle/./evil",
    "C:/evil",
    "bundle/C:evil",
    "bundle\\..\\evil",
    "bundle/evil:stream",
    "bundle/con",
    "bundle/nul.txt",
    "bundle/evil.",
    "bundle/evil ",
    "bundle/e\x1bvil",
    "bundle/u\u0308",  # not NFC
    "bundle/right\u202eleft",
    "bundle/" + "x" * 300,
    "bundle/" + "x/" * 40 + "x",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "z.zip", ("bundle/a", b""), (info(name), b"evil"))
    assert_refused(path, tmp_path, "the name")


def encrypted(path: Path) -> Path:
    zipped(path, ("bundle/a", b"secret"))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def overlapping(path: Path) -> Path:
    """Two names whose data are one and the same, as in bombs that need no nesting (Fifield, 2019)."""
    zipped(path, ("bundle/a", b"x" * 100), ("bundle/b", b"x" * 100))
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(data)
    return path


def longer_than_said(path: Path) -> Path:
    """The table and the head name 10 bytes, the deflated data hold a thousand times more."""
    zipped(path, ("bundle/a", b"x" * 10_000), method=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    table = data.index(b"PK\x01\x02")
    data[22:26] = data[table + 24 : table + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    return path


def with_second_name(path: Path) -> Path:
    entry = info("bundle/a")
    entry.extra = struct.pack("<HHBI", 0x7075, 9, 1, 0) + b"evil"
    return zipped(path, (entry, b"x"))


def headed_otherwise(path: Path) -> Path:
    zipped(path, ("bundle/a", b"x" * 50), ("bundle/b", b"y"))
    data = bytearray(path.read_bytes())
    data[22:26] = struct.pack("<I", 49)
    path.write_bytes(data)
    return path


def headed_shorter(path: Path, field: bytes) -> Path:
    """A head whose sizes are elsewhere, in a field that names others, so that the data's end is an entry of its own."""
    entry = info("bundle/a")
    entry.extra = field
    zipped(path, (entry, b"x" * 50 + hidden()))
    data = bytearray(path.read_bytes())
    data[18:26] = b"\xff" * 8
    path.write_bytes(data)
    return path


def twice(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate"):
        return zipped(path, ("bundle/a", b"1"), ("bundle/a", b"2"))


def with_bytes(path: Path, before: bytes = b"", after: bytes = b"") -> Path:
    zipped(path, ("bundle/a", b"1"))
    path.write_bytes(before + path.read_bytes() + after)
    return path


def with_gap(path: Path, place: int, data: bytes, flags: int = 0) -> Path:
    """Bytes put in before entry number ``place`` (2 is the table), and a table that points behind them."""
    zipped(path, ("bundle/a", b"x" * 50), ("bundle/b", b"y" * 60))
    with zipfile.ZipFile(path) as archive:
        heads = [*(entry.header_offset for entry in archive.infolist()), archive.start_dir]
    whole = bytearray(path.read_bytes())
    table = heads[2]
    for number in range(2):
        record = table if number == 0 else whole.index(b"PK\x01\x02", table + 4)
        whole[record + 8] |= flags if number == place - 1 else 0
        whole[heads[number] + 6] |= flags if number == place - 1 else 0
        if number >= place:
            whole[record + 42 : record + 46] = struct.pack("<I", heads[number] + len(data))
    whole[-6:-2] = struct.pack("<I", table + len(data))
    whole[heads[place] : heads[place]] = data
    path.write_bytes(whole)
    return path


def hidden(name: str = "bundle/evil.py") -> bytes:
    """An entry that only a program which reads from the front finds."""
    data = b"import os"
    head = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
    return head + name.encode() + data


def described(size: str, signature: bytes = b"PK\x07\x08", change: int = 0) -> bytes:
    """What follows the second entry of `with_gap`."""
    data = b"y" * 60
    return signature + struct.pack(f"<I2{size}", zlib.crc32(data) ^ change, len(data), len(data))


def commented(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bundle/a", b"1")
        archive.comment = b"see below"
    return path


def text(path: Path) -> Path:
    path.write_text("no zip at all")
    return path


def cut_name(path: Path) -> Path:
    zipped(path, ("bundle/a.txt\x01.exe", b"1"))
    path.write_bytes(path.read_bytes().replace(b"a.txt\x01.exe", b"a.txt\x00.exe"))
    return path


SPOILT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a link": (lambda p: zipped(p, ("bundle/a", b""), (info("bundle/b", stat.S_IFLNK | 0o777), b"/etc/passwd")), "link"),
    "a device": (lambda p: zipped(p, (info("bundle/b", stat.S_IFCHR | 0o666), b"")), "special file"),
    "a name twice": (twice, "twice"),
    "names in two cases": (lambda p: zipped(p, ("bundle/Read.me", b""), ("bundle/read.ME", b"")), "one file on some systems"),
    "folders in two cases": (lambda p: zipped(p, ("bundle/Docs/a", b""), ("bundle/docs/b", b"")), "one folder on some systems"),
    "a file that is a folder": (lambda p: zipped(p, ("bundle/a", b""), ("bundle/A/b", b"")), "a file and a folder"),
    "encrypted": (encrypted, "encrypted"),
    "another method": (lambda p: zipped(p, ("bundle/a", b"x" * 99), method=zipfile.ZIP_LZMA), "method 14"),
    "a bomb": (lambda p: zipped(p, ("bundle/a", bytes(30 * 2**20)), method=zipfile.ZIP_DEFLATED), "zip bomb"),
    "overlapping entries": (overlapping, "lies over another|damaged"),
    "longer than it says": (longer_than_said, "cannot be unpacked|damaged"),
    "a second name": (with_second_name, "second name"),
    "headed otherwise": (headed_otherwise, "headed otherwise"),
    "headed by a field that is not there": (lambda p: headed_shorter(p, b""), "damaged"),
    "headed otherwise in a field": (lambda p: headed_shorter(p, struct.pack("<HHQQ", 1, 16, 50, 50)), "headed otherwise"),
    "bytes before it": (lambda p: with_bytes(p, before=b"#!/bin/sh\n"), "before the first"),
    "an entry between two": (lambda p: with_gap(p, 1, hidden()), "belong to nothing lie after 'bundle/a'"),
    "an entry before the table": (lambda p: with_gap(p, 2, hidden()), "belong to nothing lie after 'bundle/b'"),
    "an entry behind a descriptor": (lambda p: with_gap(p, 2, described("I") + hidden(), 8), "belong to nothing"),
    "an entry in a descriptor's place": (lambda p: with_gap(p, 2, hidden(), 8), "belong to nothing"),
    "a descriptor of something else": (lambda p: with_gap(p, 2, described("I", change=1), 8), "belong to nothing"),
    "a descriptor that is not announced": (lambda p: with_gap(p, 2, described("I")), "belong to nothing"),
    "no descriptor where one is announced": (lambda p: with_gap(p, 2, b"", 8), "belong to nothing"),
    "bytes after it": (lambda p: with_bytes(p, after=b"more"), "after its table"),
    "a comment": (commented, "after its table"),
    "two folders": (lambda p: zipped(p, ("one/a", b""), ("two/b", b"")), "one folder"),
    "no folder": (lambda p: zipped(p, ("a", b"")), "one folder"),
    "nothing": (lambda p: zipped(p), "one folder"),
    "no zip": (text, "no zip"),
    "a cut name": (cut_name, "is cut|damaged"),
    "a folder that is full": (
        lambda p: zipped(p, ("bundle/a", b""), (info("bundle/b/", stat.S_IFDIR | 0o755), b"evil")),
        "holds bytes",
    ),
    "absent": (lambda p: p, "no such file"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_doubtful_is_refused(case: str, tmp_path: Path) -> None:
    make, message = SPOILT[case]
    assert_refused(make(tmp_path / "z.zip"), tmp_path, message)


def assert_refused(path: Path, folder: Path, message: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=message) as caught, unpacked(path, folder):
        pass
    assert "z.zip" in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_too_many_files_and_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "z.zip", *((f"bundle/{number}", b"x" * 100) for number in range(20)))
    assert len(read_archive(path).files) == 20
    monkeypatch.setattr(module, "MAX_FILES", 19)
    assert_refused(path, tmp_path, "20 entries")
    monkeypatch.setattr(module, "MAX_FILES", 20)
    monkeypatch.setattr(module, "MAX_BYTES", 1999)
    assert_refused(path, tmp_path, "2000 bytes")


def test_what_an_ordinary_zip_program_makes_is_read(tmp_path: Path) -> None:
    """With folders as entries, deflated, with times and modes of its own."""
    files(tmp_path / "bundle")
    shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path, "bundle")
    with unpacked(tmp_path / "z.zip", tmp_path / "out") as folder:
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(CONTENT)


@pytest.mark.parametrize(("size", "signature", "length"), [("I", 0, 12), ("I", 1, 16), ("Q", 0, 20), ("Q", 1, 24)])
def test_sizes_that_follow_the_data_are_read(size: str, signature: int, length: int, tmp_path: Path) -> None:
    data = described(size, b"PK\x07\x08" * signature)
    assert len(data) == length
    path = with_gap(tmp_path / "z.zip", 2, data, 8)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with unpacked(path, tmp_path / "out") as folder:
        assert (folder / "b").read_bytes() == b"y" * 60


class Stream(io.RawIOBase):
    """Python writes descriptors where it cannot go back to a head."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")  # noqa: SIM115  (closed below)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()
        super().close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("large", [False, True])
def test_what_python_writes_to_a_stream_is_read(method: int, large: bool, tmp_path: Path) -> None:
    with Stream(tmp_path / "z.zip") as stream, zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in CONTENT.items():
            with archive.open(zipfile.ZipInfo(f"bundle/{name}"), "w", force_zip64=large) as file:
                file.write(data)
    with zipfile.ZipFile(tmp_path / "z.zip") as found:
        assert all(entry.flag_bits & 8 for entry in found.infolist())
    with unpacked(tmp_path / "z.zip", tmp_path / "out") as folder:
        assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == CONTENT


@pytest.mark.skipif(shutil.which("zip") is None, reason="the program zip is not installed")
@pytest.mark.parametrize("options", ["", "-0", "-X", "-fd", "-fz", "-D", "to a pipe"])
def test_what_the_program_zip_makes_is_read(options: str, tmp_path: Path) -> None:
    plain = {name: data for name, data in CONTENT.items() if name.isascii()}
    files(tmp_path / "bundle", plain)
    if options == "to a pipe":
        data = subprocess.run(["zip", "-qr", "-", "bundle"], cwd=tmp_path, check=True, capture_output=True).stdout
        (tmp_path / "z.zip").write_bytes(data)
    else:
        subprocess.run(["zip", "-qr", *options.split(), "z.zip", "bundle"], cwd=tmp_path, check=True)
    with unpacked(tmp_path / "z.zip", tmp_path / "out") as folder:
        assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == plain


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    write_archive(tmp_path / "z.zip", "bundle", files(tmp_path / "in"))
    data = bytearray((tmp_path / "z.zip").read_bytes())
    data[data.index(CONTENT["models/w.bin"]) + 100] ^= 1
    (tmp_path / "z.zip").write_bytes(data)
    assert_refused(tmp_path / "z.zip", tmp_path, "cannot be unpacked")
