"""Bundles are what the template makes of their sources; `write_bundle` makes a complete one, or nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, verify_metadata
from typer.testing import CliRunner

from custom_components.bundles import Facts, drift, refresh_bundle, write_bundle
from custom_components.bundles.rendering import compact_json
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks import U2Net
from scripts.make_bundles import app
from tests.bundles.conftest import Made

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "bundles" / "metadata_schema.json"


@pytest.fixture(scope="module")
def lung() -> Domain:
    """A domain that nobody has written about: two channels, three levels."""
    values = json.loads((ROOT / "bundles/hippocampus_mri_segmentation/configs/domain.json").read_text())
    values.update(name="lung_ct", organ="lung", modality="CT", channels=["CT", "PET"], labels={"background": 0, "lung_left": 1})
    values.update(strides=[[1, 2, 2], [2, 2, 2]], kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]], spacing=[2.5, 1, 1])
    values.update(postprocessing={"lung_left": {"closing": 0, "keep": 1}}, patch_size=[20, 40, 40])
    return Domain.from_dict(values)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The texts of the hippocampus bundle."""
    return Path(
        shutil.copytree(
            ROOT / "bundles" / "hippocampus_mri_segmentation",
            tmp_path / "hippocampus_mri_segmentation",
            ignore=shutil.ignore_patterns("models", "*.png", "eval"),
        )
    )


def texts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_committed_is_what_the_template_gives(made: Made) -> None:
    assert drift(made.folder) == [], f"run: python scripts/make_bundles.py {made.folder.relative_to(ROOT)}"


def test_no_slot_is_left_open(made: Made) -> None:
    open_slots = {name: found for name, text in texts(made.folder).items() if (found := re.findall(rb"\{\{\w+\}\}", text))}
    assert open_slots == {}


def test_configurations_differ_from_bundle_to_bundle_in_values_only(made: Made) -> None:
    """The chain of transforms, handlers and engines is the same everywhere, and in sight."""
    first = ROOT / "bundles" / "hippocampus_mri_segmentation"
    free = {"network_def", "bundle_root", "dataset_dir", "loss", "cache_rate"}
    for name in ("train.json", "evaluate.json", "inference.json"):
        own, other = (json.loads((folder / "configs" / name).read_text()) for folder in (made.folder, first))
        assert own.keys() == other.keys()
        assert {k for k in own if own[k] != other[k]} <= free
        assert made.domain.name in own["network_def"]["domains"]


def test_a_new_domain_gets_a_complete_bundle(lung: Domain, tmp_path: Path) -> None:
    folder = write_bundle(lung, tmp_path / "bundles" / "lung_ct_segmentation", dataset="Task06_Lung")
    assert [p.name for p in folder.parent.iterdir()] == ["lung_ct_segmentation"]
    assert Domain.from_file(folder / "configs" / "domain.json") == lung
    assert drift(folder) == []
    shipped = {p.name for p in (ROOT / "bundles/hippocampus_mri_segmentation/configs").iterdir()}
    assert {p.name for p in (folder / "configs").iterdir()} == shipped
    assert (folder / "models").is_dir()
    verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=str(SCHEMA))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["channel_def"] == {"0": "CT", "1": "PET"}
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "train.json"))
    assert parser["dataset_dir"] == "/data/Task06_Lung"
    assert parser["loss#weights"] == [1.0, 0.5]
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    assert isinstance(network, U2Net)
    assert network.config["channels"] == [16, 32, 64]
    card = (folder / "docs" / "README.md").read_text()
    assert "no trained weights yet" in card and "Task06_Lung" in card and "Its licence is not stated" in card


def test_an_existing_folder_is_refused_and_stays(lung: Domain, tmp_path: Path) -> None:
    folder = tmp_path / "lung_ct_segmentation"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_bundle(lung, folder, dataset="Task06_Lung")
    assert texts(tmp_path) == {"lung_ct_segmentation/mine.txt": b"mine"}


