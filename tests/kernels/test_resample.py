"""One pass over the voxels reads what SciPy reads at the stored coordinates, in every mode and order."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.coordinates import CoordinateField, coordinates
from custom_components.kernels.resample import resample, resample_reference
from custom_components.kernels.spline import spline_coefficients, spline_padding


def volumes(shape: tuple[int, ...], batch: int = 1, channels: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(batch, channels, *shape)), (0, 0, 0.5, 0.5, 0.5))
    label = rng.integers(0, 4, (batch, 1, *shape), dtype=np.uint8)
    return torch.from_numpy(image.astype(np.float32)), torch.from_numpy(label)


def random_field(
    size: tuple[int, ...], batch: int = 1, elastic: bool = True, seed: int = 0, shift: float = 3.0
) -> CoordinateField:
    rng = np.random.default_rng(seed)
    matrix = np.concatenate([np.eye(3) + 0.2 * rng.normal(size=(batch, 3, 3)), shift * rng.normal(size=(batch, 3, 1))], axis=2)
    if not elastic:
        return CoordinateField(matrix)
    origin, step = rng.uniform(0, 1, (batch, 3)), rng.uniform(3, 7, (batch, 3))
    points = np.floor(origin + (np.array(size) - 1) / step).max(axis=0).astype(int) + 4
    return CoordinateField(matrix, (1.5 * rng.normal(size=(batch, 3, *points))).astype(np.float32), origin, step)


def away_from_ties(field: CoordinateField, size: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Voxels whose nearest neighbour, and whose being inside, float32 cannot mistake."""
    at = coordinates(field, size)
    last = np.reshape(shape, (1, 3, 1, 1, 1)) - 1
    to_half = np.abs(at - np.floor(at) - 0.5)
    to_seam = np.minimum(np.abs(at), np.abs(np.remainder(at + 0.5, np.maximum(last, 1)) - 0.5))
    return ((to_half > 1e-4) & (to_seam > 1e-4) | (last == 0)).all(axis=1, keepdims=True)


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(17, 12, 21), (1, 24, 19), (6, 1, 9), (5, 7, 1), (40, 3, 4)])
def test_equal_to_scipy(shape: tuple[int, int, int], order: int, mode: str) -> None:
    image, label = volumes(shape, batch=2, channels=2)
    size = (13, 18, 37)
    field = random_field(size, batch=2)
    if 1 in shape:  # SciPy has no spline along one voxel, and reads nothing beside it in mode constant
        field.matrix[:, shape.index(1)] = 0
        field.lattice[:, shape.index(1)] = 0
    values = {"order": order, "mode": mode, "image_value": 1.5, "label_value": 7}
    result, labels = resample(image, label, field, size, **values)
    expected, expected_labels = resample_reference(image, label, field, size, **values)
    error = (result - expected).abs().numpy()
    sure = away_from_ties(field, size, shape)
    assert np.quantile(error, 0.9999) < 1e-4 * float(np.ptp(image))
    assert error[np.broadcast_to(sure, error.shape)].max() < 1e-3 * float(np.ptp(image))
    assert np.array_equal(labels.numpy()[sure], expected_labels.numpy()[sure])
    assert labels.dtype == torch.uint8


