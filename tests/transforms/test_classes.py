from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscrete

from custom_components.transforms import LargestClass, LargestClassd


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_equals_monais_argmax(classes: int) -> None:
    scores = torch.randn(classes, 5, 6, 7, generator=torch.Generator().manual_seed(classes))
    got = LargestClass()(scores)
    assert got.dtype == torch.uint8
    assert torch.equal(got.float(), AsDiscrete(argmax=True)(scores).float())


def test_of_equal_scores_the_lowest_index_wins() -> None:
    assert not LargestClass()(torch.ones(4, 2, 2, 2)).any()


def test_keeps_geometry() -> None:
    scores = MetaTensor(torch.randn(3, 4, 4, 4), affine=np.diag([1.0, 2, 3, 1]))
    got = LargestClassd("pred")({"pred": scores})["pred"]
    assert torch.equal(got.affine, scores.affine)


def test_refuses_more_classes_than_uint8_numbers() -> None:
    with pytest.raises(ValueError, match="256"):
        LargestClass()(torch.zeros(257, 1, 1, 1))
