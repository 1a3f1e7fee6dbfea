"""A patch is what SciPy reads at the same coordinates, and comes from where the domain's sampling says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import ClassesToIndicesd
from scipy import ndimage
from scipy.spatial.transform import Rotation

from custom_components.transforms.patches import Patch, RandPatchd, sample_patch

SHAPE = (18, 25, 21)


def volume(seed: int = 0, channels: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(channels, *SHAPE)).astype(np.float32))


def scipy_patch(array: np.ndarray, patch: Patch, order: int, mode: str = "grid-constant") -> np.ndarray:
    """The whole volume read at the coordinates of the definition in `Patch`."""
    size = np.asarray(patch.size)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij")).reshape(3, -1)
    middle = ((size - 1) / 2)[:, None]
    matrix = np.eye(3) if patch.matrix is None else patch.matrix
    at = np.asarray(patch.start)[:, None] + middle + matrix @ (index - middle)
    return ndimage.map_coordinates(array, at, order=order, mode=mode).reshape(patch.size)


def turn(z: float, y: float, x: float, spacing: tuple[float, float, float] = (1, 1, 1), scale: float = 1.0) -> np.ndarray:
    """Rotation by SciPy, whose vectors are x, y, z and whose angles turn the other way in z, y, x arrays."""
    rotation = Rotation.from_euler("z", z) * Rotation.from_euler("y", y) * Rotation.from_euler("x", x)
    swap = np.eye(3)[::-1]
    return scale * np.diag(1 / np.asarray(spacing)) @ swap @ rotation.as_matrix() @ swap @ np.diag(spacing)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(-12, 20)] * 3), st.tuples(*[st.integers(1, 24)] * 3))
def test_unturned_patch_is_the_volume_with_zeros_around(start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    array = volume().numpy()[0]
    # Far outside there is nothing to cut: MONAI and we never draw such a patch.
    start = tuple(min(max(s, 1 - p), n - 1) for s, p, n in zip(start, size, SHAPE, strict=True))
    padded = np.pad(array, 30)
    expected = padded[tuple(slice(s + 30, s + 30 + p) for s, p in zip(start, size, strict=True))]
    np.testing.assert_array_equal(sample_patch(volume(), Patch(start, size), 1)[0].numpy(), expected)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.floats(0.7, 1.4),
    st.tuples(*[st.integers(-6, 12)] * 3),
    st.sampled_from([(1.0, 1.0, 1.0), (3.6, 0.6, 0.8)]),
)
def test_turned_linear_patch_equals_scipy(
    angles: tuple[float, float, float], scale: float, start: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    patch = Patch(start, (12, 16, 10), turn(*angles, spacing=spacing, scale=scale))
    image = volume(channels=2)
    result = sample_patch(image, patch, 1).numpy()
    for channel in range(2):
        np.testing.assert_allclose(result[channel], scipy_patch(image.numpy()[channel], patch, 1), atol=2e-4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8)])
def test_turned_cubic_patch_equals_scipy_inside(spacing: tuple[float, float, float]) -> None:
    smooth = ndimage.gaussian_filter(volume().numpy()[0], 1.5)
    patch = Patch((5, 6, 6), (8, 10, 8), turn(0.3, -0.2, 0.4, spacing))
    result = sample_patch(torch.from_numpy(smooth)[None], patch, 3).numpy()[0]
    np.testing.assert_allclose(result, scipy_patch(smooth, patch, 3, "constant"), atol=1e-4)


def test_labels_stay_labels_and_lie_under_their_image() -> None:
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 5:12, 6:18, 4:15] = 2
    patch = Patch((1, 3, 2), (16, 18, 16), turn(0.4, 0.2, -0.3, scale=0.9))
    turned = sample_patch(label, patch, 0)
    image = sample_patch(label.float() / 2, patch, 1)
    assert turned.dtype == torch.uint8
    assert set(turned.unique().tolist()) == {0, 2}
    assert ((image > 0.5) == (turned == 2)).float().mean() > 0.99


def test_a_turned_patch_has_no_empty_corners_within_the_volume() -> None:
    ones = torch.ones(1, 40, 40, 40)
    assert sample_patch(ones, Patch((12, 12, 12), (16, 16, 16), turn(0.5, 0.5, 0.5)), 1).min() > 0.999


def cube_case(shape: tuple[int, int, int] = (40, 44, 36)) -> dict[str, torch.Tensor]:
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[0, 8:20, 8:20, 8:20] = 1
    label[0, 28:30, 30:32, 24:26] = 2
    item = {"image": torch.rand(1, *shape), "label": label}
    return ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3)(item)


def centres(transform: RandPatchd, number: int = 300) -> np.ndarray:
    item = cube_case()
    transform.set_random_state(seed=1)
    found = []
    for _ in range(number):
        patch = transform.draw(item["label"].shape[1:], item["label_indices"])
        voxel = tuple(s + p // 2 for s, p in zip(patch.start, patch.size, strict=True))
        found.append(int(item["label"][(0, *voxel)]))
    return np.bincount(found, minlength=3) / number


def rand_patch(**changes: object) -> RandPatchd:
    arguments = {"indices_key": "label_indices", "size": (8, 8, 8), "foreground": 0.0, "smallest_class": 0.0}
    return RandPatchd(("image", "label"), **{**arguments, **changes})


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
    transform = rand_patch(size=(48, 48, 48), foreground=0.5)
    item = cube_case()
    places = set()
    for seed in range(8):
        transform.set_random_state(seed=seed)
        patch = transform(item)
        assert patch["label"].sum() == item["label"].sum()
        places.add(tuple(torch.nonzero(patch["label"][0])[0].tolist()))
    assert len(places) > 1


def test_the_same_seed_gives_the_same_patch_and_the_input_stays() -> None:
    turned = {"rotation_probability": 1.0, "angles": [(-1, 1)] * 3, "scale_probability": 1.0, "scale": (0.8, 1.2)}
    transform = rand_patch(foreground=0.5, **turned)
    item = cube_case()
    kept = item["image"].clone()
    first = transform.set_random_state(seed=3)(item)
    second = transform.set_random_state(seed=3)(item)
    third = transform(item)
    assert torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], third["image"])
    assert torch.equal(item["image"], kept)
    assert "label_indices" in item


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_is_about_the_named_axis(axis: int) -> None:
    angles = [(0.0, 0.0)] * 3
    angles[axis] = (np.pi / 2, np.pi / 2)
    cube = torch.rand(1, 16, 16, 16)
    item = {"image": cube, "label": cube, "label_indices": [np.arange(3)]}
    result = rand_patch(size=(16, 16, 16), rotation_probability=1.0, angles=angles)(item)["image"]
    plane = [a + 1 for a in range(3) if a != axis]
    assert any(torch.allclose(result, torch.rot90(cube, k, plane), atol=1e-4) for k in (1, 3))


def test_orders_must_match_keys() -> None:
    with pytest.raises(ValueError, match="orders"):
        rand_patch(orders=(1,))


def test_drawn_rotations_keep_lengths_in_millimetres_though_voxels_are_not_cubes() -> None:
    spacing = np.array([3.6, 0.6, 0.8])
    transform = RandPatchd(["image"], "indices", (8, 16, 16), 0.0, 0.0, 1.0, [(-1, 1)] * 3, spacing=spacing.tolist(), orders=[1])
    transform.set_random_state(0)
    for _ in range(5):
        matrix = transform.draw(SHAPE, [np.arange(3)] * 2).matrix
        assert matrix is not None
        rigid = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
        np.testing.assert_allclose(rigid @ rigid.T, np.eye(3), atol=1e-9)
        assert not np.allclose(matrix, rigid)
