"""Where and when a result was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from custom_components.inference.report import versions

__all__ = ["circumstances"]


def circumstances(command: str) -> dict[str, Any]:
    """Command, commit, date, processor and versions."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {name: version for name, version in versions().items() if name != "system"},
    }


def _commit() -> str:
    """Its short name, with ``-dirty`` where anything but results and the page made of them differs from it."""
    places = [".", ":!tests/reliability/results", ":!docs/RELIABILITY.md"]
    name = _git("rev-parse", "--short", "HEAD")
    return f"{name}-dirty" if name and _git("status", "--porcelain", "--", *places) else name or "unknown"


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[2]
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
