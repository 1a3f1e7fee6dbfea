"""Every bundle, on phantoms of its modality, channels and labels: trains, is scored, segments; as a network and as an adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference import Segmenter
from custom_components.networks import U2Net
from custom_components.weights import WeightsError, load_network, load_trunk, read_tensors, save_bundle_weights
from custom_components.weights.bundle_files import describe_header
from custom_components.weights.files import write_tensors
from tests.bundles.conftest import MADE, Made
from tests.bundles.training_runs import last, small_domain, smallest_patch, tiny, workflow

PLACES = ("bundle_root", "domain#path", "dataset_dir", "device")
# Configurations that train.json is not combined with, and overrides that have tests of their own: adapt.json below, for every
# bundle, and multi_gpu_train.json in test_train.py, for its two processes take long.
NOT_HERE = {
    "domain",
    "metadata",
    "train",
    "evaluate",
    "inference",
    "from_universal",
    "original_network",
    "adapt",
    "multi_gpu_train",
}
OVERRIDES = [
    (folder, path.name) for folder in MADE for path in sorted((folder / "configs").glob("*.json")) if path.stem not in NOT_HERE
]
SHAPE = {"in_channels": 1, "out_channels": 2, "strides": [[2, 2, 2]] * 5, "kernel_sizes": [[3, 3, 3]] * 6}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a trunk of six levels, and one domain's adapter."""
    folder = tmp_path_factory.mktemp("universal")
    torch.manual_seed(0)
    save_bundle_weights(U2Net({"other": SHAPE}, [4, 4, 6, 6, 8, 8], deep_supervision="heads"), folder)
    return folder


def use(made: Made, values: dict[str, Any], folder: Path, more: Sequence[str] = (), **changes: Any) -> None:
    """Score all cases and segment two; see that both came about on the right grid, with every class."""
    places: dict[str, Any] = {**{key: values[key] for key in PLACES}, "output_dir": str(folder / "out"), **changes}
    workflow(made.folder, ["evaluate.json", *more], {**places, "cases": "validation"}, "eval").run()
    report = json.loads((folder / "out" / "scores.json").read_text())
    assert len(report["cases"]) == 1
    assert set(report["summary"]) == {*made.domain.classes, "mean"}
    images = sorted((Path(values["dataset_dir"]) / "imagesTr").glob("*.nii.gz"))[:2]
    workflow(made.folder, ["inference.json", *more], {**places, "input": [str(p) for p in images]}, "inference").run()
    for image in images:
        source = nib.load(image)
        label = nib.load(folder / "out" / image.name.replace(".nii.gz", "_seg.nii.gz"))
        assert label.shape == source.shape[:3]
        np.testing.assert_allclose(label.affine, source.affine, atol=1e-5)
        assert set(np.unique(np.asarray(label.dataobj))) <= set(made.domain.labels.values())


def test_trains_is_scored_and_segments(made: Made, phantoms: dict[str, Path], tmp_path: Path) -> None:
    values = tiny(made.folder, phantoms[made.domain.name], tmp_path)
    flow = workflow(made.folder, ["train.json"], values)
    assert flow.check_properties() == []
    batch = next(iter(flow.parser.get_parsed_content("train#dataloader")))
    domain = Domain.from_file(values["domain#path"])
    assert batch["image"].shape == (2, domain.in_channels, *domain.patch_size)
    assert int(batch["label"].max()) < domain.out_channels
    start = {key: value.clone() for key, value in flow.network_def.state_dict().items()}
    flow.run()
    state = last(tmp_path)
    assert (state["epoch"], state["iteration"]) == (2, 2)
    assert all(torch.isfinite(v).all() for v in state["objects"]["network"].values())
    assert any(not torch.equal(start[key], value) for key, value in state["objects"]["network"].items())
    scores = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert set(scores["summary"]) == {*domain.classes, "mean"}
    channels = values["network_def#channels"]
    use(made, values, tmp_path, ckpt_dir=str(tmp_path / "models"), **{"network_def#channels": channels})
    # What training left is what the path without configurations reads, too.
    read = load_network(tmp_path / "models", domain).state_dict()
    assert all(torch.equal(read[key], value) for key, value in read_tensors(tmp_path / "models" / "model.pt").items())


