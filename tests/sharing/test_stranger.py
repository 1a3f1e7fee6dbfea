"""On a machine with the required packages and nothing of this project: a packaged bundle gives the labels that it gives here."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom_components.archives.archive import unpacked
from custom_components.inference import Segmenter
from custom_components.sharing.package import Package
from tests.phantoms import affine_of, hippocampus_like, save_nifti
from tests.sharing.strangers import Stranger, stranger

AFFINE = affine_of((1.1, 0.9, 1.2), (10, 0, -15), axes=(1, 2, 0), flips=(-1, 1, 1))


@pytest.fixture(scope="module")
def somebody(hippocampus_zip: Path, universal_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """With both bundles unpacked, and an image."""
    found = stranger(tmp_path_factory.mktemp("stranger"))
    for path in (hippocampus_zip, universal_package.path):
        with unpacked(path, found.home) as folder:
            folder.rename(found.home / folder.name)
    save_nifti(found.home / "case.nii.gz", hippocampus_like(seed=5)[0], AFFINE)
    return found


def own(bundle: Path, image: Path, folder: Path, **more: str) -> bytes:
    """What this repository's bundle writes, by MONAI's engine."""
    places = {"bundle_root": str(bundle), "input": str(image), "output_dir": str(folder), "device": "cpu", **more}
    flow = ConfigWorkflow(str(bundle / "configs" / "inference.json"), workflow_type="inference", logging_file=False, **places)
    flow.initialize()
    flow.run()
    return (folder / "case_seg.nii.gz").read_bytes()


def test_monais_run_gives_the_same_bytes_from_anywhere(somebody: Stranger, bundle: Path, tmp_path: Path) -> None:
    """In the bundle's folder as the model zoo's cards have it, and from outside; both as the repository's own bundle."""
    name, image = "hippocampus_mri_segmentation", somebody.home / "case.nii.gz"
    expected = own(bundle, image, tmp_path)
    assert len(np.unique(np.asarray(nib.load(tmp_path / "case_seg.nii.gz").dataobj))) > 1
    run = ("-m", "monai.bundle", "run", "--input", image, "--device", "cpu")
    somebody.run(*run, "--config_file", "configs/inference.json", "--output_dir", "../inside", cwd=somebody.home / name)
    assert (somebody.home / "inside" / "case_seg.nii.gz").read_bytes() == expected
    config = f"{name}/configs/inference.json"
    somebody.run(*run, "--config_file", config, "--bundle_root", name, "--output_dir", "outside")
    assert (somebody.home / "outside" / "case_seg.nii.gz").read_bytes() == expected


def test_the_zips_own_program_gives_the_same_label(somebody: Stranger, bundle: Path) -> None:
    name, image = "hippocampus_mri_segmentation", somebody.home / "case.nii.gz"
    command = (f"{name}/segment.py", "case.nii.gz", "--bundle", name, "--device", "cpu", "--output-dir", "labels")
    somebody.run(*command, "--report", "report.json")
    expected = Segmenter.from_bundle(bundle, "cpu").segment(image)
    written = nib.load(somebody.home / "labels" / "case_seg.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), expected.label.numpy()[0])
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert json.loads((somebody.home / "report.json").read_text())["versions"]["u2net-monai"] is None  # not installed there


def test_monais_load_finds_the_network(somebody: Stranger) -> None:
    """In the bundle's folder, and anywhere else with it on Python's path."""
    code = (
        "import monai; n = monai.bundle.load('hippocampus_mri_segmentation', bundle_dir='{}', workflow_type='{}'); print(type(n))"
    )
    folder = somebody.home / "hippocampus_mri_segmentation"
    inside = somebody.run("-c", code.format("..", "inference"), cwd=folder)
    assert "custom_components.networks.u2net.U2Net" in inside.stdout
    assert "170 of 170 variables" in inside.stdout + inside.stderr
    outside = somebody.run("-c", code.format(".", "train"), PYTHONPATH=str(folder))
    assert "170 of 170 variables" in outside.stdout + outside.stderr


def test_a_domain_of_a_universal_bundle(somebody: Stranger, universal: Path, tmp_path: Path) -> None:
    name, image = "small_universal", somebody.home / "case.nii.gz"
    run = ("-m", "monai.bundle", "run", "--input", image, "--device", "cpu", "--domain_name", "second")
    somebody.run(*run, "--config_file", "configs/inference.json", "--output_dir", "../second", cwd=somebody.home / name)
    assert (somebody.home / "second" / "case_seg.nii.gz").read_bytes() == own(universal, image, tmp_path, domain_name="second")
