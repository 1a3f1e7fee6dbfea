"""``scripts/cross_validate.py``: two folds of a phantom data set, pooled; nothing done twice."""

from __future__ import annotations

import ast
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser
from typer.testing import CliRunner, Result

from custom_components.data import datalist
from custom_components.weights import load_network
from scripts import cross_validate
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
    other = run(small, phantom_data, tmp_path, "--fold", "0", "--option", "--seed 1")
    assert other.exit_code == 1
    assert "was run with other settings" in other.output
    assert {path: path.read_bytes() for path in tmp_path.glob("fold*/*.log")} == logs


def test_what_cannot_run_is_said_before_anything_is_trained(
    small: Path, phantom_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    wider = small / "configs" / "wider.json"
    wider.write_text(json.dumps({"network_def#channels": [8, 8, 16, 16]}))
    request.addfinalizer(wider.unlink)
    for arguments, words in (
        ((small, phantom_data, "--fold", "7"), "no fold 7"),
        ((small / "configs", phantom_data), "has no configs/train.json"),
        ((small, tmp_path / "nothing"), "no such folder"),
        ((small, phantom_data, "--config", "other.json"), "other.json: no such file"),
        ((small, phantom_data, "--option", "--fold 2"), "--option '--fold 2': this script itself says what fold is"),
        ((small, phantom_data, "--config", "wider.json"), "makes another network (network_def#channels)"),
        ((small, phantom_data, "--option", "--lr=0.1"), "--option '--lr=0.1': must be a name and a value"),
    ):
        bundle, data, *options = arguments
        result = run(Path(bundle), Path(data), tmp_path / "runs", *map(str, options))
        assert result.exit_code == 1
        assert words in " ".join(result.output.split())
        assert not (tmp_path / "runs").exists()


def test_the_recipes_network_is_also_the_one_that_is_scored(
    bundle: Path, phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(command: Sequence[str], log: Path) -> None:
        parser = ConfigParser()
        files = ast.literal_eval(command[command.index("--config_file") + 1])
        parser.read_config(files)
        parser["bundle_root"] = str(bundle)
        networks[log.name] = parser.get_parsed_content("network_def")
        (log.parent).mkdir(exist_ok=True, parents=True)
        (log.parent / "scores.json").write_text(json.dumps({"cases": {"one": {"anterior": {"dice": 0.5}}}}))

    networks: dict[str, Any] = {}
    monkeypatch.setattr(cross_validate, "run_logged", read)
    for config in ([], ["--config", "original_recipe.json"]):
        result = run(bundle, phantom_data, tmp_path / f"runs{len(config)}", "--fold", "0", *config)
        assert result.exit_code == 0, result.output
        trained, scored = networks["train.log"].state_dict(), networks["evaluate.log"].state_dict()
        assert {key: value.shape for key, value in trained.items()} == {key: value.shape for key, value in scored.items()}


def test_an_adapter_is_scored_on_the_trunk_that_it_was_trained_on(
    small: Path, phantom_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trained = tmp_path_factory.mktemp("trained")
    assert run(small, phantom_data, trained, "--fold", "0").exit_code == 0
    trunk = trained / "fold0" / "models" / "trunk.safetensors"
    options = ["--config", "adapt.json", "--option", f"--trunk {trunk}", "--option", "--warm_start mean"]
    result = run(small, phantom_data, tmp_path / "adapted", "--fold", "1", *options)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "adapted" / "scores.json").read_text())
    assert report["cases"].keys() == {case["case"] for case in datalist(phantom_data, "validation", 1)}
    there, here = (load_network(folder / "models") for folder in (trained / "fold0", tmp_path / "adapted" / "fold1"))
    assert there.trunk_fingerprint() == here.trunk_fingerprint()


def test_all_folds_are_looked_at_before_the_first_is_trained(
    small: Path, phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[Path] = []
    monkeypatch.setattr(cross_validate, "run_logged", lambda command, log: logs.append(log))
    (tmp_path / "fold1").mkdir()
    (tmp_path / "fold1" / "settings.json").write_text("{}")
    result = run(small, phantom_data, tmp_path, "--fold", "0", "--fold", "1")
    assert result.exit_code == 1
    assert "fold1" in result.output
    assert not logs


def test_scores_of_another_bundle_or_data_set_are_not_taken_for_these(
    small: Path, phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(exist_ok=True, parents=True)
        (log.parent / "scores.json").write_text(json.dumps({"cases": {"one": {"anterior": {"dice": 0.5}}}}))

    monkeypatch.setattr(cross_validate, "run_logged", score)
    runs = tmp_path / "runs"
    renamed, described = tmp_path / "other_bundle", tmp_path / "described" / small.name
    more, changed = tmp_path / "more" / "Task99_More", tmp_path / "changed" / phantom_data.name
    for copy in (renamed, described):
        shutil.copytree(small, copy)
    for copy in (more, changed):
        shutil.copytree(phantom_data, copy)
    small_domain(small, described / "configs", patch_size=[24, 32, 32])
    label = next((changed / "labelsTr").glob("*.nii.gz"))
    label.write_bytes(label.read_bytes() + bytes(1))
    assert run(small, phantom_data, runs, "--fold", "0").exit_code == 0
    assert run(small, phantom_data, runs, "--fold", "0").exit_code == 0
    before = (runs / "scores.json").read_bytes()
    for bundle, data, words in (
        (renamed, phantom_data, f"bundle {small.name} there, other_bundle here"),
        (described, phantom_data, "the bundle's configurations have changed since"),
        (small, more, f"data {phantom_data.name} there, Task99_More here"),
        (small, changed, "the data set has other cases"),
    ):
        result = run(bundle, data, runs, "--fold", "0")
        assert result.exit_code == 1, result.output
        assert words in " ".join(result.output.split())
        assert "give another --runs-dir" in " ".join(result.output.split())
    path = runs / "fold0" / "settings.json"
    path.write_text(json.dumps({"folds": "auto"}))
    assert "as an older version wrote it" in " ".join(run(small, phantom_data, runs, "--fold", "0").output.split())
    path.unlink()
    assert "no settings.json" in " ".join(run(small, phantom_data, runs, "--fold", "0").output.split())
    assert (runs / "scores.json").read_bytes() == before
