"""Reading: every format gives the array and the affine that were written."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_components.data import image_name, read_image, read_label
from custom_components.errors import InputError
from tests.phantoms import affine_of, hippocampus_like, save_dicom_series, save_itk, save_nifti

SHAPE = (7, 9, 5)
AFFINE = affine_of(spacing=(0.8, 1.1, 2.5), angles=(12, -8, 30), origin=(-20, 33, 4), axes=(1, 2, 0), flips=(-1, 1, -1))

affines = st.builds(
    affine_of,
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    axes=st.sampled_from(list(permutations(range(3)))),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
)


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 1500, SHAPE).astype(np.float32)


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image.nrrd", "image.mha", "image.mhd"])
def test_every_format_gives_the_array_and_affine_that_were_written(tmp_path: Path, array: np.ndarray, name: str) -> None:
    path = tmp_path / name
    (save_nifti if ".nii" in name else save_itk)(path, array, AFFINE)
    image = read_image(path, channels=1)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), array[None])
    np.testing.assert_allclose(image.affine.numpy(), AFFINE, atol=1e-5)
    assert image.meta["filename_or_obj"] == str(path)


def test_a_dicom_series_gives_the_array_and_affine_that_were_written(tmp_path: Path, array: np.ndarray) -> None:
    # DICOM's third axis is along the cross product of the first two in LPS: the handedness is given.
    affine = affine_of(spacing=(0.8, 1.1, 2.5), angles=(12, -8, 30), origin=(-20, 33, 4))
    image = read_image(save_dicom_series(tmp_path / "series", array, affine), channels=1)
    np.testing.assert_array_equal(image.numpy(), array[None])
    np.testing.assert_allclose(image.affine.numpy(), affine, atol=1e-5)


def test_the_slices_of_a_series_are_ordered_by_position_not_by_name(tmp_path: Path, array: np.ndarray) -> None:
    folder = save_dicom_series(tmp_path / "series", array)
    for index, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"{(index * 3) % SHAPE[2]}_{file.name}")
    np.testing.assert_array_equal(read_image(folder).numpy(), array[None])


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nrrd", "image.mha"])
def test_the_last_axis_of_a_4d_file_is_the_channels(tmp_path: Path, array: np.ndarray, name: str) -> None:
    both = np.stack([array, array[::-1]], axis=-1)
    path = (save_nifti if ".nii" in name else save_itk)(tmp_path / name, both, AFFINE)
    image = read_image(path, channels=2)
    np.testing.assert_array_equal(image.numpy(), both.transpose(3, 0, 1, 2))
    np.testing.assert_allclose(image.affine.numpy(), AFFINE, atol=1e-5)


def test_several_files_are_channels_in_the_order_given(tmp_path: Path, array: np.ndarray) -> None:
    t2 = save_nifti(tmp_path / "t2.nii.gz", array, AFFINE)
    adc = save_itk(tmp_path / "adc.mha", array * 2, AFFINE)
    np.testing.assert_array_equal(read_image([t2, adc], channels=2).numpy(), np.stack([array, array * 2]))
    np.testing.assert_array_equal(read_image([adc, t2], channels=2).numpy(), np.stack([array * 2, array]))


def test_a_stored_scale_and_offset_are_applied(tmp_path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, -7)
    nib.save(image, tmp_path / "scaled.nii.gz")
    np.testing.assert_allclose(read_image(tmp_path / "scaled.nii.gz").numpy()[0], np.arange(60).reshape(3, 4, 5) * 0.5 - 7)


def test_big_endian_and_nifti_2_read(tmp_path: Path, array: np.ndarray) -> None:
    import nibabel as nib

    nib.save(nib.Nifti2Image(array, AFFINE), tmp_path / "second.nii.gz")
    nib.save(nib.Nifti1Image(array.astype(">f4"), AFFINE, nib.Nifti1Header(endianness=">")), tmp_path / "big.nii.gz")
    for name in ("second", "big"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.nii.gz").numpy()[0], array)


@given(affine=affines)
def test_nifti_and_nrrd_agree_on_any_geometry(tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray) -> None:
    """Two independent libraries (nibabel and ITK) write; both must come back as written, to 1e-4 mm at a far corner."""
    folder = tmp_path_factory.mktemp("geometry")
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    corner = np.array([*SHAPE, 1.0])
    for path in (save_nifti(folder / "a.nii", array, affine), save_itk(folder / "a.nrrd", array, affine)):
        image = read_image(path)
        np.testing.assert_array_equal(image.numpy()[0], array)
        np.testing.assert_allclose(image.affine.numpy() @ corner, affine @ corner, atol=1e-4)


def test_a_label_must_lie_on_the_grid_of_its_image(tmp_path: Path) -> None:
    array, label = hippocampus_like((12, 14, 12))
    image = read_image(save_nifti(tmp_path / "image.nii.gz", array, AFFINE))
    assert tuple(read_label(save_nifti(tmp_path / "label.nii.gz", label, AFFINE), image).shape) == (1, 12, 14, 12)
    moved = AFFINE.copy()
    moved[0, 3] += 1
    with pytest.raises(InputError, match=r"moved\.nii\.gz: lies up to 1 mm from .*image\.nii\.gz"):
        read_label(save_nifti(tmp_path / "moved.nii.gz", label, moved), image)
    with pytest.raises(InputError, match=r"small\.nii\.gz: has shape 11 × 14 × 12, but .*image\.nii\.gz has 12 × 14 × 12"):
        read_label(save_nifti(tmp_path / "small.nii.gz", label[1:], AFFINE), image)
    with pytest.raises(InputError, match="one 3-D volume"):
        read_label(save_nifti(tmp_path / "two.nii.gz", np.stack([label] * 2, axis=-1), AFFINE))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/hippocampus_001.nii.gz", "hippocampus_001"),
        ("b.c.NII.GZ", "b.c"),
        ("x.nrrd", "x"),
        ("series/1.2.840", "1.2.840"),
        (["p.mha", "q.mha"], "p"),
    ],
)
def test_the_name_of_a_case_is_its_file_without_the_image_suffix(path: str | list[str], name: str) -> None:
    assert image_name(path) == name


def test_real_cases_read(hippocampus_data: Path) -> None:
    image = read_image(hippocampus_data / "imagesTr" / "hippocampus_001.nii.gz", channels=1)
    label = read_label(hippocampus_data / "labelsTr" / "hippocampus_001.nii.gz", image)
    assert tuple(image.shape) == tuple(label.shape) == (1, 35, 51, 35)
    assert (label == 1).sum() == 1324
    assert (label == 2).sum() == 1624