def test_an_adapter_on_a_frozen_trunk(made: Made, phantoms: dict[str, Path], trunk: Path, tmp_path: Path) -> None:
    values = tiny(made.folder, phantoms[made.domain.name], tmp_path, trunk=str(trunk / "trunk.safetensors"))
    del values["network_def#channels"]
    flow = workflow(made.folder, ["train.json", "adapt.json"], values)
    network = flow.network_def
    start = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = flow.parser.get_parsed_content("optimizer")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in network.named_parameters() if name.startswith("domains.")}
    flow.run()
    state = last(tmp_path)["objects"]["network"]
    changed = {key.split(".")[0] for key, value in state.items() if not torch.equal(value, start[key])}
    assert changed == {"domains"}
    name = made.domain.name
    expected = {f"{name}.safetensors", "trunk.safetensors", "model.pt", "last.pt"}
    assert {p.name for p in (tmp_path / "models").iterdir()} == expected
    assert load_trunk(tmp_path / "models" / "trunk.safetensors")[0] == load_trunk(trunk / "trunk.safetensors")[0]
    adapter = tmp_path / "models" / f"{name}.safetensors"
    header = describe_header(adapter)
    assert header.shape.low_rank == 4
    description = header.domain_description(adapter)
    assert description is not None and description.network == made.domain.network
    use(made, values, tmp_path, ["from_universal.json"], trunk=values["trunk"], adapter=str(adapter))
    # In the folder of the trunk, an adapter is found by its domain's name.
    (trunk / adapter.name).write_bytes(adapter.read_bytes())
    found = workflow(
        made.folder, ["evaluate.json", "from_universal.json"], {k: values[k] for k in (*PLACES, "trunk")}, "eval"
    ).network_def.state_dict()
    best = read_tensors(tmp_path / "models" / "model.pt")
    assert found.keys() == best.keys()
    assert all(torch.equal(value, best[key]) for key, value in found.items())
    (trunk / adapter.name).unlink()


@pytest.mark.parametrize(("folder", "override"), OVERRIDES, ids=lambda value: Path(value).stem.removesuffix("_segmentation"))
def test_every_override_of_training_trains_two_epochs(
    folder: Path, override: str, phantoms: dict[str, Path], trunk: Path, tmp_path: Path
) -> None:
    made = Made(folder)
    values = tiny(folder, phantoms[made.domain.name], tmp_path)
    if override == "continue_training.json":
        given = workflow(folder, ["train.json"], values).network_def
        values["weights"] = str(tmp_path / "given.safetensors")
        write_tensors(values["weights"], given.state_dict())
    elif shapes := json.loads((folder / "configs" / override).read_text()).get("network_def#domains"):
        levels = len(shapes[made.domain.name]["kernel_sizes"])
        values["network_def#channels"] = [4, 4, 6, 6, 8, 8][:levels]
    flow = workflow(folder, ["train.json", override], values)
    start = {key: value.clone() for key, value in flow.network_def.state_dict().items()}
    flow.run()
    state = last(tmp_path)
    assert (state["epoch"], state["iteration"]) == (2, 2)
    trained = state["objects"]["network"]
    assert trained.keys() == start.keys()
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert any(not torch.equal(start[key], value) for key, value in trained.items())
    scores = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert set(scores["summary"]) == {*made.domain.classes, "mean"}
    assert (tmp_path / "models" / "model.pt").is_file()


