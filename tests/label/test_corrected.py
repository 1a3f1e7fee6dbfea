"""Submitted labels as a data set: values by their names, whose they are, what is refused. Needs no MONAI Label."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_components.data import check_agreement, datalist, read_dataset
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.label_app.corrected import corrected_cases, write_dataset
from tests.phantoms import affine_of, hippocampus_like, save_itk, save_nifti

GRID = affine_of((1.2, 0.8, 1.5), (10, -5, 25), (3, 4, 5), (2, 0, 1), (1, -1, 1))
SCENE = [{"name": "liver", "idx": 1}, {"name": "posterior", "idx": 2}, {"name": "Anterior", "idx": 3}]


class Store:
    """A datastore in memory: image and label files by the image's name, and what the label was saved with."""

    def __init__(self) -> None:
        self.images: dict[str, Path] = {}
        self.labels: dict[str, tuple[Path, dict[str, Any]]] = {}

    def list_images(self) -> list[str]:
        return list(self.images)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.images[image_id])

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return image_id if tag == "final" and image_id in self.labels else ""

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        return str(self.labels[label_id][0])

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return self.labels[label_id][1]


@pytest.fixture
def domain(bundle: Path) -> Domain:
    return Domain.from_file(bundle / "configs" / "domain.json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two images, one NIfTI and one NRRD, whose labels have the values of a scene with a liver; and one without a label."""
    found = Store()
    for index, name in enumerate(("b", "a", "c")):
        image, truth = hippocampus_like((22, 24, 20), seed=index)
        save = save_itk if name == "a" else save_nifti
        suffix = ".nrrd" if name == "a" else ".nii.gz"
        found.images[name] = save(tmp_path / "images" / f"{name}{suffix}", image, GRID)
        if name != "c":
            file = save(tmp_path / "labels" / f"{name}{suffix}", scene(truth), GRID)
            found.labels[name] = (file, {"label_info": SCENE})
    return found


def scene(truth: np.ndarray) -> np.ndarray:
    values = np.select([truth == 1, truth == 2], [3, 2], 0).astype(np.uint8)
    values[:2] = 1
    return values


def test_values_are_read_by_name_and_other_organs_are_background(store: Store, domain: Domain) -> None:
    cases = corrected_cases(store, domain)
    assert [case.name for case in cases] == ["a", "b"]
    for case, seed in zip(cases, (1, 0), strict=True):
        _, truth = hippocampus_like((22, 24, 20), seed=seed)
        assert np.array_equal(case.label.numpy()[0], truth)
        np.testing.assert_allclose(case.label.affine.numpy(), GRID, atol=1e-5)


def test_the_data_set_is_one_that_training_takes(store: Store, domain: Domain, tmp_path: Path) -> None:
    cases = corrected_cases(store, domain)
    folder = tmp_path / "data"
    identity = write_dataset(cases, domain, folder, 0.2)
    check_agreement(domain, read_dataset(folder))
    sides = [datalist(folder, section, 0, folder / "folds.json") for section in ("training", "validation")]
    assert sorted(case["case"] for side in sides for case in side) == ["a", "b"]
    assert [len(side) for side in sides] == [1, 1]
    for side in sides:
        for case in side:
            image = Path(case["image"])
            assert image.is_symlink() and image.resolve() == store.images[case["case"]].resolve()
            _, truth = hippocampus_like((22, 24, 20), seed={"a": 1, "b": 0}[case["case"]])
            assert np.array_equal(np.asarray(nib.load(case["label"]).dataobj), truth)
    assert write_dataset(cases, domain, tmp_path / "again", 0.2) == identity
    file, _ = store.labels["b"]
    changed = np.asarray(nib.load(file).dataobj).copy()
    changed[10, 10, 10] = 2 if changed[10, 10, 10] != 2 else 3
    save_nifti(file, changed, GRID)
    assert write_dataset(corrected_cases(store, domain), domain, tmp_path / "other", 0.2) != identity


def test_labels_of_another_organ_are_left_out(store: Store, domain: Domain, caplog: pytest.LogCaptureFixture) -> None:
    values = np.zeros((22, 24, 20), np.uint8)
    values[5:9] = 1
    save_nifti(store.labels["b"][0], values, GRID)
    with caplog.at_level(logging.INFO):
        assert [case.name for case in corrected_cases(store, domain)] == ["a"]
    assert "b.nii.gz: has no class of domain 'hippocampus_mri', so it is left out" in caplog.text


def test_a_class_that_is_absent_is_warned_of(store: Store, domain: Domain, caplog: pytest.LogCaptureFixture) -> None:
    values = np.zeros((22, 24, 20), np.uint8)
    values[5:9] = 2
    save_nifti(store.labels["b"][0], values, GRID)
    assert len(corrected_cases(store, domain)) == 2
    assert "b.nii.gz: has no voxel of anterior" in caplog.text


def test_labels_without_names_are_left_out_unless_asked_for(
    store: Store, domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    file = store.labels["b"][0]
    store.labels["b"] = (file, {"client_id": None})
    assert [case.name for case in corrected_cases(store, domain)] == ["a"]
    assert "b.nii.gz: was saved without the names of its values" in caplog.text
    with pytest.raises(InputError, match=r"b\.nii\.gz: has the value 3, which domain 'hippocampus_mri' does not know"):
        corrected_cases(store, domain, by_value=True)
    _, truth = hippocampus_like((22, 24, 20), seed=0)
    save_nifti(file, truth, GRID)
    taken = corrected_cases(store, domain, by_value=True)
    assert np.array_equal(taken[1].label.numpy()[0], truth)


def test_names_come_from_an_inference_too(store: Store, domain: Domain) -> None:
    """A label that was accepted as it came has what the server said of it."""
    file, _ = store.labels["b"]
    said = {"label_names": {"posterior": 2, "anterior": 3, "liver": 1}}
    store.labels["b"] = (file, {"model": "m", "params": said})
    _, truth = hippocampus_like((22, 24, 20), seed=0)
    assert np.array_equal(corrected_cases(store, domain)[1].label.numpy()[0], truth)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("value", r"b\.nii\.gz: has the value 9, its names \(label_info\) are 1 'liver', 2 'posterior', 3 'Anterior'"),
        ("grid", r"b\.nii\.gz"),
        ("file", r"b\.nii\.gz: is damaged"),
    ],
)
def test_a_label_that_cannot_be_used_is_refused(store: Store, domain: Domain, harm: str, said: str) -> None:
    file = store.labels["b"][0]
    values = scene(hippocampus_like((22, 24, 20), seed=0)[1])
    if harm == "value":
        values[0, 0, 0] = 9
        save_nifti(file, values, GRID)
    elif harm == "grid":
        save_nifti(file, values, affine_of((1.2, 0.8, 1.5)))
    else:
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match=said):
        corrected_cases(store, domain)


