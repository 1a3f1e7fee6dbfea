"""Run a reader on many files in a process that may die, hang or ask for all memory, without harm and without it being missed."""

from __future__ import annotations

import faulthandler
import multiprocessing as mp
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.reliability.readers import Reader

__all__ = ["Finding", "Limits", "Outcome", "fuzz"]

FAULTS = ("undeclared", "message", "wrong", "left behind", "memory", "slow", "hang", "crash")
"""Outcomes that are faults; the others are refusals (by class of error) and ``accepted``."""


@dataclass(frozen=True)
class Limits:
    """Of one input.

    Attributes:
        wall: seconds after which the process is killed: a hang. Generous, for the machine may be shared.
        cpu: seconds of processor time above which a small file counts as slow.
        memory: bytes by which the process may grow for it.
        address: bytes of address space that the process may have beyond what it has at the start; an allocation above fails.
    """

    wall: float = 60.0
    cpu: float = 5.0
    memory: int = 512 * 2**20
    address: int = 3 * 2**30


@dataclass(frozen=True)
class Finding:
    """An input that showed a fault."""

    reader: str
    index: int
    outcome: str
    detail: str


@dataclass
class Outcome:
    """What became of all inputs of a reader."""

    reader: str
    inputs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest: float = 0.0
    largest_growth: int = 0
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        return sum(self.counts[name] for name in FAULTS)


def fuzz(
    reader: Reader, seed: int, start: int, stop: int, folder: Path, limits: Limits, advance: Callable[[int], None] | None = None
) -> Outcome:
    """Read the inputs ``start`` to ``stop`` of a reader; input i is the same whatever the others are.

    Args:
        reader: what to read.
        seed: of the inputs.
        start, stop: which.
        folder: for the files, emptied.
        limits: of one input.
        advance: called with the number of inputs done.
    """
    began = time.perf_counter()
    outcome = Outcome(reader.name)
    context = mp.get_context("fork")  # the parent has imported what takes seconds
    index = start
    while index < stop:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        parent, child = context.Pipe()
        process = context.Process(target=_work, args=(child, reader, seed, index, stop, folder, limits), daemon=True)
        process.start()
        child.close()
        ended = "crash"
        while True:
            try:
                if not parent.poll(limits.wall):
                    ended = "hang"
                    break
                done: tuple[int, str, str, float, int] = parent.recv()
            except (EOFError, OSError):
                break
            index = done[0] + 1
            _count(outcome, *done)
            if advance is not None:
                advance(1)
            if index >= stop:
                break
        process.kill()
        process.join()
        if index < stop:  # the input that was being read when the process ended
            detail = f"no answer in {limits.wall:.0f} s" if ended == "hang" else f"exit code {process.exitcode}"
            _count(outcome, index, ended, detail, 0.0, 0)
            index += 1
            if advance is not None:
                advance(1)
    outcome.seconds = time.perf_counter() - began
    return outcome


def _count(outcome: Outcome, index: int, name: str, detail: str, cpu: float, growth: int) -> None:
    outcome.inputs += 1
    outcome.counts[name] += 1
    outcome.slowest, outcome.largest_growth = max(outcome.slowest, cpu), max(outcome.largest_growth, growth)
    if name in FAULTS:
        outcome.findings.append(Finding(outcome.reader, index, name, detail))


def _work(pipe: Connection, reader: Reader, seed: int, start: int, stop: int, folder: Path, limits: Limits) -> None:
    os.setsid()
    faulthandler.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)  # libraries print what they think of damaged files
    session = reader.open(folder)
    # Once without a limit: what is imported on the first use is not the file's fault.
    session.run(0, seed, unchanged=True)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + limits.address, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index in range(start, stop):
        before, peak = time.process_time(), _peak()
        name, detail = session.run(index, seed)
        cpu, growth = time.process_time() - before, _peak() - peak
        if name not in FAULTS:
            if growth > limits.memory:
                name, detail = "memory", f"{growth / 2**20:.0f} MB ({name}: {detail})"
            elif cpu > limits.cpu:
                name, detail = "slow", f"{cpu:.1f} s ({name}: {detail})"
        pipe.send((index, name, detail[:500].encode("utf-8", "backslashreplace").decode(), cpu, growth))
    pipe.close()


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For the report."""
    return {
        "reader": outcome.reader,
        "inputs": outcome.inputs,
        "counts": dict(sorted(outcome.counts.items())),
        "findings": [vars(finding) for finding in outcome.findings[:20]],
        "slowest_cpu_seconds": round(outcome.slowest, 2),
        "largest_growth_mb": round(outcome.largest_growth / 2**20, 1),
        "seconds": round(outcome.seconds, 1),
    }
