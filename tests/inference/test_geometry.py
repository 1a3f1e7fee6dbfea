"""The label lies where the organ lies, on the image's own grid, however the image is stored."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from custom_components.data import read_image
from custom_components.inference import Segmentation, Segmenter
from tests.inference.oracles import dice, domain_of, oracle, sample
from tests.phantoms import affine_of, save_dicom_series, save_itk, save_nifti

ORIENTATIONS = [(axes, flips) for axes in permutations(range(3)) for flips in product((1, -1), repeat=3)]
CENTRE = (-3.0, -2.0, 1.0)  # of the pair's box, mm
FIELD = (74.0, 74.0, 74.0)  # mm; holds the pair however the grid is turned


def grid(
    spacing: tuple[float, ...],
    angles: tuple[float, ...],
    axes: tuple[int, ...],
    flips: tuple[int, ...],
    odd: tuple[int, ...] = (0, 0, 0),
):
    """Shape and affine of an image that covers the field, centred on it."""
    shape = tuple(int(np.ceil(FIELD[axis] / s)) + extra for axis, s, extra in zip(axes, spacing, odd, strict=True))
    affine = affine_of(spacing, angles, axes=axes, flips=flips)
    affine[:3, 3] = np.array(CENTRE) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return shape, affine


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS, ids=lambda value: "".join(str(v) for v in value))
def test_every_axis_order_and_flip_gives_the_same_voxels(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    """With the domain's own spacing nothing is interpolated, so all 48 must agree to the voxel."""
    domain = domain_of(spacing=[2, 2, 2])
    shape, affine = grid((2.0,) * 3, (0.0,) * 3, (0, 1, 2), (1, 1, 1))
    image, expected = sample(shape, affine)
    turned = MetaTensor(image.as_tensor().permute(0, *(a + 1 for a in axes)), affine=np.eye(4))
    matrix = affine[:, [*axes, 3]]
    for axis, flip in enumerate(flips):
        if flip < 0:
            turned = turned.flip(axis + 1)
            matrix = matrix.copy()
            matrix[:, 3] += matrix[:, axis] * (turned.shape[axis + 1] - 1)
            matrix[:, axis] *= -1
    turned = MetaTensor(turned.as_tensor().contiguous(), affine=torch.from_numpy(matrix))
    label = Segmenter(domain, oracle(domain, turned), "cpu").segment(turned).label

    assert torch.equal(label.affine, turned.affine)
    back = label.as_tensor()[0].flip([axis for axis, flip in enumerate(flips) if flip < 0]).permute(*np.argsort(axes).tolist())
    reference = Segmenter(domain, oracle(domain, image), "cpu").segment(image).label.as_tensor()[0]
    assert torch.equal(back, reference)
    for index in (1, 2):
        assert dice(back.numpy() == index, expected == index) > 0.97


@settings(max_examples=24)
@given(
    # Not finer than the network's grid: labels from a coarser grid are blocks, which is no matter of place.
    spacing=st.tuples(*[st.floats(1.0, 2.2)] * 3),
    angles=st.tuples(*[st.floats(-44, 44)] * 3),
    orientation=st.sampled_from(ORIENTATIONS),
    odd=st.tuples(*[st.integers(0, 3)] * 3),
    border=st.integers(0, 3),
    target=st.sampled_from([(1.0, 1.0, 1.0), (0.8, 1.0, 0.9)]),
    patch=st.sampled_from([(32, 32, 32), (24, 48, 40), (96, 96, 96)]),
)
def test_oblique_anisotropic_odd_bordered_or_smaller_than_a_patch(
    spacing, angles, orientation, odd, border, target, patch
) -> None:
    domain = domain_of(spacing=target, patch_size=patch)
    shape, affine = grid(spacing, angles, *orientation, tuple(n + 2 * border for n in odd))  # the border cuts no organ
    image, expected = sample(shape, affine, border)
    label = Segmenter(domain, oracle(domain, image), "cpu").segment(image).label

    assert label.shape == (1, *shape)
    np.testing.assert_allclose(label.affine.numpy(), affine, atol=1e-5)
    for index in (1, 2):
        assert dice(label.numpy()[0] == index, expected == index) > 0.97


