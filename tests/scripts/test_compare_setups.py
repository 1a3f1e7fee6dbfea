"""``scripts/compare_setups.py`` on two phantom domains: results, and nothing done twice."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from custom_components.data import datalist
from custom_components.experiments import setups
from custom_components.experiments.running import configs_sha256, descriptions_sha256
from custom_components.experiments.setups import Run
from custom_components.weights import load_network
from scripts import compare_setups
from scripts.compare_setups import Folders, _portable, app
from tests.bundles.universal_runs import COMMON, two_domains


@pytest.fixture(scope="module")
def own_bundle(repository: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The universal bundle with two phantom domains, and the folder of their data."""
    folder = tmp_path_factory.mktemp("own")
    copy = folder / "universal_segmentation"
    shutil.copytree(repository / "bundles" / "universal_segmentation" / "configs", copy / "configs")
    made = two_domains(folder, bundle)
    shutil.rmtree(copy / "configs" / "domains")
    (copy / "configs" / "domains").mkdir()
    for path in map(Path, made["domains"]):
        shutil.move(path, copy / "configs" / "domains" / path.name)
    train = copy / "configs" / "train.json"
    values = json.loads(train.read_text())
    values.update(
        domains=["alpha", "beta"],
        dataset_dirs={name: f"$@dataset_dir + '/{Path(path).name}'" for name, path in made["dataset_dirs"].items()},
        channels=[4, 4, 8],
        device="$torch.device('cpu')",
    )
    values["loss"]["weights"] = [1.0, 0.5]
    train.write_text(json.dumps(values))
    evaluate = copy / "configs" / "evaluate.json"
    values = json.loads(evaluate.read_text())
    values["device"] = "$torch.device('cpu')"
    evaluate.write_text(json.dumps(values))
    return copy, folder


def compare(bundle: Path, data: Path, folder: Path, *options: str) -> Result:
    places = ["--bundle", str(bundle), "--runs-dir", str(folder / "runs"), "--results-dir", str(folder / "results")]
    return CliRunner().invoke(app, [str(data), "--epochs", "1", "--steps", "1", *places, *options], env={"COLUMNS": "200"})