def test_a_failure_leaves_nothing(lung: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name == "README.md":
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        write_bundle(lung, tmp_path / "lung_ct_segmentation", dataset="Task06_Lung")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a/b", "..", "", "Task'06", "{{bundle}}", "$os", "@domain"])
def test_a_data_sets_name_cannot_become_code_or_a_path(lung: Domain, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="dataset: "):
        write_bundle(lung, tmp_path / "lung_ct_segmentation", dataset=name)
    assert list(tmp_path.iterdir()) == []


def test_refreshing_writes_generated_files_only(copied: Path) -> None:
    domain = Domain.from_file(copied / "configs" / "domain.json")
    before = texts(copied)
    (copied / "configs" / "train.json").write_text("{}")
    (copied / "LICENSE").unlink()
    (copied / "docs" / "parts" / "limitations.md").write_text("- None that is known.\n")
    (copied / "mine.txt").write_text("mine")
    assert drift(copied) == ["LICENSE", "configs/train.json", "docs/README.md"]
    write_bundle(domain, copied, dataset="Task04_Hippocampus", refresh=True)
    after = texts(copied)
    assert after["configs/train.json"] == before["configs/train.json"] and after["LICENSE"] == before["LICENSE"]
    assert b"None that is known" in after["docs/README.md"]
    assert after["mine.txt"] == b"mine"
    for name in ("configs/domain.json", "docs/facts.json", "docs/results.json", "docs/parts/training.md"):
        assert after[name] == before[name]
    with pytest.raises(InputError, match="is not the domain that was given"):
        write_bundle(domain.model_copy(update={"crop_margin": 9}), copied, dataset="Task04_Hippocampus", refresh=True)
    with pytest.raises(InputError, match="not Task06_Lung"):
        write_bundle(domain, copied, dataset="Task06_Lung", refresh=True)


def test_weights_that_come_and_go(copied: Path) -> None:
    """Without weights the bundle says so in three places; the note in ``models`` goes when they come."""
    facts = json.loads((copied / "docs" / "facts.json").read_text())
    (copied / "docs" / "facts.json").write_text(json.dumps({**facts, "weights": False}))
    refresh_bundle(copied)
    assert "No trained weights yet" in (copied / "models" / "README.md").read_text()
    assert "no trained weights yet" in json.loads((copied / "configs" / "metadata.json").read_text())["description"]
    (copied / "docs" / "facts.json").write_text(json.dumps(facts))
    refresh_bundle(copied)
    assert not (copied / "models" / "README.md").exists()
    assert drift(copied) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typo": 1}, "typo"),
        ({"classes": {"anterior": "front"}}, "classes must describe anterior, posterior"),
        ({"channels": [8, 16]}, "2 widths, the domain 4 levels"),
        ({"changelog": {}}, "changelog"),
        ({"references": []}, "there is no reference 2"),
        ({"original": {"batch_size": 9, "pools": [2, 2, 2]}}, "must have 3 as its largest"),
    ],
)
def test_wrong_facts_are_named(copied: Path, change: dict[str, Any], message: str) -> None:
    path = copied / "docs" / "facts.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    before = texts(copied)
    with pytest.raises(InputError, match=re.escape(message)):
        refresh_bundle(copied)
    assert texts(copied) == before


def test_a_part_without_a_place_is_named(copied: Path) -> None:
    (copied / "docs" / "parts" / "limits.md").write_text("text")
    with pytest.raises(InputError, match=r"docs/parts/limits\.md: no such place"):
        drift(copied)


def test_facts_survive_writing(made: Made) -> None:
    facts = made.facts
    text = compact_json(facts.model_dump(mode="json", exclude_defaults=True))
    assert Facts.from_dict(json.loads(text), "facts") == facts


def test_the_script_checks_and_mends(copied: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, [str(copied), "--check"]).exit_code == 0
    (copied / "configs" / "train.json").write_text("{}")
    result = runner.invoke(app, [str(copied), "--check"])
    assert result.exit_code == 1
    assert "differs: " in result.output and "train.json" in result.output
    assert (copied / "configs" / "train.json").read_text() == "{}"
    assert runner.invoke(app, [str(copied)]).exit_code == 0
    assert drift(copied) == []
    result = runner.invoke(app, [str(copied / "none")])
    assert result.exit_code == 1 and "cannot be read" in " ".join(result.output.split())


def test_the_script_finds_the_repositorys_bundles() -> None:
    result = CliRunner().invoke(app, ["--check"])
    assert result.exit_code == 0, result.output
    assert "0 files differ" in result.output
