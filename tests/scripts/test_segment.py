"""``scripts/segment.py``: labels, report, and one clear error for every bad input."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from custom_components import data
from custom_components.inference import Segmenter, find_images
from custom_components.inference.chain import STAGES
from custom_components.weights import load_network, save_bundle_weights
from scripts.segment import app
from tests.data.test_bad_input import BAD
from tests.inference.oracles import small_bundle, universal_bundle
from tests.phantoms import affine_of, hippocampus_like, save_dicom_series, save_itk, save_nifti

AFFINE = affine_of((1.1, 0.9, 1.2), (10, 0, -15), axes=(1, 2, 0), flips=(-1, 1, 1))


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(bundle, tmp_path_factory.mktemp("bundle") / "small")


def image(path: Path, seed: int = 0) -> Path:
    array = hippocampus_like(seed=seed)[0]
    return save_nifti(path, array, AFFINE) if ".nii" in path.name else save_itk(path, array, AFFINE)


def segment(bundle: Path, output_dir: Path, *arguments: object) -> Result:
    command = [*map(str, arguments), "--bundle", str(bundle), "--output-dir", str(output_dir), "--device", "cpu"]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def assert_refused(result: Result, output_dir: Path, *named: str) -> None:
    """One line that begins with Error and names what is meant; no traceback, nothing written."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    for name in named:
        assert name in lines[0]
    assert "Traceback" not in result.output
    assert not output_dir.exists()


@pytest.mark.parametrize("case", BAD)
def test_every_bad_image_is_one_error_and_nothing_is_written(case: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = BAD[case][0](tmp_path / "in")
    result = segment(small, tmp_path / "out", path, "--report", tmp_path / "out" / "run.json")
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert path.name in errors[0]
    assert "Traceback" not in result.output
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_labels_lie_on_the_images_grid_and_the_report_says_how_they_were_made(small: Path, tmp_path: Path) -> None:
    one, two = image(tmp_path / "in" / "one.nii.gz"), image(tmp_path / "in" / "two.mha", 1)
    series = save_dicom_series(tmp_path / "dicom" / "three", hippocampus_like(seed=2)[0])
    result = segment(small, tmp_path / "out", tmp_path / "in", series, "--report", tmp_path / "run.json")
    assert result.exit_code == 0, result.output

    report = json.loads((tmp_path / "run.json").read_text())
    assert [Path(entry["image"]).name for entry in report["images"]] == ["one.nii.gz", "two.mha", "three"]
    for path, entry in zip((one, two, series), report["images"], strict=True):
        written = nib.load(entry["output"])
        expected = Segmenter.from_bundle(small, "cpu").segment(path)
        assert entry["status"] == "done"
        assert np.array_equal(np.asarray(written.dataobj), expected.label.numpy()[0])
        np.testing.assert_allclose(written.affine, expected.label.affine.numpy(), atol=1e-5)
        assert entry["volumes_mm3"] == pytest.approx(expected.volumes)
        assert set(entry["seconds"]) == {"read", *STAGES.values(), "network", "windows", "save"}
        assert entry["sha256"]["output"] == hashlib.sha256(Path(entry["output"]).read_bytes()).hexdigest()
    assert report["images"][0]["sha256"]["image"] == hashlib.sha256(one.read_bytes()).hexdigest()
    weights = small / "models" / "trunk.safetensors"
    assert report["weights_sha256"]["trunk.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert report["versions"]["torch"] == torch.__version__
    assert (report["domains"], report["device"], report["flips"]) == (["hippocampus_mri"], "cpu", False)


def test_in_a_batch_the_good_images_are_done_and_the_summary_names_the_bad(small: Path, tmp_path: Path) -> None:
    good = image(tmp_path / "good.nii.gz")
    bad = save_nifti(tmp_path / "bad.nii.gz", np.zeros((20, 20, 20), dtype=np.float32))
    result = segment(small, tmp_path / "out", tmp_path / "absent.nii.gz", bad, good, "--report", tmp_path / "run.json")
    assert result.exit_code == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good_seg.nii.gz"]
    rows = [line for line in result.stdout.splitlines() if "│" in line]
    assert any("bad.nii.gz" in row and "failed" in row for row in rows)
    assert any("absent.nii.gz" in row and "failed" in row for row in rows)
    assert any("good.nii.gz" in row and "done" in row for row in rows)
    statuses = {Path(e["image"]).name: e["status"] for e in json.loads((tmp_path / "run.json").read_text())["images"]}
    assert statuses == {"absent.nii.gz": "failed", "bad.nii.gz": "failed", "good.nii.gz": "done"}


def test_labels_that_the_same_model_made_are_skipped_unless_told_otherwise(small: Path, tmp_path: Path) -> None:
    path = image(tmp_path / "one.nii.gz")
    output = tmp_path / "out" / "one_seg.nii.gz"
    assert segment(small, tmp_path / "out", path).exit_code == 0
    before = output.stat()
    result = segment(small, tmp_path / "out", path)
    assert result.exit_code == 0, result.output
    assert "skipped" in result.output
    assert output.stat() == before
    result = segment(small, tmp_path / "out", path, "--overwrite")
    assert result.exit_code == 0 and "skipped" not in result.output
    assert output.stat().st_ino != before.st_ino


def test_labels_that_something_else_made_are_an_error_unless_told_otherwise(small: Path, universal: Path, tmp_path: Path) -> None:
    path, out = image(tmp_path / "one.nii.gz"), tmp_path / "out"
    output = out / "one_seg.nii.gz"
    bundle = Path(shutil.copytree(small, tmp_path / "bundle"))
    assert segment(bundle, out, path).exit_code == 0
    unsigned = nib.load(output)
    label = output.read_bytes()

    def refused(bundle: Path, *options: str) -> str:
        before = output.read_bytes()
        result = segment(bundle, out, path, *options)
        assert result.exit_code == 1, result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert str(output) in line and "--output-dir" in line and "--overwrite" in line
        assert output.read_bytes() == before
        return line

    assert "by another model or with other settings (hippocampus_mri " in refused(universal, "--domain", "first")
    refused(bundle, "--flips")
    other_weights(bundle)
    refused(bundle)
    result = segment(bundle, out, path, "--overwrite")
    assert result.exit_code == 0, result.output
    refused(small)
    assert segment(universal, out, path, "--domain", "first", "--overwrite").exit_code == 0
    refused(universal, "--domain", "second")
    # Made or corrected by something that is not this program.
    output.write_bytes(label)
    assert segment(small, out, path).exit_code == 0
    unsigned.header["descrip"] = b"corrected by hand"
    nib.save(nib.Nifti1Image(np.asarray(unsigned.dataobj), unsigned.affine, unsigned.header), output)
    assert "does not say what made it" in refused(small)


def other_weights(bundle: Path) -> None:
    """The same network with other values."""
    network = load_network(bundle / "models")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    save_bundle_weights(network, bundle / "models")


def test_a_label_of_another_grid_is_not_taken_for_this_images(small: Path, tmp_path: Path) -> None:
    path = image(tmp_path / "one.nii.gz")
    output = tmp_path / "out" / "one_seg.nii.gz"
    output.parent.mkdir()
    shape = tuple(n + 1 for n in nib.load(path).shape)
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), nib.load(path).affine), output)
    before = output.read_bytes()
    result = segment(small, tmp_path / "out", path)
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert output.read_bytes() == before


