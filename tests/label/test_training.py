"""Labels that people submit, the adapter that is trained on them, and what a restart finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_components.inference import Segmenter
from custom_components.weights import read_tensors
from custom_components.weights.bundle_files import check_bundle, describe_header
from tests.label.conftest import HIPPOCAMPUS, ROOT, UNIVERSAL, reference, small_universal
from tests.label.servers import Server, ended
from tests.phantoms import affine_of, hippocampus_like, save_nifti

GRID = affine_of((1.1, 0.9, 1.2), (12, -8, 20), (5, 6, 7), (1, 0, 2), (-1, 1, 1))
CASES = ("one", "two", "three", "four")
# As 3D Slicer numbers the segments of a scene: those of other models lie between, and the order is not the domain's.
SLICER = [{"name": n, "idx": i} for i, n in enumerate(("liver", "first back", "spleen", "first front"), 1)]
TINY = {"max_epochs": 1, "steps_per_epoch": 2, "val_split": 0.25, "device": "cpu"}


@dataclass
class Trained:
    """What the module's one training leaves.

    Attributes:
        before: hash-like contents of every file of weights before it, by name.
        status: what the server says of the training.
        ask: starts a server on the same folders.
    """

    root: Path
    bundles: Path
    studies: Path
    before: dict[str, bytes]
    first: np.ndarray
    second: np.ndarray
    status: dict[str, Any]
    server: Server
    client: Any
    ask: Callable[[], Server]

    @property
    def own(self) -> Path:
        return self.root / "state" / "bundles" / UNIVERSAL


def submitted(truth: np.ndarray) -> np.ndarray:
    """A label (1 front, 2 back) with the values of `SLICER`, and a liver beside."""
    values = np.zeros_like(truth)
    values[truth == 1], values[truth == 2] = 4, 2
    values[:2, :2, :2] = 1
    return values


@pytest.fixture(scope="module")
def trained(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("training")
    bundles, studies = root / "bundles", root / "studies"
    universal = small_universal(bundles)
    truths = {}
    for index, name in enumerate((*CASES, "unlabelled", "other")):
        image, truths[name] = hippocampus_like((32, 34, 30), seed=index)
        save_nifti(studies / f"{name}.nii.gz", image, GRID)
    (studies / "broken.nii.gz").write_bytes(b"this is no image")
    shutil.copytree(ROOT / "bundles" / HIPPOCAMPUS, bundles / HIPPOCAMPUS)
    third = bundles / "third_segmentation" / "configs"
    shutil.copytree(bundles / HIPPOCAMPUS / "configs", third)
    described = (universal / "configs" / "domains" / "first.json").read_text().replace("first", "third")
    (third / "domain.json").write_text(described)

    def ask() -> Server:
        return start("--studies", studies, "--bundles-dir", bundles, "--state-dir", root / "state")

    server = ask()
    client = server.client(root / "received")
    for name in CASES:
        file = save_nifti(root / "sent" / f"{name}.nii.gz", submitted(truths[name]), GRID)
        assert client.save_label(name, str(file), params={"label_info": SLICER}) == {"image": name, "label": name}
    only_liver = save_nifti(root / "sent" / "other.nii.gz", (truths["other"] > 0).astype(np.uint8), GRID)
    client.save_label("other", str(only_liver), params={"label_info": SLICER})
    before = {path.name: path.read_bytes() for path in (universal / "models").iterdir()}
    image = studies / "unlabelled.nii.gz"
    first, second = (reference(universal, image, domain) for domain in ("first", "second"))
    client.train_start(UNIVERSAL, {"domain": "first", "save_as": "corrected", **TINY})
    status = ended(client.train_status)
    return Trained(root, bundles, studies, before, first, second, status, server, client, ask)


def test_the_training_ends_well_and_knows_its_cases(trained: Trained) -> None:
    assert trained.status["status"] == "DONE", "\n".join(trained.status["details"])
    (run,) = (trained.root / "state" / "training" / UNIVERSAL).glob("corrected_*")
    assert sorted(path.name for path in (run / "data" / "labelsTr").iterdir()) == sorted(f"{name}.nii.gz" for name in CASES)
    for index, name in enumerate(CASES):
        _, truth = hippocampus_like((32, 34, 30), seed=index)
        label = nib.load(run / "data" / "labelsTr" / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(label.dataobj), truth)
        np.testing.assert_allclose(label.affine, GRID, atol=1e-6)
    stats = trained.client.info()["train_stats"][UNIVERSAL]
    assert (stats["domain"], stats["cases"], stats["total_epochs"]) == ("corrected", 4, 1)
    assert 0 <= stats["best_metric"] <= 1


def test_the_new_adapter_is_served(trained: Trained) -> None:
    info = trained.client.info()
    assert info["models"][UNIVERSAL]["config"]["domain"][:3] == ["corrected", "first", "second"]
    assert info["models"][f"{UNIVERSAL}.corrected"]["labels"] == {"first front": 1, "first back": 2}
    image = trained.studies / "unlabelled.nii.gz"
    expected = reference(trained.own, image, "corrected")
    for model, options in ((UNIVERSAL, {"domain": "corrected"}), (f"{UNIVERSAL}.corrected", {})):
        file, said = trained.client.infer(model, "unlabelled", options)
        assert np.array_equal(np.asarray(nib.load(file).dataobj), expected)
        assert said["domain"] == "corrected"
    assert check_bundle(trained.own) == []


def test_it_started_from_the_domains_adapter_and_changed(trained: Trained) -> None:
    """Two steps at a warm-up's rate move the weights by little, and all of them lie on the same trunk."""
    first = read_tensors(trained.own / "models" / "first.safetensors")
    new = read_tensors(trained.own / "models" / "corrected.safetensors")
    added = {key for key in new if ".low_rank." in key}  # its own change of the trunk's filters, which starts as none
    assert {key.replace("corrected", "first") for key in new.keys() - added} == first.keys()
    assert added and max(float(new[key].abs().max()) for key in added if key.endswith(".up")) < 0.01
    pairs = [(first[key.replace("corrected", "first")], new[key]) for key in new.keys() - added]
    assert any(not np.array_equal(a, b) for a, b in pairs)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 0.01
    headers = [describe_header(trained.own / "models" / f"{name}.safetensors") for name in ("first", "corrected")]
    assert headers[0].trunk == headers[1].trunk


