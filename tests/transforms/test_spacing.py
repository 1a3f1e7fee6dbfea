"""`GridSpacingd` is MONAI's ``Spacingd``: the same grid, values and inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from custom_components.transforms import GridResample, GridSpacingd
from tests.kernels.test_grid import noise

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def oblique(spacing, angle: float, flips) -> torch.Tensor:
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array(spacing) * np.where(flips, -1, 1))
    affine[:3, 3] = 11, -7, 30
    return torch.from_numpy(affine)


sizes, spacings = st.integers(2, 18), st.floats(0.4, 3)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(sizes, sizes, sizes),
    spacing=st.tuples(spacings, spacings, spacings),
    target=st.tuples(spacings, spacings, spacings),
    angle=st.floats(-0.7, 0.7),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_grid_values_and_inverse_are_monais(shape, spacing, target, angle, flips):
    image = MetaTensor(noise(1, *shape), affine=oblique(spacing, angle, flips))
    ours, theirs = GridSpacingd("image", target), Spacingd("image", target, mode=3, padding_mode="nearest")
    found, expected = ours({"image": image})["image"], theirs({"image": image.clone()})["image"]
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert torch.allclose(found.affine, expected.affine, atol=1e-9)
    assert torch.allclose(found.as_tensor(), expected.as_tensor(), atol=2e-4)
    back = ours.inverse({"image": found})["image"]
    assert back.shape == image.shape
    assert torch.allclose(back.affine, image.affine, atol=1e-9)


def test_labels_come_back_by_nearest_voxels_of_their_own_type():
    affine = oblique((0.9, 1.7, 3.1), 0.4, (True, False, True))
    chain = Compose([Orientationd("image", axcodes="SAR", labels=LABELS), GridSpacingd("image", (1.5, 1.2, 1.1))])
    item = chain({"image": MetaTensor(noise(1, 21, 17, 12), affine=affine)})
    label = (item["image"].as_tensor() > 0).to(torch.uint8)
    item["pred"] = MetaTensor(label)
    back = Invertd("pred", transform=chain, orig_keys="image", nearest_interp=True, to_tensor=True)(item)["pred"]
    assert back.dtype == torch.uint8 and back.shape == (1, 21, 17, 12)
    assert torch.allclose(back.affine, affine)
    # Where a voxel of the image lies in the network's grid, by the two affines alone.
    index = np.stack(np.meshgrid(*(np.arange(n) for n in back.shape[1:]), indexing="ij"), axis=-1)
    to = np.linalg.solve(item["image"].affine.numpy(), affine.numpy())
    at = index @ to[:3, :3].T + to[:3, 3]
    tied = (np.abs(at - np.floor(at) - 0.5) < 1e-6).any(axis=-1)
    z, y, x = (np.clip(np.rint(at[..., a]).astype(int), 0, label.shape[1 + a] - 1) for a in range(3))
    assert np.array_equal(back[0].numpy()[~tied], label[0].numpy()[z, y, x][~tied])


def test_image_and_label_share_a_grid():
    affine = oblique((1, 2, 3), 0.2, (False, True, False))
    item = {"image": MetaTensor(noise(1, 9, 8, 7), affine=affine), "label": MetaTensor(torch.ones(1, 9, 8, 7), affine=affine)}
    done = GridSpacingd(["image", "label"], (1.1, 1.1, 1.1), mode=[3, "nearest"])(item)
    assert done["image"].shape == done["label"].shape
    assert torch.allclose(done["image"].affine, done["label"].affine)
    assert torch.equal(done["label"].as_tensor(), torch.ones(done["label"].shape))


def test_an_image_of_the_wanted_spacing_stays_as_it_is():
    image = MetaTensor(noise(1, 9, 8, 7), affine=oblique((1, 1, 2), 0.3, (False, False, True)))
    transform = GridSpacingd("image", (1, 1, 2))
    done = transform({"image": image})["image"]
    assert torch.equal(done.as_tensor(), image.as_tensor())
    assert torch.equal(transform.inverse({"image": done})["image"].as_tensor(), image.as_tensor())


def test_a_grid_that_is_turned_goes_to_monai():
    image = MetaTensor(noise(1, 9, 8, 7), affine=torch.eye(4, dtype=torch.float64))
    target = oblique((1, 1, 1), 0.3, (False, False, False))
    settings = {"dst_affine": target, "spatial_size": [9, 8, 7]}
    from monai.transforms import SpatialResample

    found = GridResample(mode="bilinear", padding_mode="border")(image, **settings)
    assert torch.equal(found.as_tensor(), SpatialResample(mode="bilinear", padding_mode="border")(image, **settings).as_tensor())


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode"):
        GridSpacingd("image", (1, 1, 1), mode="bicubic")
