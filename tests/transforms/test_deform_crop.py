"""A patch is what SciPy reads at the same coordinates, and comes from where the domain's sampling says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import ClassesToIndicesd
from scipy import ndimage

from custom_components.kernels.coordinates import coordinates
from custom_components.transforms import (
    Deformation,
    Elastic,
    Flip,
    RandDeformCropd,
    RandElastic,
    RandFlip,
    RandRotate,
    RandScale,
    Rotate,
    Scale,
)
from custom_components.transforms.deform_crop import Patch, read_patch

SHAPE = (18, 25, 21)


def volume(seed: int = 0, channels: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(channels, *SHAPE)).astype(np.float32))


def scipy_patch(array: np.ndarray, patch: Patch, order: int, mode: str = "constant") -> np.ndarray:
    """The whole volume read at the patch's coordinates."""
    at = coordinates(patch.field(), patch.size or patch.window)[0]
    return ndimage.map_coordinates(array.astype(np.float64), at, order=order, mode=mode)


def test_coordinates_are_the_deformation_about_the_window() -> None:
    """Written out: start + window / 2 + D(j − window / 2), j the voxel of the window that the output voxel lies at."""
    start, window, size = (3, -2, 5), (10, 16, 8), (20, 16, 4)
    deformation = Deformation((Rotate((0.4, 0.1, -0.3)), Scale((0.8,)), Flip((2,))))
    at = coordinates(Patch(start, window, deformation, size).field(), size)[0]
    matrix = deformation.affine(window)
    index = np.indices(size).reshape(3, -1)
    ratio = np.array(window) / np.array(size)
    within = (index + 0.5) * ratio[:, None] - 0.5
    expected = matrix[:3, :3] @ within + matrix[:3, 3:] + np.array(start)[:, None]
    np.testing.assert_allclose(at.reshape(3, -1), expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(-12, 20)] * 3), st.tuples(*[st.integers(1, 24)] * 3), st.sampled_from([1, 3]))
def test_undeformed_patch_is_the_volume_with_zeros_around(
    start: tuple[int, int, int], size: tuple[int, int, int], order: int
) -> None:
    array = volume().numpy()[0]
    padded = np.pad(array, 40)
    expected = padded[tuple(slice(s + 40, s + 40 + p) for s, p in zip(start, size, strict=True))]
    np.testing.assert_allclose(read_patch([volume()], Patch(start, size), [order])[0][0].numpy(), expected, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.floats(0.7, 1.4),
    st.tuples(*[st.integers(-6, 12)] * 3),
    st.sampled_from([(1.0, 1.0, 1.0), (3.6, 0.6, 0.8)]),
    st.sampled_from([1, 3]),
    st.sampled_from([None, (9, 20, 13)]),
    st.booleans(),
)
def test_deformed_patch_equals_scipy(
    angles: tuple[float, float, float],
    scale: float,
    start: tuple[int, int, int],
    spacing: tuple[float, float, float],
    order: int,
    size: tuple[int, int, int] | None,
    elastic: bool,
) -> None:
    bend = (Elastic((4.0,), 60.0, 1),) if elastic else ()
    patch = Patch(start, (12, 16, 10), Deformation((*bend, Rotate(angles, spacing), Scale((scale,)))), size)
    image = volume(channels=2)
    result = read_patch([image], patch, [order])[0].numpy()
    for channel in range(2):
        error = np.abs(result[channel] - scipy_patch(image.numpy()[channel], patch, order))
        assert (error < 2e-3).mean() > 0.998  # the rest lies within rounding of the volume's faces


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "wrap"])
def test_modes_continue_the_volume_not_the_box_that_is_read(mode: str) -> None:
    patch = Patch((-5, 10, -3), (14, 22, 12), Deformation((Rotate((0.3, 0.2, 0.1)),)))
    for order in (1, 3):
        result = read_patch([volume()], patch, [order], mode)[0][0].numpy()
        error = np.abs(result - scipy_patch(volume().numpy()[0], patch, order, mode))
        assert (error < 1e-3).mean() > 0.998


def test_other_types_are_converted_in_the_box_only() -> None:
    patch = Patch((4, 6, 5), (8, 8, 8), Deformation((Rotate((0.3, 0.2, 0.1)),)))
    source = (volume() * 50).to(torch.int16)
    found = read_patch([source], patch, [1])[0]
    torch.testing.assert_close(found, read_patch([source.float()], patch, [1])[0], atol=1e-3, rtol=0)


def test_labels_stay_labels_and_lie_under_their_image() -> None:
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 5:12, 6:18, 4:15] = 2
    patch = Patch((1, 3, 2), (16, 18, 16), Deformation((Rotate((0.4, 0.2, -0.3)), Scale((0.9,)))))
    image, turned = read_patch([label.float() / 2, label], patch, [1, 0])
    assert turned.dtype == torch.uint8
    assert set(turned.unique().tolist()) == {0, 2}
    assert ((image > 0.5) == (turned == 2)).float().mean() > 0.99


