"""The exploration script: its numbers against SciPy and NumPy, and its behaviour when a case is bad."""

from __future__ import annotations

import csv
import shutil
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner, Result

from custom_components.data import read_dataset
from custom_components.data.exploration import describe_case
from tests.phantoms import affine_of, decathlon, save_nifti


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    spec = util.spec_from_file_location("explore_data", repository / "scripts" / "explore_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["explore_data"] = module
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, *arguments: object) -> Result:
    return CliRunner().invoke(script.app, [str(a) for a in arguments])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return decathlon(tmp_path / "data", cases=3, shape=(14, 18, 12))


def test_the_numbers_are_those_of_scipy(tmp_path: Path) -> None:
    root = decathlon(tmp_path, cases=1, shape=(16, 20, 14))
    image_path, label_path = root / "imagesTr" / "phantom_000.nii.gz", root / "labelsTr" / "phantom_000.nii.gz"
    affine = affine_of(spacing=(0.5, 2, 1.5), axes=(1, 0, 2), flips=(-1, 1, 1))
    image, label = nib.load(image_path).get_fdata(dtype=np.float32), np.asarray(nib.load(label_path).dataobj).copy()
    image[:3] = 0
    label[0, 0, 0] = label[5, 0, 0] = 1
    label[1, 1, 0] = 1  # touches the first by an edge: one component with the 18-neighbourhood
    label[8, 0, 0] = 254
    save_nifti(image_path, image, affine)
    save_nifti(label_path, label, affine)
    dataset = read_dataset(root)
    report = describe_case(dataset.cases[0], dataset)

    assert report.case["orientation"] == "PRS"
    assert [report.case[f"size_{a}"] for a in "xyz"] == list(image.shape)
    assert [report.case[f"spacing_{a}"] for a in "xyz"] == [0.5, 2, 1.5]
    box = ndimage.find_objects((image != 0).astype(int))[0]
    assert [(report.case[f"nonzero_first_{a}"], report.case[f"nonzero_last_{a}"] + 1) for a in "xyz"] == [
        (s.start, s.stop) for s in box
    ]
    assert (report.case["stray_values"], report.case["stray_voxels"]) == ("254", 1)
    assert report.case["foreground_voxels"] == np.count_nonzero(label)

    rows = {row["value"]: row for row in report.labels}
    assert set(rows) == {1, 2, 254}
    assert rows[254]["stray"]
    assert not rows[1]["stray"]
    for value, row in rows.items():
        components, number = ndimage.label(label == value, ndimage.generate_binary_structure(3, 2))
        assert row["voxels"] == (label == value).sum()
        assert row["volume_mm3"] == pytest.approx((label == value).sum() * 1.5)
        assert row["components"] == number
        assert row["largest_component"] == np.bincount(components[components > 0]).max()

    for row in report.intensities:
        where = {"all": np.ones(image.shape, bool), "nonzero": image != 0, "foreground": label != 0}[row["region"]]
        values = image[where].astype(np.float64)
        assert row["voxels"] == values.size
        assert (row["min"], row["max"]) == (values.min(), values.max())
        np.testing.assert_allclose([row["mean"], row["std"]], [values.mean(), values.std()], rtol=1e-6)
        expected = np.percentile(values, [0.5, 2, 50, 98, 99.5])
        np.testing.assert_allclose([row[f"p{p:g}"] for p in (0.5, 2, 50, 98, 99.5)], expected, rtol=1e-5)


def test_the_slice_of_the_picture_is_the_fullest_one_turned_to_ras(tmp_path: Path) -> None:
    root = decathlon(tmp_path, cases=1, shape=(14, 18, 12))
    dataset = read_dataset(root)
    plain = describe_case(dataset.cases[0], dataset).middle
    for kind in ("imagesTr", "labelsTr"):
        path = root / kind / "phantom_000.nii.gz"
        turned = nib.load(path).as_reoriented(nib.orientations.axcodes2ornt("SPL"))
        save_nifti(path, np.asarray(turned.dataobj), turned.affine)
    again = describe_case(dataset.cases[0], dataset).middle
    np.testing.assert_array_equal(plain.image, again.image)
    np.testing.assert_array_equal(plain.label, again.label)


def test_tables_and_picture_of_every_task(script: ModuleType, data: Path, tmp_path: Path) -> None:
    second = decathlon(tmp_path / "more", cases=2, channels=2, shape=(12, 14, 10), task="Task98_Two")
    result = run(script, data, second, "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["cases.csv", "intensities.csv", "labels.csv", "tasks.csv", "Task98_Two.png", "Task99_Phantom.png"]
    )
    assert [(row["task"], row["case"]) for row in table(out / "cases.csv")] == [
        *(("Task99_Phantom", f"phantom_{i:03d}") for i in range(3)),
        *(("Task98_Two", f"phantom_{i:03d}") for i in range(2)),
    ]
    assert len(table(out / "intensities.csv")) == 3 * 3 + 2 * 2 * 3
    assert len(table(out / "labels.csv")) == 5 * 2
    tasks = {row["task"]: row for row in table(out / "tasks.csv")}
    assert tasks["Task99_Phantom"]["cases"] == "3"
    assert float(tasks["Task99_Phantom"]["size_x_median"]) == 15
    assert float(tasks["Task98_Two"]["channel1_foreground_mean"]) > 300
    assert (out / "Task98_Two.png").read_bytes().startswith(b"\x89PNG")


