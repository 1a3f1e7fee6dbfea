"""The set-ups of the paper as runs of the universal bundle: same data, same steps per domain, same settings.

(a) one universal network, (b) an independent network per domain, (c) one shared network, (d) for every domain, a trunk
trained on the others and an adapter trained on that trunk, which stays frozen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SETUPS", "Budget", "Run", "planned_runs"]

SETUPS = {
    "universal": "one network, a trunk and an adapter for each domain",
    "independent": "the same network for each domain alone",
    "independent_dense": "a network of dense filters for each domain, as in the paper",
    "shared": "one network of dense filters without adapters; every image is resized to its patch",
    "added": "an adapter for each domain, with a term of low rank, on a frozen trunk that was trained on the others",
}
CUBE = {"patch_size": [64, 64, 64], "strides": [[2, 2, 2]] * 5, "kernel_sizes": [[3, 3, 3]] * 6}


@dataclass(frozen=True)
class Budget:
    """How long every network is trained: ``epochs`` of ``steps`` steps of each of its domains."""

    epochs: int
    steps: int


@dataclass(frozen=True)
class Run:
    """One training, and which of its domains are judged.

    Attributes:
        name: of its folder.
        setup: one of `SETUPS`; "" for a trunk that only serves other runs.
        domains: that it trains.
        judged: domains whose validation cases it is evaluated on.
        train: arguments of ``python -m monai.bundle run``.
        evaluate: arguments that the evaluation needs beside the domain's.
    """

    name: str
    setup: str
    domains: tuple[str, ...]
    judged: tuple[str, ...]
    train: tuple[str, ...]
    evaluate: tuple[str, ...] = ()


def planned_runs(bundle: Path, runs_dir: Path, domains: Sequence[str], setups: Sequence[str], budget: Budget) -> list[Run]:
    """The trainings that the set-ups ask for, in an order in which each finds what it builds on.

    Args:
        bundle: the universal bundle.
        runs_dir: gets a folder per run.
        domains: names, at least two where ``added`` is asked for.
        setups: of `SETUPS`.
        budget: of every network.

    Raises:
        ValueError: no such set-up, or too few domains.
    """
    if unknown := [name for name in setups if name not in SETUPS]:
        raise ValueError(f"no set-up '{unknown[0]}'; there are {', '.join(SETUPS)}")
    if "added" in setups and len(domains) < 2:
        raise ValueError("added: a trunk of the other domains needs at least two domains")
    maker = _Maker(bundle, runs_dir, budget)
    every = tuple(domains)
    runs: list[Run] = []
    for setup in setups:
        if setup == "universal":
            runs.append(maker.run("universal", setup, every, every))
        elif setup == "shared":
            cube = ("--shape", json.dumps(CUBE))
            runs.append(maker.run("shared", setup, every, every, ["shared.json"], cube, cube))
        elif setup == "added":
            for name in domains:
                others = tuple(other for other in domains if other != name)
                runs.append(maker.run(f"without_{name}", "", others, ()))
                trunk = ("--trunk", str(runs_dir / f"without_{name}" / "models" / "trunk.safetensors"))
                runs.append(maker.run(f"added_{name}", setup, (name,), (name,), ["adapt.json"], trunk))
        else:
            files = ["independent.json"] if setup == "independent_dense" else []
            runs += [maker.run(f"{setup}_{name}", setup, (name,), (name,), files) for name in domains]
    return runs


@dataclass(frozen=True)
class _Maker:
    bundle: Path
    runs_dir: Path
    budget: Budget

    def run(
        self,
        name: str,
        setup: str,
        domains: tuple[str, ...],
        judged: tuple[str, ...],
        files: Sequence[str] = (),
        train: Sequence[str] = (),
        evaluate: Sequence[str] = (),
    ) -> Run:
        configs = [str(self.bundle / "configs" / file) for file in ("train.json", *files)]
        folder = self.runs_dir / name
        arguments = {
            "config_file": str(configs),
            "bundle_root": str(self.bundle),
            "domains": json.dumps(list(domains)),
            "ckpt_dir": str(folder / "models"),
            "output_dir": str(folder / "out"),
            "steps_per_domain": str(self.budget.steps),
            "max_epochs": str(self.budget.epochs),
            "val_interval": str(self.budget.epochs),  # once, at the end: the weights are not chosen on the cases that judge
        }
        listed = [part for key, value in arguments.items() for part in (f"--{key}", value)]
        return Run(name, setup, domains, judged, (*listed, *train), tuple(evaluate))