def test_every_domain_gets_a_result_and_what_is_done_is_not_done_again(own_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = own_bundle
    result = compare(bundle, data, tmp_path, "--setups", "independent")
    assert result.exit_code == 0, result.output
    for name, cases in (("alpha", 2), ("beta", 1)):
        report = json.loads((tmp_path / "results" / f"independent_{name}.json").read_text())
        assert (report["setup"], report["domains"], report["steps_per_domain"]) == ("independent", [name], 1)
        assert len(report["scores"][name]["cases"]) == cases
        network = load_network(tmp_path / "runs" / f"independent_{name}" / "models")
        assert sum(report["parameters"].values()) == sum(p.numel() for p in network.parameters())
        assert report["trunk_fingerprint"] == network.trunk_fingerprint()
        assert report["training_seconds"] > 0
        assert str(data) not in json.dumps(report)
    logs = {path: path.read_text() for path in (tmp_path / "runs").glob("*/*.log")}
    again = compare(bundle, data, tmp_path, "--setups", "independent")
    assert again.exit_code == 0, again.output
    assert "skipped" in again.output
    other = compare(bundle, data, tmp_path, "--setups", "independent", "--fold", "1")
    assert other.exit_code == 1
    assert "1 steps on fold 0, not 1 steps on fold 1" in other.output
    other = compare(bundle, data, tmp_path, "--setups", "independent", "--option", "--lr 0.001")
    assert other.exit_code == 1
    assert "other options (none, not --lr 0.001)" in other.output
    with changed(bundle / "configs" / "train.json", '"lr": 0.02', '"lr": 0.03'):
        other = compare(bundle, data, tmp_path, "--setups", "independent")
        assert other.exit_code == 1
        assert "configurations have changed" in other.output
    with changed(bundle / "configs" / "domains" / "beta.json", '"organ": "', '"organ": "other '):
        other = compare(bundle, data, tmp_path, "--setups", "independent")
        assert other.exit_code == 1
        assert "independent_beta.json: the descriptions of its domains have changed" in other.output
        assert "skipped" not in other.output  # all are looked at before the first is begun
    # A result that was moved away leaves the run's folder, which was trained in the old way.
    (tmp_path / "results" / "independent_beta.json").rename(tmp_path / "beta.json")
    other = compare(bundle, data, tmp_path, "--setups", "independent", "--only", "independent_beta", "--option", "--lr 0.001")
    assert other.exit_code == 1
    assert "was run with other settings (options [] there, ['--lr', '0.001'] here)" in other.output
    assert "move it and the run's folder away" in other.output
    assert logs == {path: path.read_text() for path in (tmp_path / "runs").glob("*/*.log")}


def test_some_runs_of_a_comparison_can_be_asked_for_by_name(own_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = own_bundle
    unknown = compare(bundle, data, tmp_path, "--setups", "independent", "--only", "independent_beta,gamma")
    assert unknown.exit_code == 1
    assert "--only gamma: the set-ups have no such run; they have independent_alpha, independent_beta" in unknown.output
    assert not (tmp_path / "runs").exists()
    result = compare(bundle, data, tmp_path, "--setups", "independent", "--only", "independent_beta")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["independent_beta.json"]
    whole = compare(bundle, data, tmp_path, "--setups", "independent")
    assert whole.exit_code == 0, whole.output
    assert "independent_beta skipped" in whole.output
    assert len(list((tmp_path / "results").iterdir())) == 2


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    yield
    path.write_text(before)


def test_commands_are_told_without_the_places_of_a_machine(tmp_path: Path) -> None:
    """Whole names only: a folder may lie in another, or begin like it."""
    folders = Folders(tmp_path / "x", tmp_path / "x" / "runs", tmp_path / "results", tmp_path / "bundle")
    command = [
        "--trunk",
        f"{tmp_path}/x2/trunk",
        "--a",
        f"['{tmp_path}/x/runs/models']",
        f"{tmp_path}/x",
        f"{tmp_path}/bundle/configs",
    ]
    assert _portable(command, folders) == f"--trunk {tmp_path}/x2/trunk --a ['RUNS_DIR/models'] DATA_DIR BUNDLE/configs"


def test_a_run_that_fails_names_its_log_and_leaves_no_result(own_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = own_bundle
    result = compare(bundle, data, tmp_path, "--setups", "independent", "--option", "--channels [4]")
    assert result.exit_code == 1
    assert "train.log" in result.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "option", ["--fold 1", "--val_interval 1", "--sets#fold 1", "--domains ['alpha']", "--folds five", "--steps_per_domain 9"]
)
def test_an_option_cannot_say_otherwise_than_the_script(own_bundle: tuple[Path, Path], tmp_path: Path, option: str) -> None:
    """It would win: a network would be trained on the cases that judge it, under a result that says fold 0."""
    bundle, data = own_bundle
    result = compare(bundle, data, tmp_path, "--option", option)
    assert result.exit_code == 1
    assert f"--option '{option}': this script itself says" in result.output
    assert not (tmp_path / "runs").exists()


def test_no_set_up_is_an_error(own_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = own_bundle
    result = compare(bundle, data, tmp_path, "--setups", "")
    assert result.exit_code == 1
    assert "--setups: names none" in result.output


def test_missing_data_are_named_before_anything_starts(own_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, _ = own_bundle
    result = compare(bundle, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "has no Task97_Alpha" in result.output
    assert not (tmp_path / "out").exists()


def test_a_fold_that_is_not_there_is_named_before_anything_starts(own_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = own_bundle
    result = compare(bundle, data, tmp_path, "--fold", "5")
    assert result.exit_code == 1
    assert "no fold 5" in result.output
    assert not (tmp_path / "runs").exists()


def test_some_of_the_domains_need_only_their_data(
    own_bundle: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, data = own_bundle
    shutil.copytree(data / "Task98_Beta", tmp_path / "data" / "Task98_Beta")
    unknown = compare(bundle, tmp_path / "data", tmp_path, "--domains", "beta,gamma")
    assert unknown.exit_code == 1
    assert "--domains gamma: is no domain of" in unknown.output
    runs: list[Run] = []
    monkeypatch.setattr(compare_setups, "_do", lambda run, *others: runs.append(run))
    result = compare(bundle, tmp_path / "data", tmp_path, "--domains", "beta", "--setups", "universal,independent")
    assert result.exit_code == 0, result.output
    assert [(run.name, run.domains) for run in runs] == [("universal", ("beta",)), ("independent_beta", ("beta",))]
    runs.clear()
    result = compare(bundle, data, tmp_path, "--domains", "beta, alpha", "--setups", "universal")
    assert result.exit_code == 0, result.output
    assert [run.domains for run in runs] == [("alpha", "beta")]  # in the order of train.json


def test_results_that_do_not_say_how_they_were_made_are_not_taken_for_these(
    own_bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, data = own_bundle
    made = {
        "domains": ["alpha"],
        "steps": 1,
        "fold": 0,
        "options": [],
        "configurations": configs_sha256(bundle),
        "descriptions": descriptions_sha256(bundle, ["alpha"]),
    }
    path = tmp_path / "results" / "independent_alpha.json"
    path.parent.mkdir()

    def asked() -> Result:
        return compare(bundle, data, tmp_path, "--setups", "independent", "--only", "independent_alpha")

    path.write_text(json.dumps(made))
    assert "independent_alpha skipped" in asked().output
    for key in made:
        path.write_text(json.dumps({name: value for name, value in made.items() if name != key}))
        result = asked()
        assert result.exit_code == 1
        assert f"independent_alpha.json: was made by an older version, which did not note its {key};" in result.output
    path.write_text(json.dumps({**made, "domains": ["beta"]}))
    result = asked()
    assert result.exit_code == 1
    assert "is of other domains (beta, not alpha)" in result.output
    assert not (tmp_path / "runs").exists()


def test_one_network_for_all_added_domains_and_a_shared_network(
    own_bundle: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within this process, since importing MONAI anew takes longer than these trainings."""

    def here(command: Sequence[str], log: Path) -> None:
        assert command[1:4] == ["-m", "monai.bundle", "run"]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["monai.bundle", *command[3:]])
            runpy.run_module("monai.bundle", run_name="__main__")

    bundle, data = own_bundle
    monkeypatch.setattr(compare_setups, "run_logged", here)
    monkeypatch.setattr(setups, "CUBE", COMMON)
    result = compare(bundle, data, tmp_path, "--setups", "universal,shared,added")
    assert result.exit_code == 0, result.output
    reports = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()}
    both = ["alpha", "beta"]
    assert {name: (r["setup"], r["domains"], sorted(r["scores"])) for name, r in reports.items()} == {
        "universal": ("universal", both, both),
        "shared": ("shared", both, both),
        "added_alpha": ("added", ["alpha"], ["alpha"]),
        "added_beta": ("added", ["beta"], ["beta"]),
    }
    for report in reports.values():
        assert report["steps_per_domain"] == 1
        for name, scores in report["scores"].items():
            cases = {
                case["case"] for case in datalist(data / {"alpha": "Task97_Alpha", "beta": "Task98_Beta"}[name], "validation")
            }
            assert scores["cases"].keys() == cases
    for name, other in (("alpha", "beta"), ("beta", "alpha")):
        trunk = json.loads((tmp_path / "runs" / f"without_{name}" / "trained.json").read_text())
        assert (trunk["setup"], trunk["domains"], trunk["scores"]) == ("", [other], {})
        assert reports[f"added_{name}"]["trunk_fingerprint"] == trunk["trunk_fingerprint"]
        assert reports[f"added_{name}"]["parameters"].keys() == {"trunk", name}
    assert len({report["trunk_fingerprint"] for report in reports.values()}) == 4
    assert load_network(tmp_path / "runs" / "shared" / "models").config["adapter"] == "none"
