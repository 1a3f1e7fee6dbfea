"""What the benchmarks share: where and of what they are, and the clock of a GPU."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["commit", "event_clock", "machine"]


def commit() -> str:
    """Short hash of the checkout's commit, or ``unknown``."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Name of the processor."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def event_clock(call: Callable[[], object]) -> float:
    """Seconds between two events around the call on the current CUDA stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
