"""Read many damaged files with every reader, each reader in a process with limits of time and memory.

    python -m tests.reliability.fuzz                               10,000 inputs of every reader; results/fuzz.json
    python -m tests.reliability.fuzz --inputs 300 --reader NIfTI   some of them; nothing is written
    python -m tests.reliability.fuzz --reader NIfTI --show 17      write input 17 to a folder, and read it here

Input i of a reader depends on the seed and i alone. docs/RELIABILITY.md is made of the results: tests/reliability/report.py.
"""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.reliability.machine import circumstances
from tests.reliability.readers import READERS
from tests.reliability.sandbox import Limits, Outcome, as_json, fuzz

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
RESULTS = Path(__file__).with_name("results") / "fuzz.json"


@app.command(help=__doc__)
def main(
    inputs: Annotated[int, typer.Option(min=1, help="Of every reader.")] = 10_000,
    reader: Annotated[list[str] | None, typer.Option(help="Only this one; can be given several times.")] = None,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    start: Annotated[int, typer.Option(help="Number of the first input.")] = 0,
    show: Annotated[int | None, typer.Option(help="Write this input to a folder and read it in this process.")] = None,
    add: Annotated[bool, typer.Option("--add", help="Put these readers' results among those of the others.")] = False,
    output: Annotated[Path | None, typer.Option(help="JSON; by default written where all readers ran.")] = None,
) -> None:
    chosen = [READERS[name] for name in reader or READERS]
    made = circumstances(f"python -m tests.reliability.fuzz --inputs {inputs} --seed {seed}")  # now: files change meanwhile
    with tempfile.TemporaryDirectory(prefix="fuzz_") as temporary:
        if show is not None:
            _show(chosen[0].name, seed, show)
            return
        outcomes: list[Outcome] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            for one in chosen:
                task = progress.add_task(one.name, total=inputs)
                folder = Path(temporary) / one.name.replace(" ", "_")
                outcome = fuzz(one, seed, start, start + inputs, folder, Limits(), lambda n, t=task: progress.advance(t, n))
                outcomes.append(outcome)
                counts = ", ".join(f"{name} {count}" for name, count in sorted(outcome.counts.items()))
                console.print(f"{one.name}: {counts}; slowest {outcome.slowest:.2f} s; {outcome.seconds:.0f} s in all")
                for finding in outcome.findings[:12]:
                    console.print(f"  {finding.index}: {finding.outcome}: {finding.detail[:300]}")
    if output is not None or add or reader is None:
        found = [{**as_json(outcome), "commit": made["commit"]} for outcome in outcomes]
        if add:
            there = json.loads(RESULTS.read_text(encoding="utf-8"))
            assert (there["seed"], there["inputs"]) == (seed, inputs), "the others were read with another seed, or fewer inputs"
            new = {one["reader"] for one in found}
            found = [one for one in there["readers"] if one["reader"] not in new] + found
            made = {key: there[key] for key in made}
        limits = {"memory": Limits().memory // 2**20, "cpu": Limits().cpu, "wall": Limits().wall}
        values = {
            **made,
            "minutes": round(sum(one["seconds"] for one in found) / 60, 1),
            "seed": seed,
            "inputs": inputs,
            "limits": limits,
            "readers": found,
        }
        path = output or RESULTS
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if any(outcome.faults for outcome in outcomes):
        raise typer.Exit(1)


def _show(name: str, seed: int, index: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz_input_"))
    session = READERS[name].open(folder)
    damaged, _ = session.input(index, seed)
    outcome = session.run(index, seed)
    console.print(f"{folder / 'input' / damaged}: {outcome[0]}: {outcome[1]}")
    try:
        session.reader.read(session.folder, session.folder / damaged)
    except Exception:
        traceback.print_exc()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    app()
