"""Which boxes of a head are segmented, how both sides become one label, and what is said to be implausible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec

from custom_components.data import read_image
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference.regions import window_of
from custom_components.inference.sides import find, is_mni152, one_side, regions_for
from tests.inference.heads import POSTERIOR, TISSUE, Oracle, head, tensor, truth


@pytest.fixture(scope="module")
def oracle(bundle: Path) -> Oracle:
    return Oracle(Domain.from_file(bundle / "configs" / "domain.json"))


def test_centres_find_hippocampi_that_are_not_where_mni152_has_them(oracle: Oracle) -> None:
    shift = (9.0, 21.0, -14.0)
    values, affine = head("LPS", shift=shift)
    image = tensor(values, affine)
    centres = {side: tuple(np.add((x, -22, -15), shift)) for side, x in (("left", -27), ("right", 27))}
    finding = find(image, regions_for(image, "head", False, centres), oracle, "head")
    np.testing.assert_array_equal(finding.label, truth(values))
    assert finding.warnings == []
    one = find(image, regions_for(image, "head", False, {"right": centres["right"]}), oracle, "head")
    np.testing.assert_array_equal(one.label, one_side(finding.sides, 1, 2))
    assert list(one.volumes) == ["right"]


@pytest.mark.parametrize(("sform", "qform", "expected"), [(4, 0, True), (0, 4, True), (1, 4, False), (4, 1, True), (0, 0, False)])
def test_the_code_of_the_affine_in_use_decides(tmp_path: Path, sform: int, qform: int, expected: bool) -> None:
    image = nib.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4))
    image.set_sform(np.eye(4), sform)
    image.set_qform(np.eye(4), qform)
    nib.save(image, tmp_path / "a.nii")
    assert is_mni152(read_image(tmp_path / "a.nii")) is expected


@pytest.mark.parametrize(
    ("mni", "centres", "message"),
    [
        (False, {"left": (30, -20, -10), "right": (-30, -20, -10)}, "left centre .* is not to the left"),
        (False, {"left": (-80, -20, -10)}, "left box .* reaches outside the image"),
        (True, {"left": (-27, -22, -15)}, "not both"),
    ],
)
def test_boxes_that_cannot_be_right_are_refused(mni: bool, centres: dict[str, tuple[float, float, float]], message: str) -> None:
    with pytest.raises(InputError, match=f"head.nii: .*{message}"):
        regions_for(tensor(*head()), "head.nii", mni, centres)


def test_an_empty_box_is_refused_by_its_name(oracle: Oracle) -> None:
    image = tensor(*head())
    with pytest.raises(InputError, match=r"head\.nii, left: the image is constant"):
        find(image, regions_for(image, "head.nii", False, {"left": (-20, 30, 40)}), oracle, "head.nii")


def test_what_is_implausible_is_said(oracle: Oracle) -> None:
    values, affine = head()
    regions = regions_for(tensor(values, affine), "head", True, {})

    def warnings(change: np.ndarray, segmenter: Oracle = oracle) -> list[str]:
        return find(tensor(change, affine), regions, segmenter, "head").warnings

    where = apply_affine(affine, np.stack(np.indices(values.shape), axis=-1))
    cut_down = (where[..., 0] > 0) & ((values == POSTERIOR) | (where[..., 2] > -19))
    missing = warnings(np.where(cut_down, TISSUE, values))
    assert ["right: no voxel is posterior" in w for w in missing] == [True, False]
    assert "right: 0." in missing[1]
    assert "is outside 1.5 to 6 cm³" in missing[1]
    assert [w.split(";")[0] for w in warnings(values, replace(oracle, swapped=True))] == [
        f"{side}: anterior does not lie in front of posterior" for side in ("left", "right")
    ]


def test_a_box_that_cuts_a_label_off_grows_until_it_does_not(oracle: Oracle) -> None:
    values, affine = head("PIR")
    regions = regions_for(tensor(values, affine), "head", False, {"left": (-30.0, -12.0, -8.0), "right": (27.0, -22.0, -15.0)})
    finding = find(tensor(values, affine), regions, oracle, "head")
    np.testing.assert_array_equal(finding.label, truth(values))
    assert finding.warnings == []
    assert finding.windows["right"] == window_of(regions[1], affine, values.shape)
    before, after = window_of(regions[0], affine, values.shape), finding.windows["left"]
    # Stored axes: first backward, so its upper end grew; second downward, so its upper end grew; third untouched.
    assert [b.start == a.start for b, a in zip(before, after, strict=True)] == [True, True, True]
    assert [b.stop < a.stop for b, a in zip(before, after, strict=True)] == [True, True, False]


def test_a_label_that_the_image_itself_cuts_off_is_said(oracle: Oracle) -> None:
    values, affine = head()
    values = values[:, :, 26:]  # from z = -15 mm on
    affine = from_matvec(affine[:3, :3], apply_affine(affine, (0, 0, 26)))
    image = tensor(values, affine)
    finding = find(image, regions_for(image, "head", False, {"left": (-27.0, -22.0, 4.0)}), oracle, "head")
    assert any("still touches a face of its box, or of the image" in w for w in finding.warnings)
