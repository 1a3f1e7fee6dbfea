"""Kill every program at each of its changes of the file system, and at random moments; resume it; compare with a run in peace.

    python -m tests.reliability.kill                                  all of it; results/kill.json
    python -m tests.reliability.kill --program training --random 5    some of it; nothing is written

After every kill each file must be an old one or a new one, whole; the same command must complete the work; and the result must
be that of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.reliability.killing import FAULTS, Kill, kill_at_event, kill_at_time, trace
from tests.reliability.machine import circumstances
from tests.reliability.programs import PROGRAMS

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
RESULTS = Path(__file__).with_name("results") / "kill.json"


@app.command(help=__doc__)
def main(
    program: Annotated[list[str] | None, typer.Option(help="Only this one; can be given several times.")] = None,
    moments: Annotated[int, typer.Option("--random", min=0, help="Kills of each program at random moments.")] = 20,
    events: Annotated[int, typer.Option(min=0, help="Most kills of each program at changes; evenly spread where fewer.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    add: Annotated[bool, typer.Option("--add", help="Put these programs' results among those of the others.")] = False,
    output: Annotated[Path | None, typer.Option(help="JSON; by default written where all programs ran.")] = None,
) -> None:
    import_what_programs_need()
    made = circumstances(f"python -m tests.reliability.kill --random {moments} --seed {seed}")  # now: files change meanwhile
    results: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory(prefix="kill_") as root, Progress(*columns, console=Console(stderr=True)) as progress:
        for name in program or PROGRAMS:
            one, began = PROGRAMS[name], time.perf_counter()
            traced = trace(one, Path(root) / "program")
            total = len(traced.events)
            numbers = range(total) if total <= events else sorted({round(i * total / events) for i in range(events)})
            rng = random.Random(f"{name} {seed}")
            delays = [rng.uniform(0, 1.05 * traced.seconds) for _ in range(moments)]
            task = progress.add_task(name, total=len(numbers) + len(delays))
            found: dict[str, list[Kill]] = {"at changes": [], "at random": []}
            for number in numbers:
                found["at changes"].append(kill_at_event(one, traced, number))
                progress.advance(task)
            for delay in delays:
                found["at random"].append(kill_at_time(one, traced, delay))
                progress.advance(task)
            kills = [kill for group in found.values() for kill in group]
            counts = {group: dict(sorted(Counter(k.outcome for k in some).items())) for group, some in found.items()}
            faults = [kill for kill in kills if kill.outcome in FAULTS]
            results.append(
                {
                    "program": name,
                    "changes": total,
                    "seconds_undisturbed": round(traced.seconds, 2),
                    **{group: counts[group] for group in found},
                    "most_leftovers": max((kill.leftovers for kill in kills), default=0),
                    "faults": [vars(kill) for kill in faults[:20]],
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )
            console.print(f"{name}: {total} changes, {counts}; {len(faults)} faults; {results[-1]['seconds']} s in all")
            for fault in faults[:10]:
                console.print(f"  {fault.where}: {fault.outcome}: {fault.detail}")
    if output is not None or add or program is None:
        results = [{**result, "commit": made["commit"]} for result in results]
        if add:
            there = json.loads(RESULTS.read_text(encoding="utf-8"))
            assert (there["seed"], there["random"]) == (seed, moments), "the others were killed with another seed, or less often"
            new = {one["program"] for one in results}
            results = [one for one in there["programs"] if one["program"] not in new] + results
            made = {key: there[key] for key in made}
        path = output or RESULTS
        path.parent.mkdir(exist_ok=True)
        minutes = round(sum(result["seconds"] for result in results) / 60, 1)
        values = {**made, "minutes": minutes, "seed": seed, "random": moments, "programs": results}
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if any(result["faults"] for result in results):
        raise typer.Exit(1)


def import_what_programs_need() -> None:
    """Once, before the forks; nothing is computed here, for a fork has no threads but its own."""
    import importlib

    for module in (
        "scripts.segment",
        "scripts.adapters",
        "scripts.new_domain",
        "scripts.export_domain",
        "scripts.package_bundle",
    ):
        importlib.import_module(module)
    for module in ("custom_components.exports", "custom_components.training", "custom_components.planning", "monai.bundle"):
        importlib.import_module(module)
    importlib.import_module("custom_components.data.pictures")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
