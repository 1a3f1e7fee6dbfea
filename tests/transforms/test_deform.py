"""`deform` on images and labels of every kind: dimensions, types, modes, sizes; and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from custom_components.transforms import Deformation, Elastic, Flip, Rotate, Scale, Translate, deform, deformed_coordinates

SHAPE = (12, 15, 13)
ALL = Deformation(
    (Elastic((3.0,), 30.0, 4), Rotate((0.3, -0.2, 0.5)), Scale((0.9, 1.1, 1.2)), Flip((1,)), Translate((1.5, 0.0, -2.0)))
)
FLAT = Deformation((Elastic((3.0,), 20.0, 4), Rotate((0.4,)), Scale((0.9,)), Flip((1,)), Translate((1.5, -2.0))))


def image_of(shape: tuple[int, ...], channels: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32))


def label_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 5, (1, *shape), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("shape", "deformation"), [(SHAPE, ALL), ((25, 31), FLAT)])
def test_volumes_and_colour_pictures_equal_scipy(shape: tuple[int, ...], deformation: Deformation, channels: int) -> None:
    image, label = image_of(shape, channels), label_of(shape)
    at = deformed_coordinates(deformation, shape)
    for order in (0, 1, 3):
        source = image if order else (image * 100).to(torch.int16)
        moved, moved_label = deform([source, label], deformation, [order, 0], values=[-7, 3])
        for channel in range(channels):
            values = source[channel].numpy().astype(np.float64)
            expected = ndimage.map_coordinates(values, at, order=order, cval=-7)
            assert (np.abs(moved[channel].numpy() - expected) < 1e-3).mean() > 0.998
        expected_label = ndimage.map_coordinates(label[0].numpy(), at, order=0, cval=3)
        assert (moved_label[0].numpy() == expected_label).mean() > 0.998


def test_2d_is_the_middle_of_a_stack() -> None:
    """A picture, and a volume of equal pictures deformed within their plane, show the same."""
    picture = image_of((20, 23))
    flat = deform([picture], Deformation((Rotate((0.4,)), Scale((1.2, 0.8)), Translate((1.0, 2.5)))), [1])[0]
    volume = picture[:, None].expand(1, 5, 20, 23).contiguous()
    deep = Deformation((Rotate((0.4, 0.0, 0.0)), Scale((1.0, 1.2, 0.8)), Translate((0.0, 1.0, 2.5))))
    torch.testing.assert_close(deform([volume], deep, [1])[0][:, 2], flat, atol=1e-5, rtol=0)


def test_several_images_and_labels_see_the_same_coordinates() -> None:
    images = [image_of(SHAPE), image_of(SHAPE, 2) + 1, image_of(SHAPE) * 3]
    labels = [label_of(SHAPE), label_of(SHAPE).long() - 2]
    together = deform([images[0], labels[0], images[1], labels[1], images[2]], ALL, [1, 0, 3, 0, 1])
    for volume, order, result in zip(
        [images[0], labels[0], images[1], labels[1], images[2]], [1, 0, 3, 0, 1], together, strict=True
    ):
        assert torch.equal(deform([volume], ALL, [order])[0], result)
        assert result.shape == volume.shape


def test_the_inputs_stay_as_they_are() -> None:
    image, label = image_of(SHAPE), label_of(SHAPE)
    kept = image.clone(), label.clone()
    deform([image, label], ALL, [3, 0])
    assert torch.equal(image, kept[0])
    assert torch.equal(label, kept[1])


def test_types() -> None:
    """Interpolated images are float32; labels, also those in floating point, keep type and values."""
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.uint8, torch.int32):
        source = (image_of(SHAPE) * 10).to(dtype)
        result = deform([source], ALL, [1])[0]
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, deform([source.float()], ALL, [1])[0])
    expected = deform([label_of(SHAPE)], ALL, [0])[0]
    for dtype in (torch.float32, torch.float64, torch.float16, torch.int64, torch.int8):
        result = deform([label_of(SHAPE).to(dtype)], ALL, [0])[0]
        assert result.dtype == dtype
        assert torch.equal(result.to(torch.uint8), expected)


def test_a_window_is_resized_in_the_same_interpolation() -> None:
    """Half the size: every output voxel shows the middle of two input voxels along each axis."""
    image = image_of((8, 10, 12))
    result = deform([image], Deformation(), [1], size=(4, 5, 6))[0]
    expected = torch.nn.functional.avg_pool3d(image, 2)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        deform([image], Deformation(), [1], mode="nearest", size=(16, 20, 24))[0],
        torch.nn.functional.interpolate(image[None], scale_factor=2, mode="trilinear", align_corners=False)[0],
        atol=1e-5,
        rtol=0,
    )


def test_elastic_displacement_does_not_depend_on_the_size_of_the_output() -> None:
    elastic = Deformation((Elastic((3.0,), 40.0, 9),))
    coarse = deformed_coordinates(elastic, SHAPE)
    fine = deformed_coordinates(elastic, SHAPE, tuple(3 * n for n in SHAPE))
    np.testing.assert_allclose(fine[:, 1::3, 1::3, 1::3], coarse, atol=1e-5)


def test_a_batch_is_its_samples() -> None:
    images, labels = torch.stack([image_of(SHAPE), image_of(SHAPE) + 1, -image_of(SHAPE)]), torch.stack([label_of(SHAPE)] * 3)
    each = [ALL, Deformation((Flip((0,)),)), Deformation((Elastic((2.0,), 9.0, 1, "gaussian"),))]
    joint = deform([images, labels], each, [1, 0])
    for b, deformation in enumerate(each):
        alone = deform([images[b], labels[b]], deformation, [1, 0])
        torch.testing.assert_close(joint[0][b], alone[0], atol=1e-5, rtol=0)
        assert (joint[1][b] != alone[1]).sum() <= 2  # a tie may fall either way


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"volumes": []}, "no volume"),
        ({"volumes": [image_of(SHAPE), label_of((12, 15, 14))]}, "differ in shape"),
        ({"volumes": [torch.zeros(1, 0, 4, 4)], "orders": [1]}, "not empty"),
        ({"volumes": [torch.zeros(1, 4)], "orders": [1]}, "2 or 3 axes"),
        ({"orders": [1]}, "2 volumes need as many orders"),
        ({"orders": [2, 0]}, "order"),
        ({"mode": "zeros"}, "'zeros' is none of"),
        ({"values": [0, 300]}, "300.0 outside does not fit a label of type torch.uint8"),
        ({"values": [0, 0.5]}, "does not fit a label"),
        ({"values": [0, -1]}, "does not fit a label"),
        ({"volumes": [torch.zeros(1, *SHAPE, dtype=torch.complex64)], "orders": [1]}, "cannot be interpolated"),
        ({"volumes": [torch.zeros(1, *SHAPE, dtype=torch.bool)], "orders": [1]}, "cannot be interpolated"),
        ({"volumes": [torch.zeros(2, 1, *SHAPE)], "orders": [1], "deformation": [ALL]}, "1 deformations for batches of"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, words: str) -> None:
    standard = {"volumes": [image_of(SHAPE), label_of(SHAPE)], "deformation": ALL, "orders": [1, 0]}
    with pytest.raises(ValueError, match=words):
        deform(**{**standard, **arguments})


def test_a_cuda_tensor_without_cupy_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    resample_cuda = pytest.importorskip("custom_components.kernels.resample_cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match="cupy-cuda13x"):
        resample_cuda.compiled(0)
