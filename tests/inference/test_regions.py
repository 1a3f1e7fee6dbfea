"""Cutting boxes in mm out of images of any orientation, and pasting labels back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial.transform import Rotation

from custom_components.errors import InputError
from custom_components.inference.regions import Part, Region, cut, extent, grown, owned, paste, window_of

ORIENTATIONS = [
    np.array(list(zip(order, flips, strict=True)))
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def stored(orientation: np.ndarray, volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same picture with its array axes in another order and direction (nibabel is the reference)."""
    return apply_orientation(volume, orientation), affine @ inv_ornt_aff(orientation, volume.shape)


def centres_of(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World coordinates of every voxel's centre, (…, 3) mm."""
    return apply_affine(affine, np.stack(np.indices(shape), axis=-1))


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join("xyz"[int(a)] + "+-"[int(f) < 0] for a, f in o))
def test_a_box_takes_the_same_voxels_in_each_of_the_48_orientations(orientation: np.ndarray) -> None:
    volume = np.arange(20 * 24 * 18).reshape(20, 24, 18)
    affine = from_matvec(np.diag([1.5, 1.0, 2.0]), [-14.0, -12.0, -20.0])
    region = Region("box", (-2.0, 1.0, -3.0), (9.0, 7.0, 11.0))
    reference = volume[window_of(region, affine, volume.shape)]

    turned, its_affine = stored(orientation, volume, affine)
    window = window_of(region, its_affine, turned.shape)

    assert sorted(turned[window].ravel()) == sorted(reference.ravel())
    image = MetaTensor(torch.from_numpy(turned[None].copy()), affine=its_affine)
    piece = cut(image, window)
    where = centres_of(piece.shape[1:], np.asarray(piece.affine))
    at = np.rint(apply_affine(np.linalg.inv(affine), where)).astype(int)
    np.testing.assert_array_equal(np.asarray(piece[0]), volume[tuple(np.moveaxis(at, -1, 0))])


def test_the_hippocampal_box_of_a_1_mm_brain_is_as_large_as_it_says() -> None:
    affine = from_matvec(np.eye(3), [-98.0, -134.0, -72.0])
    region = Region("left", (-27.0, -22.0, -15.0), (36.0, 52.0, 36.0))
    # Its faces run through voxel centres, so half a voxel more is taken on each side.
    assert window_of(region, affine, (197, 233, 189)) == (slice(53, 90), slice(86, 139), slice(39, 76))


def test_faces_on_voxel_faces_take_no_further_layer() -> None:
    affine = from_matvec(np.diag([0.7, 0.7, 0.7]), [0.0, 0.0, 0.0])
    region = Region("box", (0.7 * 9.5, 0.7 * 9.5, 0.7 * 9.5), (0.7 * 6, 0.7 * 4, 0.7 * 2))
    assert window_of(region, affine, (20, 20, 20)) == (slice(7, 13), slice(8, 12), slice(9, 11))


angle = st.floats(-np.pi, np.pi)
spacing = st.tuples(*[st.floats(0.4, 3.0)] * 3)
offset = st.tuples(*[st.floats(-5.0, 5.0)] * 3)
size = st.tuples(*[st.floats(0.5, 14.0)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.tuples(angle, angle, angle), spacing, offset, size)
def test_an_oblique_window_covers_its_box_and_no_layer_more(
    angles: tuple[float, ...], spacing: tuple[float, ...], offset: tuple[float, ...], size: tuple[float, ...]
) -> None:
    shape = tuple(int(np.ceil(60 / s)) for s in spacing)
    turn = Rotation.from_euler("xyz", angles).as_matrix() @ np.diag(spacing)
    affine = from_matvec(turn, -turn @ ((np.array(shape) - 1) / 2))
    region = Region("box", tuple(offset), tuple(size))
    window = window_of(region, affine, shape)

    rng = np.random.default_rng(0)
    points = np.asarray(offset) + (rng.random((500, 3)) - 0.5) * size
    corners = np.asarray(offset) + (np.array(list(itertools.product((-0.5, 0.5), repeat=3)))) * size
    index = apply_affine(np.linalg.inv(affine), np.concatenate([points, corners]))
    first, last = (np.array([getattr(s, end) for s in window]) for end in ("start", "stop"))
    assert (index > first - 0.5 - 1e-3).all()
    assert (index < last - 0.5 + 1e-3).all()
    # The outermost layers touch the box: one voxel less on any side would miss a corner.
    assert (index.min(axis=0) < first + 0.5 + 1e-3).all()
    assert (index.max(axis=0) > last - 1.5 - 1e-3).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ORIENTATIONS), offset, size)
