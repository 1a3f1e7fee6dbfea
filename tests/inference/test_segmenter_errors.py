"""What the chain refuses reaches the caller of `Segmenter` as one clear error, not as MONAI's wrapping of it."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from custom_components.errors import InputError
from custom_components.inference import Segmenter
from custom_components.networks import U2Net
from tests.inference.oracles import domain_of


def segmenter(**changes) -> Segmenter:
    domain = domain_of(channels=["one"], **changes)
    return Segmenter(domain, U2Net({"phantom": domain.network}, channels=(2, 2)), "cpu")


def image(values: torch.Tensor, spacing: float = 1.0) -> MetaTensor:
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    return MetaTensor(values, affine=affine, meta={"filename_or_obj": "head.nii"})


def test_no_positive_voxel_where_the_rule_needs_them():
    rule = {"floor": None, "percentiles": None, "statistics": "positive"}
    with pytest.raises(InputError):
        segmenter(intensity=rule).segment(image(-1 - torch.rand(1, 16, 16, 16)))


def test_a_constant_image():
    with pytest.raises(InputError, match="constant"):
        segmenter().segment(image(torch.full((1, 16, 16, 16), 3.0)))


def test_a_voxel_size_that_would_fill_the_memory():
    with pytest.raises(InputError, match=r"head\.nii.*voxels.*voxel size"):
        segmenter().segment(image(torch.rand(1, 30, 40, 32), spacing=90.0))
