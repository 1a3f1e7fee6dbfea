"""`train.json`: two epochs of three steps on phantoms, stopped and resumed, with the original's recipe, in two processes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image

from custom_components.errors import InputError
from custom_components.transforms import KeepComponentsd, RandDeformCropd
from custom_components.weights import load_state, read_tensors
from tests.bundles.training_runs import last, overrides, run_in_two_processes, workflow
from tests.phantoms import save_nifti


@pytest.fixture(scope="module")
def trained(bundle: Path, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that was not interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    flow = workflow(bundle, ["train.json"], overrides(bundle, phantom_data, folder))
    assert flow.check_properties() == []
    flow.run()
    return folder


def assert_equal_states(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, dict):
            assert_equal_states(value, second[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key]), key
        else:
            assert value == second[key], key


def test_stopped_and_resumed_equals_uninterrupted(bundle: Path, phantom_data: Path, trained: Path, tmp_path: Path) -> None:
    values = overrides(bundle, phantom_data, tmp_path)

    class Killed(Exception):
        pass

    def kill(engine: object) -> None:
        if engine.state.iteration == 5:  # type: ignore[attr-defined]
            raise Killed

    flow = workflow(bundle, ["train.json"], values)
    flow.parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, kill)
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, Killed)
    assert last(tmp_path)["epoch"] == 1
    torch.rand(3)
    workflow(bundle, ["train.json"], values).run()
    whole, parts = last(trained), last(tmp_path)
    assert (parts["epoch"], parts["iteration"]) == (2, 6)
    assert_equal_states(whole["objects"], parts["objects"])
    assert parts["best_metric"] == whole["best_metric"]


def test_the_best_weights_load_strictly_into_the_network(bundle: Path, phantom_data: Path, trained: Path) -> None:
    flow = workflow(bundle, ["train.json"], overrides(bundle, phantom_data, trained))
    network = load_state(flow.network_def, trained / "models" / "model.pt")
    best, end = network.state_dict(), last(trained)
    assert best.keys() == end["objects"]["network"].keys()
    assert {p.name for p in (trained / "models").glob("*.safetensors")} == {"trunk.safetensors", "hippocampus_mri.safetensors"}


def test_curves_pictures_and_scores_are_written(trained: Path) -> None:
    out = trained / "out"
    assert list(out.glob("events.out.tfevents.*"))
    pictures = list((out / "overlays").glob("*.png"))
    assert pictures
    with Image.open(pictures[0]) as picture:
        assert min(picture.size) > 200
    report = json.loads((out / "validation.json").read_text())
    rows = list(csv.DictReader((out / "validation.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == list(report["cases"])
    assert float(rows[0]["anterior_dice"]) == pytest.approx(report["cases"][rows[0]["case"]]["anterior"]["dice"], abs=1e-6)


def test_the_checkpoint_of_another_training_is_refused(bundle: Path, phantom_data: Path, trained: Path) -> None:
    before = (trained / "models" / "last.pt").read_bytes()
    for change, words in (
        ({"steps_per_epoch": 4}, "steps_per_epoch 3 there, 4 here"),
        ({"fold": 1}, "cases "),
        ({"optimizer#lr": 0.5}, "rate 0.003 there, 0.5 here"),
    ):
        flow = workflow(bundle, ["train.json"], overrides(bundle, phantom_data, trained, **change))
        with pytest.raises(RuntimeError) as caught:
            flow.run()
        assert isinstance(caught.value.__cause__, InputError)
        assert words in str(caught.value.__cause__)
    assert (trained / "models" / "last.pt").read_bytes() == before


def other_channels(data: Path) -> None:
    change_description(data, modality={"0": "T1", "1": "T2"})


def swapped_labels(data: Path) -> None:
    change_description(data, labels={"0": "background", "1": "posterior", "2": "anterior"})


def background_alone(data: Path) -> None:
    for path in (data / "labelsTr").glob("*.nii.gz"):
        save_nifti(path, np.zeros(nib.load(path).shape, np.uint8))


def change_description(data: Path, **changes: object) -> None:
    path = data / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("override", [None, "disk_cache.json"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_channels, "'modality' has 2 channels"),
        (swapped_labels, "has 'anterior' as 2, domain 'hippocampus_mri' has 'anterior' as 1"),
        (background_alone, "none of its 8 training cases has a voxel of any class"),
    ],
    ids=["channels", "labels", "background"],
)
def test_a_data_set_of_another_kind_is_refused_before_training(
    bundle: Path, phantom_data: Path, tmp_path: Path, change: Callable[[Path], None], words: str, override: str | None
) -> None:
    data = shutil.copytree(phantom_data, tmp_path / "data" / phantom_data.name)
    change(data)
    files = ["train.json", *([override] if override else [])]
    flow = workflow(bundle, files, overrides(bundle, data, tmp_path))
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, InputError)
    assert words in str(caught.value.__cause__)
    assert not (tmp_path / "models").exists()


def test_the_originals_recipe(bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    small = {"max_epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
    values = overrides(bundle, phantom_data, tmp_path, **small)
    del values["network_def#channels"]
    flow = workflow(bundle, ["train.json", "original_recipe.json"], values)
    assert sum(p.numel() for p in flow.network_def.parameters()) == 2_055_285  # as the original's independent set-up
    optimizer = flow.parser.get_parsed_content("optimizer")
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (3e-4, 5e-4)
    flow.run()
    state = last(tmp_path)
    assert state["settings"]["batch_size"] == 2
    assert len(state["objects"]["lr_scheduler"]["values"]) == 1

    # What was trained is scored, and segments, with the network and the component rules of the recipe.
    for name, kind in (("evaluate.json", "eval"), ("inference.json", "inference")):
        places = {k: values[k] for k in ("bundle_root", "domain#path", "dataset_dir", "ckpt_dir", "output_dir", "device")}
        if kind == "inference":
            places["input"] = str(phantom_data / "imagesTr")
        scored = workflow(bundle, [name, "original_network.json"], places, kind)
        keep = scored.parser.get_parsed_content("postprocessing").transforms[1]
        assert isinstance(keep, KeepComponentsd)
        assert all(
            (rule.closing, rule.keep) == (1, 2)
            for rule in scored.parser.get_parsed_content("postprocessing#transforms#1#rules").values()
        )
        scored.run()
    assert (tmp_path / "out" / "scores.json").is_file()


def test_monais_own_augmentation(bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    values = overrides(bundle, phantom_data, tmp_path, max_epochs=1, steps_per_epoch=2)
    flow = workflow(bundle, ["train.json", "monai_augmentation.json"], values)
    names = [type(t).__name__ for t in flow.parser.get_parsed_content("train#preprocessing").transforms]
    assert "RandCropByLabelClassesd" in names
    assert "RandDeformCropd" not in names
    default = json.loads((bundle / "configs" / "train.json").read_text())["train"]["random_transforms"]
    override = json.loads((bundle / "configs" / "monai_augmentation.json").read_text())["train#random_transforms"]
    # The intensities are changed alike: what differs is how patches are cut and deformed.
    assert override[-6:] == default[-6:]
    flow.run()
    assert last(tmp_path)["iteration"] == 2


def test_the_recipes_deform_as_the_domain_says(bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    for files, law, orders in ((["train.json"], "spline", (1, 0)), (["train.json", "original_recipe.json"], "gaussian", (3, 0))):
        flow = workflow(bundle, files, overrides(bundle, phantom_data, tmp_path / law))
        chain = flow.parser.get_parsed_content("train#preprocessing").transforms
        crop = next(t for t in chain if isinstance(t, RandDeformCropd))
        augmentation = flow.parser.get_parsed_content("augmentation")
        elastic, rotate, scale, flip = crop.operations
        assert (elastic.probability, elastic.law) == (augmentation.elastic.probability, law)
        assert elastic.sigma == [tuple(augmentation.elastic.sigma)]
        assert elastic.alpha == tuple(augmentation.elastic.alpha)
        assert (rotate.angles, scale.factors) == (
            [tuple(a) for a in augmentation.rotation.angles],
            [tuple(augmentation.scale.range)],
        )
        assert (flip.probability, flip.axes) == (augmentation.mirror.probability, tuple(augmentation.mirror.axes))
        assert (crop.window, crop.orders) == ((24, 32, 24), orders)


def test_training_continues_from_given_weights(bundle: Path, phantom_data: Path, trained: Path, tmp_path: Path) -> None:
    given = trained / "models" / "model.pt"
    values = overrides(bundle, phantom_data, tmp_path, weights=str(given), max_epochs=1)
    flow = workflow(bundle, ["train.json", "continue_training.json"], values)
    start = flow.parser.get_parsed_content("network").state_dict()
    assert all(torch.equal(start[key], value) for key, value in read_tensors(given).items())
    assert flow.parser.get_parsed_content("optimizer").defaults["lr"] == 0.0015
    flow.run()
    after = last(tmp_path)["objects"]["network"]
    assert any(not torch.equal(after[key], value) for key, value in read_tensors(given).items())


def test_two_processes_train_one_network(bundle: Path, phantom_data: Path, tmp_path: Path, repository: Path) -> None:
    values = overrides(bundle, phantom_data, tmp_path, steps_per_epoch=2)
    run_in_two_processes(repository, bundle, ["train.json", "multi_gpu_train.json"], values)
    state = last(tmp_path)
    assert (state["epoch"], state["settings"]["processes"]) == (2, 2)
    assert not any(key.startswith("module.") for key in state["objects"]["network"])
    assert len(json.loads((tmp_path / "out" / "validation.json").read_text())["cases"]) == 2


def image_steps(transforms: list[dict]) -> list[dict]:
    """What a chain does to the image: without the labels, MONAI Label's hidden key and the last conversion of type."""
    steps = []
    for transform in transforms:
        step = dict(transform)
        name = step["_target_"].split(".")[-1]
        if name in ("CheckLabeld", "MapLabelsd", "CopyItemsd", "DeleteItemsd", "EnsureTyped"):
            continue
        step["keys"] = "image"
        if isinstance(step.get("mode"), list):
            step["mode"] = step["mode"][0]
        steps.append(step)
    return steps


def test_training_evaluation_and_inference_prepare_images_alike(bundle: Path) -> None:
    train, evaluate, inference = (
        json.loads((bundle / "configs" / f"{name}.json").read_text()) for name in ("train", "evaluate", "inference")
    )
    expected = image_steps(inference["preprocessing"]["transforms"])
    assert image_steps(train["train"]["deterministic_transforms"]) == expected
    assert image_steps(evaluate["preprocessing"]["transforms"]) == expected
    for other in (evaluate, train):
        assert other["network_def"] == inference["network_def"]
    assert evaluate["postprocessing"]["transforms"] == inference["postprocessing"]["transforms"][:-1]
    assert train["validate"]["inferer"] == evaluate["inferer"] == inference["inferer"]
    assert train["flip_axes"] == evaluate["flip_axes"] == inference["flip_axes"]
