"""`CropNonzerod` is MONAI's ``CropForegroundd`` with ``x != 0``: the same box, affine and inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import CropForegroundd

from custom_components.errors import InputError
from custom_components.transforms import CropNonzerod
from custom_components.transforms.crop import nonzero_box


def phantom(shape, points, channels: int = 2) -> MetaTensor:
    image = torch.zeros(channels, *shape)
    for point in points:
        image[0, *(p % n for p, n in zip(point, shape, strict=True))] = -1000.0
    image[1:] = 5.0
    affine = torch.tensor([[0, 2.0, 0, 4], [1.5, 0, 0, -3], [0, 0, -3, 7], [0, 0, 0, 1]], dtype=torch.float64)
    return MetaTensor(image, affine=affine)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    points=st.lists(st.tuples(*[st.integers(0, 11)] * 3), min_size=1, max_size=4),
    margin=st.one_of(st.integers(0, 4), st.lists(st.integers(0, 4), min_size=3, max_size=3)),
)
def test_equal_to_monai(shape, points, margin):
    item = {"image": phantom(shape, points), "label": phantom(shape, points, 1)}
    ours = CropNonzerod(["image", "label"], "image", margin)
    theirs = CropForegroundd(
        ["image", "label"], "image", select_fn=lambda x: x != 0, channel_indices=0, margin=margin, allow_smaller=True
    )
    found, expected = ours(item), theirs(item)
    inverted = ours.inverse(dict(found))
    for key in item:
        assert torch.equal(found[key].as_tensor(), expected[key].as_tensor())
        assert torch.equal(found[key].affine, expected[key].affine)
        back = inverted[key]
        assert back.shape == item[key].shape
        assert torch.allclose(back.affine, item[key].affine)


def test_the_box_of_a_volume_seen_from_another_side():
    image = torch.zeros(9, 8, 7)
    image[2:4, 3:8, 0:5] = -1.0
    assert nonzero_box(image.permute(2, 0, 1)) == ([0, 2, 3], [5, 4, 8])
    assert nonzero_box(torch.zeros(3, 3, 3)) is None


def test_an_empty_image_is_refused_by_name():
    empty = MetaTensor(torch.zeros(1, 4, 4, 4), affine=np.eye(4), meta={"filename_or_obj": "case_7.nii.gz"})
    with pytest.raises(InputError, match=r"case_7\.nii\.gz"):
        CropNonzerod("image", "image")({"image": empty})
