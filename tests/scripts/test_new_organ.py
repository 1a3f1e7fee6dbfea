"""A new organ as the README has it: plan, adapter on a frozen trunk, import, segment; and the proof that nothing else changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_components.inference import Segmenter
from custom_components.weights import load_trunk
from tests.inference.oracles import universal_bundle
from tests.phantoms import affine_of, hippocampus_like, save_nifti

AFFINE = affine_of((1.3, 0.9, 2.1), (8, 0, -12), axes=(2, 0, 1), flips=(1, -1, 1))


def run(repository: Path, folder: Path, *command: object, code: int = 0) -> str:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(repository),
        "COLUMNS": "200",
    }
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd spacing, an oblique grid, axes in another order, and a class of a few voxels in some of the cases."""
    root = tmp_path_factory.mktemp("data") / "Task77_Odd"
    names = [f"odd_{index}" for index in range(6)]
    for index, name in enumerate(names):
        image, label = hippocampus_like((26, 30, 24), seed=index)
        if index % 2:
            label[3:5, 3:5, 3:4] = 3
            image[3:5, 3:5, 3:4] = 420
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image, AFFINE)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label, AFFINE)
    described = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Front", "2": "Back", "3": "Nodule"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def test_a_new_organ_from_a_folder(repository: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    before, universal = tmp_path / "before", universal_bundle(bundle, tmp_path / "universal")
    shutil.copytree(universal, before)
    scripts = repository / "scripts"

    planned = run(
        repository, tmp_path, scripts / "new_domain.py", data, "--name", "odd_mr", "--output-dir", tmp_path / "mine",
        "--patch-voxels", 9000, "--max-steps", 3,
    )  # fmt: skip
    assert "nodule" in planned.lower()
    domain = json.loads((tmp_path / "mine" / "configs" / "domain.json").read_text())
    assert domain["labels"] == {"background": 0, "front": 1, "back": 2, "nodule": 3}
    assert (tmp_path / "mine" / "docs" / "plan.md").is_file()

    trunk = universal / "models" / "trunk.safetensors"
    configs = str([str(tmp_path / "mine" / "configs" / name) for name in ("train.json", "adapt.json")])
    budget = ("--max_epochs", 1, "--steps_per_epoch", 2, "--val_interval", 1, "--batch_size", 1)
    run(
        repository, tmp_path, "-m", "monai.bundle", "run", "--config_file", configs, "--bundle_root", tmp_path / "mine",
        "--dataset_dir", data, "--trunk", trunk, "--ckpt_dir", tmp_path / "adapted", "--output_dir", tmp_path / "out", *budget,
    )  # fmt: skip
    adapter = tmp_path / "adapted" / "odd_mr.safetensors"
    assert load_trunk(tmp_path / "adapted" / "trunk.safetensors")[0] == load_trunk(trunk)[0]

    run(repository, tmp_path, scripts / "adapters.py", "import", adapter, "--bundle", universal)
    image = data / "imagesTr" / "odd_0.nii.gz"
    labels = tmp_path / "labels"
    run(repository, tmp_path, scripts / "segment.py", image, "--bundle", universal, "--domain", "odd_mr", "--output-dir", labels)
    label = nib.load(labels / "odd_0_seg.nii.gz")
    assert np.allclose(label.affine, AFFINE, atol=1e-4)
    assert label.shape == nib.load(image).shape
    expected = Segmenter.from_bundle(universal, "cpu", domain="odd_mr").segment(image).label[0].numpy()
    assert np.array_equal(np.asarray(label.dataobj), expected)

    proof = tmp_path / "proof.json"
    run(repository, tmp_path, scripts / "prove_unchanged.py", before, universal, "--output-file", proof)
    report = json.loads(proof.read_text())
    assert (report["verdict"], report["differences"], report["added"]) == ("unchanged", [], ["odd_mr"])
    assert set(report["domains"]) == {"first", "second"}
    for compared in report["domains"].values():
        assert compared["fingerprint_before"] == compared["fingerprint_after"]
        assert all(output["logits_before"] == output["logits_after"] for output in compared["outputs"])
        assert any(
            output.get("label_before") == output["label_after"] for output in compared["outputs"] if "label_after" in output
        )

    # One bit of the trunk, and the proof fails.
    changed = tmp_path / "changed"
    shutil.copytree(universal, changed)
    path = changed / "models" / "trunk.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    run(repository, tmp_path, scripts / "prove_unchanged.py", before, changed, "--output-file", tmp_path / "red.json", code=1)