def _save(kind: str, folder: Path, image: np.ndarray, affine: np.ndarray):
    """Two channels as one 4-D file or as one file per channel."""
    if kind == "nifti 4-D":
        return save_nifti(folder / "case.nii.gz", np.moveaxis(image, 0, 3), affine)
    if kind == "nrrd 4-D":
        return save_itk(folder / "case.nrrd", np.moveaxis(image, 0, 3), affine)
    if kind == "dicom series":
        return [save_dicom_series(folder / f"channel{c}", image[c], affine, description=f"channel{c}") for c in range(2)]
    if kind == "nifti files":
        return [save_nifti(folder / f"channel{c}.nii", image[c], affine) for c in range(2)]
    return [save_itk(folder / f"channel{c}.{kind}", image[c], affine) for c in range(2)]


@pytest.mark.parametrize("kind", ["nifti 4-D", "nifti files", "nrrd 4-D", "nrrd", "mha", "dicom series"])
def test_every_format_comes_back_on_its_own_grid(kind: str, tmp_path: Path) -> None:
    # DICOM names the rows' and columns' directions, the slices follow by the right hand: no mirrored axes there.
    shape, affine = grid((1.3, 1.2, 2.5), (15, -20, 10), (1, 0, 2), (1, -1, 1))
    image, expected = sample(shape, affine)
    path = _save(kind, tmp_path, image.numpy(), affine)
    domain = domain_of()
    result = Segmenter(domain, oracle(domain, image), "cpu").segment(path)
    result.save(tmp_path / "label.nii.gz")
    written = nib.load(tmp_path / "label.nii.gz")

    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, read_image(path).affine.numpy(), atol=1e-4)
    labelled, truth = np.asarray(written.dataobj), expected
    if kind == "dicom series":  # ITK may sort the slices the other way round: compare where both lie in the world
        truth = sample(labelled.shape, written.affine)[1]
    else:
        np.testing.assert_allclose(written.affine, affine, atol=1e-4)
    for index in (1, 2):
        assert dice(labelled == index, truth == index) > 0.97
        volume = (labelled == index).sum() * abs(np.linalg.det(affine[:3, :3]))
        assert result.volumes[domain.classes[index - 1]] == pytest.approx(volume, rel=1e-4)


@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
def test_what_is_saved_is_what_was_segmented(axes: tuple[int, ...], tmp_path: Path) -> None:
    """Sagittal and coronal stacks too, whose affine has zeros where an axial one has its voxel size."""
    affine = affine_of((2.0, 2.5, 3.0), origin=(4, -5, 6), axes=axes, flips=(-1, 1, -1))
    label = MetaTensor(torch.arange(5 * 6 * 7).reshape(1, 5, 6, 7) % 3, affine=affine).to(torch.uint8)
    Segmentation(label, {}, {}).save(tmp_path / "label.nii.gz")
    written = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), label.numpy()[0])
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 40, 7), (2, 2, 2), (9, 5, 33)])
def test_tiny_images_keep_their_grid(shape: tuple[int, int, int]) -> None:
    image = MetaTensor(
        torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) + 1, affine=affine_of((2.1, 0.9, 3), (10, 0, 0))
    )
    label = Segmenter(domain_of(), oracle(domain_of(), image), "cpu").segment(image).label
    assert label.shape == (1, *shape)
    assert torch.equal(label.affine, image.affine)


def test_a_label_outside_the_crop_box_is_background() -> None:
    shape, affine = grid((2.0,) * 3, (0.0,) * 3, (0, 1, 2), (1, 1, 1))
    image, _ = sample(shape, affine, border=8)

    class Everything(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], dim=1)

    domain = domain_of(spacing=[2, 2, 2], crop_margin=3)
    label = Segmenter(domain, Everything(), "cpu").segment(image).label.numpy()[0]
    inside = np.zeros(shape, dtype=bool)
    inside[(slice(5, -5),) * 3] = True
    assert np.array_equal(label == 1, inside)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 1.2, 1.1)])
def test_the_image_that_is_given_stays_as_it_is(spacing: tuple[float, float, float]) -> None:
    """Also where nothing is resampled and the network's input could share its memory."""
    # Stored as the network has it, superior, anterior, right: no axis is turned.
    shape, affine = grid(spacing, (0.0,) * 3, (2, 1, 0), (1, 1, 1))
    image, _ = sample(shape, affine)
    values = image.as_tensor().clone()
    domain = domain_of(spacing=[1, 1, 1])
    segmenter = Segmenter(domain, oracle(domain, image), "cpu")
    first = segmenter.segment(image)
    assert torch.equal(image.as_tensor(), values)
    assert torch.equal(segmenter.segment(image).label, first.label)