def test_other_domains_stay_bit_for_bit_and_the_shipped_bundle_is_not_written_to(trained: Trained) -> None:
    shipped = trained.bundles / UNIVERSAL / "models"
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == trained.before
    for name in ("trunk.safetensors", "first.safetensors", "second.safetensors"):
        assert (trained.own / "models" / name).read_bytes() == trained.before[name]
    for domain, expected in (("first", trained.first), ("second", trained.second)):
        file, _ = trained.client.infer(UNIVERSAL, "unlabelled", {"domain": domain})
        assert np.array_equal(np.asarray(nib.load(file).dataobj), expected)
    image = trained.studies / "unlabelled.nii.gz"
    networks = [
        Segmenter.from_bundle(bundle, "cpu", domain="second").network.state_dict() for bundle in (shipped.parent, trained.own)
    ]
    assert all(np.array_equal(networks[0][key], networks[1][key]) for key in networks[0])
    assert np.array_equal(reference(trained.own, image, "second"), trained.second)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"domain": "first", "save_as": "second"}, "came with the domain 'second', which is not replaced"),
        ({"domain": "second"}, "0 images have submitted labels with its classes"),
        ({"domain": "first", "max_epochs": 0}, "max_epochs 0: must be from 1"),
    ],
)
def test_a_training_that_cannot_be_says_why(trained: Trained, options: dict[str, Any], said: str) -> None:
    trained.client.train_start(UNIVERSAL, {**TINY, **options})
    status = ended(trained.client.train_status)
    assert status["status"] == "ERROR"
    assert said in status["details"][-1]


def test_batch_inference_goes_on_after_a_bad_image(trained: Trained) -> None:
    import requests

    url = f"{trained.server.url}/batch/infer"
    options = {"domain": "second", "device": "cpu", "label_tag": "original"}  # multi_gpu is true if it is not given
    assert requests.post(f"{url}/{UNIVERSAL}", json=options, timeout=60).status_code == 200
    status = ended(lambda: requests.get(url, timeout=60).json())
    assert status["status"] == "DONE", "\n".join(status["details"])
    labels = trained.studies / "labels" / "original"
    assert {path.name for path in labels.iterdir()} == {f"{name}.nii.gz" for name in (*CASES, "unlabelled", "other")}
    assert np.array_equal(np.asarray(nib.load(labels / "unlabelled.nii.gz").dataobj), trained.second)
    assert "broken.nii.gz: is damaged" in trained.server.text()


