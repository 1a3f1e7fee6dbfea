"""Two phantom domains that differ in all that a domain owns, and small trainings of the universal bundle on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.phantoms import affine_of, decathlon, hippocampus_like, save_nifti

SMALL: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "channels": [4, 4, 8],
    "loss#weights": [1.0, 0.5],
    "steps_per_domain": 2,
    "max_epochs": 2,
    "val_interval": 1,
}
COMMON = {"patch_size": [16, 16, 16], "strides": [[2, 2, 2]] * 2, "kernel_sizes": [[3, 3, 3]] * 3}


def two_domains(folder: Path, hippocampus: Path) -> dict[str, Any]:
    """Make ``alpha`` (1 mm, one channel, two classes) and ``beta`` (3 × 1 × 1 mm, two channels, one class).

    Returns:
        The overrides ``domains`` and ``dataset_dirs``.
    """
    values = json.loads((hippocampus / "configs" / "domain.json").read_text())
    values.update(name="alpha", patch_size=[24, 24, 24], strides=[[2, 2, 2]] * 2, kernel_sizes=[[3, 3, 3]] * 3)
    alpha = folder / "alpha.json"
    alpha.write_text(json.dumps(values))
    values.update(
        name="beta",
        channels=["T1", "T2"],
        labels={"background": 0, "organ": 1},
        label_merges={"2": 1},
        spacing=[3, 1, 1],
        patch_size=[8, 24, 32],
        strides=[[1, 2, 2], [2, 2, 2]],
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        postprocessing={"organ": {"closing": 0, "keep": 1}},
    )
    values["sampling"]["batch_size"] = 1
    beta = folder / "beta.json"
    beta.write_text(json.dumps(values))
    return {
        "domains": [str(alpha), str(beta)],
        "dataset_dirs": {"alpha": str(decathlon(folder, cases=6, task="Task97_Alpha")), "beta": str(_beta_data(folder))},
    }


def overrides(bundle: Path, domains: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    """What makes a training small and keeps it within ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"bundle_root": str(bundle), "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "out")}
    return {**SMALL, **domains, **places, **more}


def _beta_data(folder: Path) -> Path:
    """Five cases of 3 mm slices; the label of `hippocampus_like`, both classes one organ by the domain's merges."""
    root = folder / "Task98_Beta"
    names = [f"beta_{index:03d}" for index in range(5)]
    for index, name in enumerate(names):
        image, label = hippocampus_like((30, 36, 12), seed=index)
        affine = affine_of((1, 1, 3))
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", np.stack([image, 400 - image], axis=-1), affine)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    described = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "organ", "2": "tumour"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root
