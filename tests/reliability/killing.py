"""Kill a program at a chosen change of the file system, or at a chosen moment, and see what is left.

Every run is a fork of this process, so that imports are paid for once. Python's audit events tell of every file that is opened
for writing, renamed, removed or made; the n-th of them within the program's folder is where the process kills itself: before a
rename, removal or new folder, and after the opening, when what was in the file is gone and nothing is in it yet.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing as mp
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Kill", "Program", "Trace", "kill_at_event", "kill_at_time", "trace"]

APPENDED = ("events.out.tfevents", ".log")
"""Files that a program adds to while it runs; whoever reads them expects an end that is cut off."""
TIMES = {"seconds", "created", "made", "date", "versions"}
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
ANEW = os.O_CREAT | os.O_TRUNC
SECONDS = 300


@dataclass(frozen=True)
class Program:
    """A program that changes files.

    Attributes:
        name: for people.
        prepare: makes the files that are there before it runs.
        run: the program; the folder is its working directory.
        resume: what a person does after it was killed.
        check: raises AssertionError where what is left, each file whole, does not make sense together.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    resume: Callable[[Path], None]
    check: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class Trace:
    """An undisturbed run.

    Attributes:
        template: folder with the files before it.
        folder: where every run takes place.
        events: what it does to the file system, in order.
        versions: path to the digests of all contents that it ever had whole; None stands for its absence.
        final: path to digest at the end.
        seconds: that it took.
    """

    template: Path
    folder: Path
    events: list[str]
    versions: dict[str, set[str | None]]
    final: dict[str, str]
    seconds: float


@dataclass
class Kill:
    """One killed run.

    Attributes:
        where: the event or the moment.
        outcome: ``old`` (nothing had changed), ``new`` (all was done), ``between``, or a fault: ``half-written``,
            ``inconsistent``, ``not resumed``, ``another result``.
        detail: of a fault.
        leftovers: hidden temporary files that were left.
    """

    where: str
    outcome: str
    detail: str = ""
    leftovers: int = 0


FAULTS = ("half-written", "inconsistent", "not resumed", "another result")


def trace(program: Program, root: Path) -> Trace:
    """Run a program undisturbed, and write down what it does."""
    template, folder = root / "before", root / "run"
    shutil.rmtree(root, ignore_errors=True)
    template.mkdir(parents=True)
    _must_succeed(_failed(lambda: program.prepare(template), template), f"{program.name}: preparation")
    _reset(template, folder)
    notes = root / "events.json"
    _must_succeed(_failed(lambda: _recorded(program, folder, notes), folder), f"{program.name}: the undisturbed run")
    final = _digests(folder)
    _reset(template, folder)
    began = time.perf_counter()
    _must_succeed(_failed(lambda: program.run(folder), folder), f"{program.name}: the undisturbed run")
    seconds = time.perf_counter() - began
    if _settled(_digests(folder)) != _settled(final):
        raise RuntimeError(f"{program.name}: two undisturbed runs differ")
    events, whole = json.loads(notes.read_text())
    versions: dict[str, set[str | None]] = {name: {digest} for name, digest in _digests(template).items()}
    for name, digest in whole:
        versions.setdefault(name, {None}).add(digest)
    # A folder that is renamed into place brings all its files.
    for name, digest in final.items():
        versions.setdefault(name, {None}).add(digest)
    return Trace(template, folder, events, versions, final, seconds)


def kill_at_event(program: Program, traced: Trace, number: int) -> Kill:
    """Kill at event ``number`` (from 0) of the run."""
    _reset(traced.template, traced.folder)
    code = _forked(lambda: _killing(program, traced.folder, number))
    if code != -signal.SIGKILL:
        return Kill(traced.events[number], "not resumed", f"the run ended with {code} before its event {number}")
    return _judge(program, traced, f"{number}: {traced.events[number]}")


def kill_at_time(program: Program, traced: Trace, delay: float) -> Kill:
    """Kill from outside, ``delay`` seconds after the start; a run that is done by then counts as one that was killed after it."""
    _reset(traced.template, traced.folder)
    process = mp.get_context("fork").Process(target=_quietly, args=(lambda: program.run(traced.folder), traced.folder))
    process.start()
    process.join(delay)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return _judge(program, traced, f"{delay:.3f} s")


def _judge(program: Program, traced: Trace, where: str) -> Kill:
    found = _digests(traced.folder)
    leftovers = sum(1 for p in traced.folder.rglob("*") if p.is_file() and _hidden(p.relative_to(traced.folder)))
    before = _digests(traced.template)
    for name in {*found, *before}:
        if found.get(name) not in traced.versions.get(name, {None}) and not _appended(name):
            return Kill(where, "half-written", f"{name} is {'gone' if name not in found else 'neither an old nor a new one'}")
    if fault := _failed(lambda: program.check(traced.folder), traced.folder):
        return Kill(where, "inconsistent", fault)
    settled = _settled(found)
    outcome = "old" if settled == _settled(before) else "new" if settled == _settled(traced.final) else "between"
    if fault := _failed(lambda: program.resume(traced.folder), traced.folder):
        return Kill(where, "not resumed", fault)
    end = _digests(traced.folder)
    differing = sorted(n for n, _ in _settled(end).items() ^ _settled(traced.final).items())
    if differing:
        return Kill(where, "another result", f"after resuming: {', '.join(differing[:5])}")
    return Kill(where, outcome, leftovers=leftovers)