@given(st.integers(0, 2**31), st.sampled_from(BOUNDARY_MODES), st.tuples(*[st.integers(1, 20)] * 3), st.booleans())
def test_any_shape_and_field(seed: int, mode: str, size: tuple[int, int, int], elastic: bool) -> None:
    image, label = volumes((9, 14, 11), seed=seed)
    field = random_field(size, elastic=elastic, seed=seed, shift=8.0)
    result, labels = resample(image, label, field, size, mode=mode, image_value=-3.0, label_value=9)
    expected, expected_labels = resample_reference(image, label, field, size, mode=mode, image_value=-3.0, label_value=9)
    sure = away_from_ties(field, size, (9, 14, 11))
    np.testing.assert_allclose(result.numpy()[sure], expected.numpy()[sure], atol=2e-4)
    np.testing.assert_array_equal(labels.numpy()[sure], expected_labels.numpy()[sure])


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
def test_spline_coefficients_are_scipys(mode: str) -> None:
    volume = volumes((15, 20, 13))[0][0, 0]
    found = spline_coefficients(volume, mode).numpy()
    pad = spline_padding(volume.shape, mode)
    inner = found[tuple(slice(p, n - p) for p, n in zip(pad, found.shape, strict=True))]
    if mode == "nearest":  # SciPy pads, then filters
        padded = np.pad(volume.double().numpy(), 20, mode="edge")
        expected = ndimage.spline_filter(padded, 3)[20:-20, 20:-20, 20:-20]
    else:
        expected = ndimage.spline_filter(volume.double().numpy(), 3, mode="reflect" if mode == "reflect" else "mirror")
    np.testing.assert_allclose(inner, expected, atol=3e-6 * float(np.ptp(expected)))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_spline_coefficients_of_short_axes_are_exact(n: int) -> None:
    """SciPy's start values are approximate there: 8e-5 for two voxels in mode reflect."""
    values = np.random.default_rng(0).normal(size=n)
    matrix = np.zeros((n, n))
    for i in range(n):
        for k, weight in ((i - 1, 1 / 6), (i, 4 / 6), (i + 1, 1 / 6)):
            matrix[i, max(0, min(k, n - 1))] += weight  # reflect: beyond the face stands its neighbour
    volume = torch.tensor(values, dtype=torch.float32)
    for shape in ((n, 1, 1), (1, n, 1), (1, 1, n)):
        found = spline_coefficients(volume.reshape(shape), "reflect").numpy()
        pad = spline_padding(shape, "reflect")
        inner = found[tuple(slice(p, size - p) for p, size in zip(pad, found.shape, strict=True))]
        np.testing.assert_allclose(inner.ravel(), np.linalg.solve(matrix, values), atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    label = volumes((9, 10, 11))[1]
    label = (label > 1) if dtype == torch.bool else (label.to(dtype) - (2 if dtype.is_signed else 0))
    field = random_field((8, 9, 10))
    result = resample(None, label, field, (8, 9, 10))[1]
    expected = resample_reference(None, label.long(), field, (8, 9, 10))[1]
    assert result.dtype == dtype
    assert torch.equal(result.long(), expected)


def test_flips_and_shifts_by_whole_voxels_are_copies() -> None:
    image, label = volumes((7, 8, 9))
    matrix = np.array([[[-1.0, 0, 0, 6], [0, 1, 0, -3], [0, 0, -1, 10]]])
    field = CoordinateField(matrix)
    for order in (1, 3):
        result, labels = resample(image, label, field, (7, 8, 9), order=order, image_value=2.5, label_value=5)
        expected = torch.full_like(image, 2.5)
        expected[:, :, :, 3:, 2:] = image.flip(2, 4)[:, :, :, :-3, :7]
        assert torch.equal(result, expected)
        assert torch.equal(labels, resample_reference(None, label, field, (7, 8, 9), label_value=5)[1])


def test_samples_of_a_batch_have_their_own_coordinates() -> None:
    image, label = volumes((10, 11, 12), batch=3)
    size = (9, 9, 20)
    single = [random_field(size, seed=1), CoordinateField(np.eye(3, 4)[None] * 0.9), random_field(size, seed=3)]
    joint = resample(image, label, CoordinateField.stack(single), size)
    for b, field in enumerate(single):
        alone = resample(image[b : b + 1], label[b : b + 1], field, size)
        assert torch.equal(joint[0][b], alone[0][0])
        assert torch.equal(joint[1][b], alone[1][0])


def test_memory_layout_and_threads_change_nothing() -> None:
    image, label = volumes((12, 13, 14), channels=2)
    field, size = random_field((11, 12, 33)), (11, 12, 33)
    expected = resample(image, label, field, size, order=3)
    strided = image.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    assert not strided.is_contiguous()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found = resample(strided, label, field, size, order=3)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_coordinates_that_are_no_numbers_are_outside() -> None:
    for mode, shape in product(BOUNDARY_MODES, [(6, 6, 6), (1, 6, 6), (6, 6, 1)]):
        image, label = volumes(shape)
        field = random_field((6, 6, 6))
        field.lattice[:] = np.nan
        result, labels = resample(image, label, field, (6, 6, 6), mode=mode, image_value=4.0, label_value=3)
        assert (result == 4).all()
        assert (labels == 3).all()


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
def test_huge_coordinates_read_within_the_volume(mode: str) -> None:
    image = volumes((6, 7, 8))[0].abs() + 1
    for order in (1, 3):
        for scale in (1e10, 1e17, 1e30, -1e30):
            field = CoordinateField(np.eye(3, 4)[None] * scale + 0.25)
            result = resample(image, None, field, (5, 5, 37), order=order, mode=mode)[0]
            assert torch.isfinite(result).all()
            assert result.abs().max() <= 2 * image.max()
            assert result.abs().min() > 0.2 or mode == "constant" or abs(scale) > 1e20  # there float32 overflows: outside


@pytest.mark.parametrize(("order", "elastic"), [(1, False), (1, True), (3, True)])
def test_extra_memory_stays_below_two_outputs(order: int, elastic: bool) -> None:
    size = (24, 120, 120)
    image, label = volumes(size)
    field = random_field(size, elastic=elastic)
    resample(image, label, field, size, order=order)  # compilations allocate too
    tracemalloc.start()
    outputs = resample(image, label, field, size, order=order)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one_output = sum(o.numel() * o.element_size() for o in outputs)
    assert peak - one_output < 2 * one_output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": torch.zeros(1, 1, 4, 4, 4).double()}, "float32"),
        ({"label": torch.zeros(1, 1, 4, 4, 4)}, "integers"),
        ({"label": torch.zeros(1, 1, 4, 4, 5, dtype=torch.uint8)}, "differ in shape"),
        ({"image": torch.zeros(1, 1, 4, 0, 4), "label": None}, "empty axes"),
        ({"image": torch.zeros(2, 1, 4, 4, 4), "label": None}, "2 samples"),
        ({"image": None, "label": None}, "give an image"),
        ({"order": 2}, "order"),
        ({"mode": "edge"}, "'edge' is none of constant"),
        ({"size": (4, 0, 4)}, "size"),
        ({"size": (90, 4, 4)}, "does not cover"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, words: str) -> None:
    image, label = volumes((4, 4, 4))
    arguments = {"image": image, "label": label, "field": random_field((4, 4, 4)), "size": (4, 4, 4), **changes}
    with pytest.raises(ValueError, match=words):
        resample(**arguments)


def test_a_field_of_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        CoordinateField(np.eye(4))
    with pytest.raises(ValueError, match="matrix"):
        CoordinateField(np.full((1, 3, 4), np.nan))
    with pytest.raises(ValueError, match="lattice"):
        CoordinateField(np.eye(3, 4)[None], np.zeros((2, 3, 4, 4, 4), np.float32))
    with pytest.raises(ValueError, match="displacement"):
        random_field((4, 4, 4)).inverse()


def test_bounds_hold_all_coordinates() -> None:
    for seed in range(5):
        field = random_field((8, 9, 10), batch=2, seed=seed)
        low, high = field.bounds((8, 9, 10))
        at = coordinates(field, (8, 9, 10))
        assert (at.min(axis=(0, 2, 3, 4)) >= low - 1e-6).all()
        assert (at.max(axis=(0, 2, 3, 4)) <= high + 1e-6).all()
