"""A server as a process, a client, and waiting for what a server does in the background."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE = 240.0  # a first start compiles kernels


@dataclass
class Server:
    """A running server.

    Attributes:
        url: its address.
        log: what it has printed.
        process: its process.
    """

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def of_script(cls, log: Path, arguments: Sequence[object], environment: Mapping[str, str] | None = None) -> Iterator[Server]:
        """``scripts/serve.py`` with these arguments, on a free port."""
        with cls.of_command(log, [sys.executable, ROOT / "scripts" / "serve.py", *arguments], environment or {}) as server:
            yield server

    @classmethod
    @contextmanager
    def of_command(cls, log: Path, command: Sequence[object], environment: Mapping[str, str]) -> Iterator[Server]:
        """A command that takes ``--port``; ready when it answers, ended on leaving."""
        port = free_port()
        process = run(log, [*command, "--port", port], environment)
        server = cls(f"http://127.0.0.1:{port}", log, process)
        try:
            server.wait()
            yield server
        finally:
            server.stop()

    def client(self, folder: Path) -> Any:
        from monailabel.client import MONAILabelClient

        folder.mkdir(parents=True, exist_ok=True)
        return MONAILabelClient(self.url, tmpdir=str(folder))

    def wait(self) -> None:
        """Until it answers, whatever it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.text()[-4000:]
            try:
                urllib.request.urlopen(f"{self.url}/info/", timeout=60)
            except urllib.error.HTTPError:
                return True
            except (urllib.error.URLError, ConnectionError):
                return False
            return True

        until(answers, self.text)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def run(log: Path, command: Sequence[object], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MONAI_LABEL")}
    values = {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        return subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, env={**values, **environment}, cwd=log.parent
        )


def until(condition: Any, what: Any) -> None:
    """Ask until a condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what()[-4000:]
        time.sleep(0.2)


def ended(status: Any) -> dict[str, Any]:
    """The state of a background task once it is over."""
    found: dict[str, Any] = {}

    def over() -> bool:
        found.clear()
        found.update(status())
        return found["status"] in ("DONE", "ERROR", "STOPPED")

    until(over, lambda: "\n".join(found.get("details", [])))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
