"""``configs/inference.json`` run by MONAI and the Python chain give the same voxels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle import run as run_bundle
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from custom_components.errors import InputError
from custom_components.inference import Segmenter, preprocessing
from custom_components.transforms import LargestClassd
from custom_components.weights import WeightsError
from tests.inference.oracles import small_bundle
from tests.phantoms import affine_of, hippocampus_like, save_dicom_series, save_itk, save_nifti

AFFINE = affine_of((1.1, 0.9, 1.3), (12, -8, 20), (5, -6, 7), axes=(2, 0, 1), flips=(1, -1, 1))
SAGITTAL = affine_of((0.9, 1.0, 1.2), axes=(1, 2, 0), flips=(-1, 1, 1))


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(bundle, tmp_path_factory.mktemp("bundle") / "small")


def run(small: Path, **override: Any) -> None:
    run_bundle(
        config_file=str(small / "configs" / "inference.json"), bundle_root=str(small), device="$torch.device('cpu')", **override
    )


def images(folder: Path) -> list[str]:
    """NIfTI, NRRD and a DICOM folder with a dot in its name."""
    volumes = [hippocampus_like(seed=seed, border=seed)[0] for seed in range(3)]
    return [
        str(save_nifti(folder / "one.t1.nii.gz", volumes[0], AFFINE)),
        str(save_itk(folder / "two.nrrd", volumes[1], SAGITTAL)),
        str(save_dicom_series(folder / "three.1", volumes[2], affine_of((1.2, 1, 0.9), (10, 5, 0)))),
    ]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """MONAI wraps what a transform or handler raises."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("flips", [False, True])
def test_bundle_run_and_segmenter_give_the_same_voxels(small: Path, tmp_path: Path, flips: bool) -> None:
    given = images(tmp_path / "images") if not flips else images(tmp_path / "images")[:1]
    run(small, input=given, output_dir=str(tmp_path / "out"), flip_axes=[2] if flips else [])
    segmenter = Segmenter.from_bundle(small, "cpu", flips=flips)
    names = ["one.t1", "two", "three.1"][: len(given)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(f"{name}_seg.nii.gz" for name in names)
    for path, name in zip(given, names, strict=True):
        written = nib.load(tmp_path / "out" / f"{name}_seg.nii.gz")
        label = segmenter.segment(path).label
        assert written.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(written.dataobj), label.numpy()[0])
        assert len(np.unique(label)) == 3, "the network must predict every class for this test to say anything"
        np.testing.assert_allclose(written.affine, label.affine.numpy(), atol=1e-5)


def test_the_two_preprocessings_are_the_same_transforms(bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    configured: Compose = parser.get_parsed_content("preprocessing")
    written = preprocessing(parser.get_parsed_content("domain"))
    only_in_the_config = {"LoadImaged", "CopyItemsd", "DeleteItemsd"}
    names = [type(t).__name__ for t in configured.transforms if type(t).__name__ not in only_in_the_config]
    assert names == [type(t).__name__ for t in written.transforms]


def test_the_path_that_monai_label_adds_survives_resampling(small: Path, tmp_path: Path) -> None:
    """MONAI's Spacingd takes every key that begins with ``image_`` for metadata; a string there would end it."""
    path = images(tmp_path)[0]
    parser = ConfigParser()
    parser.read_config(str(small / "configs" / "inference.json"))
    parser["bundle_root"] = str(small)
    chain = parser.get_parsed_content("preprocessing")
    item = chain({"image": path, "image_path": path})
    assert item["image_path"] == path
    assert "hidden_image_path" not in item
    post: Compose = parser.get_parsed_content("postprocessing")
    kept = Compose([t for t in post.transforms if type(t).__name__ != "SaveImaged"])
    label = kept({**item, "pred": MetaTensor(torch.rand(3, *item["image"].shape[1:]))})["pred"]
    assert label.shape == (1, *nib.load(path).shape)
    np.testing.assert_allclose(label.affine, nib.load(path).affine, atol=1e-5)
    assert any(isinstance(t, LargestClassd) for t in post.transforms)
    assert all(isinstance(t, MapTransform) for t in post.transforms)


def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(small: Path, tmp_path: Path) -> None:
    path = images(tmp_path)[0]
    with pytest.raises(RuntimeError) as caught:
        run(small, input=path, output_dir=str(tmp_path / "out"), **{"network_def#channels": [4, 8, 8, 16]})
    assert any(isinstance(error, WeightsError) and "wrong shape" in str(error) for error in causes(caught.value))
    assert not (tmp_path / "out").exists()


def test_a_bad_image_is_refused_and_nothing_is_written(small: Path, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "empty.nii.gz", np.zeros((20, 20, 20), dtype=np.float32))
    with pytest.raises(RuntimeError) as caught:
        run(small, input=str(path), output_dir=str(tmp_path / "out"))
    assert any(isinstance(error, InputError) and str(path) in str(error) for error in causes(caught.value))
    assert not (tmp_path / "out").exists()
