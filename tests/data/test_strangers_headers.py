"""Headers that ITK and nibabel would believe: refused before they take memory, read another file, or write past an array."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from custom_components.data import read_image
from custom_components.data.sizes import LARGEST_VOLUME
from custom_components.errors import InputError
from tests.phantoms import affine_of, hippocampus_like, save_dicom_series, save_itk, save_nifti

AFFINE = affine_of((1.5, 1, 2), (10, 0, 5), (3, -4, 5))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return hippocampus_like((12, 14, 11))[0]


def edited(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) == 1, (old, content[:600])
    path.write_bytes(content.replace(old, new))
    return path


META = [
    (b"NDims = 3", b"NDims = 127", "127 dimensions"),
    (b"DimSize = 12 14 11", b"DimSize = 12 14", "DimSize has 2 numbers"),
    (b"DimSize = 12 14 11", b"DimSize = 12 14 -11", "no number of voxels"),
    (b"DimSize = 12 14 11", b"DimSize = 12 14 1100", "cut off"),
    (b"DimSize = 12 14 11", b"DimSize = 65535 65535 65535", "cut off"),
    (b"NDims = 3", b"NDims = 3\nNDims = 3", "comes twice"),
    (b"CenterOfRotation = 0", b"CenterOfRotation = nan", "CenterOfRotation is not numbers"),
    (b"TransformMatrix = ", b"TransformMatrix = 1e+308 0 0 0 1 0 0 0 1\nRemark = ", "no place in space"),
    (b"ElementType = MET_FLOAT", b"ElementType = MET_OTHER", "no image of numbers"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd", "names '/etc/passwd' as the file of its voxels"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = ../voxels.raw", "in one file beside it"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "in one file beside it"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = absent.raw", "which is no file"),
    (b"BinaryData = True", b"BinaryData = False", "are text"),
]
NRRD = [
    (b"dimension: 3", b"dimension: 99", "99 dimensions"),
    (b"sizes: 12 14 11", b"sizes: 12 14", "'sizes' has 2 entries"),
    (b"sizes: 12 14 11", b"sizes: 12 14 0", "no number of voxels"),
    (b"sizes: 12 14 11", b"sizes: 12 14 99999", "cut off"),
    (b"dimension: 3", b"dimension: 3\ndimension: 3", "comes twice"),
    (b"type: float", b"type: block", "its type or encoding"),
    (b"encoding: raw", b"encoding: raw\nbyte skip: -1", "asks to skip"),
    (b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd", "names '/etc/passwd' as the file of its voxels"),
    (b"NRRD0004", b"NRRD9999", "not what its name says"),
]


@pytest.mark.parametrize(("old", "new", "says"), META)
def test_a_metaimage_that_is_not_what_it_says(old: bytes, new: bytes, says: str, image: np.ndarray, tmp_path: Path) -> None:
    path = save_itk(tmp_path / "image.mha", image, AFFINE)
    assert read_image(path).shape == (1, 12, 14, 11)
    with pytest.raises(InputError, match=says):
        read_image(edited(path, old, new))


@pytest.mark.parametrize(("old", "new", "says"), NRRD)
def test_a_nrrd_that_is_not_what_it_says(old: bytes, new: bytes, says: str, image: np.ndarray, tmp_path: Path) -> None:
    path = save_itk(tmp_path / "image.nrrd", image, AFFINE)
    assert read_image(path).shape == (1, 12, 14, 11)
    with pytest.raises(InputError, match=says):
        read_image(edited(path, old, new))


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_in_a_file_beside_the_header_are_read(suffix: str, image: np.ndarray, tmp_path: Path) -> None:
    path = save_itk(tmp_path / f"image{suffix}", image, AFFINE)
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(read_image(path)[0].numpy(), image)
    beside = next(p for p in tmp_path.iterdir() if p != path)
    beside.write_bytes(beside.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut off"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("sizes", "says"), [((30_000,) * 3, "cut off"), ((-1, 14, 11), "declares -1 × 14 × 11")])
def test_a_nifti_that_declares_what_it_has_not(
    suffix: str, sizes: tuple[int, ...], says: str, image: np.ndarray, tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / f"image{suffix}", image)
    content = bytearray(gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes())
    content[42:48] = struct.pack("<3h", *sizes)
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else bytes(content))
    with pytest.raises(InputError, match=says):
        read_image(path)


def test_a_packed_volume_that_fits_no_machine(tmp_path: Path) -> None:
    """A bomb: 17 MB that unpack to what they declare."""
    side = 4096
    assert side**3 // 4 * 4 == LARGEST_VOLUME * 4
    path = save_nifti(tmp_path / "image.nii.gz", np.zeros((2, 2, 2), np.float32))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = struct.pack("<3h", side, side, side // 2)
    with open(path, "wb") as file:
        file.write(gzip.compress(bytes(content) + bytes(1000)))
        file.truncate(2**28)  # zeros, which take no room on the disk
    with pytest.raises(InputError, match="128 GiB of voxels, 16 are read"):
        read_image(path)


def test_values_that_no_scanner_gives(image: np.ndarray, tmp_path: Path) -> None:
    image = image.copy()
    image[3, 4, 5] = 3e38
    with pytest.raises(InputError, match=r"values up to 3e\+38"):
        read_image(save_nifti(tmp_path / "image.nii", image))


def series(folder: Path) -> list[Path]:
    save_dicom_series(folder, hippocampus_like((9, 8, 5))[0], affine_of((1.5, 1, 2)))
    assert read_image(folder).shape == (1, 9, 8, 5)
    return sorted(folder.iterdir())


def test_a_slice_that_is_damaged_is_not_left_out(tmp_path: Path) -> None:
    """Without it the series would be one of four slices."""
    first = series(tmp_path)[0]
    edited(first, b"\x28\x00\x10\x00US\x02\x00", b"\x29\x00\x10\x00US\x02\x00")  # Rows becomes another element
    with pytest.raises(InputError, match=r"_000\.dcm: is a damaged image of a DICOM series"):
        read_image(tmp_path)


def test_a_slice_of_another_date_is_not_left_out(tmp_path: Path) -> None:
    """GDCM takes it for another series of the same UID, and reads one of the two."""
    edited(series(tmp_path)[-1], b"20260101", b"20260102")
    with pytest.raises(InputError, match=r"only [14] of its 5 slices are read"):
        read_image(tmp_path)


def test_an_element_that_is_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = series(tmp_path)[2]
    path.write_bytes(path.read_bytes() + struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, 2**30))
    with pytest.raises(InputError, match=r"_002\.dcm: is damaged .* is cut off"):
        read_image(tmp_path)


def test_an_element_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    edited(series(tmp_path)[1], b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00Ub")
    with pytest.raises(InputError, match=r"_001\.dcm: is damaged .* no known kind"):
        read_image(tmp_path)
