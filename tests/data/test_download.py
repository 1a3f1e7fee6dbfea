"""Downloads that go on where they were, are checked, and unpack to a whole folder or to none."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from custom_components.data.download import decathlon_source, decathlon_tasks, download, download_decathlon, unpack
from custom_components.errors import InputError

TASK = "Task04_Hippocampus"
ROOT = Path(__file__).parents[2]


def archive(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


IMAGE = bytes(range(256)) * 8192  # 2 MiB: more than one block
FILES = {f"{TASK}/dataset.json": b"{}", f"{TASK}/imagesTr/a.nii.gz": IMAGE, f"{TASK}/._dataset.json": b"mac"}
TAR = archive(FILES)


class Server(ThreadingHTTPServer):
    """Serves one file; ``cuts`` says after how many bytes each of the next answers breaks off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.ranges, self.cuts, self.asked, self.status = TAR, True, list[int](), list[str | None](), 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{TASK}.tar"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        data, start = self.server.data, 0
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        rest = data[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.cuts.pop(0)] if self.server.cuts else rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def md5(data: bytes = TAR) -> str:
    return hashlib.md5(data).hexdigest()


def fetch(server: Server, folder: Path, **options: object) -> Path:
    return download_decathlon(TASK, folder, server.url, md5(server.data), **options)


def test_the_table_is_monais() -> None:
    assert TASK in decathlon_tasks() and len(decathlon_tasks()) == 10
    url, checksum = decathlon_source(TASK)
    assert url.endswith(f"{TASK}.tar") and re.fullmatch("[0-9a-f]{32}", checksum)
    with pytest.raises(InputError, match="no such task; there are Task01_BrainTumour, "):
        decathlon_source("Task11_Knee")


def test_a_folder_and_nothing_else(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    folder = fetch(server, tmp_path / "data", advance=lambda got, total: told.append((got, total)))
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {
        "data", f"data/{TASK}", f"data/{TASK}/dataset.json", f"data/{TASK}/imagesTr", f"data/{TASK}/imagesTr/a.nii.gz"
    }  # fmt: skip
    assert (folder / "imagesTr" / "a.nii.gz").read_bytes() == IMAGE
    assert told[-1] == (len(TAR), len(TAR)) and [got for got, _ in told] == sorted(got for got, _ in told)
    fetch(server, tmp_path / "data")
    assert server.asked == [None], "what is there is not asked for again"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_is_taken_up_again(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges, server.cuts = ranges, [1_500_000, 300_000] if ranges else [1_500_000]
    fetch(server, tmp_path)
    assert server.asked == ([None, "bytes=1500000-", "bytes=1800000-"] if ranges else [None, "bytes=1500000-"])
    assert (tmp_path / TASK / "imagesTr" / "a.nii.gz").read_bytes() == IMAGE


def test_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(InputError, match=r"cut after 1000 bytes .*run again to go on"):
        fetch(server, tmp_path)
    part = tmp_path / ".downloads" / f"{TASK}.tar.part"
    assert part.read_bytes() == TAR[:1000] and not (tmp_path / TASK).exists()
    server.cuts.clear()
    server.asked.clear()
    fetch(server, tmp_path)
    assert server.asked == ["bytes=1000-"] and not part.parent.exists()


def test_a_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    part = tmp_path / ".downloads" / f"{TASK}.tar.part"
    part.parent.mkdir()
    part.write_bytes(TAR)
    fetch(server, tmp_path, keep_archive=True)
    assert (part.parent / f"{TASK}.tar").read_bytes() == TAR
    shutil.rmtree(tmp_path / TASK)
    server.asked.clear()
    fetch(server, tmp_path)
    assert server.asked == [], "an archive that was kept is used"


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has MD5 {md5()}, not {'0' * 32}; .*run again"):
        download_decathlon(TASK, tmp_path, server.url, "0" * 32)
    # A part of another file is found out in the same way.
    part = tmp_path / ".downloads" / f"{TASK}.tar.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="has MD5"):
        fetch(server, tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == [".downloads"]
    fetch(server, tmp_path)


def test_a_disk_that_is_full(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(TAR)))
        with pytest.raises(InputError, match=r"GB free, the download and unpacking it needs 0\.3 GB; make room"):
            fetch(server, tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == [".downloads"]

    # Others can fill it meanwhile: what came before is kept.
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        file = opened(self, mode, *arguments, **options)
        if not self.name.endswith(".part") or mode == "rb":
            return file

        class Full(io.FileIO):
            def write(self, data: bytes) -> int:
                if self.tell() + len(data) > 1 << 20:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        file.close()
        return Full(self, mode.replace("b", ""))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); make room"):
            fetch(server, tmp_path)
    part = tmp_path / ".downloads" / f"{TASK}.tar.part"
    assert part.read_bytes() == TAR[: 1 << 20]
    server.asked.clear()
    fetch(server, tmp_path)
    assert server.asked == [f"bytes={1 << 20}-"]


def test_a_full_disk_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(TAR)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(InputError, match=r"cannot be unpacked \(No space left on device\)"):
            unpack(path, tmp_path / TASK)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    unpack(path, tmp_path / TASK)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive({**FILES, "../outside": b"x"}), "not safe to unpack"),
        (archive({**FILES, f"{TASK}/../../outside": b"x"}), "not safe to unpack"),
        (archive(FILES, {f"{TASK}/link": "../../outside"}), "not safe to unpack"),
        (archive(FILES, {f"{TASK}/link": "/etc/passwd"}), "not safe to unpack"),
        (archive({"a/dataset.json": b"", "b/dataset.json": b""}), "holds a, b, not one folder"),
        (archive({"a/image": b""}), r"holds a, not one folder with a dataset\.json"),
        (archive({}), "holds nothing"),
        (TAR[:1_000_000], "damaged or no tar archive"),
        (b"<html>not found</html>", "damaged or no tar archive"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.tar"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        unpack(path, tmp_path / "inner" / TASK)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["inner", "inner/a.tar"]


@pytest.mark.parametrize(("status", "message"), [(404, "answers 404"), (403, "answers 403"), (503, "the server answers 503")])
def test_servers_that_refuse(server: Server, tmp_path: Path, status: int, message: str) -> None:
    server.status = status
    with pytest.raises(InputError, match=message):
        fetch(server, tmp_path)
    assert len(server.asked) == (1 if status < 500 else 2)


def test_arguments_that_are_refused(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(InputError, match=r"cut after 0 bytes .*refused"):
        download(url, tmp_path / "a", md5())
    with pytest.raises(InputError, match="no address of a web server"):
        download("file:///etc/passwd", tmp_path / "a", md5())
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        download(url, tmp_path / "a", "")
    (tmp_path / TASK).mkdir()
    with pytest.raises(InputError, match=r"exists, but has no dataset\.json"):
        download_decathlon(TASK, tmp_path)


def test_the_command(server: Server, tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "download_decathlon.py"), "--output-dir", str(tmp_path), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    server.data = archive({f"{TASK}/dataset.json": json.dumps({"name": "x"}).encode()})
    done = run("--tasks", TASK, "--url", server.url, "--md5", md5(server.data))
    assert (done.returncode, done.stdout) == (0, f"ready: {tmp_path / TASK}\n"), done.stderr
    done = run("--tasks", f"{TASK},Task09_Spleen", "--url", server.url)
    assert done.returncode == 1 and "there are 2 tasks; run once for each" in done.stderr
    done = run("--tasks", "Task11_Knee")
    assert done.returncode == 1 and done.stderr.startswith("Error: Task11_Knee: no such task")