def test_flips_change_the_result_of_a_network_that_is_not_symmetric(small: Path, tmp_path: Path) -> None:
    path = image(tmp_path / "one.nii.gz")
    assert segment(small, tmp_path / "plain", path).exit_code == 0
    assert segment(small, tmp_path / "flipped", path, "--flips").exit_code == 0
    labels = [np.asarray(nib.load(tmp_path / name / "one_seg.nii.gz").dataobj) for name in ("plain", "flipped")]
    assert not np.array_equal(*labels)
    expected = Segmenter.from_bundle(small, "cpu", flips=True).segment(path).label.numpy()[0]
    assert np.array_equal(labels[1], expected)


def test_two_images_with_one_label_name_are_refused(small: Path, tmp_path: Path) -> None:
    paths = [image(tmp_path / "a" / "case.nii.gz"), image(tmp_path / "b" / "case.nrrd")]
    assert_refused(segment(small, tmp_path / "out", *paths), tmp_path / "out", *map(str, paths))


def test_an_output_folder_that_cannot_be_made_is_refused_before_any_work(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    result = segment(small, out, image(tmp_path / "one.nii.gz"))
    assert result.exit_code == 1
    assert f"Error: {out}: cannot be made, since {tmp_path / 'file'} is a file" in result.stderr


def test_an_output_folder_without_permission_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right to write is taken away through the call that asks for it, since root may write anywhere."""
    path = image(tmp_path / "one.nii.gz")
    monkeypatch.setattr(os, "access", lambda folder, mode: not mode & os.W_OK)
    assert_refused(segment(small, tmp_path / "out", path), tmp_path / "out", "you may not write to")


def damaged(models: Path) -> None:
    (models / "trunk.safetensors").write_bytes((models / "trunk.safetensors").read_bytes()[:-100])


def foreign(models: Path) -> None:
    """An adapter of another trunk."""
    other = small_bundle(models.parent, models.parent / "other")
    from custom_components.domain import Domain
    from custom_components.networks import U2Net

    domain = Domain.from_file(other / "configs" / "domain.json")
    save_bundle_weights(U2Net({domain.name: domain.network}, (4, 8, 8, 16)), other / "models")
    shutil.copy(other / "models" / f"{domain.name}.safetensors", models)


def other_classes(models: Path) -> None:
    config = models.parent / "configs" / "domain.json"
    config.write_text(config.read_text().replace('"posterior": 2}', '"posterior": 2, "tail": 3}'))


def unknown_field(models: Path) -> None:
    config = models.parent / "configs" / "domain.json"
    config.write_text(config.read_text().replace('"organ"', '"organs"'))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda models: (models / "trunk.safetensors").unlink(), "trunk.safetensors"),
        (damaged, "trunk.safetensors"),
        (foreign, "hippocampus_mri.safetensors"),
        (other_classes, "hippocampus_mri.safetensors"),
        (unknown_field, "organs: is not a known field"),
        (lambda models: (models.parent / "configs" / "domain.json").unlink(), "domain.json"),
        (lambda models: shutil.rmtree(models.parent), "is no folder"),
    ],
    ids=["no trunk", "damaged", "foreign", "other classes", "unknown field", "no domain", "no bundle"],
)
def test_a_bundle_that_does_not_fit_is_refused(change, named: str, small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(small, copy)
    change(copy / "models")
    assert_refused(segment(copy, tmp_path / "out", image(tmp_path / "one.nii.gz")), tmp_path / "out", named)


def test_a_device_that_is_not_there_is_refused(small: Path, tmp_path: Path) -> None:
    command = [
        str(image(tmp_path / "a.nii.gz")),
        "--bundle",
        str(small),
        "--output-dir",
        str(tmp_path / "out"),
        "--device",
        "warp",
    ]
    assert_refused(CliRunner().invoke(app, command), tmp_path / "out", "device 'warp' is not there")


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "python scripts/segment.py" in result.output


def test_inputs_are_files_folders_globs_and_channels(tmp_path: Path) -> None:
    one, two = image(tmp_path / "d" / "one.nii.gz"), image(tmp_path / "d" / "two.mha")
    for stray in ("._one.nii.gz", "notes.txt"):
        (tmp_path / "d" / stray).write_text("no image")
    for label in ("one_seg", "one_abdomen_mri_seg"):  # of earlier runs, beside their image
        image(tmp_path / "d" / f"{label}.nii.gz")
    assert find_images(tmp_path / "d") == [str(one), str(two)]
    assert find_images(str(tmp_path / "d" / "*.nii.gz")) == [str(one)]
    assert find_images([one, str(tmp_path / "**" / "*.mha"), one]) == [str(one), str(two)]
    assert find_images(f"{one},{two}") == [[str(one), str(two)]]
    series = [save_dicom_series(tmp_path / "studies" / name, hippocampus_like((8, 8, 8))[0]) for name in ("a", "b")]
    assert find_images(series[0]) == [str(series[0])]
    assert find_images(tmp_path / "studies") == [str(folder) for folder in series]


def test_help_does_not_wait_for_torch(repository: Path) -> None:
    code = "import sys, scripts.segment; sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


@pytest.fixture(scope="module")
def universal(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two domains with untrained weights."""
    return universal_bundle(bundle, tmp_path_factory.mktemp("bundle") / "universal")


def test_several_domains_label_an_image_that_is_read_once(
    universal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = image(tmp_path / "one.nii.gz")
    read: list[object] = []
    reader = data.read_image
    monkeypatch.setattr(data, "read_image", lambda path, channels: read.append(path) or reader(path, channels))
    options = ("--domain", "first", "--domain", "second", "--report", tmp_path / "run.json")
    result = segment(universal, tmp_path / "out", given, *options)
    assert result.exit_code == 0, result.output
    assert len(read) == 1
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["domains"] == ["first", "second"]
    assert set(report["weights_sha256"]) == {"trunk.safetensors", "first.safetensors", "second.safetensors"}
    labels = {}
    for name in ("first", "second"):
        written = nib.load(tmp_path / "out" / f"one_{name}_seg.nii.gz")
        labels[name] = np.asarray(written.dataobj)
        expected = Segmenter.from_bundle(universal, "cpu", domain=name).segment(given)
        assert np.array_equal(labels[name], expected.label[0].numpy())
        assert np.allclose(written.affine, AFFINE)
    assert not np.array_equal(labels["first"], labels["second"])


def test_a_universal_bundle_wants_to_know_which_domain(universal: Path, tmp_path: Path) -> None:
    given = image(tmp_path / "one.nii.gz")
    assert_refused(segment(universal, tmp_path / "out", given), tmp_path / "out", "several domains", "first, second", "--domain")
    unknown = segment(universal, tmp_path / "out", given, "--domain", "liver")
    assert_refused(unknown, tmp_path / "out", "no domain 'liver'", "first, second")
    one = segment(universal, tmp_path / "out", given, "--domain", "second")
    assert one.exit_code == 0, one.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["one_seg.nii.gz"]


def test_two_labels_of_one_name_are_refused(universal: Path, tmp_path: Path) -> None:
    domains = universal / "configs" / "domains"
    other = tmp_path / "bundle"
    shutil.copytree(universal, other)
    values = json.loads((domains / "first.json").read_text())
    for name in ("x_y", "y"):
        (other / "configs" / "domains" / f"{name}.json").write_text(json.dumps({**values, "name": name}))
    images = [image(tmp_path / "in" / name) for name in ("a.nii.gz", "a_x.nii.gz")]
    result = segment(other, tmp_path / "out", *images, "--domain", "x_y", "--domain", "y")
    assert_refused(result, tmp_path / "out", "a_x_y_seg.nii.gz", "two output folders")
