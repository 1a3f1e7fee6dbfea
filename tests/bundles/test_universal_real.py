"""The universal bundle as it is shipped, on a few real cases of each of its four domains: two epochs, scores, labels."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_components.domain import Domain
from custom_components.inference import Segmenter
from custom_components.weights import load_network
from tests.bundles.training_runs import last, workflow

TASKS = {
    "hippocampus_mri": "Task04_Hippocampus",
    "abdomen_mri": "Task21_AbdomenMR",
    "headneck_ct": "Task22_HeadNeckCT",
    "cardiac_mri": "Task23_CardiacMR",
}
CASES = 5  # one of each domain's is for validation


@pytest.fixture(scope="module")
def few_cases(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four real data sets with their first cases alone, as links."""
    folder = tmp_path_factory.mktemp("few")
    for task in TASKS.values():
        if not (real_data / task / "dataset.json").is_file():
            pytest.skip(f"no {real_data / task}; set U2NET_DATA to a folder with {', '.join(TASKS.values())}")
        described = json.loads((real_data / task / "dataset.json").read_text())
        described["training"] = described["training"][:CASES]
        for kind in ("image", "label"):
            for case in described["training"]:
                link = folder / task / case[kind]
                link.parent.mkdir(parents=True, exist_ok=True)
                os.symlink((real_data / task / case[kind]).resolve(), link)
        (folder / task / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def trained(repository: Path, few_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    values: dict[str, Any] = {
        "bundle_root": str(repository / "bundles" / "universal_segmentation"),
        "dataset_dir": str(few_cases),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "out"),
        "device": "$torch.device('cpu')",
        "channels": [4, 4, 8, 8, 8, 8],
        "steps_per_domain": 1,
        "max_epochs": 2,
        "val_interval": 2,
    }
    flow = workflow(repository / "bundles" / "universal_segmentation", ["train.json"], values)
    assert flow.check_properties() == []
    flow.run()
    return folder


def test_two_epochs_train_and_score_the_four_domains(trained: Path, few_cases: Path) -> None:
    state = last(trained)
    assert (state["epoch"], state["iteration"]) == (2, 8)
    network = load_network(trained / "models")
    assert set(network.domains) == set(TASKS)
    for name, task in TASKS.items():
        report = json.loads((trained / "out" / f"{name}.json").read_text())
        cases = json.loads((few_cases / task / "dataset.json").read_text())["training"]
        assert report["cases"].keys() < {Path(case["image"]).name.removesuffix(".nii.gz") for case in cases}
        assert len(report["cases"]) == 1
        (classes,) = report["cases"].values()
        assert all(0 <= scores["dice"] <= 1 for scores in classes.values())


@pytest.mark.parametrize("name", TASKS)
def test_each_domain_segments_a_real_image_on_its_own_grid(
    trained: Path, few_cases: Path, repository: Path, tmp_path: Path, name: str
) -> None:
    domain = Domain.from_file(repository / "bundles" / "universal_segmentation" / "configs" / "domains" / f"{name}.json")
    segmenter = Segmenter(domain, load_network(trained / "models").select(name), "cpu")
    path = sorted((few_cases / TASKS[name] / "imagesTr").glob("*.nii.gz"))[0]
    segmenter.segment(path).save(tmp_path / "label.nii.gz")
    image, label = nib.load(path), nib.load(tmp_path / "label.nii.gz")
    assert label.shape == image.shape
    assert np.allclose(label.affine, image.affine, atol=1e-4)
    assert set(np.unique(np.asarray(label.dataobj))) <= set(domain.labels.values())