def test_pasting_what_was_cut_gives_it_back_in_place(
    orientation: np.ndarray, centre: tuple[float, ...], size: tuple[float, ...]
) -> None:
    volume = np.random.default_rng(1).integers(1, 9, (26, 30, 28)).astype(np.uint8)
    volume, affine = stored(orientation, volume, from_matvec(np.eye(3), [-13.0, -15.0, -14.0]))
    window = window_of(Region("box", tuple(centre), tuple(size)), affine, volume.shape)
    image = MetaTensor(torch.from_numpy(volume[None].copy()), affine=affine)
    part = Part(Region("box", tuple(centre), tuple(size)), window, np.asarray(cut(image, window)[0]))
    back = paste([part], volume.shape, affine)
    expected = np.zeros_like(volume)
    expected[window] = volume[window]
    assert back.dtype == volume.dtype
    np.testing.assert_array_equal(back, expected)


def test_voxels_in_two_boxes_go_to_the_nearer_centre_and_ties_to_the_first() -> None:
    affine = np.eye(4)
    shape = (21, 9, 9)
    left, right = Region("left", (7, 4, 4), (10, 6, 6)), Region("right", (13, 4, 4), (10, 6, 6))
    parts = []
    for value, region in ((1, left), (2, right)):
        window = window_of(region, affine, shape)
        parts.append(Part(region, window, np.full([s.stop - s.start for s in window], value, dtype=np.uint8)))
    whole = paste(parts, shape, affine)
    assert whole[2:19, 4, 4].tolist() == [1] * 9 + [2] * 8
    swapped = paste(parts[::-1], shape, affine)
    assert swapped[2:19, 4, 4].tolist() == [1] * 8 + [2] * 9
    assert owned(parts, 0, affine).sum() + owned(parts, 1, affine).sum() == (whole > 0).sum()


@pytest.mark.parametrize("centre", [(-17.0, 0, 0), (0, 17.0, 0), (0, 0, 40.0)])
def test_a_box_partly_outside_is_refused_with_both_extents(centre: tuple[float, float, float]) -> None:
    affine = from_matvec(np.eye(3), [-20.0, -20.0, -20.0])
    with pytest.raises(InputError, match=r"left box .* reaches outside the image, which covers x -20 to 20"):
        window_of(Region("left", centre, (10, 10, 10)), affine, (41, 41, 41))


def test_a_cut_keeps_channels_type_and_name_and_forgets_the_whole_images_header() -> None:
    volume = torch.arange(2 * 6 * 7 * 8, dtype=torch.int16).reshape(2, 6, 7, 8)
    image = MetaTensor(volume, affine=torch.eye(4), meta={"filename_or_obj": "a.nii", "srow_x": 1})
    piece = cut(image, (slice(1, 4), slice(2, 6), slice(0, 8)))
    assert piece.dtype == torch.int16
    assert piece.shape == (2, 3, 4, 8)
    assert piece.meta["filename_or_obj"] == "a.nii"
    assert "srow_x" not in piece.meta
    assert not piece.applied_operations
    piece += 1
    assert torch.equal(image.as_tensor(), torch.arange(2 * 6 * 7 * 8, dtype=torch.int16).reshape(2, 6, 7, 8))


def test_labels_that_do_not_fit_their_window_are_a_programming_error() -> None:
    region = Region("left", (2, 2, 2), (2, 2, 2))
    with pytest.raises(ValueError, match="window of"):
        paste([Part(region, (slice(1, 4),) * 3, np.zeros((2, 2, 2), np.uint8))], (5, 5, 5), np.eye(4))


def test_extent_follows_the_array_axes_of_an_oblique_image() -> None:
    turn = Rotation.from_euler("xyz", [0.3, -0.2, 0.5]).as_matrix() @ np.diag([0.5, 2.0, 1.0])
    assert extent((10, 20, 30), from_matvec(turn, [1, 2, 3])) == pytest.approx((5.0, 40.0, 30.0))


def test_a_window_grows_only_at_the_faces_its_label_touches_and_within_the_image() -> None:
    affine = from_matvec(np.diag([-2.0, 1.0, 0.5]), [0, 0, 0])
    window = (slice(3, 9), slice(4, 10), slice(10, 20))
    label = np.zeros((6, 6, 10), np.uint8)
    assert grown(window, label, 4.0, affine, (20, 20, 20)) == window
    label[0, 3, 3] = label[2, 5, 9] = 1
    assert grown(window, label, 4.0, affine, (20, 13, 26)) == (slice(1, 9), slice(4, 13), slice(10, 26))
    assert grown(window, label, 4.0, affine, (20, 30, 40)) == (slice(1, 9), slice(4, 14), slice(10, 28))
