"""Train the universal network and what it is compared with, at equal steps per domain, and score all of them.

(universal) one network for all domains; (independent) the same network for each domain alone; (independent_dense) a network of
dense filters for each, as in the paper; (shared) one dense network without adapters; (added) an adapter for each domain on a
frozen trunk that was trained on the others. Every network is scored on the validation cases of the fold, which take no part in
its training; nothing is chosen by these scores. DATA_DIR needs the data sets of all domains of the bundle's train.json, or
of those that --domains names.

A run that was stopped goes on where it was when the same command is given again; what is done is not done twice. Each run has a
folder RUNS_DIR/<run> with a log; RESULTS_DIR/<run>.json says what it reached and how. scripts/results_page.py makes a page of
these.

Examples:

    python scripts/compare_setups.py DATA_DIR --epochs 8 --steps 75 --setups universal,independent --runs-dir runs/setups

    python scripts/compare_setups.py DATA_DIR --domains hippocampus_mri,abdomen_mri --runs-dir runs/two --results-dir results
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from custom_components.errors import InputError
from custom_components.experiments.running import (
    bundle_command,
    configs_sha256,
    descriptions_sha256,
    run_logged,
    split_options,
)
from custom_components.experiments.settings import check_settings, note_settings
from custom_components.experiments.setups import SETUPS, Budget, Run, planned_runs

if TYPE_CHECKING:
    from rich.progress import TaskID

BUNDLE = Path("bundles") / "universal_segmentation"
OF_RUNS = {
    *("config_file", "bundle_root", "dataset_dir", "dataset_dirs", "domains", "sets", "fold", "folds", "ckpt_dir", "output_dir"),
    *("steps_per_domain", "steps_per_epoch", "max_epochs", "val_interval", "trunk", "shape"),
}
"""What a run says of itself, and --option may not: which cases judge, what is trained on which, for how long."""
MEND = "give other --runs-dir and --results-dir, or move it and the run's folder away"

app = typer.Typer(add_completion=False)
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def compare_setups(
    data_dir: Annotated[Path, typer.Argument(help="Folder that holds the Decathlon folders (TaskNN_Name).", show_default=False)],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of every network.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each domain in an epoch.")] = 75,
    setups: Annotated[str, typer.Option(help=f"Which, of {', '.join(SETUPS)}; in this order.")] = ",".join(SETUPS),
    domains: Annotated[
        str, typer.Option(help="Which of train.json's; only their data sets are needed.", show_default="all of train.json")
    ] = "",
    fold: Annotated[int, typer.Option(min=0, help="Whose validation cases judge.")] = 0,
    runs_dir: Annotated[Path, typer.Option(help="Folders of the runs.")] = Path("runs/setups"),
    results_dir: Annotated[Path, typer.Option(help="Results, one JSON per run.")] = Path("docs/results"),
    bundle: Annotated[Path, typer.Option(help="The universal bundle.")] = BUNDLE,
    only: Annotated[
        str, typer.Option(help="Names of some of these runs, to spread them over processes; one must find what it needs.")
    ] = "",
    option: Annotated[list[str] | None, typer.Option(help="More for every training: --option '--lr 0.002'.")] = None,
) -> None:
    try:
        folders = _domains(bundle, data_dir, _names(domains))
        _check_fold([data_dir / folder for folder in folders.values()], fold)
        if not (chosen := list(dict.fromkeys(_names(setups)))):
            raise InputError(f"--setups: names none; there are {', '.join(SETUPS)}")
        runs = _some_of(planned_runs(bundle, runs_dir, list(folders), chosen, Budget(epochs, steps)), _names(only))
        extra = split_options(option or [], OF_RUNS)
        places = Folders(data_dir, runs_dir, results_dir, bundle)
        planned = [(run, _expected(run, bundle, epochs * steps, fold, extra)) for run in runs]
        for run, expected in planned:  # all of them, before the first is trained
            _check_same(run, places, expected)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("runs", total=len(runs))
            for run, expected in planned:
                _do(run, places, folders, expected, progress, task)
                progress.advance(task)
    except (InputError, ValueError) as error:
        console.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None


class Folders:
    """Where things are."""

    def __init__(self, data: Path, runs: Path, results: Path, bundle: Path) -> None:
        self.data, self.runs, self.results, self.bundle = data, runs, results, bundle

    def done(self, run: Run) -> Path:
        """The file that is there when a run is done."""
        return self.results / f"{run.name}.json" if run.setup else self.runs / run.name / "trained.json"


def _expected(run: Run, bundle: Path, steps_per_domain: int, fold: int, options: list[str]) -> dict[str, Any]:
    """What a result of this run says of how it was made."""
    return {
        "domains": list(run.domains),
        "steps": steps_per_domain * len(run.domains),
        "fold": fold,
        "options": options,
        "configurations": configs_sha256(bundle),
        "descriptions": descriptions_sha256(bundle, run.domains),
    }


def _domains(bundle: Path, data_dir: Path, chosen: list[str]) -> dict[str, str]:
    """Domain to the name of its folder in ``data_dir``, as the bundle's train.json has them; all chosen must be there."""
    path = bundle / "configs" / "train.json"
    if not path.is_file() or "dataset_dirs" not in (config := json.loads(path.read_text(encoding="utf-8"))):
        raise InputError(f"{bundle}: is no universal bundle (configs/train.json with dataset_dirs); give its folder as --bundle")
    if unknown := [name for name in chosen if name not in config["domains"]]:
        raise InputError(f"--domains {unknown[0]}: is no domain of {path}, which has {', '.join(config['domains'])}")
    names = [name for name in config["domains"] if not chosen or name in chosen]
    folders = {name: Path(config["dataset_dirs"][name].split("'")[1]).name for name in names}
    if missing := [folder for folder in folders.values() if not (data_dir / folder / "dataset.json").is_file()]:
        raise InputError(
            f"{data_dir}: has no {missing[0]} with a dataset.json; download the data set, give another folder, or leave "
            "its domain out with --domains"
        )
    return folders