def test_a_bad_case_is_named_and_the_others_are_done(script: ModuleType, data: Path, tmp_path: Path) -> None:
    bad = data / "imagesTr" / "phantom_001.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    result = run(script, data, "--output-dir", tmp_path / "out", "--no-picture")
    assert result.exit_code == 1
    assert result.output.count("Error:") == 1
    assert f"Error: {bad}" in result.output
    assert [row["case"] for row in table(tmp_path / "out" / "cases.csv")] == ["phantom_000", "phantom_002"]
    assert table(tmp_path / "out" / "tasks.csv")[0]["bad_cases"] == "1"


def test_wrong_channels_and_moved_labels_are_bad_cases(script: ModuleType, data: Path, tmp_path: Path) -> None:
    image = data / "imagesTr" / "phantom_000.nii.gz"
    save_nifti(image, np.stack([nib.load(image).get_fdata()] * 2, axis=-1).astype(np.float32))
    label = data / "labelsTr" / "phantom_001.nii.gz"
    save_nifti(label, np.asarray(nib.load(label).dataobj), np.diag([2.0, 1, 1, 1]))
    half = data / "labelsTr" / "phantom_002.nii.gz"
    save_nifti(half, np.asarray(nib.load(half).dataobj) * np.float32(0.5))
    result = run(script, data, "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert "phantom_000.nii.gz: has 2 channels, 1 is needed" in result.output
    assert "phantom_001.nii.gz: lies up to" in result.output
    assert "phantom_002.nii.gz: holds values that are no whole numbers" in result.output
    assert not (tmp_path / "out").exists(), "nothing to write, nothing written"


def test_a_folder_that_is_no_dataset_does_not_stop_the_others(script: ModuleType, data: Path, tmp_path: Path) -> None:
    result = run(script, tmp_path / "nowhere", data, data, "--output-dir", tmp_path / "out", "--no-picture")
    assert result.exit_code == 1
    assert "nowhere: no such folder" in result.output
    assert "a folder named Task99_Phantom was given already" in result.output
    assert len(table(tmp_path / "out" / "cases.csv")) == 3


def test_an_output_folder_that_cannot_be_written_is_one_error(script: ModuleType, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in the way")
    result = run(script, data, "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.count("Error:") == 1
    assert "cannot be written" in result.output


def test_several_processes_write_the_same_tables(script: ModuleType, data: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        result = run(script, data, "--output-dir", tmp_path / str(jobs), "--no-picture", "--jobs", jobs)
        assert result.exit_code == 0, result.output
    for name in ("cases.csv", "intensities.csv", "labels.csv", "tasks.csv"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text()


def test_labels_without_names_are_all_reported_and_none_is_stray(script: ModuleType, data: Path, tmp_path: Path) -> None:
    described = (data / "dataset.json").read_text()
    (data / "dataset.json").write_text(described.replace('"labels"', '"labels_of_another_tool"'))
    assert run(script, data, "--output-dir", tmp_path / "out").exit_code == 0
    assert {row["stray"] for row in table(tmp_path / "out" / "labels.csv")} == {"False"}


def test_help_shows_an_example(script: ModuleType) -> None:
    result = run(script, "--help")
    assert result.exit_code == 0
    assert "python scripts/explore_data.py Task04_Hippocampus" in result.output


def test_real_cases(script: ModuleType, hippocampus_data: Path, tmp_path: Path) -> None:
    """Two cases of the real set, laid out as a data set of their own."""
    root = tmp_path / "Task04_Hippocampus"
    names = ["hippocampus_001", "hippocampus_003"]
    decathlon(tmp_path, names=names, shape=(4, 4, 4), task=root.name)
    for name in names:
        for kind in ("imagesTr", "labelsTr"):
            shutil.copyfile(hippocampus_data / kind / f"{name}.nii.gz", root / kind / f"{name}.nii.gz")
    assert run(script, root, "--output-dir", tmp_path / "out").exit_code == 0
    volumes = {(row["case"], row["name"]): float(row["volume_mm3"]) for row in table(tmp_path / "out" / "labels.csv")}
    assert volumes["hippocampus_001", "Anterior"] == 1324
    assert all(500 < volume < 5000 for volume in volumes.values())
