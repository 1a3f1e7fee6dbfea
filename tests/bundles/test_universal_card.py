"""The universal bundle's card and metadata quote the figures of its results files, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from custom_components.bundles import refresh_universal, universal_drift
from custom_components.errors import InputError

CARD, METADATA = "docs/README.md", "configs/metadata.json"


@pytest.fixture
def scored(repository: Path, tmp_path: Path) -> Path:
    """The universal bundle with the results of one domain, those of the hippocampus bundle."""
    folder = tmp_path / "universal_segmentation"
    shutil.copytree(repository / "bundles" / "universal_segmentation", folder, ignore=shutil.ignore_patterns("models", "results"))
    results = folder / "docs" / "results"
    results.mkdir()
    shutil.copy(
        repository / "bundles" / "hippocampus_mri_segmentation" / "docs" / "results.json", results / "hippocampus_mri.json"
    )
    return folder


def test_figures_are_those_of_the_results(scored: Path) -> None:
    assert set(universal_drift(scored)) == {CARD, METADATA}
    refresh_universal(scored)
    assert universal_drift(scored) == []
    report = json.loads((scored / "docs" / "results" / "hippocampus_mri.json").read_text())
    summary, cases = report["summary"], report["cases"]
    metadata = json.loads((scored / METADATA).read_text())
    assert metadata["eval_metrics"]["hippocampus_mri_mean_dice"] == round(summary["mean"]["dice"]["mean"], 4)
    card = (scored / CARD).read_text()
    (row,) = [line for line in card.splitlines() if line.startswith("| `hippocampus_mri` | anterior | ")]
    assert row.split("|")[3].strip() == str(len(cases))
    assert row.split("|")[4].strip().startswith(f"{summary['anterior']['dice']['mean']:.3f} (")
    worst = min(cases, key=lambda name: sum(s["dice"] for s in cases[name].values()))
    assert f"Lowest mean Dice: {worst} " in card


def test_a_figure_that_was_typed_is_found(scored: Path) -> None:
    refresh_universal(scored)
    card = scored / CARD
    card.write_text(card.read_text().replace("| mean | 42 | 0.", "| mean | 42 | 1."))
    assert universal_drift(scored) == [CARD]


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), ("[]", "no scores.json"), ("{}", "no scores.json")])
def test_other_files_are_refused(scored: Path, content: str, message: str) -> None:
    (scored / "docs" / "results" / "cardiac_mri.json").write_text(content)
    with pytest.raises(InputError, match=rf"cardiac_mri\.json: is {message}"):
        refresh_universal(scored)


def test_a_card_without_markers_is_refused(scored: Path) -> None:
    (scored / CARD).write_text("no markers")
    with pytest.raises(InputError, match="must have"):
        refresh_universal(scored)
