"""Pictures: what is drawn where, for any orientation; files whole or not at all."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from monai.data import MetaTensor
from nibabel.affines import from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from custom_components.errors import InputError
from custom_components.inference.picture import COLOURS, View, draw_views, overlay_picture
from custom_components.inference.surface import shaded, surface_of

SPACING = np.array([1.0, 1.5, 2.0])


def scene(codes: str = "RAS", shape: tuple[int, int, int] = (24, 20, 14)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright ramp to the right, with class 1 in front and below, class 2 behind and above; stored with these axes."""
    image = np.indices(shape)[0].astype(np.float32) + 10
    label = np.zeros(shape, np.uint8)
    label[6:12, 11:17, 3:7] = 1
    label[6:12, 4:12, 6:10] = 2
    affine = from_matvec(np.diag(SPACING), [-5, -6, -7])
    orientation = ornt_transform(axcodes2ornt(tuple("RAS")), axcodes2ornt(tuple(codes)))
    return apply_orientation(image, orientation), apply_orientation(label, orientation), affine @ inv_ornt_aff(orientation, shape)


def pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float) / 255


def panels(figure: Figure) -> dict[str, np.ndarray]:
    """The pixels of each panel by its caption, first row of pixels at the top."""
    picture = pixels(figure)
    found = {}
    for axes in figure.axes:
        box = axes.get_window_extent()
        rows = slice(picture.shape[0] - int(box.y1), picture.shape[0] - int(box.y0))
        found[axes.get_title()] = picture[rows, int(box.x0) : int(box.x1)]
    return found


def middle(panel: np.ndarray, index: int) -> np.ndarray:
    """Where a class's colour is in a panel: (down, across), both 0 to 1."""
    near = np.abs(panel - to_rgb(COLOURS[index - 1])).max(axis=-1) < 0.12
    assert near.any()
    return np.argwhere(near).mean(axis=0) / near.shape


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "IPL", "ASL"])
def test_letters_are_right_for_any_axis_order_and_flip(codes: str) -> None:
    image, label, affine = scene(codes)
    figure = draw_views([View(image, label, affine=affine)], ["front", "back"])
    panel = panels(figure)
    front, back = middle(panel["sagittal"], 1), middle(panel["sagittal"], 2)
    assert front[1] > back[1]  # anterior is on the right of the sagittal plane
    assert front[0] > back[0]  # and below is below
    assert middle(panel["axial"], 1)[0] < middle(panel["axial"], 2)[0]  # anterior is on top of the axial plane
    coronal = next(axes for axes in figure.axes if axes.get_title() == "coronal")
    shown = coronal.images[0].get_array()
    assert (np.diff(np.asarray(shown), axis=1) > 0).all()  # the ramp rises to the patient's right, which is on the right
    assert [text.get_text() for text in coronal.texts[:4]] == list("LRIS")


def test_a_picture_does_not_depend_on_how_the_image_is_stored() -> None:
    pictures = [pixels(draw_views([View(i, lab, affine=a)], ["front", "back"])) for i, lab, a in map(scene, ("RAS", "PIR"))]
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_voxels_have_their_true_proportions() -> None:
    image, label, affine = scene()
    figure = draw_views([View(image, label, affine=affine)], ["front", "back"])
    for axes, (across, up) in zip(figure.axes, ((0, 2), (1, 2), (0, 1)), strict=False):
        left, right, bottom, top = axes.images[0].get_extent()
        assert (right - left, top - bottom) == pytest.approx(
            (image.shape[across] * SPACING[across], image.shape[up] * SPACING[up])
        )
        assert axes.get_aspect() == 1
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        assert x1 - x0 == pytest.approx(y1 - y0)


def test_a_small_label_in_a_large_image_gets_an_overview() -> None:
    image, label = np.random.default_rng(0).random((60, 60, 60)), np.zeros((60, 60, 60), np.uint8)
    label[10:14, 20:26, 30:33] = 1
    titles = [axes.get_title() for axes in draw_views([View(image, label, affine=np.eye(4))], ["organ"]).axes]
    assert titles == ["whole image, coronal", "coronal", "sagittal", "axial", "surface"]


def test_tensors_with_a_channel_are_drawn_and_nothing_is_left_in_pyplot(tmp_path: Path) -> None:
    image, label, affine = scene("LPS")
    open_before = plt.get_fignums()
    overlay_picture(
        MetaTensor(torch.from_numpy(image.copy())[None], affine=affine),
        MetaTensor(torch.from_numpy(label.copy())[None], affine=affine),
        ["front", "back"],
        tmp_path / "new" / "a.png",
        title="a case",
    )
    assert imread(tmp_path / "new" / "a.png").shape[0] > 300
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
    assert plt.get_fignums() == open_before


@pytest.mark.parametrize("label", [np.zeros((8, 9, 10), np.uint8), np.ones((8, 9, 10), np.uint8)], ids=["empty", "full"])
def test_empty_and_full_labels_and_constant_images_are_drawn(label: np.ndarray, tmp_path: Path) -> None:
    overlay_picture(np.zeros((8, 9, 10)), label, ["organ"], tmp_path / "a.png", affine=np.eye(4))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_label_and_image_of_different_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image of shape \(4, 4, 4\), label of shape \(4, 4, 5\)"):
        overlay_picture(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)), ["organ"], tmp_path / "a.png", affine=np.eye(4))
    with pytest.raises(ValueError, match="one 3-D volume"):
        overlay_picture(np.zeros((2, 4, 4, 4)), np.zeros((4, 4, 4)), ["organ"], tmp_path / "a.png", affine=np.eye(4))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        overlay_picture(np.zeros((4, 4, 4)), np.ones((4, 4, 4)), ["organ"], tmp_path / "file" / "a.png", affine=np.eye(4))


def test_the_surface_of_a_ball_lies_on_the_ball_and_faces_outward() -> None:
    spacing = np.array([1.0, 0.8, 1.25])
    shape = (40, 50, 32)
    centre = (np.array(shape) - 1) / 2 * spacing
    distance = np.linalg.norm(np.stack(np.indices(shape), -1) * spacing - centre, axis=-1)
    faces = surface_of(distance < 12, spacing)
    radius = np.linalg.norm(faces.reshape(-1, 3) - centre, axis=1)
    assert radius.min() > 11
    assert radius.max() < 13
    normal = np.cross(faces[:, 2] - faces[:, 0], faces[:, 3] - faces[:, 1])
    outward = faces.mean(axis=1) - centre
    cosine = (normal * outward).sum(1) / np.linalg.norm(normal, axis=1) / np.linalg.norm(outward, axis=1)
    assert np.mean(cosine > 0.85) > 0.98
    assert cosine.min() > 0


def test_a_large_mask_is_thinned_out_and_stays_in_place() -> None:
    mask = np.zeros((200, 30, 30), bool)
    mask[5:195, 10:20, 10:20] = True
    faces = surface_of(mask, np.ones(3))
    assert len(faces) < 8000
    offset = np.abs(faces.reshape(-1, 3).mean(axis=0) - [99.5, 14.5, 14.5])
    assert offset[0] < 1.5  # every third voxel along it stands for three
    assert offset[1:].max() < 0.1


def test_faces_towards_the_light_are_brighter() -> None:
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]], float)
    up, down = shaded(square, "#E69F00")[0], shaded(square[:, ::-1], "#E69F00")[0]
    assert up[0] > down[0] > 0
    assert up[3] == down[3] == 1
