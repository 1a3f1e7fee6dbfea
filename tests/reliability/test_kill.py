"""Programs killed at some of their changes, in a process of its own; and that the judge sees what it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.killing import FAULTS, Program, kill_at_event, kill_at_time, trace

# Programs, and at most how many of their changes: kill.py does all of them, and the slow programs.
QUICK = [(["adapters.py import", "import_original.py"], 1000), (["segment.py", "adapters.py remove"], 2)]


def prepare(folder: Path) -> None:
    (folder / "result").write_text("old")


def replace(folder: Path) -> None:
    """As it should be: a temporary file, then a rename."""
    for name in ("result", "second"):
        (folder / f".{name}").write_text("new")
        os.replace(folder / f".{name}", folder / name)


def overwrite(folder: Path) -> None:
    """In its place, in one go."""
    (folder / "result").write_text("new")


def halves(folder: Path) -> None:
    """The first half is on the disk before the second is written."""
    with open(folder / "added", "a") as file:
        file.write("ne")
        file.flush()
        (folder / ".note").write_text("")
        file.write("w")


def remove_first(folder: Path) -> None:
    (folder / "result").unlink(missing_ok=True)
    replace(folder)


def once(folder: Path) -> None:
    os.mkdir(folder / "made")
    replace(folder)


def depends(folder: Path) -> None:
    """What it writes the second time is not what it writes the first time."""
    with open(folder / ".count", "a") as file:
        file.write("1")
    (folder / ".result").write_text((folder / ".count").read_text())
    os.replace(folder / ".result", folder / "result")


def both(folder: Path) -> None:
    assert (folder / "second").exists() == ((folder / "result").read_text() == "new")


def outcomes(run: Callable[[Path], None], root: Path, check: Callable[[Path], None] | None = None) -> list[str]:
    program = Program("made up", prepare, run, run, check or (lambda folder: None))
    traced = trace(program, root)
    return [kill_at_event(program, traced, number).outcome for number in range(len(traced.events))]


def test_a_program_that_renames_has_no_fault(tmp_path: Path) -> None:
    assert outcomes(replace, tmp_path) == ["old", "old", "between", "between"]


@pytest.mark.parametrize(
    ("run", "check", "fault"),
    [
        (overwrite, None, "half-written"),
        (halves, None, "half-written"),
        (once, None, "not resumed"),
        (depends, None, "another result"),
        (replace, both, "inconsistent"),
    ],
)
def test_the_judge_sees(run: Callable[[Path], None], check: Callable[[Path], None] | None, fault: str, tmp_path: Path) -> None:
    assert fault in outcomes(run, tmp_path, check)


def test_a_removal_is_a_change_and_no_fault(tmp_path: Path) -> None:
    assert outcomes(remove_first, tmp_path)[:2] == ["old", "between"]


def test_a_kill_after_the_end_finds_all_done(tmp_path: Path) -> None:
    program = Program("made up", prepare, replace, replace)
    assert kill_at_time(program, trace(program, tmp_path), 60.0).outcome == "new"


@pytest.mark.parametrize(("names", "most"), QUICK, ids=lambda value: str(value))
def test_programs_survive_kills(names: list[str], most: int, tmp_path: Path, repository: Path) -> None:
    output = tmp_path / "kills.json"
    chosen = [option for name in names for option in ("--program", name)]
    options = ["--random", "1", "--events", str(most), "--output", str(output), *chosen]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "tests.reliability.kill", *options]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    results = json.loads(output.read_text())["programs"]
    assert [result["program"] for result in results] == names
    for result in results:
        assert result["changes"] >= 8, result
        assert sum(result["at changes"].values()) == min(result["changes"], most)
        assert not {*result["at changes"], *result["at random"]} & set(FAULTS)
