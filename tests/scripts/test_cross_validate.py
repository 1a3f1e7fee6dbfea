"""``scripts/cross_validate.py``: two folds of a phantom data set, pooled; nothing done twice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from custom_components.data import datalist
from scripts.cross_validate import app
from tests.bundles.training_runs import small_domain


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with a small network and patch."""
    copy = tmp_path_factory.mktemp("bundle") / bundle.name
    shutil.copytree(bundle / "configs", copy / "configs")
    small_domain(bundle, copy / "configs")
    for name in ("train", "evaluate"):
        path = copy / "configs" / f"{name}.json"
        values = json.loads(path.read_text())
        values["network_def"]["channels"] = [4, 4, 8, 8]
        values["device"] = "$torch.device('cpu')"
        path.write_text(json.dumps(values))
    return copy


def run(bundle: Path, data: Path, folder: Path, *options: str) -> Result:
    budget = ["--option", "--max_epochs 1", "--option", "--steps_per_epoch 1", "--option", "--val_interval 1"]
    return CliRunner().invoke(app, [str(bundle), str(data), "--runs-dir", str(folder), *budget, *options], env={"COLUMNS": "160"})


def test_cases_of_all_folds_are_pooled_and_what_is_done_stays(small: Path, phantom_data: Path, tmp_path: Path) -> None:
    result = run(small, phantom_data, tmp_path, "--fold", "0", "--fold", "3", "--processes", "2")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "scores.json").read_text())
    expected = {case["case"] for fold in (0, 3) for case in datalist(phantom_data, "validation", fold)}
    assert report["cases"].keys() == expected
    assert report["made"]["folds"] == [0, 3]
    dice = [case["anterior"]["dice"] for case in report["cases"].values()]
    assert report["summary"]["anterior"]["dice"]["mean"] == pytest.approx(np.mean([d for d in dice if d is not None]))
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == sorted(expected)
    for fold in (0, 3):
        assert (tmp_path / f"fold{fold}" / "models" / "trunk.safetensors").is_file()
    logs = {path: path.read_bytes() for path in tmp_path.glob("fold*/*.log")}
    assert len(logs) == 4
    assert run(small, phantom_data, tmp_path, "--fold", "0", "--fold", "3").exit_code == 0
    assert {path: path.read_bytes() for path in tmp_path.glob("fold*/*.log")} == logs


def test_what_cannot_run_is_said_before_anything_is_trained(small: Path, phantom_data: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((small, phantom_data, "--fold", "7"), "no fold 7"),
        ((small / "configs", phantom_data), "has no configs/train.json"),
        ((small, tmp_path / "nothing"), "no such folder"),
        ((small, phantom_data, "--config", "other.json"), "other.json: no such file"),
    ):
        bundle, data, *options = arguments
        result = run(Path(bundle), Path(data), tmp_path / "runs", *map(str, options))
        assert result.exit_code == 1
        assert words in " ".join(result.output.split())
        assert not (tmp_path / "runs").exists()
