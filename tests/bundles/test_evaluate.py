"""`evaluate.json`: scores on each image's own grid, with weights that fit or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from custom_components.domain import Domain
from custom_components.networks import U2Net
from custom_components.weights import WeightsError, save_state
from scripts.evaluate import app
from tests.bundles.training_runs import small_domain, workflow
from tests.phantoms import INTENSITIES, affine_of, decathlon, hippocampus_like, save_nifti

CHANNELS = [4, 4, 8, 8]


@pytest.fixture(scope="module")
def oblique_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms whose stored axes are permuted, flipped, oblique and anisotropic, one with a stray label."""
    root = decathlon(tmp_path_factory.mktemp("oblique"), cases=5)
    for index in range(5):
        image, label = hippocampus_like((30, 40, 32), seed=index, noise=4)
        label[0, 0, :3] = 254 if index == 0 else 0
        affine = affine_of((1.0, 1.2, 0.8), (15, -10, 20), (30, -40, 10), axes=(1, 0, 2), flips=(-1, 1, -1))
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            save_nifti(root / folder / f"phantom_{index:03d}.nii.gz", array, affine)
    return root


def values_for(bundle: Path, data: Path, folder: Path) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    plain = {"floor": None, "percentiles": None, "statistics": "all"}
    return {
        "bundle_root": str(bundle),
        "domain#path": str(small_domain(bundle, folder, intensity=plain)),
        "dataset_dir": str(data),
        "output_dir": str(folder / "out"),
        "ckpt_dir": str(folder),
        "device": "$torch.device('cpu')",
        "network_def#channels": CHANNELS,
        "cases": "all",
    }


def test_an_oracle_is_scored_on_the_images_own_grid(bundle: Path, oblique_data: Path, tmp_path: Path) -> None:
    image, _ = hippocampus_like((30, 40, 32), noise=4)
    thresholds = [float((v - image.mean()) / image.std()) for v in (np.mean(INTENSITIES[::2]), np.mean(INTENSITIES[1:]))]
    values = values_for(bundle, oblique_data, tmp_path)
    values["network_def"] = {"_target_": "tests.inference.oracles.Bands", "low": thresholds[0], "high": thresholds[1]}
    values["run"] = ["$@evaluator.run()"]
    del values["network_def#channels"]
    flow = workflow(bundle, ["evaluate.json"], values, kind="eval")
    assert flow.check_properties() == []
    with pytest.warns(UserWarning, match="254 \\(3 voxels\\)"):
        flow.run()
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert len(report["cases"]) == 5
    anterior, posterior = (report["summary"][name] for name in ("anterior", "posterior"))
    assert anterior["dice"]["mean"] > 0.93
    assert anterior["surface_dice"]["mean"] > 0.97
    assert anterior["hd95_mm"]["mean"] < 1.2
    # Blended with the background, anterior's edge has posterior's intensity: a shell that the oracle gets wrong.
    assert posterior["dice"]["mean"] > 0.91
    assert report["made"]["data"] == oblique_data.name
    assert report["made"]["cases"] == "all"
    assert str(tmp_path) not in json.dumps(report)


def bundle_folder(bundle: Path, folder: Path) -> Path:
    """A bundle with a small network of fixed weights."""
    (folder / "configs").mkdir(parents=True)
    domain = Domain.from_file(small_domain(bundle, folder / "configs"))
    config = json.loads((bundle / "configs" / "evaluate.json").read_text())
    config["network_def"]["channels"] = CHANNELS
    config["device"] = "$torch.device('cpu')"
    (folder / "configs" / "evaluate.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_state(U2Net({domain.name: domain.network}, channels=CHANNELS, deep_supervision="heads"), folder / "models" / "model.pt")
    return folder


def test_the_script_scores_a_bundle(bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    folder = bundle_folder(bundle, tmp_path / "bundle")
    arguments = ["--bundle", str(folder), "--dataset-dir", str(phantom_data), "--output-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "scores.png").is_file()
    cases = json.loads((tmp_path / "out" / "scores.json").read_text())["cases"]
    assert len(cases) == 2  # the validation side of the first of five folds
    assert "2 cases scored" in " ".join(result.output.split())


def test_missing_data_is_one_error_line(bundle: Path, tmp_path: Path) -> None:
    folder = bundle_folder(bundle, tmp_path / "bundle")
    arguments = ["--bundle", str(folder), "--dataset-dir", str(tmp_path / "none"), "--output-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "no such folder" in " ".join(result.output.split())
    assert not (tmp_path / "out" / "scores.json").exists()


def test_weights_that_do_not_fit_are_refused(bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    values = values_for(bundle, phantom_data, tmp_path)
    domain = Domain.from_file(str(values["domain#path"]))
    save_state(U2Net({domain.name: domain.network}, channels=[4, 4, 8, 16], deep_supervision="heads"), tmp_path / "model.pt")
    flow = workflow(bundle, ["evaluate.json"], values, kind="eval")
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, WeightsError)
    assert not (tmp_path / "out" / "scores.json").exists()


def test_the_label_files_stay_untouched(oblique_data: Path) -> None:
    assert (nib.load(oblique_data / "labelsTr" / "phantom_000.nii.gz").get_fdata() == 254).sum() == 3
