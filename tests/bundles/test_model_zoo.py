"""What MONAI's Model Zoo asks of a bundle, asked of each of ours: its contributing guide, and the checks of its pre-merge run.

Checked here for every bundle, with or without trained weights:
- the files it needs and prefers, none over 25 MB; nothing in it names a place on somebody's machine;
- its name, the ``version``, a ``changelog`` that tells of it, and metadata that its schema takes (`verify_metadata`);
- every JSON file means one thing, and ``logging.conf`` can be read by Python's logging;
- the keys of ``inference.json`` and ``train.json`` that other programs go by, and the properties that MONAI requires of a
  workflow for training, evaluation and inference;
- ``network_def`` takes and gives what the metadata says, at full size (`verify_net_in_out`);
- ``network_def`` becomes TorchScript (`ckpt_export`) that computes what it computes.

The universal bundle's ``train.json`` lacks four keys, which are in its ``chain.json``: see `ELSEWHERE`.
Not checked: TensorRT, which needs a GPU, and the comparison with versions that the zoo has released.
"""

from __future__ import annotations

import json
import logging.config
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.utils import BundleProperty, BundlePropertyConfig

from custom_components.domain import Domain
from custom_components.inference import bundle_domains
from custom_components.networks import U2Net
from custom_components.strict_json import parse_json
from custom_components.weights import load_network, save_bundle_weights, save_state
from tests.bundles.training_runs import smallest_patch

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
SCHEMA = ROOT / "bundles" / "metadata_schema.json"

NECESSARY = ["LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/data_license.txt"]
LARGEST = 25 * 2**20
INFERENCE_KEYS = ["bundle_root", "device", "network_def", "inferer", "output_dir", "preprocessing", "postprocessing"]
TRAIN_KEYS = [
    *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "network_def"),
    *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
    *("train#preprocessing", "train#postprocessing", "train#inferer", "train#key_metric"),
    *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
    *("validate#preprocessing", "validate#postprocessing", "validate#inferer", "validate#key_metric"),
]
# A training of many domains reads several data sets, each by a chain of its own: configs/chain.json and `DomainSets`.
ELSEWHERE = {
    "universal_segmentation": {f"{side}#{key}" for side in ("train", "validate") for key in ("dataset#data", "preprocessing")}
}
PLACE = re.compile(r"(?<![\w.:/])/(?:home|root|Users|mnt|work|tmp)/\w+")
PERSON = "home/somebody"
TEXT = {".json", ".md", ".txt", ".conf", ""}


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


def files(bundle: Path) -> list[Path]:
    """Those that are shared, not those that an evaluation or a training left in the working tree."""
    return [path for path in sorted(bundle.rglob("*")) if path.is_file() and "eval" not in path.relative_to(bundle).parts]


def metadata(bundle: Path) -> dict[str, Any]:
    values: dict[str, Any] = parse_json((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return values


def has_weights(bundle: Path) -> bool:
    return "no trained weights" not in metadata(bundle)["description"]


def faults(bundle: Path) -> list[str]:
    """What the zoo's guide asks for and the folder has not; empty where all is well."""
    wanted = [*NECESSARY, *(["models/model.pt"] if has_weights(bundle) else [])]
    found = [f"{name} is missing" for name in wanted if not (bundle / name).is_file()]
    found += [f"{path.name} is over 25 MB" for path in files(bundle) if path.stat().st_size > LARGEST]
    for path in files(bundle):
        if path.suffix in TEXT and (place := PLACE.search(path.read_text(encoding="utf-8"))):
            found.append(f"{path.name} names {place.group()}")
        if path.suffix == ".json":
            try:
                parse_json(path.read_text(encoding="utf-8"))
            except ValueError as error:
                found.append(f"{path.name}: {error}")
    values = metadata(bundle)
    if not re.fullmatch(r"[a-z]+(_(mri|ct))?_segmentation", bundle.name):
        found.append("its name does not say organ, modality and task")
    if values["version"] not in values["changelog"]:
        found.append("its changelog does not tell of its version")
    if list(values["changelog"]) != sorted(values["changelog"], key=numbers, reverse=True):
        found.append("its changelog is not in order")
    if any(not text.strip() for text in values["changelog"].values()):
        found.append("its changelog has an empty entry")
    for name, keys in (("inference", INFERENCE_KEYS), ("train", TRAIN_KEYS)):
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / f"{name}.json"))
        elsewhere = ELSEWHERE.get(bundle.name, set()) if name == "train" else set()
        found += [f"{name}.json has no {key}" for key in keys if key not in parser and key not in elsewhere]
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_it_is_what_the_zoo_asks_for(bundle: Path) -> None:
    assert len(BUNDLES) == 10
    assert faults(bundle) == []


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edit


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: (b / "LICENSE").unlink(), "LICENSE is missing"),
        (lambda b: (b / "models" / "model.pt").unlink(), "models/model.pt is missing"),
        (lambda b: (b / "docs" / "large.bin").write_bytes(b"0" * (LARGEST + 1)), "large.bin is over 25 MB"),
        (lambda b: (b / "docs" / "note.md").write_text(f"in /{PERSON}/data"), f"note.md names /{PERSON}"),
        (lambda b: (b / "configs" / "twice.json").write_text('{"a": 1, "a": 2}'), "twice.json: the key 'a' comes twice"),
        (edited("configs/metadata.json", lambda m: m.update(version="9.0.0")), "does not tell of its version"),
        (edited("configs/metadata.json", lambda m: m["changelog"].update({"9.0.0": "new"})), "not in order"),
        (edited("configs/metadata.json", lambda m: m["changelog"].update({"0.1.0": " "})), "empty entry"),
        (edited("configs/inference.json", lambda c: c.pop("inferer")), "inference.json has no inferer"),
        (edited("configs/train.json", lambda c: c["train"].pop("key_metric")), "train.json has no train#key_metric"),
        (edited("configs/train.json", lambda c: c["validate"]["dataset"].pop("data")), "no validate#dataset#data"),
    ],
)
def test_a_fault_is_seen(damage: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    folder = tmp_path / "hippocampus_mri_segmentation"
    shutil.copytree(ROOT / "bundles" / folder.name, folder)
    assert faults(folder) == []
    damage(folder)
    assert [fault for fault in faults(folder) if says in fault], faults(folder)


def test_monai_takes_its_metadata(bundle: Path) -> None:
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(SCHEMA))


