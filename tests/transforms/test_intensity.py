from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from custom_components.errors import InputError
from custom_components.transforms import ClipAndStandardize, ClipAndStandardized

CHOOSE = {"positive": lambda v: v > 0, "nonzero": lambda v: v != 0, "all": lambda v: np.ones_like(v, dtype=bool)}


def reference(volume: np.ndarray, floor: float | None, percentiles: tuple[float, float] | None, statistics: str) -> np.ndarray:
    """The rule written straight down, in float64."""
    values = volume.astype(np.float64)
    if floor is not None:
        values = np.where(values < floor, floor, values)
    if percentiles is not None:
        values = np.clip(values, *np.percentile(values, percentiles))
    chosen = values[CHOOSE[statistics](values)]
    return (values - chosen.mean()) / chosen.std()


@given(
    seed=st.integers(0, 99),
    floor=st.sampled_from([None, -1024.0, -50.0]),
    percentiles=st.sampled_from([None, (2.0, 98.0), (0.5, 99.5)]),
    statistics=st.sampled_from(sorted(CHOOSE)),
)
def test_equals_numpy_per_channel(
    seed: int, floor: float | None, percentiles: tuple[float, float] | None, statistics: str
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal([[[[30.0]]], [[[900.0]]]], [[[[300.0]]], [[[40.0]]]], (2, 9, 10, 11)).astype(np.float32)
    image[:, :2] = 0
    got = ClipAndStandardize(floor, percentiles, statistics)(torch.from_numpy(image))
    for channel, raw in zip(got.numpy(), image, strict=True):
        np.testing.assert_allclose(channel, reference(raw, floor, percentiles, statistics), atol=2e-5)


def test_keeps_geometry_and_the_input() -> None:
    image = MetaTensor(torch.rand(1, 5, 6, 7) + 1, affine=np.diag([1.0, 2, 3, 1]), meta={"filename_or_obj": "case.nii.gz"})
    before = image.as_tensor().clone()
    got = ClipAndStandardized("image", None, (2, 98), "positive")({"image": image})["image"]
    assert torch.equal(image.as_tensor(), before)
    assert isinstance(got, MetaTensor)
    assert torch.equal(got.affine, image.affine)
    assert got.meta["filename_or_obj"] == "case.nii.gz"
    assert got.dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "statistics", "message"),
    [
        (torch.full((1, 4, 4, 4), 7.0), "all", "all intensities .* are equal"),
        (-torch.rand(1, 4, 4, 4), "positive", "no positive voxel"),
        (torch.zeros(1, 4, 4, 4), "nonzero", "no nonzero voxel"),
        (torch.stack([torch.rand(4, 4, 4), torch.ones(4, 4, 4)]), "all", "channel 2: all intensities"),
    ],
)
def test_refuses_an_image_without_contrast(image: torch.Tensor, statistics: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipAndStandardize(None, (2, 98), statistics)(image)


@pytest.mark.parametrize("arguments", [(None, (2, 98), "some"), (None, (98, 2), "all"), (None, (2,), "all")])
def test_refuses_a_wrong_rule(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"statistics|percentiles"):
        ClipAndStandardize(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_in_its_own_memory_the_result_is_the_same(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.normal(100, 30, (2, 5, 6, 7))).to(dtype)
    transform = ClipAndStandardize(-50, (2, 98), "positive")
    expected = transform(values)
    given = values.clone()
    result = transform.overwrite(given)
    assert torch.equal(result, expected)
    assert (result.data_ptr() == given.data_ptr()) == (dtype == torch.float32)
    crooked = values.clone().transpose(1, 3)  # not contiguous: left alone
    assert torch.equal(transform.overwrite(crooked), transform(values.transpose(1, 3)))
    assert torch.equal(crooked, values.transpose(1, 3))
