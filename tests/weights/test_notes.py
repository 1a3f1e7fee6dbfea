"""What a shared adapter says of itself: how it was trained, how good it is, its licence; from the files that say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from custom_components.weights.bundle_files import describe_header
from scripts.adapters import app
from tests.weights.bundles import bundle_of, domain

LIVER, HEART = domain("liver_ct", 1, 3), domain("heart_mri")
SUMMARY = {name: {"dice": {"mean": 0.9, "ci95_low": 0.8, "ci95_high": 1.0}} for name in ("class1", "class2", "mean")}
SCORES = {"summary": SUMMARY, "cases": {"a": {}, "b": {}}, "made": {"data": "Task99_Mine", "date": "2026-11-01"}}
TRAINING = {"steps": 300, "cases": 40, "commit": "abc"}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return bundle_of(tmp_path / "bundle", LIVER, HEART)


def export(bundle: Path, name: str, *options: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["export", str(bundle), name, *map(str, options)])


def written(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_training_scores_and_licence_travel_with_the_file(many: Path, tmp_path: Path) -> None:
    scores, training = written(tmp_path / "scores.json", SCORES), written(tmp_path / "training.json", TRAINING)
    options = ("--output-dir", tmp_path / "out", "--results", scores, "--training", training, "--licence", "CC0-1.0")
    result = export(many, "liver_ct", *options)
    assert result.exit_code == 0 and "note" not in result.stderr, result.output
    header = describe_header(tmp_path / "out" / "liver_ct.safetensors")
    assert header.training == TRAINING and header.licence == "CC0-1.0"
    assert header.metrics == {"summary": SUMMARY, "cases": 2, "made": SCORES["made"]}
    # Into another bundle of this trunk, shown there, and out again without saying it once more.
    target = bundle_of(tmp_path / "target", LIVER, HEART)
    assert CliRunner().invoke(app, ["remove", str(target), "liver_ct", "--yes"]).exit_code == 0
    imported = CliRunner().invoke(app, ["import", str(tmp_path / "out" / "liver_ct.safetensors"), "--bundle", str(target)])
    assert imported.exit_code == 0, imported.output
    shown = json.loads(CliRunner().invoke(app, ["show", str(target), "liver_ct", "--json"]).stdout)
    assert (shown["training"], shown["metrics"], shown["licence"]) == (TRAINING, header.metrics, "CC0-1.0")
    assert export(target, "liver_ct", "--output-dir", tmp_path / "again").exit_code == 0
    assert (tmp_path / "again" / "liver_ct.safetensors").read_bytes() == (tmp_path / "out" / "liver_ct.safetensors").read_bytes()


def test_what_is_not_said_is_pointed_out(many: Path, tmp_path: Path) -> None:
    result = export(many, "heart_mri", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0
    for what in ("training", "metrics", "licence"):
        assert f"note: the file does not say its {what}" in result.stderr


def test_a_bundle_of_one_domain_says_its_own(bundle: Path, tmp_path: Path) -> None:
    assert export(bundle, "hippocampus_mri", "--output-dir", tmp_path).exit_code == 0
    header = describe_header(tmp_path / "hippocampus_mri.safetensors")
    results = json.loads((bundle / "docs" / "results.json").read_text())
    assert header.metrics == {"summary": results["summary"], "cases": len(results["cases"]), "made": results["made"]}
    assert header.licence == "CC-BY-SA 4.0"


def test_a_bundle_of_many_ships_scores_by_domain(many: Path, tmp_path: Path) -> None:
    (many / "docs" / "results").mkdir(parents=True)
    written(many / "docs" / "results" / "liver_ct.json", SCORES)
    written(many / "docs" / "results.json", {})
    assert export(many, "liver_ct", "--output-dir", tmp_path).exit_code == 0
    metrics = describe_header(tmp_path / "liver_ct.safetensors").metrics
    assert metrics is not None and metrics["summary"] == SUMMARY
    assert export(many, "heart_mri", "--output-dir", tmp_path).exit_code == 0
    assert describe_header(tmp_path / "heart_mri.safetensors").metrics is None


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("--results", {**SCORES, "summary": {"class1": {}, "mean": {}}}, "scores class1, but liver_ct has class1, class2"),
        ("--results", {"summary": SUMMARY}, "is no scores.json"),
        ("--results", [], "must hold one JSON object"),
        ("--training", "trained well", "must hold one JSON object"),
    ],
)
def test_notes_that_cannot_be_right_are_refused(many: Path, tmp_path: Path, option: str, values: Any, message: str) -> None:
    path = written(tmp_path / "notes.json", values)
    result = export(many, "liver_ct", "--output-dir", tmp_path / "out", option, path)
    assert result.exit_code == 1 and f"Error: {path}: {message}" in result.stderr, result.output
    assert not (tmp_path / "out").exists()
    path.write_text("{")
    assert "is not valid JSON" in export(many, "liver_ct", "--output-dir", tmp_path / "out", option, path).stderr
    path.unlink()
    assert "cannot be read" in export(many, "liver_ct", "--output-dir", tmp_path / "out", option, path).stderr
    assert not (tmp_path / "out").exists()