def test_its_logging_can_be_set_up(bundle: Path) -> None:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    try:
        logging.config.fileConfig(bundle / "configs" / "logging.conf", disable_existing_loggers=False)
        assert root.handlers
    finally:
        root.handlers, root.level = kept, level


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Any]]:
    """Overrides with weights for a bundle: its own where it has some, else random ones of the shape it trains.

    A bundle of many domains reads its network from a trunk, which only a training writes.
    """

    def given(bundle: Path) -> dict[str, Any]:
        if has_weights(bundle):
            return {"ckpt_dir": str(bundle / "models")}
        folder = tmp_path_factory.mktemp(bundle.name)
        torch.manual_seed(0)
        if len(bundle_domains(bundle)) > 1:
            parser = ConfigParser()
            parser.read_config(str(bundle / "configs" / "train.json"))
            domains = [Domain.from_file(path) for path in bundle_domains(bundle).values()]
            network = U2Net({d.name: d.network for d in domains}, parser["channels"], deep_supervision="heads")
            save_bundle_weights(network, folder)
        else:
            save_state(definition(bundle, {}), folder / "model.pt")
        return {"ckpt_dir": str(folder)}

    return given


def definition(bundle: Path, overrides: dict[str, Any]) -> U2Net:
    """The network that ``inference.json`` defines."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), **overrides})
    network: U2Net = parser.get_parsed_content("network_def")
    return network


def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path, weights: Callable[[Path], dict[str, Any]]) -> None:
    """At full size. A wrong number of channels of either is refused."""
    places = {"bundle_root": str(bundle), "config_file": str(bundle / "configs" / "inference.json"), "device": "cpu"}
    meta = str(bundle / "configs" / "metadata.json")
    overrides = weights(bundle)
    with torch.inference_mode():
        verify_net_in_out(net_id="network_def", meta_file=meta, **places, **overrides)


@pytest.mark.parametrize(("side", "tensor"), [("inputs", "image"), ("outputs", "pred")])
def test_wrong_channels_in_the_metadata_are_seen(side: str, tensor: str, tmp_path: Path) -> None:
    bundle = ROOT / "bundles" / "hippocampus_mri_segmentation"
    values = metadata(bundle)
    values["network_data_format"][side][tensor]["num_channels"] += 1
    (tmp_path / "metadata.json").write_text(json.dumps(values))
    config = str(bundle / "configs" / "inference.json")
    with pytest.raises(ValueError, match=r"takes \(N|channel"):
        verify_net_in_out("network_def", str(tmp_path / "metadata.json"), config, bundle_root=str(bundle), device="cpu")


def test_it_becomes_torchscript(bundle: Path, weights: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    overrides = weights(bundle)
    network = definition(bundle, overrides).eval()
    name = next(iter(network.domains))
    save_state(network, tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
        **overrides,
    )
    domain = Domain.from_file(bundle_domains(bundle)[name])
    image = torch.randn(1, domain.in_channels, *smallest_patch(domain), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # In double precision, where only another graph could differ.
        found = torch.jit.load(tmp_path / "model.ts").double()(image.double())
        expected = network.double()(image.double())
    assert expected.shape[1] == domain.out_channels
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())


REQUIRED = {"train": TrainProperties, "evaluate": InferProperties, "inference": InferProperties}


@pytest.mark.parametrize("name", REQUIRED)
def test_it_has_what_monai_requires_of_a_workflow(bundle: Path, name: str) -> None:
    """The rest of `ConfigWorkflow.check_properties` wants data: the tests that run the bundles call it."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / f"{name}.json"))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    required = [p[BundlePropertyConfig.ID] for p in (MetaProperties | REQUIRED[name]).values() if p[BundleProperty.REQUIRED]]
    assert len(required) > 10
    assert [key for key in required if key not in parser] == []


def test_trained_weights_are_those_of_the_files_beside_them() -> None:
    """What the zoo's users load (model.pt) and what the scripts load (safetensors) are one network."""
    trained = [bundle for bundle in BUNDLES if has_weights(bundle)]
    assert trained
    for bundle in trained:
        state = torch.load(bundle / "models" / "model.pt", weights_only=True)
        expected = load_network(bundle / "models").state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
