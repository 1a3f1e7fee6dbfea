"""The quickstart: which boxes it takes, that labels come back on the image's grid, what it warns of and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.affines import apply_affine, from_matvec

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference.outputs import nifti_bytes, write_together
from tests.inference.heads import ANTERIOR, Oracle, head, truth


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    spec = util.spec_from_file_location("quickstart", repository / "scripts" / "quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["quickstart"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def oracle(bundle: Path) -> Oracle:
    return Oracle(Domain.from_file(bundle / "configs" / "domain.json"))


def save(path: Path, values: np.ndarray, affine: np.ndarray, code: int) -> Path:
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, 1)
    image.header["descrip"] = b"Jane Doe"
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("codes", "spacing"), [("RAS", (2.0, 2.0, 2.5)), ("PIR", (1.6, 2.0, 2.2)), ("LSA", (2.3, 1.9, 2.0))])
def test_both_sides_of_a_head_in_mni152_space_come_back_on_its_own_grid(
    script: ModuleType, oracle: Oracle, tmp_path: Path, codes: str, spacing: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    values, affine = head(codes, spacing)
    path = save(tmp_path / "head.nii.gz", values, affine, code=4)
    files = script.run(script.Options(image=path, output_dir=tmp_path / "out"), oracle)

    source, label, sides = (nib.load(p) for p in (path, files["labels"], files["labels by side"]))
    np.testing.assert_array_equal(np.asarray(label.dataobj), truth(values))
    for written in (label, sides):
        assert written.get_data_dtype() == np.uint8
        for name in ("get_sform", "get_qform"):
            (mine, code), (its, its_code) = (getattr(i, name)(coded=True) for i in (written, source))
            np.testing.assert_array_equal(mine, its)
            assert code == its_code
        assert b"Jane" not in written.header.binaryblock
    x = apply_affine(affine, np.argwhere(np.isin(np.asarray(sides.dataobj), [1, 2])))[:, 0]
    assert x.max() < 0  # the side called left is the patient's left
    np.testing.assert_array_equal(np.isin(np.asarray(sides.dataobj), [1, 3]), values == ANTERIOR)

    report = json.loads(files["volumes"].read_text(encoding="utf-8"))
    measured = sum(side["anterior"] for side in report["volumes_mm3"].values())
    assert measured == pytest.approx((values == ANTERIOR).sum() * np.prod(spacing))
    assert report["labels_by_side"] == {"left anterior": 1, "left posterior": 2, "right anterior": 3, "right posterior": 4}
    assert report["warnings"] == []
    assert imread(files["picture"]).shape[0] > 500
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in files.values())
    printed = capsys.readouterr().out
    assert "head_seg.nii.gz" in printed
    assert "segmentation" in printed


def test_a_crop_is_segmented_as_it_is(script: ModuleType, oracle: Oracle, tmp_path: Path) -> None:
    values, affine = head()
    window = (slice(20, 42), slice(32, 60), slice(16, 40))
    values, affine = values[window], from_matvec(affine[:3, :3], apply_affine(affine, [s.start for s in window]))
    files = script.run(script.Options(image=save(tmp_path / "crop.nii", values, affine, code=1), output_dir=tmp_path), oracle)
    np.testing.assert_array_equal(np.asarray(nib.load(files["labels"]).dataobj), truth(values))
    assert "labels by side" not in files
    assert list(json.loads(files["volumes"].read_text())["volumes_mm3"]) == ["region"]


def test_a_head_in_unknown_space_is_one_error_that_says_what_to_do(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "head.nii.gz", *head(), code=1)
    assert script.main([str(path), "--output-dir", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "head.nii.gz: measures 180 × 180 × 180 mm" in printed.err
    assert "--space mni" in printed.err
    assert "--centre-left" in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--centre-left", "1,2"],
        ["a.nii", "--centre-left", "1,2,nan"],
        ["--space", "mni"],
        ["a.nii", "--output", "x"],
        ["a.nii", "b.nii"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_one_line(script: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        script.parse(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


def test_coordinates_that_begin_with_a_minus_sign_are_read(script: ModuleType) -> None:
    options = script.parse(["a.nii", "--centre-left", "-29,-18,-22.5", "--centre-right=25,-18,-21"])
    assert options.centres == {"left": (-29.0, -18.0, -22.5), "right": (25.0, -18.0, -21.0)}


@pytest.mark.parametrize("content", ["missing", "text"])
def test_a_file_that_is_no_image_is_one_error(
    script: ModuleType, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.nii"
    if content == "text":
        path.write_text("no image")
    assert script.main([str(path), "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert script.main(["--output-dir", str(tmp_path / "file" / "out")]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_of_several_files_none_is_written_when_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_together({tmp_path / "a": b"1", tmp_path / "file" / "b": b"2"})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_label_of_an_image_that_is_no_nifti_keeps_its_affine_and_its_bytes_are_reproducible() -> None:
    affine = from_matvec(np.array([[0, -1.5, 0], [0.8, 0, 0], [0, 0, 2.0]]), [3.0, -4.0, 5.0])
    label = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = nifti_bytes(label, affine, Path("a.mha"))
    assert content == nifti_bytes(label, affine, Path("a.mha"))
    import gzip

    read = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    np.testing.assert_allclose(read.affine, affine)
    np.testing.assert_array_equal(np.asarray(read.dataobj), label)


def test_help_teaches_before_anything_is_installed(repository: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "VENV": str(tmp_path / "none"), "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(
        ["bash", str(repository / "scripts" / "quickstart.sh"), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "bash scripts/quickstart.sh t1.nii.gz --centre-left -29,-18,-22" in done.stdout
    assert not (tmp_path / "none").exists()


def test_the_shipped_weights_find_two_plausible_hippocampi_in_the_mni152_brain(
    script: ModuleType, bundle: Path, tmp_path: Path
) -> None:
    if util.find_spec("nilearn") is None:
        pytest.skip("nilearn, which ships the MNI152 brain, is not installed; pip install -r requirements.txt")
    if not (bundle / "models" / "trunk.safetensors").is_file():
        pytest.skip(f"no trained weights in {bundle / 'models'}; train, or fetch the whole repository")
    files = script.run(script.Options(output_dir=tmp_path))
    report = json.loads(files["volumes"].read_text(encoding="utf-8"))
    assert report["warnings"] == []
    brain, sides = nib.load(files["image"]), nib.load(files["labels by side"])
    assert sides.shape == brain.shape
    np.testing.assert_array_equal(sides.affine, brain.affine)
    values = np.asarray(sides.dataobj)
    for index, side in enumerate(("left", "right")):
        assert 2000 <= report["volumes_mm3"][side]["total"] <= 5000
        anterior, posterior = (apply_affine(sides.affine, np.argwhere(values == 2 * index + c)).mean(axis=0) for c in (1, 2))
        assert np.sign(anterior[0]) == np.sign(posterior[0]) == (-1, 1)[index]
        assert anterior[1] > posterior[1] + 10  # in front of
        assert anterior[2] < posterior[2] - 3  # and below
