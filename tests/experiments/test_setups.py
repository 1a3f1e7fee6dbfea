"""Which trainings a comparison of set-ups consists of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from custom_components.experiments.setups import SETUPS, Budget, Run, planned_runs

DOMAINS = ("heart", "liver", "spleen")
BUDGET = Budget(epochs=3, steps=7)


def plan(*setups: str) -> list[Run]:
    return planned_runs(Path("bundle"), Path("runs"), DOMAINS, setups, BUDGET)


def value(run: Run, key: str) -> str:
    return run.train[run.train.index(f"--{key}") + 1]


def test_every_network_gets_the_same_steps_of_each_domain() -> None:
    runs = plan(*SETUPS)
    assert len({run.name for run in runs}) == len(runs) == 1 + 3 + 3 + 1 + 6
    for run in runs:
        assert (value(run, "max_epochs"), value(run, "steps_per_domain"), value(run, "val_interval")) == ("3", "7", "3")
        assert json.loads(value(run, "domains")) == list(run.domains)


def test_every_set_up_judges_every_domain_once() -> None:
    for setup in SETUPS:
        judged = [name for run in plan(setup) if run.setup == setup for name in run.judged]
        assert sorted(judged) == sorted(DOMAINS)


def test_an_added_domain_is_unknown_to_its_trunk_which_comes_first() -> None:
    runs = {run.name: (place, run) for place, run in enumerate(plan("added"))}
    for name in DOMAINS:
        place, added = runs[f"added_{name}"]
        trunk_place, trunk = runs[f"without_{name}"]
        assert trunk_place < place
        assert set(trunk.domains) == set(DOMAINS) - {name}
        assert trunk.judged == ()
        assert value(added, "trunk") == str(Path("runs") / f"without_{name}" / "models" / "trunk.safetensors")


def test_dense_trunks_see_patches_of_one_shape_in_training_and_evaluation() -> None:
    (shared,) = plan("shared")
    assert json.loads(value(shared, "shape")) == json.loads(shared.evaluate[shared.evaluate.index("--shape") + 1])


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="no set-up 'all'"):
        plan("all")
    with pytest.raises(ValueError, match="at least two domains"):
        planned_runs(Path("b"), Path("r"), ["heart"], ["added"], BUDGET)
