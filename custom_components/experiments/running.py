"""Runs of ``python -m monai.bundle run`` as processes of their own, each with a log."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from custom_components.errors import InputError

__all__ = ["bundle_command", "configs_sha256", "run_logged", "split_options"]

# An `InputError` or a class of it, as a traceback ends; its message is one line.
OWN_ERROR = re.compile(r"^custom_components\.[\w.]+Error: (.+)$", re.MULTILINE)


def bundle_command(values: Mapping[str, object], more: Sequence[str] = ()) -> list[str]:
    """The command that runs a bundle's configuration.

    Args:
        values: overrides by name, ``config_file`` among them (a path, or a list of them).
        more: further arguments, as they are.
    """
    listed = []
    for key, value in values.items():
        listed += [f"--{key}", str([str(v) for v in value]) if isinstance(value, (list, tuple)) else str(value)]
    return [sys.executable, "-m", "monai.bundle", "run", *listed, *more]


def configs_sha256(bundle: Path) -> str:
    """A hash of all of a bundle's configurations but its metadata: what was trained under another one is no equal."""
    digest = hashlib.sha256()
    folder = bundle / "configs"
    for path in sorted(folder.rglob("*.json")):
        if path != folder / "metadata.json":  # holds what the shipped weights reach, and sets nothing
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def split_options(given: Sequence[str]) -> list[str]:
    """``["--lr 0.002"]`` → ``["--lr", "0.002"]``, before anything is run with them.

    Raises:
        InputError: one has no value, or no ``--`` before its name.
    """
    parts = []
    for text in given:
        pair = text.split(maxsplit=1)
        if len(pair) != 2 or not pair[0].startswith("--"):
            raise InputError(f"--option '{text}': must be a name and a value, such as --option '--lr 0.002'")
        parts += pair
    return parts


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run a command to its end, its output appended to a log.

    Raises:
        InputError: it failed; the message has what its last `InputError` said, or the log's last line where there was none.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        before = file.tell()
        file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n")
        file.flush()
        environment = {**os.environ, "TQDM_DISABLE": "1"}  # bars are for people, a log is read later
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        text = log.read_bytes()[before:].decode("utf-8", errors="replace")
        raise InputError(f"{log}: the run ended with an error ({_reason(text)}); mend it and give the same command again")


def _reason(text: str) -> str:
    """Why a run failed, by what it printed; MONAI ends its tracebacks with advice of its own, which says nothing of the cause."""
    told = OWN_ERROR.findall(text)
    return str(told[-1] if told else text.rstrip().splitlines()[-1]).strip()
