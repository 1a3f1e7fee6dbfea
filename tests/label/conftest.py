"""Collections of bundles with small networks, and servers on them as processes of their own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from custom_components.domain import Domain
from custom_components.inference import Segmenter, bundle_domain, bundle_domains
from custom_components.label_app.collection import Collection
from custom_components.networks import U2Net
from custom_components.weights import save_bundle_weights
from tests.label.servers import Server
from tests.phantoms import affine_of, domain_like, hippocampus_like, save_nifti
from tests.weights import bundles as tiny

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if (path / "configs" / "inference.json").is_file())
SINGLE = [path.name for path in BUNDLES if (path / "configs" / "domain.json").is_file()]
HIPPOCAMPUS = "hippocampus_mri_segmentation"
UNIVERSAL = "universal_segmentation"


@pytest.fixture(scope="session")
def label_server() -> None:
    """Skips where MONAI Label is not installed."""
    if importlib.util.find_spec("monailabel") is None:
        pytest.skip("MONAI Label is not installed here; bash scripts/test_label.sh makes its environment and runs these tests")


@pytest.fixture(scope="module")
def start(label_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers; they end with the module."""
    with ExitStack() as stack:

        def started(*arguments: object, **environment: str) -> Server:
            log = tmp_path_factory.mktemp("log") / "server.log"
            return stack.enter_context(Server.of_script(log, arguments, environment))

        yield started


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """``many`` with two domains, ``one`` with a single one, ``bare`` without weights."""
    folder = tmp_path / "bundles"
    tiny.bundle_of(folder / "many", tiny.domain("liver_ct"), tiny.domain("spleen_ct", classes=3))
    single = tiny.bundle_of(folder / "one", tiny.domain("heart_mr"), seed=1) / "configs"
    (single / "domains" / "heart_mr.json").rename(single / "domain.json")
    (single / "domains").rmdir()
    (folder / "bare" / "configs").mkdir(parents=True)
    (folder / "bare" / "configs" / "domain.json").write_text(tiny.domain("kidney_ct").to_json())
    for name in ("many", "one", "bare"):
        (folder / name / "configs" / "inference.json").write_text("{}")
    return folder


@pytest.fixture
def collection(bundles: Path, tmp_path: Path) -> Collection:
    return Collection(bundles, tmp_path / "state")


def small_copy(bundle: str, folder: Path) -> Path:
    """A bundle of one domain as it is in the repository, but for a network of few filters and random weights.

    The weights are such that a phantom's label is not empty: one that is turned or shifted is another one then.
    """
    source, target = ROOT / "bundles" / bundle, folder / bundle
    shutil.copytree(source / "configs", target / "configs")
    domain = Domain.from_file(target / "configs" / "domain.json")
    channels = [4, 4, 6, 6, 8, 8][: len(domain.strides) + 1]
    config = target / "configs" / "inference.json"
    values = json.loads(config.read_text())
    values["network_def"]["channels"] = channels
    config.write_text(json.dumps(values, indent=4))
    image = phantom(domain, folder / "tried" / f"{domain.name}.nii.gz")
    for seed in range(100, 120):
        torch.manual_seed(seed)
        save_bundle_weights(U2Net({domain.name: domain.network}, channels, deep_supervision="heads"), target / "models")
        if len(Segmenter.from_bundle(target, "cpu").segment(image).label.unique()) > 1:
            return target
    raise AssertionError(f"{bundle}: every seed gives an empty label")


def small_universal(folder: Path, name: str = UNIVERSAL) -> Path:
    """The universal bundle's configs with two small domains, ``first`` and ``second``, on a trunk of random weights."""
    target = folder / name
    shutil.copytree(ROOT / "bundles" / UNIVERSAL / "configs", target / "configs")
    shutil.rmtree(target / "configs" / "domains")
    values = json.loads((ROOT / "bundles" / HIPPOCAMPUS / "configs" / "domain.json").read_text())
    networks = {}
    for domain, spacing, patch in (("first", [1.0, 1.0, 1.0], [24, 32, 24]), ("second", [2.0, 1.5, 1.5], [16, 24, 16])):
        values.update(
            name=domain,
            spacing=spacing,
            patch_size=patch,
            strides=[[2, 2, 2], [2, 2, 2]],
            kernel_sizes=[[3, 3, 3]] * 3,
            labels={"background": 0, f"{domain} front": 1, f"{domain} back": 2},
            postprocessing={},
        )
        values["sampling"]["batch_size"] = 1
        path = target / "configs" / "domains" / f"{domain}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values))
        networks[domain] = Domain.from_file(path).network
    image, _ = hippocampus_like((30, 36, 32))
    tried = save_nifti(folder / "tried" / "universal.nii.gz", image)
    for seed in range(100, 140):  # not those of trainings, whose random start would be the same
        torch.manual_seed(seed)
        save_bundle_weights(U2Net(networks, (4, 4, 8), deep_supervision="heads"), target / "models")
        labels = [Segmenter.from_bundle(target, "cpu", domain=d).segment(tried).label for d in networks]
        if all(len(label.unique()) == 3 for label in labels) and not torch.equal(*labels):
            return target
    raise AssertionError("every seed gives a label without one of the classes")


def phantom(domain: Domain, path: Path, seed: int = 0) -> Path:
    """An image of a domain's modality and channels on an oblique grid with flipped and exchanged axes."""
    image, _ = domain_like(domain, (36, 40, 20), seed)
    spacing = np.array(domain.spacing[::-1]) * (1.2, 1.1, 0.9)
    return save_nifti(path, image, affine_of(spacing, (9, -14, 6), (12, -30, 5), (1, 2, 0), (-1, 1, -1)))


def reference(bundle: Path, image: Path, domain: str | None = None) -> np.ndarray:
    """What ``scripts/segment.py`` gives."""
    return Segmenter.from_bundle(bundle, "cpu", domain=domain).segment(image).label.numpy()[0]


def names_of(bundle: Path, domain: str | None = None) -> dict[str, int]:
    described = bundle_domain(bundle, domain or next(iter(bundle_domains(bundle))))
    return {name: described.labels[name] for name in described.classes}
