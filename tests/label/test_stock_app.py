"""The bundles in MONAI Label's own app ``monaibundle``, as it is installed; the same labels, and what a training leaves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_components.domain import Domain
from custom_components.weights import read_tensors
from tests.label.conftest import HIPPOCAMPUS, ROOT, SINGLE, UNIVERSAL, names_of, phantom, reference, small_copy, small_universal
from tests.label.servers import Server, ended
from tests.label.test_serving import GRIDS, same
from tests.phantoms import hippocampus_like, save_nifti

TRAINED = "heart_mri_segmentation"  # small, so that it is trained in seconds


@dataclass
class Stock:
    server: Server
    client: Any
    bundles: Path
    studies: Path


@pytest.fixture(scope="module")
def stock(label_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    root = tmp_path_factory.mktemp("stock")
    app, studies = root / "app", root / "studies"
    shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
    bundles = app / "model"
    for name in SINGLE:
        if name == HIPPOCAMPUS:
            shutil.copytree(ROOT / "bundles" / name, bundles / name)
            continue
        bundle = small_copy(name, bundles)
        shutil.copy(ROOT / "bundles" / name / "configs" / "inference.json", root / "unchanged.json")
        assert differs_in(bundle / "configs" / "inference.json", root / "unchanged.json") == ["network_def"]
        phantom(Domain.from_file(bundle / "configs" / "domain.json"), studies / f"of_{name}.nii.gz")
    small_universal(bundles)
    shutil.rmtree(bundles / "tried")
    universal = bundles / UNIVERSAL / "configs" / "inference.json"
    universal.write_text(universal.read_text().replace('"domain_name": "hippocampus_mri"', '"domain_name": "second"'))
    for index, (name, affine) in enumerate(GRIDS.items()):
        save_nifti(studies / f"{name}.nii.gz", hippocampus_like((34, 46, 38), seed=index)[0], affine)
    quick(bundles / TRAINED)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", app, "--studies", studies]
    command += ["--conf", "models", ",".join([*SINGLE, UNIVERSAL]), "--conf", "zoo_source", "local", "--host", "127.0.0.1"]
    environment = {"PYTHONPATH": f"{ROOT / 'custom_components' / 'label_app' / 'site'}:{ROOT}"}
    with Server.of_command(root / "server.log", command, environment) as server:
        yield Stock(server, server.client(root / "received"), bundles, studies)


def differs_in(one: Path, other: Path) -> list[str]:
    a, b = (json.loads(path.read_text()) for path in (one, other))
    return [key for key in {**a, **b} if a.get(key) != b.get(key)]


def quick(bundle: Path) -> None:
    """A training of two steps on small patches."""
    path = bundle / "configs" / "train.json"
    values = json.loads(path.read_text())
    values["network_def"]["channels"] = json.loads((bundle / "configs" / "inference.json").read_text())["network_def"]["channels"]
    values.update(steps_per_epoch=2, val_interval=1, batch_size=1)
    path.write_text(json.dumps(values))


def test_every_bundle_is_offered(stock: Stock) -> None:
    models = stock.client.info()["models"]
    assert set(models) == {*SINGLE, UNIVERSAL}
    for name in SINGLE:  # MONAI Label writes labels in lower case
        expected = {label.lower(): index for label, index in names_of(stock.bundles / name).items()}
        assert models[name]["labels"] == expected


@pytest.mark.parametrize("name", [name for name in SINGLE if name != HIPPOCAMPUS])
def test_every_bundle_gives_the_label_of_segment(stock: Stock, name: str) -> None:
    source = stock.studies / f"of_{name}.nii.gz"
    expected = reference(stock.bundles / name, source)
    file, _ = stock.client.infer(name, f"of_{name}", {})
    same(file, expected, source)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_comes_back_as_it_is(stock: Stock, grid: str) -> None:
    source = stock.studies / f"{grid}.nii.gz"
    file, _ = stock.client.infer(HIPPOCAMPUS, grid, {})
    same(file, reference(stock.bundles / HIPPOCAMPUS, source), source)


def test_the_universal_bundle_serves_the_domain_that_its_configuration_names(stock: Stock) -> None:
    source = stock.studies / "oblique.nii.gz"
    file, _ = stock.client.infer(UNIVERSAL, "oblique", {})
    same(file, reference(stock.bundles / UNIVERSAL, source, "second"), source)


def test_a_training_leaves_weights_that_are_served(stock: Stock) -> None:
    """``last.pt`` too, which this app offers beside ``model.pt``: it must not run on a random network."""
    bundle, source = stock.bundles / TRAINED, stock.studies / f"of_{TRAINED}.nii.gz"
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    before = read_tensors(bundle / "models" / "model.pt")
    for index in range(3):
        image = phantom(domain, stock.studies / f"train_{index}.nii.gz", seed=index + 1)
        label = np.zeros(nib.load(image).shape, np.uint8)
        label[10:20, 12:24, 6:14] = 1
        sent = save_nifti(stock.studies.parent / "sent" / f"train_{index}.nii.gz", label, nib.load(image).affine)
        stock.client.upload_image(str(image), f"train_{index}")
        stock.client.save_label(f"train_{index}", str(sent))
    options = {"max_epochs": 1, "val_split": 0.34, "device": "cpu", "multi_gpu": False}
    stock.client.train_start(TRAINED, options)
    status = ended(stock.client.train_status)
    assert status["status"] == "DONE", "\n".join(status["details"])
    after = read_tensors(bundle / "models" / "model.pt")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    told = len(stock.server.text())
    same_voxels(stock.client.infer(TRAINED, f"of_{TRAINED}", {})[0], reference(bundle, source))
    assert "Checkpoint keys don't match" not in stock.server.text()[told:]
    last = torch.load(bundle / "models" / "last.pt", weights_only=True)
    assert all(torch.equal(last["model"][key], value) for key, value in last["objects"]["network"].items())
    assert all(torch.equal(last["model"][key], after[key]) for key in after)  # one epoch: the last is the best


def same_voxels(file: str, expected: np.ndarray) -> None:
    assert np.array_equal(np.asarray(nib.load(file).dataobj), expected)


def test_the_checkpoint_of_a_training_serves_its_own_weights(stock: Stock) -> None:
    """As after a restart, where ``last.pt`` is the first on this app's list."""
    bundle, source = stock.bundles / "spleen_ct_segmentation", stock.studies / "of_spleen_ct_segmentation.nii.gz"
    expected = reference(bundle, source)
    weights = read_tensors(bundle / "models" / "model.pt")
    torch.save({"settings": {}, "objects": {"network": weights}, "model": weights, "epoch": 1}, bundle / "models" / "last.pt")
    told = len(stock.server.text())
    file, _ = stock.client.infer("spleen_ct_segmentation", "of_spleen_ct_segmentation", {"model_filename": "last.pt"})
    same_voxels(file, expected)
    assert "last.pt" in stock.server.text()[told:]
    assert "Checkpoint keys don't match" not in stock.server.text()[told:]