def _check_fold(dataset_dirs: list[Path], fold: int) -> None:
    """Every data set has the fold, before anything is trained."""
    from custom_components.data import datalist

    for folder in dataset_dirs:
        datalist(folder, "validation", fold)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _some_of(runs: list[Run], names: list[str]) -> list[Run]:
    """The runs of these names, in their order; all of them where there are no names."""
    if unknown := sorted(set(names) - {run.name for run in runs}):
        raise InputError(f"--only {unknown[0]}: the set-ups have no such run; they have {', '.join(run.name for run in runs)}")
    return [run for run in runs if not names or run.name in names]


def _do(
    run: Run,
    folders: Folders,
    domains: dict[str, str],
    expected: dict[str, Any],
    progress: Progress,
    task: TaskID,
) -> None:
    folder, done = folders.runs / run.name, folders.done(run)
    if done.is_file():
        console.print(f"{done}: is there already, {run.name} skipped")
        return
    note_settings(folder, expected)
    progress.update(task, description=f"{run.name}: training")
    fold = expected["fold"]
    data = ("--dataset_dir", str(folders.data), "--fold", str(fold))
    command = bundle_command({}, [*run.train, *data, *expected["options"]])
    run_logged(command, folder / "train.log")
    scores = {}
    for name in run.judged:
        progress.update(task, description=f"{run.name}: scoring {name}")
        scores[name] = _score(run, name, folders, domains[name], fold)
    result = _result(run, folder, scores)
    _write(done, {**result, **expected, "command": _portable(["python", *command[1:]], folders)})


def _check_same(run: Run, folders: Folders, expected: dict[str, Any]) -> None:
    """What is there is skipped, or gone on with, only if it was made of these domains and steps, in the same way."""
    done = folders.done(run)
    if not done.is_file():
        check_settings(folders.runs / run.name, expected, MEND)
        return
    found = json.loads(done.read_text(encoding="utf-8"))
    if missing := [name for name in expected if name not in found]:
        raise InputError(f"{done}: was made by an older version, which did not note its {missing[0]}; {MEND}")
    if found["domains"] != expected["domains"]:
        there, asked = (", ".join(each["domains"]) for each in (found, expected))
        raise InputError(f"{done}: is of other domains ({there}, not {asked}); {MEND}")
    if (found["steps"], found["fold"]) != (expected["steps"], expected["fold"]):
        there, asked = (f"{each['steps']} steps on fold {each['fold']}" for each in (found, expected))
        raise InputError(f"{done}: is of {there}, not {asked}; {MEND}")
    if found["options"] != expected["options"]:
        there, asked = (" ".join(each["options"]) or "none" for each in (found, expected))
        raise InputError(f"{done}: was made with other options ({there}, not {asked}); {MEND}")
    for key, what in (("configurations", "the bundle's configurations"), ("descriptions", "the descriptions of its domains")):
        if found[key] != expected[key]:
            raise InputError(f"{done}: {what} have changed since it was made; {MEND}")


def _score(run: Run, name: str, folders: Folders, dataset: str, fold: int) -> dict[str, Any]:
    folder = folders.runs / run.name
    arguments = {
        "config_file": folders.bundle / "configs" / "evaluate.json",
        "bundle_root": folders.bundle,
        "domain_name": name,
        "ckpt_dir": folder / "models",
        "output_dir": folder / "scores" / name,
        "dataset_dir": folders.data / dataset,
        "fold": fold,
    }
    run_logged(bundle_command(arguments, run.evaluate), folder / f"score_{name}.log")
    return dict(json.loads((folder / "scores" / name / "scores.json").read_text(encoding="utf-8")))


def _result(run: Run, folder: Path, scores: dict[str, Any]) -> dict[str, Any]:
    import torch

    from custom_components.weights import load_network

    network = load_network(folder / "models")
    state = torch.load(folder / "models" / "last.pt", map_location="cpu", weights_only=True)
    parameters = {"trunk": sum(p.numel() for p in network.trunk.parameters())}
    parameters |= {name: sum(p.numel() for p in adapter.parameters()) for name, adapter in network.domains.items()}
    return {
        "run": run.name,
        "setup": run.setup,
        "domains": list(run.domains),
        "steps_per_domain": state["iteration"] // len(run.domains),
        "training_seconds": round(state["seconds"], 1) if state.get("seconds") else None,
        "parameters": parameters,
        "trunk_fingerprint": network.trunk_fingerprint(),
        "scores": scores,
    }


def _portable(command: list[str], folders: Folders) -> str:
    """A command without the places of one machine: data and runs by a word, the bundle too unless its path is relative."""
    places = {str(folders.data): "DATA_DIR", str(folders.runs): "RUNS_DIR"}
    if folders.bundle.is_absolute():
        places[str(folders.bundle)] = "BUNDLE"
    # Longest first, and whole names only: one folder may lie in another, or begin like it.
    either = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    whole = re.compile(rf"(?<![\w./-])(?:{either})(?![\w.-])")
    return " ".join(whole.sub(lambda match: places[match[0]], part) for part in command)


def _write(path: Path, values: dict[str, Any]) -> None:
    from custom_components.atomic import atomic_path

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