def test_a_turned_patch_has_no_empty_corners_within_the_volume() -> None:
    ones = torch.ones(1, 40, 40, 40)
    patch = Patch((12, 12, 12), (16, 16, 16), Deformation((Rotate((0.5, 0.5, 0.5)),)))
    assert read_patch([ones], patch, [1])[0].min() > 0.999


def test_the_affine_of_a_patch_points_at_what_it_shows() -> None:
    affine = torch.tensor([[2.0, 0, 0, 7], [0, 3, 0, -2], [0, 0, 1, 4], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(volume(), affine=affine)
    result = read_patch([image], Patch((3, 4, 5), (6, 6, 6)), [1])[0]
    torch.testing.assert_close(result.affine[:3, 3], affine[:3, :3] @ torch.tensor([3.0, 4, 5]).double() + affine[:3, 3])
    turned = read_patch([image], Patch((3, 4, 5), (6, 6, 6), Deformation((Flip((0,)),))), [1])[0]
    torch.testing.assert_close(turned.affine[:3, 3], affine[:3, :3] @ torch.tensor([8.0, 4, 5]).double() + affine[:3, 3])


def cube_case(shape: tuple[int, int, int] = (40, 44, 36)) -> dict[str, torch.Tensor]:
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[0, 8:20, 8:20, 8:20] = 1
    label[0, 28:30, 30:32, 24:26] = 2
    item = {"image": torch.rand(1, *shape), "label": label}
    return ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3)(item)


def centres(transform: RandDeformCropd, number: int = 300) -> np.ndarray:
    item = cube_case()
    transform.set_random_state(seed=1)
    found = []
    for _ in range(number):
        patch = transform.draw(item["label"].shape[1:], item["label_indices"])
        voxel = tuple(s + p // 2 for s, p in zip(patch.start, patch.window, strict=True))
        found.append(int(item["label"][(0, *voxel)]))
    return np.bincount(found, minlength=3) / number


def rand_patch(**changes: Any) -> RandDeformCropd:
    arguments = {"indices_key": "label_indices", "window": (8, 8, 8), "foreground": 0.0, "smallest_class": 0.0}
    return RandDeformCropd(("image", "label"), **{**arguments, **changes})


def test_patches_are_centred_as_the_sampling_says() -> None:
    np.testing.assert_array_equal(centres(rand_patch(smallest_class=1.0)), [0, 0, 1])
    any_class = centres(rand_patch(foreground=1.0))
    assert any_class[0] == 0
    assert any_class[1] > 0.98  # in proportion to the voxels: 1728 against 8
    mixed = centres(rand_patch(foreground=0.3, smallest_class=0.3), 2000)
    anywhere = 12**3 / (33 * 37 * 29)  # centres are moved until the patch lies inside
    np.testing.assert_allclose(mixed, [0.4 * (1 - anywhere), 0.3 + 0.4 * anywhere, 0.3], atol=0.05)


def test_a_case_without_foreground_is_sampled_anywhere() -> None:
    item = {"image": torch.rand(1, 12, 12, 12), "label": torch.zeros(1, 12, 12, 12, dtype=torch.uint8)}
    item = ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3)(item)
    patch = rand_patch(foreground=0.5, smallest_class=0.5)(item)
    assert set(patch) == {"image", "label"}
    assert patch["image"].shape == (1, 8, 8, 8)


def test_a_small_volume_is_wholly_in_the_patch_at_varying_places() -> None:
    transform = rand_patch(window=(48, 48, 48), foreground=0.5)
    item = cube_case()
    places = set()
    for seed in range(8):
        transform.set_random_state(seed=seed)
        patch = transform(item)
        assert patch["label"].sum() == item["label"].sum()
        places.add(tuple(torch.nonzero(patch["label"][0])[0].tolist()))
    assert len(places) > 1


def test_the_same_seed_gives_the_same_patch_and_the_input_stays() -> None:
    operations = [RandElastic(0.5, 4, 30), RandRotate(1, [(-1, 1)] * 3), RandScale(1, (0.8, 1.2)), RandFlip(0.5, [2])]
    transform = rand_patch(foreground=0.5, operations=operations)
    item = cube_case()
    kept = item["image"].clone()
    first = transform.set_random_state(seed=3)(item)
    second = transform.set_random_state(seed=3)(item)
    third = transform(item)
    assert torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], third["image"])
    assert torch.equal(item["image"], kept)
    assert "label_indices" in item


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orders": (1,)}, "orders"),
        ({"window": (8, 0, 8)}, "window"),
        ({"size": (8,)}, "size"),
        ({"foreground": 0.8, "smallest_class": 0.3}, "sum at most 1"),
        ({"foreground": -0.1}, "sum at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rand_patch(**changes)


def test_image_and_label_of_different_shape_are_refused() -> None:
    item = cube_case()
    item["label"] = item["label"][:, :-1]
    with pytest.raises(ValueError, match="equal axes"):
        rand_patch()(item)


def test_a_window_can_be_resized_to_any_patch() -> None:
    patch = rand_patch(window=(8, 8, 8), size=(16, 12, 8))(cube_case())
    assert patch["image"].shape == patch["label"].shape == (1, 16, 12, 8)