def test_one_case_is_too_few(store: Store, domain: Domain, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"1 images have submitted labels with its classes \(anterior, posterior\), training needs 2"
    ):
        write_dataset(corrected_cases(store, domain)[:1], domain, tmp_path / "data", 0.2)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.2, 2), (0.5, 5), (0.9, 9)])
def test_the_share_of_validation_cases(store: Store, domain: Domain, tmp_path: Path, share: float, count: int) -> None:
    (case, _) = corrected_cases(store, domain)
    many = [type(case)(f"case_{index}", case.image, case.label) for index in range(10)]
    write_dataset(many, domain, tmp_path / "data", share)
    fold = json.loads((tmp_path / "data" / "folds.json").read_text())["fold0"]
    assert len(fold["val"]) == count
    assert sorted(fold["train"] + fold["val"]) == sorted(one.name for one in many)


@pytest.mark.parametrize(
    "info", [{"label_info": [{"name": "liver"}]}, {"label_info": ["liver"]}, {"params": {"label_names": [1]}}]
)
def test_names_that_are_malformed_are_refused(store: Store, domain: Domain, info: dict[str, Any]) -> None:
    store.labels["b"] = (store.labels["b"][0], info)
    with pytest.raises(InputError, match=r"b\.nii\.gz: its label_info must be a list"):
        corrected_cases(store, domain)
