"""A deformation is what the original code computes, a small value, and its two elastic laws have the same statistics."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.noise import uniform_noise
from custom_components.transforms import Deformation, Elastic, Flip, Rotate, Scale, Translate, deform, deformed_coordinates
from custom_components.transforms.elastic import gaussian_taps

VECTORS = np.load(Path(__file__).parents[1] / "vectors" / "deform.npz")
SHAPE = tuple(int(n) for n in VECTORS["shape"])


def original(name: str) -> Deformation:
    """The deformation of a vector, from its own parameters."""

    def value(key: str) -> np.ndarray:
        return VECTORS[f"{name}/{key}"]

    def elastic() -> Elastic:
        return Elastic((float(value("sigma")),), float(value("alpha")), 0, "gaussian", VECTORS["noise"])

    operations = {
        "rotate": lambda: [Rotate(tuple(value("angles")))],
        "scale": lambda: [Scale((float(value("scale")),))],
        "elastic": lambda: [elastic()],
        "elastic_rotate_scale": lambda: [elastic(), Rotate(tuple(value("angles"))), Scale((float(value("scale")),))],
        "flip_translate": lambda: [Flip(tuple(np.flatnonzero(value("flip")))), Translate(tuple(value("translate")))],
    }
    return Deformation(tuple(operations[name]()))


NAMES = ["rotate", "scale", "elastic", "elastic_rotate_scale", "flip_translate"]


@pytest.mark.parametrize("name", NAMES)
def test_coordinates_are_the_originals(name: str) -> None:
    np.testing.assert_allclose(deformed_coordinates(original(name), SHAPE), VECTORS[f"{name}/coordinates"], atol=1e-4)


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("name", NAMES)
def test_image_and_label_are_the_originals(name: str, mode: str) -> None:
    image, label = torch.from_numpy(VECTORS["image"])[None], torch.from_numpy(VECTORS["label"])[None]
    results = deform([image, label], original(name), [1, 0], mode)
    span = float(np.ptp(VECTORS["image"]))
    error = np.abs(results[0][0].numpy() - VECTORS[f"{name}/{mode}/image_order1"])
    assert (error < 1e-4 * span).mean() >= 0.9999
    # A label may differ where the original's own float64 coordinate is a tie, or lies on the seam of the mode.
    at = deformed_coordinates(original(name), SHAPE)
    last = np.reshape(SHAPE, (3, 1, 1, 1)) - 1
    tie = np.abs(at - np.floor(at) - 0.5) < 1e-4
    seam = np.abs(np.remainder(at + 0.5, last) - 0.5) < 1e-4
    sure = ~(tie | (seam if mode in ("constant", "wrap") else False)).any(axis=0)
    assert np.array_equal(results[1][0].numpy()[sure], VECTORS[f"{name}/{mode}/label_order0"][sure])
    if name != "flip_translate":
        assert sure.mean() > 0.98


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("name", NAMES)
def test_cubic_image_is_scipys(name: str, mode: str) -> None:
    result = deform([torch.from_numpy(VECTORS["image"])[None]], original(name), [3], mode)[0][0].numpy()
    expected = ndimage.map_coordinates(
        VECTORS["image"].astype(np.float64), VECTORS[f"{name}/coordinates"].astype(np.float64), order=3, mode=mode
    )
    span = float(np.ptp(VECTORS["image"]))
    assert (np.abs(result - expected) < 1e-4 * span).mean() >= 0.9999


def test_the_order_of_operations_is_the_users() -> None:
    turn, stretch = Rotate((0.5, 0.0, 0.0)), Scale((1.0, 2.0, 1.0))
    first, second = Deformation((turn, stretch)), Deformation((stretch, turn))
    half = np.array(SHAPE) / 2
    index = np.indices(SHAPE).reshape(3, -1) - half[:, None]
    cos, sin = math.cos(0.5), math.sin(0.5)
    matrix = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])  # of column vectors
    for deformation, expected in (
        (first, np.diag([1, 2, 1]) @ matrix @ index),
        (second, matrix @ np.diag([1, 2, 1]) @ index),
    ):
        np.testing.assert_allclose(deformed_coordinates(deformation, SHAPE).reshape(3, -1), expected + half[:, None], atol=1e-9)


def test_what_follows_elastic_acts_on_the_displacement() -> None:
    elastic = Elastic((3.0,), 40.0, 5)
    plain = deformed_coordinates(Deformation((elastic,)), SHAPE) - np.indices(SHAPE)
    half = np.reshape(SHAPE, (3, 1, 1, 1)) / 2
    before = deformed_coordinates(Deformation((elastic, Scale((2.0,)))), SHAPE)
    after = deformed_coordinates(Deformation((Scale((2.0,)), elastic)), SHAPE)
    centred = np.indices(SHAPE) - half
    np.testing.assert_allclose(before, half + 2 * (centred + plain), atol=1e-4)
    np.testing.assert_allclose(after, half + 2 * centred + plain, atol=1e-4)


def test_rotation_is_rigid_in_millimetres() -> None:
    spacing = np.array([3.6, 0.6, 0.8])
    matrix = Deformation((Rotate((0.4, -0.7, 1.1), tuple(spacing)),)).affine(SHAPE)[:3, :3]
    rigid = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
    np.testing.assert_allclose(rigid @ rigid.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rigid), 1)


@pytest.mark.parametrize("shape", [(20, 26, 22), (30, 34)])
@pytest.mark.parametrize(("sigma", "alpha"), [((4.0,), 60.0), ((2.0,), 20.0), ((9.0,), 300.0), ((12.0,), 750.0)])
def test_gaussian_law_is_scipys_field(shape: tuple[int, ...], sigma: tuple[float], alpha: float) -> None:
    found = deformed_coordinates(Deformation((Elastic(sigma, alpha, 11, "gaussian"),)), shape) - np.indices(shape)
    noise = uniform_noise(11, (len(shape), *shape)).astype(np.float64)
    expected = np.stack([ndimage.gaussian_filter(n, sigma[0], mode="constant") for n in noise]) * alpha
    assert (np.abs(found - expected) < 1e-3).mean() > 0.999
    np.testing.assert_allclose(found, expected, atol=4e-3)


def test_anisotropic_sigma() -> None:
    shape, sigma = (12, 40, 36), (1.5, 8.0, 5.0)
    found = deformed_coordinates(Deformation((Elastic(sigma, 90.0, 3, "gaussian"),)), shape) - np.indices(shape)
    noise = uniform_noise(3, (3, *shape)).astype(np.float64)
    expected = np.stack([ndimage.gaussian_filter(n, sigma, mode="constant") for n in noise]) * 90
    np.testing.assert_allclose(found, expected, atol=2e-3)


def displacements(law: str, draws: int, sigma: float, alpha: float, lag: int) -> np.ndarray:
    """Displacement along y at a voxel far from the faces and ``lag`` voxels away along y: (draws, 2)."""
    reach = int(4 * sigma) + 1
    shape = (2 * reach, 2 * reach + lag)
    field = [Deformation((Elastic((sigma,), alpha, seed, law),)) for seed in range(draws)]
    at = [deformed_coordinates(d, shape)[0, reach, [reach, reach + lag]] for d in field]
    return np.array(at) - reach


def test_both_laws_have_the_same_deviation_and_correlation_length() -> None:
    """Within three standard errors of 1,500 draws of what filtering uniform noise gives exactly."""
    draws, sigma, alpha = 1500, 3.0, 30.0
    taps = gaussian_taps(sigma)
    whole = np.concatenate([taps[:0:-1], taps])
    deviation = alpha * math.sqrt(1 / 3) * (whole**2).sum()
    lag = round(2 * sigma)  # where the Gaussian's correlation is 1/e
    correlation = (whole[lag:] * whole[:-lag]).sum() / (whole**2).sum()
    assert abs(correlation - math.exp(-1)) < 0.01
    for law in ("spline", "gaussian"):
        pair = displacements(law, draws, sigma, alpha, lag)
        # The kurtosis of the spline law is above the normal's, since its variance depends on the place between knots.
        np.testing.assert_allclose(pair.std(axis=0), deviation, rtol=3 * 0.8 / math.sqrt(draws))
        np.testing.assert_allclose(pair.mean(axis=0), 0, atol=3 * deviation / math.sqrt(draws))
        found = np.corrcoef(pair.T)[0, 1]
        assert abs(found - correlation) < 3 * (1 - correlation**2) / math.sqrt(draws) + 0.01, law


def test_the_spline_law_is_the_same_at_the_faces() -> None:
    """The Gaussian law fades there: half the noise that would be summed lies outside."""
    values = {
        law: np.array(
            [
                deformed_coordinates(Deformation((Elastic((4.0,), 60.0, seed, law),)), (40, 40))[0][[0, 20], [20, 20]] - [0, 20]
                for seed in range(600)
            ]
        ).std(axis=0)
        for law in ("spline", "gaussian")
    }
    assert abs(values["spline"][0] / values["spline"][1] - 1) < 0.15
    assert abs(values["gaussian"][0] / values["gaussian"][1] - math.sqrt(0.5)) < 0.12


def test_the_same_seed_gives_the_same_deformation() -> None:
    first = deformed_coordinates(Deformation((Elastic((5.0,), 50.0, 7),)), SHAPE)
    assert np.array_equal(first, deformed_coordinates(Deformation((Elastic((5.0,), 50.0, 7),)), SHAPE))
    assert not np.array_equal(first, deformed_coordinates(Deformation((Elastic((5.0,), 50.0, 8),)), SHAPE))


operations = st.one_of(
    st.builds(Flip, st.lists(st.integers(0, 2), unique=True).map(tuple)),
    st.builds(Rotate, st.tuples(*[st.floats(-3, 3)] * 3), st.none() | st.tuples(*[st.floats(0.5, 4)] * 3)),
    st.builds(Scale, st.tuples(st.floats(0.5, 2)) | st.tuples(*[st.floats(0.5, 2)] * 3)),
    st.builds(Translate, st.tuples(*[st.floats(-5, 5)] * 3)),
)


@given(st.lists(operations, max_size=4), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_deformation_survives_json_and_pickle(drawn: list, elastic: bool, seed: int) -> None:
    deformation = Deformation((*drawn, *([Elastic((4.0,), 20.0, seed)] if elastic else [])))
    for copy in (Deformation.from_json(deformation.to_json()), pickle.loads(pickle.dumps(deformation))):
        assert copy == deformation
        assert np.array_equal(deformed_coordinates(copy, (6, 7, 8)), deformed_coordinates(deformation, (6, 7, 8)))
    assert len(deformation.to_json()) < 1200
    assert repr(deformation).startswith("Deformation(operations=")
    assert json.loads(deformation.to_json())["operations"] == deformation.to_dict()["operations"]


def test_given_noise_survives_json() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 5, 6))
    deformation = Deformation((Elastic((1.5,), 3.0, 0, "gaussian", noise),))
    assert Deformation.from_json(deformation.to_json()) == deformation


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Elastic((-1.0,), 3.0, 0), "sigma must be positive"),
        (lambda: Elastic((1.0,), math.nan, 0), "alpha"),
        (lambda: Elastic((1.0,), 1.0, -1), "seed"),
        (lambda: Elastic((1.0,), 1.0, 0, "uniform"), "law"),
        (lambda: Deformation((Elastic((1.0,), 1.0, 0),) * 2), "one elastic"),
        (lambda: Deformation((Scale((0.0,)),)).affine((4, 4, 4)), "positive"),
        (lambda: Deformation((Scale((1.0, 2.0)),)).affine((4, 4, 4)), "scale: factors"),
        (lambda: Deformation((Rotate((0.1,)),)).affine((4, 4, 4)), "3 angle"),
        (lambda: Deformation((Rotate((0.1,) * 3),)).affine((4, 4)), "1 angle"),
        (lambda: Deformation((Flip((3,)),)).affine((4, 4, 4)), "flip: axes"),
        (lambda: Deformation.from_dict({"operations": [{"kind": "shear"}]}), "'shear' is none of"),
        (lambda: Deformation.from_dict({"operations": [{"kind": "scale", "factor": 2}]}), "scale"),
        (
            lambda: Deformation((Elastic((1.0,), 1.0, 0, "gaussian", np.zeros((3, 4, 4, 5))),)).field((4, 4, 4)),
            "noise of shape",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
