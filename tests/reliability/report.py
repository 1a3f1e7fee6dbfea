"""docs/RELIABILITY.md from what fuzz.py and kill.py found: python -m tests.reliability.report [--check]"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.reliability.killing import FAULTS as KILL_FAULTS
from tests.reliability.sandbox import FAULTS as FUZZ_FAULTS

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"
app = typer.Typer(add_completion=False)

INTRODUCTION = """# Reliability: damaged files and killed programs

Made by `python -m tests.reliability.report` of what the two programs below wrote. A part of both runs with every test run
(`tests/reliability/test_*.py`).
"""

FUZZ = """
## Files of strangers
Every reader gets {inputs:,} damaged files. The damage is blind (bits, bytes, pieces cut out, doubled, exchanged with another
file's) or knows the format: JSON trees with other types, huge numbers, NaN, doubled keys, deep nesting, halves of surrogate
pairs, NUL and paths that climb; NIfTI, MetaImage and NRRD headers with impossible fields; safetensors with other shapes, offsets
and fingerprints made to fit again; members of zip files changed. Each reader runs in a process of its own.

What must hold: a refusal is an `InputError` of one printable line that names the file and leaves nothing behind; what is
accepted is what it claims to be (a description reads back equal, a label lies on its image's grid, a network runs, an import
leaves other domains as they were). A fault is any other error, a message that is none, a wrong acceptance, files left behind,
more than {memory} MB for one file, more than {cpu:g} s of processor time, no answer in {wall:g} s, or the end of the process.

| reader | inputs | refused | accepted | faults | slowest, s | most memory, MB | run, s |
|---|---|---|---|---|---|---|---|
"""

KILL = """
## Kills
Every program is killed (SIGKILL) at each single change that it makes to the file system (after a file is opened to be written;
before a rename, a removal, a new folder), and {random} times at random moments of its run. After each kill, every file must be
the old one or a new one, whole; files that belong together must be one set, or be refused as none; the same command given again
must end well, with the files of a run in peace, byte for byte but for the times that they tell.

| program | changes | kills at changes | at random | nothing changed yet | in between | all done | faults | hidden leftovers |
|---|---|---|---|---|---|---|---|---|
"""

LIMITS = """
Hidden leftovers are files whose name begins with a dot: the temporary file that was being written. No reader takes them for
results; the column gives the most that one kill left. Where trunk and adapters were just replaced, `model.pt`, the last to be
written, still holds the network before, whole, until the command is given again. TensorBoard's event files are appended to, and
are not compared.
"""


@app.command(help=__doc__)
def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 where the page differs.")] = False,
) -> None:
    text = page()
    if check:
        raise typer.Exit(0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else 1)
    PAGE.write_text(text, encoding="utf-8")


def page() -> str:
    """The page of the results as they are."""
    fuzz, kill = (json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in ("fuzz", "kill"))
    return INTRODUCTION + _fuzz(fuzz) + _kill(kill)


def _fuzz(values: dict[str, Any]) -> str:
    text = FUZZ.format(inputs=values["inputs"], **values["limits"])
    errors: dict[str, int] = {}
    for reader in values["readers"]:
        counts = reader["counts"]
        faults = sum(counts.get(name, 0) for name in FUZZ_FAULTS)
        refused = {name: n for name, n in counts.items() if name not in (*FUZZ_FAULTS, "accepted")}
        for name, n in refused.items():
            errors[name] = errors.get(name, 0) + n
        cells = (
            reader["reader"],
            f"{reader['inputs']:,}",
            f"{sum(refused.values()):,}",
            f"{counts.get('accepted', 0):,}",
            str(faults),
            f"{reader['slowest_cpu_seconds']:.2f}",
            f"{reader['largest_growth_mb']:.0f}",
            f"{reader['seconds']:.0f}",
        )
        text += f"| {' | '.join(cells)} |\n"
    kinds = ", ".join(f"{n:,} `{name}`" for name, n in sorted(errors.items(), key=lambda item: -item[1]))
    total = sum(reader["inputs"] for reader in values["readers"])
    return text + f"\n{total:,} inputs; refusals by class: {kinds}.\n\n{_where(values, 'readers')}"


def _kill(values: dict[str, Any]) -> str:
    text = KILL.format(random=values["random"])
    total = 0
    for program in values["programs"]:
        changes, moments = program["at changes"], program["at random"]
        counts = {name: changes.get(name, 0) + moments.get(name, 0) for name in {*changes, *moments}}
        total += sum(counts.values())
        cells = (
            program["program"],
            program["changes"],
            sum(changes.values()),
            sum(moments.values()),
            counts.get("old", 0),
            counts.get("between", 0),
            counts.get("new", 0),
            sum(counts.get(name, 0) for name in KILL_FAULTS),
            program["most_leftovers"],
        )
        text += f"| {' | '.join(map(str, cells))} |\n"
    return text + f"\n{total:,} kills.\n{LIMITS}\n{_where(values, 'programs')}"


def _where(values: dict[str, Any], parts: str) -> str:
    commits = ", ".join(dict.fromkeys(part["commit"] for part in values[parts]))
    versions = ", ".join(f"{name} {values['versions'][name]}" for name in ("python", "torch", "monai", "nibabel"))
    minutes = values["minutes"]
    return (
        f"`{values['command']}`, {minutes:.0f} minutes, commit {commits}, {values['date']}, {values['machine']}, "
        f"{versions}. Seed {values['seed']}.\n"
    )


if __name__ == "__main__":
    app()
