"""Every way an image can be unusable gives one `InputError` that names the file."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_components.data import check_affine, check_image, read_image
from custom_components.errors import InputError
from tests.phantoms import affine_of, hippocampus_like, save_dicom_series, save_itk, save_nifti

GOOD = hippocampus_like((10, 12, 8))[0]
# Offsets of pixdim[1..3] in a NIfTI-1 header, which is 348 bytes.
PIXDIM = 80


def patched(path: Path, offset: int, value: bytes) -> Path:
    """The image with some bytes of its header changed, behind nibabel's back."""
    save_nifti(path.with_suffix(""), GOOD) if path.name.endswith(".gz") else save_nifti(path, GOOD)
    plain = path.with_suffix("") if path.name.endswith(".gz") else path
    content = bytearray(plain.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


def with_values(value: float, where: object = (3, 3, 3)) -> np.ndarray:
    array = GOOD.copy()
    array[where] = value
    return array


def spacing(value: float) -> bytes:
    return np.float32(value).tobytes()


def truncated(folder: Path, keep: float) -> Path:
    path = save_nifti(folder / "cut.nii.gz", GOOD)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def text(folder: Path, name: str, content: bytes = b"not an image at all") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def sheared() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = 0.1
    return affine


def png(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "photo.png")
    return folder / "photo.png"


def mha(folder: Path, old: bytes, new: bytes) -> Path:
    path = save_itk(folder / "a.mha", GOOD)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no such file": (lambda d: d / "nothing.nii.gz", "no such file"),
    "text named .nii.gz": (lambda d: text(d, "notes.nii.gz"), "damaged or not what its name says"),
    "text named .nii": (lambda d: text(d, "notes.nii"), "not a NIfTI image"),
    "long text named .nii": (lambda d: text(d, "notes.nii", b"x" * 1000), "not a NIfTI image"),
    "text named .nrrd": (lambda d: text(d, "notes.nrrd"), "is not what its name says"),
    "text named .mha": (lambda d: text(d, "notes.mha"), "is not what its name says"),
    "text without a suffix": (lambda d: text(d, "notes"), "cannot be read as an image"),
    "empty .nii": (lambda d: text(d, "empty.nii", b""), "not a NIfTI image"),
    "empty .nii.gz": (lambda d: text(d, "empty.nii.gz", b""), "not a NIfTI image"),
    "empty .nrrd": (lambda d: text(d, "empty.nrrd", b""), "empty file"),
    "gzip cut in the header": (lambda d: truncated(d, 0.01), "damaged|not a NIfTI image"),
    "gzip cut in the data": (lambda d: truncated(d, 0.6), "cannot be read as an image"),
    "plain file cut in the data": (
        lambda d: text(d, "cut.nii", save_nifti(d / "whole.nii", GOOD).read_bytes()[:-50]),
        "cannot be read",
    ),
    "data damaged": (lambda d: text(d, "bad.nii.gz", gzip.compress(b"\x5c\x01\0\0" + b"\xff" * 400)), "bad.nii.gz"),
    "a photograph": (png, "is 2-D"),
    "2-D": (lambda d: save_nifti(d / "flat.nii.gz", GOOD[:, :, 0]), r"is 2-D \(10 × 12 voxels\)"),
    "one slice": (lambda d: save_nifti(d / "slice.nii.gz", GOOD[:, :, :1]), r"is 2-D \(10 × 12 × 1 voxels\)"),
    "2-D MetaImage": (lambda d: save_flat_mha(d), "is 2-D"),
    "5-D": (lambda d: save_nifti(d / "five.nii.gz", np.stack([np.stack([GOOD] * 2, -1)] * 2, -1)), "five.nii.gz: has "),
    "two channels for one": (
        lambda d: save_nifti(d / "two.nii.gz", np.stack([GOOD] * 2, axis=-1)),
        "has 2 channels, 1 is needed",
    ),
    "NaN": (lambda d: save_nifti(d / "nan.nii.gz", with_values(np.nan)), "1 voxel is NaN or infinite"),
    "infinity": (lambda d: save_nifti(d / "inf.nii.gz", with_values(np.inf, np.s_[:2, 0, 0])), "2 voxels are NaN or infinite"),
    "all zero": (lambda d: save_nifti(d / "zero.nii.gz", np.zeros_like(GOOD)), "constant .every voxel is 0."),
    "constant": (lambda d: save_nifti(d / "same.nii.gz", np.full_like(GOOD, 7)), "constant .every voxel is 7."),
    "zero spacing": (lambda d: patched(d / "z.nii", PIXDIM, spacing(0)), "spacing is 0 × 1 × 1 mm"),
    "zero spacing, compressed": (lambda d: patched(d / "z.nii.gz", PIXDIM + 8, spacing(0)), "spacing is 1 × 1 × 0 mm"),
    "negative spacing": (lambda d: patched(d / "n.nii.gz", PIXDIM + 4, spacing(-1)), "spacing is 1 × -1 × 1 mm"),
    "NaN spacing": (lambda d: patched(d / "n.nii.gz", PIXDIM, spacing(np.nan)), "spacing is nan × 1 × 1 mm"),
    "spacing in micrometres": (
        lambda d: save_nifti(d / "um.nii.gz", GOOD, np.diag([500.0, 500, 500, 1])),
        "spacing is 500 × 500 × 500 mm",
    ),
    "spacing in metres": (lambda d: save_nifti(d / "m.nii.gz", GOOD, np.diag([0.001, 0.001, 0.001, 1])), "spacing is 0.001"),
    "negative MetaImage spacing": (
        lambda d: mha(d, b"ElementSpacing = 1 1 1", b"ElementSpacing = -1 1 1"),
        "spacing is -1 × 1 × 1 mm",
    ),
    "zero MetaImage spacing": (lambda d: mha(d, b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1"), "spacing is 1 × 0 × 1 mm"),
    "sform of zeros": (lambda d: patched(d / "s.nii", 280, bytes(48)), "spacing is 0 × 0 × 0 mm"),
    "sheared NIfTI": (lambda d: save_nifti(d / "shear.nii.gz", GOOD, sheared()), "not orthonormal"),
    "sheared MetaImage": (
        lambda d: mha(d, b"TransformMatrix = ", b"TransformMatrix = 1 0.2 0 0 1 0 0 0 1\nComment = "),
        "not orthonormal",
    ),
    "complex numbers": (lambda d: save_nifti(d / "complex.nii.gz", GOOD.astype(np.complex64)), "complex numbers"),
    "unknown data type": (lambda d: patched(d / "type.nii", 70, b"\x07\x07"), "data type that NIfTI does not know"),
    "empty folder": (lambda d: (d / "empty").mkdir() or d / "empty", "holds no DICOM image"),
}


def save_flat_mha(folder: Path) -> Path:
    import itk

    itk.imwrite(itk.image_from_array(GOOD[:, :, 0].copy()), str(folder / "flat.mha"))
    return folder / "flat.mha"


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gives_one_error_that_names_the_file(tmp_path: Path, what: str) -> None:
    make, says = BAD[what]
    path = make(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        read_image(path, channels=1)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message


def test_the_image_the_bad_ones_are_made_of_is_good(tmp_path: Path) -> None:
    assert read_image(patched(tmp_path / "good.nii.gz", PIXDIM, spacing(1)), channels=1).shape == (1, *GOOD.shape)


def test_an_unreadable_header_beside_a_good_one_is_told_apart(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", GOOD)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "b.nii.gz"))):
        read_image([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], channels=2)


def test_channels_on_different_grids_name_the_one_that_differs(tmp_path: Path) -> None:
    a = save_nifti(tmp_path / "a.nii.gz", GOOD)
    b = save_nifti(tmp_path / "b.nii.gz", GOOD, np.diag([1.0, 1, 1.2, 1]))
    with pytest.raises(InputError, match=r"b\.nii\.gz: lies up to .* from .*a\.nii\.gz"):
        read_image([a, b], channels=2)


def test_too_few_files_for_the_channels(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", GOOD)
    with pytest.raises(InputError, match=r"has 1 channel, 2 are needed"):
        read_image([path], channels=2)
    with pytest.raises(InputError, match="no image given"):
        read_image([], channels=1)


def test_a_constant_second_channel_is_named(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", np.stack([GOOD, np.ones_like(GOOD)], axis=-1))
    with pytest.raises(InputError, match="channel 1 of it is constant"):
        read_image(path, channels=2)


def test_several_series_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_dicom_series(tmp_path / "study", GOOD, description=name)
    with pytest.raises(InputError, match=r"holds 2 DICOM series.*first, 8 files.*second, 8 files"):
        read_image(tmp_path / "study")


def test_a_series_with_a_missing_slice_is_refused(tmp_path: Path) -> None:
    folder = save_dicom_series(tmp_path / "series", GOOD)
    sorted(folder.iterdir())[3].unlink()
    with pytest.raises(InputError, match=r"not evenly spaced \(1 to 2 mm apart\)"):
        read_image(folder)


def test_a_series_from_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    import pydicom

    folder = save_dicom_series(tmp_path / "series", GOOD)
    for index, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.ImagePositionPatient[1] += 0.3 * index
        data.save_as(path)
    with pytest.raises(InputError, match=r"sheared by 16\.7°"):
        read_image(folder)


def test_a_lone_dicom_slice_asks_for_the_series(tmp_path: Path) -> None:
    folder = save_dicom_series(tmp_path / "series", GOOD[:, :, :1])
    for path in (folder, next(folder.iterdir())):
        with pytest.raises(InputError, match=r"is 2-D .* folder of the whole series"):
            read_image(path)


def test_notes_beside_a_series_do_not_matter(tmp_path: Path) -> None:
    folder = save_dicom_series(tmp_path / "series", GOOD)
    text(folder, "readme.txt")
    assert read_image(folder).shape == (1, *GOOD.shape)


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.011, 99)] * 3),
    origin=st.tuples(*[st.floats(-1e4, 1e4)] * 3),
)
def test_no_rotation_is_taken_for_a_shear(
    angles: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> None:
    check_affine(affine_of(spacing, angles, origin).astype(np.float32), "image")


@given(tilt=st.floats(0.002, 1.5), axis=st.integers(0, 2), angles=st.tuples(*[st.floats(-180, 180)] * 3))
def test_any_shear_over_a_tenth_of_a_degree_is_refused(tilt: float, axis: int, angles: tuple[float, ...]) -> None:
    shear = np.eye(4)
    shear[axis, (axis + 1) % 3] = tilt
    with pytest.raises(InputError, match="not orthonormal"):
        check_affine(affine_of((1, 1, 1), angles) @ shear @ np.diag([1, 2, 3, 1]), "image")


def test_an_affine_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        check_affine(np.full((4, 4), np.nan), "image")


@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (1, 4, 0, 1)])
def test_a_volume_without_voxels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="empty"):
        check_image(torch.zeros(shape), "image", 1)


def test_whole_number_images_are_checked_as_well() -> None:
    check_image(torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4), "image", 1)
    with pytest.raises(InputError, match="constant"):
        check_image(torch.ones((1, 2, 3, 4), dtype=torch.uint8), "image", 1)


def test_reading_does_not_silence_the_readers_for_others(tmp_path: Path) -> None:
    import itk

    read_image(save_itk(tmp_path / "a.mha", GOOD))
    assert itk.Object.GetGlobalWarningDisplay()
    assert nib.imageglobals.error_level == 40
