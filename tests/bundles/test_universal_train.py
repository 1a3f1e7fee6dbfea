"""The universal bundle's `train.json` and its overrides, on two phantom domains."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events

from custom_components.bundles import universal_drift
from custom_components.data import datalist
from custom_components.domain import Domain
from custom_components.errors import InputError, input_error_behind
from custom_components.inference import Segmenter
from custom_components.training import DomainSets
from custom_components.weights import load_adapter, load_network, load_trunk
from tests.bundles.training_runs import last, run_in_two_processes, workflow
from tests.bundles.universal_runs import COMMON, overrides, two_domains

UNIVERSAL = Path(__file__).parents[2] / "bundles" / "universal_segmentation"
# Configurations that train.json is not combined with, and overrides that have tests of their own.
NOT_HERE = {"chain", "metadata", "train", "evaluate", "inference", "adapt", "multi_gpu_train"}
SETUPS = sorted({path.stem for path in (UNIVERSAL / "configs").glob("*.json")} - NOT_HERE)


@pytest.fixture(scope="module")
def universal() -> Path:
    return UNIVERSAL


@pytest.fixture(scope="module")
def domains(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return two_domains(tmp_path_factory.mktemp("domains"), bundle)


@pytest.fixture(scope="module")
def trained(universal: Path, domains: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that was not interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    flow = workflow(universal, ["train.json"], overrides(universal, domains, folder))
    assert flow.check_properties() == []
    flow.run()
    return folder


def states(folder: Path) -> dict[str, torch.Tensor]:
    return last(folder)["objects"]["network"]


def test_trunk_and_an_adapter_per_domain_are_written(domains: dict[str, Any], trained: Path) -> None:
    files = {p.name for p in (trained / "models").glob("*.safetensors")}
    assert files == {"trunk.safetensors", "alpha.safetensors", "beta.safetensors"}
    network = load_network(trained / "models")
    assert list(network.domains) == ["alpha", "beta"]
    for path in domains["domains"]:  # each file says what it is for
        header, _ = load_adapter(
            trained / "models" / f"{Path(path).stem}.safetensors", load_trunk(trained / "models" / "trunk.safetensors")[0]
        )
        assert header.domain_description(path) == Domain.from_file(path)
    assert network(torch.zeros(1, 2, 8, 24, 32), "beta").shape == (1, 2, 8, 24, 32)


def test_every_domain_is_scored_and_counts_alike(trained: Path) -> None:
    reports = {name: json.loads((trained / "out" / f"{name}.json").read_text()) for name in ("alpha", "beta")}
    assert set(reports["alpha"]["summary"]) == {"anterior", "posterior", "mean"}
    assert set(reports["beta"]["summary"]) == {"organ", "mean"}
    means = [r["summary"]["mean"]["dice"]["mean"] or 0.0 for r in reports.values()]
    state = last(trained)
    assert state["best_metric_epoch"] in (1, 2)
    if state["best_metric_epoch"] == 2:  # the files are those of the last validation
        assert state["best_metric"] == pytest.approx(sum(means) / 2, abs=1e-6)
    assert list((trained / "out" / "overlays" / "alpha").glob("*.png"))
    assert list((trained / "out" / "overlays" / "beta").glob("*.png"))


def test_stopped_and_resumed_equals_uninterrupted(
    universal: Path, domains: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    values = overrides(universal, domains, tmp_path)

    class Killed(Exception):
        pass

    def kill(engine: Any) -> None:
        if engine.state.iteration == 7:
            raise Killed

    flow = workflow(universal, ["train.json"], values)
    flow.parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, kill)
    with pytest.raises(RuntimeError):
        flow.run()
    assert last(tmp_path)["epoch"] == 1
    workflow(universal, ["train.json"], values).run()
    whole, parts = states(trained), states(tmp_path)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_domain_that_is_absent_does_not_move(universal: Path, domains: dict[str, Any], tmp_path: Path) -> None:
    """Momentum and weight decay of AdamW included: it had a step before, and its decay is large."""
    values = overrides(universal, domains, tmp_path, max_epochs=1, **{"optimizer#weight_decay": 0.5, "val_interval": 9})
    flow = workflow(universal, ["train.json"], values)
    network, trainer = flow.network_def, flow.parser.get_parsed_content("train#trainer")
    before: dict[str, torch.Tensor] = {}
    moved: list[tuple[str, set[str]]] = []

    def remember(engine: Any) -> None:
        before.update({key: value.clone() for key, value in network.state_dict().items()})

    def compare(engine: Any) -> None:
        changed = {
            key.split(".")[1] if key.startswith("domains.") else "trunk"
            for key, value in network.state_dict().items()
            if not torch.equal(value, before[key])
        }
        moved.append((engine.state.batch["domain"][0], changed))

    trainer.add_event_handler(Events.ITERATION_STARTED, remember)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, compare)
    flow.run()
    assert moved == [(name, {"trunk", name}) for name in ("alpha", "beta", "alpha", "beta")]


def test_a_domain_sees_the_same_patches_alone_and_with_others(universal: Path, domains: dict[str, Any], tmp_path: Path) -> None:
    def patches(**more: Any) -> list[torch.Tensor]:
        flow = workflow(universal, ["train.json"], {**overrides(universal, domains, tmp_path), **more})
        batches = flow.parser.get_parsed_content("train#dataloader")
        return [b["image"] for b in batches if b["domain"][0] == "beta"]

    together = patches()
    alone = patches(domains=domains["domains"][1:])
    assert len(together) == len(alone) == 2
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("option", ["lr", "optimizer#lr"])
def test_the_rate_is_given_by_either_name(universal: Path, domains: dict[str, Any], tmp_path: Path, option: str) -> None:
    values = overrides(universal, domains, tmp_path, adapter_factor=0.1, **{option: 0.5})
    parser = workflow(universal, ["train.json"], values).parser
    groups = parser.get_parsed_content("optimizer").param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.5, 0.05])  # trunk, adapters
    assert parser.get_parsed_content("train#handlers#4").settings["rate"] == 0.5


@pytest.mark.parametrize("setup", SETUPS)
def test_every_set_up_trains_two_epochs(universal: Path, domains: dict[str, Any], tmp_path: Path, setup: str) -> None:
    values = overrides(universal, domains, tmp_path, steps_per_domain=1)
    if setup == "independent":
        values["domains"] = values["domains"][1:]
        values["validate#evaluator#key_val_metric"] = "@validate#key_metric"
    elif setup != "by_size":
        values["shape"] = COMMON
    workflow(universal, ["train.json", f"{setup}.json"], values).run()
    network = load_network(tmp_path / "models")
    expected = {"independent": "none", "shared": "none", "series": "series", "parallel": "parallel"}.get(setup, "separable")
    assert network.config["adapter"] == expected
    assert network.config["downsampling"] == ("separable" if setup == "by_size" else "dense")
    assert last(tmp_path)["epoch"] == 2


def test_an_adapter_trains_two_epochs_on_a_frozen_trunk(
    universal: Path, domains: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    trunk = trained / "models" / "trunk.safetensors"
    values = overrides(universal, {**domains, "domains": domains["domains"][:1]}, tmp_path, trunk=str(trunk))
    flow = workflow(universal, ["train.json", "adapt.json"], values)
    start = {key: value.clone() for key, value in flow.network_def.state_dict().items()}
    flow.run()
    assert last(tmp_path)["epoch"] == 2
    changed = {key.split(".")[0] for key, value in states(tmp_path).items() if not torch.equal(value, start[key])}
    assert changed == {"domains"}
    assert load_trunk(tmp_path / "models" / "trunk.safetensors")[0] == load_trunk(trunk)[0]
    assert list(load_network(tmp_path / "models").domains) == ["alpha"]


def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(
    universal: Path, domains: dict[str, Any], tmp_path: Path, repository: Path
) -> None:
    # Dice over each patch by itself: over the batch it is no mean of its parts, with any number of processes. The bound is out
    # of reach: gradients of the wrong scale would be brought to the same norm.
    common = {"loss#loss#batch": False, "steps_per_domain": 1, "optimizer#_target_": "torch.optim.SGD", "max_gradient_norm": 1e9}
    common["max_epochs"] = 1
    one = overrides(universal, domains, tmp_path / "one", batch_sizes=[4, 2], **common)
    workflow(universal, ["train.json"], one).run()
    two = overrides(universal, domains, tmp_path / "two", batch_sizes=[2, 1], **common)
    run_in_two_processes(repository, universal, ["train.json", "multi_gpu_train.json"], two)
    first, second = states(tmp_path / "one"), states(tmp_path / "two")
    start = copy.deepcopy(workflow(universal, ["train.json"], {**one, "resume": False}).network_def.state_dict())
    assert last(tmp_path / "two")["epoch"] == 1
    moved = 0
    for key, value in first.items():
        step, difference = (value - start[key]).norm(), (second[key] - value).norm()
        # Alpha's step is the first, from the very same weights: only the order of sums differs. The next one starts from weights
        # that differ by that, and grows it. Biases before a norm have no gradient, their steps are rounding alone: hence 1e-6.
        bound = 1e-5 if key.startswith("domains.alpha.") else 3e-3
        assert difference < bound * step + 1e-6, f"{key}: {difference} of a step of {step}"
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")
        moved += bool(step > 1e-6)
    assert moved > len(first) / 2
    scores = [json.loads((tmp_path / run / "out" / "alpha.json").read_text())["cases"] for run in ("one", "two")]
    assert scores[0].keys() == scores[1].keys()


def test_a_domain_without_a_turn_does_not_move_in_two_processes(
    universal: Path, domains: dict[str, Any], tmp_path: Path, repository: Path
) -> None:
    """Gradients of zero in place of none would let the weight decay of AdamW move it."""
    turns = {"turns#_target_": "custom_components.training.BySize", "turns#sizes": [10**12, 1], "turns#temperature": 1.0}
    values = overrides(universal, domains, tmp_path, max_epochs=1, batch_sizes=[1, 1], **turns, **{"optimizer#weight_decay": 0.5})
    start = workflow(universal, ["train.json"], values).network_def.state_dict()
    run_in_two_processes(repository, universal, ["train.json", "multi_gpu_train.json"], values)
    state = last(tmp_path)
    assert state["iteration"] == 4
    moved = {key for key, value in state["objects"]["network"].items() if not torch.equal(value, start[key])}
    assert {key.split(".")[1] if key.startswith("domains.") else "trunk" for key in moved} == {"trunk", "alpha"}


def test_a_dense_trunk_refuses_domains_of_unequal_strides(universal: Path, domains: dict[str, Any], tmp_path: Path) -> None:
    for setup in ("dense", "series"):
        values = overrides(universal, domains, tmp_path, shape="$None")
        with pytest.raises(RuntimeError) as caught:
            workflow(universal, ["train.json", f"{setup}.json"], values).run()
        assert "domain 'beta', strides: a dense trunk has [(2, 2, 2), (2, 2, 2)] for all domains" in str(caught.value.__cause__)
        assert not list((tmp_path / "models").glob("*"))


def test_what_cannot_be_trained_is_refused_before_it_starts(
    universal: Path, domains: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    chain = universal / "configs" / "chain.json"
    first, second = domains["domains"]
    folders = domains["dataset_dirs"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"domains": [first, first]}, "named 'alpha' is in this training already"),
        ({"domains": []}, "at least one domain"),
        ({"domains": "cardiac_mri"}, "'cardiac_mri' is no list; give --domains"),
        ({"dataset_dirs": {"alpha": folders["alpha"]}}, "no folder for domain 'beta'"),
        ({"domains": [first, str(tmp_path / "none.json")]}, "cannot be read"),
        ({"folds": str(_absent_cases(tmp_path))}, "cases that"),
        ({"chain": str(tmp_path / "chain.json")}, "no such file"),
        ({"overrides": {"image_ordr": 3}}, "has no 'image_ordr'; its values are .*image_order"),
        ({"overrides": {"random_transform#3#orders": [3, 0]}}, "has no 'random_transform#3#orders'"),
        ({"dataset_dirs": {"alpha": folders["beta"], "beta": folders["beta"]}}, "2 channels"),
    ]
    for change, words in cases:
        arguments = {"domains": [first, second], "dataset_dirs": folders, "chain": chain, **change}
        with pytest.raises(InputError, match=words):
            DomainSets(**arguments)
    # A stopped training goes on with the same domains only.
    values = {**overrides(universal, domains, tmp_path / "resumed"), "domains": [second, first]}
    (tmp_path / "resumed" / "models").mkdir(parents=True)
    (tmp_path / "resumed" / "models" / "last.pt").write_bytes((trained / "models" / "last.pt").read_bytes())
    flow = workflow(universal, ["train.json"], values)
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, InputError)
    assert "domains ['alpha', 'beta'] there, ['beta', 'alpha'] here" in str(caught.value.__cause__)
    # ... and with the same chain.
    values = {**values, **domains, "chain_overrides": {"image_order": 3}}
    with pytest.raises(RuntimeError) as caught:
        workflow(universal, ["train.json"], values).run()
    assert "overrides None there, {'image_order': 3} here" in str(caught.value.__cause__)


def test_some_domains_are_not_trained_into_the_folder_of_more(
    universal: Path, domains: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    values = overrides(universal, domains, tmp_path)
    shutil.copytree(trained / "models", tmp_path / "models", ignore=shutil.ignore_patterns("last.pt"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()}
    with pytest.raises(RuntimeError) as caught:
        workflow(universal, ["train.json"], {**values, "domains": domains["domains"][:1]}).run()
    assert re.search(r"beta\.safetensors: .* --ckpt_dir", str(input_error_behind(caught.value)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()} == before


def blank(label: Path) -> None:
    """Make it background alone."""
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)


def _absent_cases(folder: Path) -> Path:
    path = folder / "folds.json"
    path.write_text(json.dumps({"fold0": {"train": ["nobody"], "val": ["phantom_000"]}}))
    return path


@pytest.mark.parametrize("cache_gb", [8.0, 0.0])
def test_a_domain_without_foreground_is_refused(
    universal: Path, domains: dict[str, Any], tmp_path: Path, cache_gb: float
) -> None:
    empty = shutil.copytree(domains["dataset_dirs"]["alpha"], tmp_path / "Task97_Alpha")
    for path in (empty / "labelsTr").glob("*.nii.gz"):
        blank(path)
    with pytest.raises(InputError, match="'alpha': none of its 4 training cases has a voxel of any class"):
        _ = DomainSets(
            domains["domains"][:1], {"alpha": empty}, universal / "configs" / "chain.json", cache_gb=cache_gb
        ).training_sets


def test_one_case_without_foreground_is_no_hindrance(universal: Path, domains: dict[str, Any], tmp_path: Path) -> None:
    """Even where it is the only one that stays in memory."""
    data = shutil.copytree(domains["dataset_dirs"]["alpha"], tmp_path / "Task97_Alpha")
    blank(Path(datalist(data)[0]["label"]))
    arguments = (domains["domains"][:1], {"alpha": data}, universal / "configs" / "chain.json")
    assert [len(kept._cache) for kept in DomainSets(*arguments, cache_gb=0.0007).training_sets.values()] == [1]  # type: ignore[attr-defined]


def test_a_memory_budget_keeps_that_share_of_the_cases(universal: Path, domains: dict[str, Any]) -> None:
    def kept(cache_gb: float) -> list[int]:
        sets = DomainSets(domains["domains"], domains["dataset_dirs"], universal / "configs" / "chain.json", cache_gb=cache_gb)
        return [len(dataset._cache) for dataset in sets.training_sets.values()]  # type: ignore[attr-defined]

    assert kept(8.0) == [4, 4]
    assert kept(0.0) == [0, 0]
    half = kept(0.0025)
    assert 0 < sum(half) < 8


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_one_domain_is_evaluated_and_segments(
    universal: Path, domains: dict[str, Any], trained: Path, tmp_path: Path, name: str
) -> None:
    path = next(p for p in domains["domains"] if Path(p).stem == name)
    data = Path(domains["dataset_dirs"][name])
    values = {
        "bundle_root": str(universal),
        "described#path": path,
        "domain_name": name,
        "ckpt_dir": str(trained / "models"),
        "output_dir": str(tmp_path),
        "device": "$torch.device('cpu')",
    }
    evaluation = workflow(universal, ["evaluate.json"], {**values, "dataset_dir": str(data)}, "eval")
    assert evaluation.check_properties() == []
    evaluation.run()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["cases"].keys() == json.loads((trained / "out" / f"{name}.json").read_text())["cases"].keys()
    inference = workflow(universal, ["inference.json"], {**values, "input": str(data / "imagesTr")}, "infer")
    assert inference.check_properties() == []
    inference.run()
    segmenter = Segmenter(Domain.from_file(path), load_network(trained / "models").select(name), "cpu")
    for image in sorted((data / "imagesTr").glob("*.nii.gz"))[:2]:
        label = nib.load(tmp_path / image.name.replace(".nii.gz", "_seg.nii.gz"))
        expected = segmenter.segment(image).label[0].numpy()
        assert np.array_equal(np.asarray(label.dataobj), expected)


def test_generated_files_are_what_the_template_gives(universal: Path) -> None:
    assert universal_drift(universal) == []


def test_the_shipped_domains_and_folders_belong_together(universal: Path) -> None:
    config = json.loads((universal / "configs" / "train.json").read_text())
    names = {path.stem for path in (universal / "configs" / "domains").glob("*.json")}
    assert set(config["domains"]) == set(config["dataset_dirs"]) == names
    for name in names:
        assert Domain.from_file(universal / "configs" / "domains" / f"{name}.json").name == name