def test_an_adapters_training_goes_on_and_knows_its_trunk(phantoms: dict[str, Path], trunk: Path, tmp_path: Path) -> None:
    made = Made(next(path for path in MADE if path.name.startswith("cardiac")))
    values = tiny(made.folder, phantoms["cardiac_mri"], tmp_path, trunk=str(trunk / "trunk.safetensors"), max_epochs=1)
    del values["network_def#channels"]
    files = ["train.json", "adapt.json"]
    workflow(made.folder, files, values).run()
    workflow(made.folder, files, {**values, "max_epochs": 2}).run()
    assert last(tmp_path)["epoch"] == 2
    torch.manual_seed(1)
    save_bundle_weights(U2Net({"other": SHAPE}, [4, 4, 6, 6, 8, 8], deep_supervision="heads"), tmp_path / "another")
    flow = workflow(made.folder, files, {**values, "trunk": str(tmp_path / "another" / "trunk.safetensors"), "max_epochs": 3})
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, InputError)
    assert "trunk " in str(caught.value.__cause__)


def test_cases_on_disk_give_the_patches_of_cases_in_memory(phantoms: dict[str, Path], tmp_path: Path) -> None:
    made = Made(next(path for path in MADE if path.name.startswith("liver")))
    batches = []
    for files in (["train.json"], ["train.json", "disk_cache.json"], ["train.json", "disk_cache.json"]):
        values = tiny(made.folder, phantoms["liver_ct"], tmp_path)
        flow = workflow(made.folder, files, values)
        batches.append(next(iter(flow.parser.get_parsed_content("train#dataloader"))))
    assert len(list((tmp_path / "out" / "cache").glob("*/*.pt"))) == 2  # the cases that two draws took
    for batch in batches[1:]:
        assert torch.equal(batch["image"], batches[0]["image"])
        assert torch.equal(batch["label"], batches[0]["label"])


@pytest.mark.filterwarnings("error:Corrupt cache file")
def test_a_folder_of_cases_on_disk_serves_every_fold_and_augmentation(phantoms: dict[str, Path], tmp_path: Path) -> None:
    """A case is prepared for training and for validation each, and anew where an augmentation prepares it otherwise."""
    made = Made(next(path for path in MADE if path.name.startswith("liver")))

    def items(fold: int, *more: str) -> list[dict[str, Any]]:
        values = tiny(made.folder, phantoms["liver_ct"], tmp_path, fold=fold)
        values["steps_per_epoch"] = 2  # all of the four training cases
        z, y, x = smallest_patch(made.domain)
        small_domain(made.folder, tmp_path, patch_size=[2 * z, y, x])  # larger than the images: MONAI's augmentation pads
        parser = workflow(made.folder, ["train.json", *more], values).parser
        return [*parser.get_parsed_content("train#dataloader"), *parser.get_parsed_content("validate#dataset")]

    for fold, more in ((0, ()), (1, ()), (1, ("monai_augmentation.json",)), (0, ())):
        for read, expected in zip(items(fold, "disk_cache.json", *more), items(fold, *more), strict=True):
            assert all(torch.equal(read[key], expected[key]) for key in ("image", "label"))
            if isinstance(expected["label"], MetaTensor):  # of validation, which measures in mm
                assert torch.equal(read["label"].affine, expected["label"].affine)
                assert read["case"] == expected["case"]


def test_without_weights_there_is_one_error_that_says_what_to_do(made: Made, phantoms: dict[str, Path], tmp_path: Path) -> None:
    if made.facts.weights:
        pytest.skip("has weights")
    card = (made.folder / "docs" / "README.md").read_text()
    assert "no trained weights yet" in card
    assert "no trained weights yet" in json.loads((made.folder / "configs" / "metadata.json").read_text())["description"]
    image = str(min((phantoms[made.domain.name] / "imagesTr").iterdir()))
    values = {
        "bundle_root": str(made.folder),
        "ckpt_dir": str(tmp_path),
        "output_dir": str(tmp_path / "out"),
        "input": str(image),
    }
    flow = workflow(made.folder, ["inference.json"], values, "inference")
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    error = caught.value.__cause__
    assert isinstance(error, WeightsError)
    assert "configs/train.json" in str(error) and "\n" not in str(error)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "configs").symlink_to(made.folder / "configs")
    with pytest.raises(WeightsError, match=r"trunk\.safetensors: no such file, so there are no trained weights"):
        Segmenter.from_bundle(tmp_path)
