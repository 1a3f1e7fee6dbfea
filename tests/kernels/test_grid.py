"""Resampling axis by axis gives what SciPy gives voxel by voxel, and ITK inside."""

from __future__ import annotations

import itk
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from custom_components.kernels.grid import resample_grid, resample_grid_reference


def scipy_grid(volume: torch.Tensor, origin, step, size, order: int) -> np.ndarray:
    at = np.meshgrid(*(o + s * np.arange(n) for o, s, n in zip(origin, step, size, strict=True)), indexing="ij")
    return np.stack([ndimage.map_coordinates(c.double().numpy(), at, order=order, mode="nearest") for c in volume])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


axis = st.tuples(st.integers(1, 20), st.floats(-0.7, 0.7), st.floats(0.3, 2.5), st.booleans())


@settings(deadline=None, max_examples=60)
@given(axes=st.tuples(axis, axis, axis), order=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_equal_to_scipy(axes, order, seed):
    shape = [n for n, *_ in axes]
    size = [max(1, round((n - 1) / s) + 1) for n, _, s, _ in axes]
    step = [-s if reverse else s for _, _, s, reverse in axes]
    origin = [(n - 1 if reverse else 0) + o for n, o, _, reverse in axes]
    volume = noise(2, *shape, seed=seed)
    expected = scipy_grid(volume, origin, step, size, order)
    for function in (resample_grid, resample_grid_reference):
        found = function(volume, origin, step, size, order)
        assert found.dtype == torch.float32
        assert np.abs(found.numpy() - expected).max() < 2e-5


def test_the_environment_forces_the_reference(monkeypatch):
    volume, where = noise(1, 12, 9, 10), ((0.2, 0, 0.1), (0.9, 1.4, 1.1), (12, 6, 8), 3)
    fast = resample_grid(volume, *where)
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    reference = resample_grid(volume, *where)
    assert torch.equal(reference, resample_grid_reference(volume, *where))
    assert torch.allclose(fast, reference, atol=1e-5)


@pytest.mark.parametrize("kernels", ["", "reference"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64, torch.bool])
def test_nearest_keeps_the_type_and_reads_the_nearest(kind, kernels, monkeypatch):
    monkeypatch.setenv("U2NET_KERNELS", kernels)
    volume = (noise(1, 7, 8, 9) * 3).abs().to(kind)
    origin, step, size = (0.1, -0.3, 8.2), (0.7, 1.3, -0.9), (9, 6, 9)
    found = resample_grid(volume, origin, step, size, 0)
    assert found.dtype == kind and found.is_contiguous()
    at = [np.rint(np.clip(o + s * np.arange(n), 0, m - 1)).astype(int) for o, s, n, m in zip(origin, step, size, (7, 8, 9))]  # noqa: B905
    assert np.array_equal(found[0].numpy(), volume[0].numpy()[np.ix_(*at)])


def test_of_two_voxels_as_near_the_upper_one_is_read():
    volume = torch.arange(4.0).reshape(1, 4, 1, 1)
    assert resample_grid(volume, (0.5, 0, 0), (1, 1, 1), (3, 1, 1), 0).flatten().tolist() == [1, 2, 3]


def test_whole_numbers_read_the_voxels_themselves():
    volume = noise(1, 6, 7, 8)
    found = resample_grid(volume, (1e-12, 0, 0), (1, 1 + 1e-13, 1), (6, 7, 8), 3)
    assert torch.allclose(found, volume, atol=1e-5)
    assert torch.equal(resample_grid(volume, (0, 0, 0), (1, 1, 1), (6, 7, 8), 0), volume)


def test_equal_to_itk_inside():
    """ITK mirrors at the faces, where ours goes on as it is: after 12 voxels both have forgotten it."""
    volume = noise(1, 40, 44, 48)
    step, size = (1.3, 0.8, 1.1), (30, 54, 43)
    image = itk.image_from_array(volume[0].numpy())
    spline = itk.BSplineInterpolateImageFunction.New(image, SplineOrder=3)
    resampled = itk.resample_image_filter(
        image, interpolator=spline, size=size[::-1], output_spacing=step[::-1], output_origin=[0.0] * 3
    )
    expected, found = itk.array_from_image(resampled), resample_grid(volume, (0, 0, 0), step, size, 3)[0].numpy()
    inside = tuple(slice(int(12 / s) + 1, int((n - 13) / s)) for s, n in zip(step, volume.shape[1:], strict=True))
    assert np.abs(expected[inside] - found[inside]).max() < 1e-3 * float(np.ptp(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 0, 0), (1, 1, 1), (4, 4, 4), 2), "order"),
        (((0, 0, 0), (1, 1, 1), (4, 0, 4), 3), "empty"),
        (((0, float("nan"), 0), (1, 1, 1), (4, 4, 4), 3), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resample_grid(noise(1, 4, 4, 4), *arguments)