def _reset(template: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)


# ---- in the forked process


def _recorded(program: Program, folder: Path, notes: Path) -> None:
    events: list[str] = []
    whole: list[tuple[str, str | None]] = []

    def seen(event: str, source: Path, target: Path) -> None:
        relative = target.relative_to(folder)
        events.append(f"{event} {_shortened(relative)}")
        if event == "os.rename" and source.is_file():
            whole.append((str(relative), _digest(source, target.name)))
        elif event == "os.rename" and source.is_dir():
            whole.extend((str(relative / p.relative_to(source)), _digest(p)) for p in source.rglob("*") if p.is_file())
        elif event == "os.remove":
            whole.append((str(relative), None))

    _watch(folder, seen)
    program.run(folder)
    recorded = [list(events), list(whole)]
    notes.write_text(json.dumps(recorded))


def _killing(program: Program, folder: Path, number: int) -> None:
    left = number

    def seen(event: str, source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            if event == "open" and not target.is_dir():
                # The moment after the opening: a file that is written in its place has lost its content by then.
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    _watch(folder, seen)
    program.run(folder)


def _watch(folder: Path, seen: Callable[[str, Path, Path], None]) -> None:
    """Call ``seen`` with (event, what it is done to, what comes of it) before every change within the folder."""
    prefix = str(folder.resolve()) + os.sep
    process, within = os.getpid(), False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal within
        if event == "open":
            path, mode, flags = arguments
            # By opening it, what is written from its beginning on loses or gets its content; "a" and "r+" change nothing yet.
            anew = set(mode) & set("wx") if isinstance(mode, str) else isinstance(flags, int) and flags & ANEW
            if not anew:
                return
            paths = ((path, -1), (path, -1))
        elif event in CHANGES:
            paths = _paths(event, arguments)
        else:
            return
        if within or os.getpid() != process or not all(isinstance(p, str | os.PathLike | bytes) for p, _ in paths):
            return
        within = True  # what the callback does is not the program's
        try:
            source, target = (_absolute(*p) for p in paths)
            made_before = event == "os.mkdir" and os.path.isdir(target)
            if target.startswith(prefix) and not made_before and not _appended(target):
                seen(event, Path(source), Path(target))
        finally:
            within = False

    sys.addaudithook(hook)


def _paths(event: str, arguments: tuple[Any, ...]) -> tuple[tuple[Any, int], tuple[Any, int]]:
    """What an event is done to and what comes of it, each with the descriptor of the folder that it is relative to (or -1)."""
    if event in ("os.rename", "os.link"):
        return (arguments[0], arguments[2]), (arguments[1], arguments[3])
    if event == "os.symlink":
        return (arguments[1], arguments[2]), (arguments[1], arguments[2])
    if event == "os.truncate":
        return (arguments[0], -1), (arguments[0], -1)
    return (arguments[0], arguments[-1]), (arguments[0], arguments[-1])  # remove, mkdir, rmdir


def _absolute(path: Any, descriptor: int) -> str:
    base = os.getcwd() if descriptor < 0 else os.readlink(f"/proc/self/fd/{descriptor}")
    return os.path.normpath(os.path.join(base, os.fsdecode(path)))


def _forked(function: Callable[[], None]) -> int | None:
    """Exit code of ``function`` in a fork; negative: the signal that ended it."""
    process = mp.get_context("fork").Process(target=_quietly, args=(function, None))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _quietly(function: Callable[[], None], folder: Path | None) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(null, "w", closefd=False))
    torch.set_num_threads(1)
    function()


def _failed(function: Callable[[], None], folder: Path) -> str:
    """What went wrong in a fork that runs ``function``; empty where nothing did."""
    note = folder.parent / "error.txt"
    note.unlink(missing_ok=True)

    def noted() -> None:
        try:
            function()
        except BaseException as error:
            note.write_text(f"{type(error).__name__}: {error}")
            raise

    code = _forked(noted)
    if code == 0:
        return ""
    return note.read_text()[:400] if note.is_file() else f"ended with {code}"


def _must_succeed(fault: str, what: str) -> None:
    if fault:
        raise RuntimeError(f"{what}: {fault}")


# ---- files


def _digests(folder: Path) -> dict[str, str]:
    """Digest of every visible file."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and not _hidden(p.relative_to(folder))]
    return {str(p.relative_to(folder)): _digest(p) for p in paths}


def _digest(path: Path, name: str = "") -> str:
    """SHA-256 of a file's content without the times it tells; of a checkpoint, of its tensors. ``name``: if not the file's."""
    name = name or path.name
    data = path.read_bytes()
    try:
        if name.endswith(".pt"):
            data = repr(_plain(torch.load(io.BytesIO(data), weights_only=True))).encode()
        elif name.endswith(".json"):
            data = json.dumps(_plain(json.loads(data)), sort_keys=True).encode()
    except Exception:
        data = b"unreadable " + data
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    return value


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _settled(digests: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if not _appended(name)}


def _appended(name: str) -> bool:
    return any(mark in name for mark in APPENDED)


def _shortened(relative: Path) -> str:
    """Without the random part of temporary names."""
    return "/".join(".temporary" if part.startswith(".") else part for part in relative.parts)
