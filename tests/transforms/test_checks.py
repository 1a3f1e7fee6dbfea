"""The checks as MONAI transforms: good data passes untouched, bad data is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from custom_components.errors import InputError
from custom_components.transforms import CheckImage, CheckImaged, CheckLabel, CheckLabeld
from tests.phantoms import hippocampus_like, save_dicom_series, save_nifti

IMAGE, LABEL = hippocampus_like((10, 12, 8))


@pytest.fixture
def case(tmp_path: Path) -> dict[str, str]:
    return {
        "image": str(save_nifti(tmp_path / "image.nii.gz", IMAGE)),
        "label": str(save_nifti(tmp_path / "label.nii.gz", LABEL)),
    }


def load(case: dict[str, str]) -> dict[str, MetaTensor]:
    return LoadImaged(keys=list(case), ensure_channel_first=True)(case)


def test_good_data_passes_untouched(case: dict[str, str]) -> None:
    data = load(case)
    checked = CheckLabeld(keys="label")(CheckImaged(keys="image", channels=1)(data))
    assert checked is not data
    assert all(checked[key] is data[key] for key in data)


def test_an_array_without_geometry_is_checked_for_its_values() -> None:
    image = torch.from_numpy(IMAGE)[None]
    assert CheckImage(channels=1)(image) is image
    assert CheckLabel()(image, image) is image
    with pytest.raises(InputError, match="image: has 1 channel, 2 are needed"):
        CheckImage(channels=2)(image)
    with pytest.raises(InputError, match="label: has shape"):
        CheckLabel()(image[:, 1:], image)


def test_the_stored_header_is_looked_at_too(tmp_path: Path) -> None:
    """nibabel gives 1 for a stored spacing of -1, so the loaded image alone looks good."""
    plain = save_nifti(tmp_path / "a.nii", IMAGE)
    content = bytearray(plain.read_bytes())
    content[80:84] = np.float32(-1).tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(content)))
    data = load({"image": str(tmp_path / "a.nii.gz")})
    assert torch.equal(data["image"].pixdim, torch.ones(3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"a\.nii\.gz: its voxel spacing is -1 × 1 × 1 mm"):
        CheckImaged(keys="image")(data)


def test_a_folder_of_two_series_is_refused_though_the_reader_takes_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_dicom_series(tmp_path / "study", IMAGE, description=name)
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        CheckImaged(keys="image")(load({"image": str(tmp_path / "study")}))


def test_an_image_made_in_memory_has_no_file_to_look_at() -> None:
    image = MetaTensor(torch.from_numpy(IMAGE)[None], meta={"filename_or_obj": "elsewhere/not/here.nii.gz"})
    assert CheckImage(1)(image) is image
    sheared = torch.eye(4, dtype=torch.float64)
    sheared[0, 1] = 0.2
    with pytest.raises(InputError, match=r"here\.nii\.gz: its affine is not orthonormal"):
        CheckImage(1)(MetaTensor(torch.from_numpy(IMAGE)[None], affine=sheared, meta=image.meta))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_label_must_be_finite(case: dict[str, str], bad: float) -> None:
    data = load(case)
    data["label"][0, 0, 0, 0] = bad
    with pytest.raises(InputError, match=r"label\.nii\.gz: has NaN or infinite values"):
        CheckLabeld(keys="label")(data)


def test_a_label_must_have_one_channel(case: dict[str, str]) -> None:
    data = load(case)
    data["label"] = MetaTensor(torch.cat([data["label"]] * 2), meta=data["label"].meta)
    with pytest.raises(InputError, match="must be one 3-D volume"):
        CheckLabeld(keys="label")(data)


@pytest.mark.parametrize(("shift", "good"), [(0.01, True), (0.2, False)])
def test_a_label_may_differ_by_rounding_but_not_by_a_fifth_of_a_voxel(tmp_path: Path, shift: float, good: bool) -> None:
    moved = np.eye(4)
    moved[1, 3] = shift
    case = {"image": str(save_nifti(tmp_path / "i.nii.gz", IMAGE)), "label": str(save_nifti(tmp_path / "l.nii.gz", LABEL, moved))}
    data = load(case)
    if good:
        CheckLabeld(keys="label", image_key="image")(data)
    else:
        with pytest.raises(InputError, match=r"l\.nii\.gz: lies up to 0\.2 mm from .*i\.nii\.gz"):
            CheckLabeld(keys="label", image_key="image")(data)


def test_a_flipped_label_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    case = {
        "image": str(save_nifti(tmp_path / "i.nii.gz", IMAGE)),
        "label": str(save_nifti(tmp_path / "l.nii.gz", LABEL, np.diag([-1.0, 1, 1, 1]))),
    }
    with pytest.raises(InputError, match="directions differ"):
        CheckLabeld(keys="label")(load(case))


def test_a_missing_key_is_an_error_unless_it_may_be_missing(case: dict[str, str]) -> None:
    data = load(case)
    assert CheckImaged(keys="other", allow_missing_keys=True)(data) == data
    with pytest.raises(KeyError):
        CheckImaged(keys="other")(data)


def test_in_a_chain_the_error_is_the_cause_of_what_monai_raises(case: dict[str, str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        Compose([LoadImaged(keys="image", ensure_channel_first=True), CheckImaged(keys="image", channels=2)])(case)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    assert cause is not None
    assert "image.nii.gz: has 1 channel, 2 are needed" in str(cause)