def test_a_domain_without_weights_is_trained_on_the_trunk_of_others(trained: Trained) -> None:
    """From the mean of the others; its labels came without names, as a folder of labels from elsewhere does."""
    for index in range(2):
        image, truth = hippocampus_like((32, 34, 30), seed=20 + index)
        file = save_nifti(trained.root / "sent" / f"unnamed_{index}.nii.gz", truth, GRID)
        trained.client.upload_image(str(save_nifti(trained.root / "sent" / "image.nii.gz", image, GRID)), f"unnamed_{index}")
        trained.client.save_label(f"unnamed_{index}", str(file))
    options = {"domain": "third", "labels_without_names": "take as the domain's values", **TINY}
    trained.client.train_start(UNIVERSAL, options)
    status = ended(trained.client.train_status)
    assert status["status"] == "DONE", "\n".join(status["details"])
    file, said = trained.client.infer(f"{UNIVERSAL}.third", "unlabelled", {})
    assert said["label_names"] == {"third front": 1, "third back": 2}
    assert np.array_equal(
        np.asarray(nib.load(file).dataobj), reference(trained.own, trained.studies / "unlabelled.nii.gz", "third")
    )
    assert trained.client.info()["train_stats"][UNIVERSAL]["cases"] == 2


def test_a_bundle_of_one_domain_gets_a_second_one(trained: Trained) -> None:
    image = trained.studies / "unlabelled.nii.gz"
    shipped = trained.bundles / HIPPOCAMPUS
    before, expected = {path.name: path.read_bytes() for path in shipped.rglob("*.*")}, reference(shipped, image)
    names = [{"name": "Posterior", "idx": 1}, {"name": "Anterior", "idx": 2}]
    for index in range(2):
        picture, truth = hippocampus_like((40, 44, 36), seed=30 + index)
        values = np.select([truth == 2, truth == 1], [1, 2], 0).astype(np.uint8)
        file = save_nifti(trained.root / "sent" / f"hip_{index}.nii.gz", values, GRID)
        trained.client.upload_image(str(save_nifti(trained.root / "sent" / "image.nii.gz", picture, GRID)), f"hip_{index}")
        trained.client.save_label(f"hip_{index}", str(file), params={"label_info": names})
    trained.client.train_start(HIPPOCAMPUS, {"domain": "hippocampus_mri", **TINY})
    status = ended(trained.client.train_status)
    assert status["status"] == "DONE", "\n".join(status["details"])
    models = trained.client.info()["models"]
    new = f"{HIPPOCAMPUS}.hippocampus_mri_trained"
    assert models[new]["labels"] == models[HIPPOCAMPUS]["labels"] == {"anterior": 1, "posterior": 2}
    own = trained.root / "state" / "bundles" / HIPPOCAMPUS
    for model, domain in ((new, "hippocampus_mri_trained"), (HIPPOCAMPUS, "hippocampus_mri")):
        file, said = trained.client.infer(model, "unlabelled", {})
        assert said["domain"] == domain
        assert np.array_equal(np.asarray(nib.load(file).dataobj), reference(own, image, domain))
    assert np.array_equal(reference(own, image, "hippocampus_mri"), expected)
    assert {path.name: path.read_bytes() for path in shipped.rglob("*.*")} == before


def test_a_restart_keeps_images_labels_and_adapters(trained: Trained) -> None:
    before = trained.client.datastore()
    trained.server.stop()
    server = trained.ask()
    client = server.client(trained.root / "received")
    assert "corrected (trained here)" in server.text() and "hippocampus_mri_trained (trained here)" in server.text()
    assert client.datastore()["objects"].keys() == before["objects"].keys()
    assert client.datastore()["objects"]["one"]["labels"]["final"]["info"]["label_info"] == SLICER
    kept = Path(client.download_label("one", "final"))
    assert np.array_equal(np.asarray(nib.load(kept).dataobj), submitted(hippocampus_like((32, 34, 30), seed=0)[1]))
    file, _ = client.infer(UNIVERSAL, "unlabelled", {"domain": "corrected"})
    assert np.array_equal(
        np.asarray(nib.load(file).dataobj), reference(trained.own, trained.studies / "unlabelled.nii.gz", "corrected")
    )
    assert client.next_sample("first", {})["id"] in ("unlabelled", "broken")
    # And it can be trained once more: the adapter goes on from where it is, and the one before is kept.
    old = (trained.own / "models" / "corrected.safetensors").read_bytes()
    client.train_start(UNIVERSAL, {"domain": "first", "save_as": "corrected", **TINY})
    status = ended(client.train_status)
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert (trained.own / "models" / "corrected.safetensors").read_bytes() != old
    (kept,) = (trained.own / "models" / "removed").iterdir()
    assert all(np.array_equal(v, read_tensors(kept)[k]) for k, v in read_tensors_of(old, trained.root).items())
    assert np.array_equal(reference(trained.own, trained.studies / "unlabelled.nii.gz", "second"), trained.second)


def read_tensors_of(content: bytes, folder: Path) -> dict[str, Any]:
    file = folder / "kept.safetensors"
    file.write_bytes(content)
    return read_tensors(file)
