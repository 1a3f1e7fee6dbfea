"""`evaluate.py` on segmentations with known errors."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from scripts.evaluate import app
from tests.phantoms import affine_of, hippocampus_like, save_nifti

AFFINE = affine_of(spacing=(1.5, 0.8, 2.0), angles=(10, 20, 30))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions that are the labels moved by one voxel along x; 1.5 mm."""
    for index in range(3):
        label = hippocampus_like(seed=index)[1]
        save_nifti(tmp_path / "labels" / f"case_{index}.nii.gz", label, AFFINE)
        save_nifti(tmp_path / "pred" / f"case_{index}_seg.nii.gz", np.roll(label, 1, 0), AFFINE)
    return tmp_path / "pred", tmp_path / "labels"


def run(bundle: Path, folders: tuple[Path, Path], output: Path) -> Result:
    domain = bundle / "configs" / "domain.json"
    return CliRunner().invoke(app, [*map(str, folders), "--domain", str(domain), "--output-dir", str(output)])


def message(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_scores_are_written_and_shown(bundle: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(bundle, folders, tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(report["cases"]) == ["case_0", "case_1", "case_2"]
    label = nib.load(folders[1] / "case_0.nii.gz").get_fdata() == 1
    expected = 2 * (label & np.roll(label, 1, 0)).sum() / (2 * label.sum())
    scores = report["cases"]["case_0"]["anterior"]
    assert scores["dice"] == pytest.approx(expected, abs=1e-5)
    assert scores["hd95_mm"] == pytest.approx(1.5, abs=1e-4)
    assert 0 < scores["surface_dice"] < 1
    mean = np.mean([c["anterior"]["dice"] for c in report["cases"].values()])
    assert report["summary"]["anterior"]["dice"]["mean"] == pytest.approx(mean, abs=1e-5)
    assert f"{mean:.3f}" in result.stderr
    assert {"date", "torch", "monai", "cpu"} <= report["made"].keys()
    assert str(tmp_path) not in json.dumps(report)
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 4
    with Image.open(tmp_path / "out" / "scores.png") as picture:
        assert min(picture.size) > 200


def test_one_bad_case_is_named_and_the_others_are_scored(bundle: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    label = hippocampus_like(seed=1)[1]
    save_nifti(folders[0] / "case_1_seg.nii.gz", label, affine_of(spacing=(1.5, 0.8, 2.0)))
    (folders[0] / "case_2_seg.nii.gz").unlink()
    result = run(bundle, folders, tmp_path / "out")
    assert result.exit_code == 1
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(report["cases"]) == ["case_0"]
    assert set(report["made"]["failed"]) == {"case_1", "case_2"}
    assert "both must be on one grid" in message(result)
    assert "no segmentation of it" in message(result)


def shape(pred: Path, labels: Path) -> None:
    for path in pred.iterdir():
        save_nifti(path, np.zeros((5, 6, 7), np.uint8), AFFINE)


def values(pred: Path, labels: Path) -> None:
    for path in pred.iterdir():
        save_nifti(path, np.full((30, 40, 32), 7, np.uint8), AFFINE)


def names(pred: Path, labels: Path) -> None:
    for path in pred.iterdir():
        path.rename(path.with_name("other_" + path.name))


def twice(pred: Path, labels: Path) -> None:
    (pred / "case_0_seg.nii").write_bytes(b"x")


def none(pred: Path, labels: Path) -> None:
    for path in labels.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shape, "shape"),
        (values, "outside the domain"),
        (names, "no file has the name"),
        (twice, "two files"),
        (none, "no image files"),
    ],
)
def test_bad_folders_give_one_error_and_no_file(
    bundle: Path, folders: tuple[Path, Path], tmp_path: Path, damage: object, reason: str
) -> None:
    damage(*folders)  # type: ignore[operator]
    result = run(bundle, folders, tmp_path / "out")
    assert result.exit_code == 1
    assert reason in message(result)
    assert not (tmp_path / "out").exists()


def test_incomplete_arguments_are_explained(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 1
    assert "--bundle" in message(result)
    result = CliRunner().invoke(app, ["--bundle", str(tmp_path), "--dataset-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "evaluate.json: no such file" in message(result)


def test_help_shows_an_example() -> None:
    assert "python scripts/evaluate.py predictions" in " ".join(CliRunner().invoke(app, ["--help"]).output.split())
