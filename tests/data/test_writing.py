"""Writing: a file is there whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from custom_components.atomic import atomic_path
from custom_components.data import AtomicNiftiWriter, read_image, read_label
from custom_components.errors import InputError
from tests.phantoms import affine_of, hippocampus_like

AFFINE = affine_of(spacing=(0.8, 1.1, 2.5), angles=(12, -8, 30), origin=(-20, 33, 4), axes=(1, 2, 0), flips=(-1, 1, -1))


def save(folder: Path, label: np.ndarray, **options: object) -> None:
    data = {
        "pred": MetaTensor(
            torch.from_numpy(label)[None], affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": "case.nii.gz"}
        )
    }
    SaveImaged(
        keys="pred",
        writer="custom_components.data.AtomicNiftiWriter",
        output_dir=folder,
        output_postfix="seg",
        output_dtype=np.uint8,
        separate_folder=False,
        resample=False,
        print_log=False,
        **options,
    )(data)


def test_save_image_writes_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    label = hippocampus_like((12, 14, 10))[1]
    save(tmp_path / "out", label)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["case_seg.nii.gz"]
    back = read_label(tmp_path / "out" / "case_seg.nii.gz")
    np.testing.assert_array_equal(back.numpy()[0], label)
    np.testing.assert_allclose(back.affine.numpy(), AFFINE, atol=1e-5)
    assert nib.load(tmp_path / "out" / "case_seg.nii.gz").get_data_dtype() == np.uint8


def test_what_is_written_can_be_read_by_all_the_user_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(tmp_path, hippocampus_like((6, 8, 6))[1])
    finally:
        os.umask(before)
    assert (tmp_path / "case_seg.nii.gz").stat().st_mode & 0o777 == 0o640


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, np.ones((4, 5, 6), dtype=np.uint8))
    before = (tmp_path / "case_seg.nii.gz").read_bytes()

    def half(image: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", half)
    writer = AtomicNiftiWriter()
    writer.set_data_array(np.zeros((4, 5, 6)), channel_dim=None)
    writer.set_metadata({"affine": np.eye(4)})
    with pytest.raises(OSError, match="disk full"):
        writer.write(tmp_path / "case_seg.nii.gz")
    assert (tmp_path / "case_seg.nii.gz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "image.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/x\.csv: cannot be written"), atomic_path(tmp_path / "file" / "x.csv"):
        raise AssertionError("must not get here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "locked" / "x.csv"):
        raise AssertionError("must not get here")


def test_a_folder_in_the_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "x.csv") as temporary:
        temporary.write_text("a")
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


def test_an_image_survives_a_round_trip(tmp_path: Path) -> None:
    writer = AtomicNiftiWriter()
    array = hippocampus_like((7, 9, 5))[0]
    writer.set_data_array(array[None], channel_dim=0)
    writer.set_metadata({"affine": AFFINE}, resample=False)
    writer.write(tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz", channels=1)
    np.testing.assert_array_equal(image.numpy()[0], array)
