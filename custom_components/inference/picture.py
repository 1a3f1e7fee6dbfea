"""Pictures of a label over its image: three planes through it, its surface, and where it lies in the whole image.

Planes are shown as neurologists look at them, with the patient's left on the left of the picture, and every edge carries
its letter. Axis lengths are true: a pixel is as wide and high as its voxel.

Drawn without pyplot, so nothing is global: any backend, thread or server can do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation

from custom_components.atomic import atomic_path

if TYPE_CHECKING:  # matplotlib takes a third of a second to import, and segmenting needs no picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "View", "draw_views", "overlay_picture", "write_figure"]

Volume: TypeAlias = Any  # MetaTensor, tensor or array

# Okabe and Ito's palette, which stays apart under the usual colour blindnesses; no grey, which the image has.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
CONVENTION = "neurological view: the patient's left is on the left"
MARGIN = 5.0  # mm shown around the label

# Where a plane's letters stand, in parts of its width and height, and how they are aligned there.
SPOTS = (
    (0.03, 0.5, "left", "center"),
    (0.97, 0.5, "right", "center"),
    (0.5, 0.02, "center", "bottom"),
    (0.5, 0.98, "center", "top"),
)
# Shown axis, horizontal axis, vertical axis (0 right, 1 anterior, 2 superior) and the letters left, right, below, above.
PLANES = {"coronal": (1, 0, 2, "LRIS"), "sagittal": (0, 1, 2, "PAIS"), "axial": (2, 0, 1, "LRPA")}


@dataclass(frozen=True)
class View:
    """One row of a picture.

    Attributes:
        image, label: (X, Y, Z) or (1, X, Y, Z) on one grid, axes as stored; the label holds 0 and class indices.
        title: to the left of the row.
        affine: 4 × 4, voxel index to mm (x right, y forward, z up); None takes the image's own, which must then be a
            MetaTensor.
    """

    image: Volume
    label: Volume
    title: str = ""
    affine: np.ndarray | None = None


def overlay_picture(
    image: Volume,
    label: Volume,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str = "",
    affine: np.ndarray | None = None,
) -> None:
    """Write one image's picture as PNG.

    Args:
        image, label, affine: see `View`.
        class_names: of class 1, 2, …
        path: of the PNG; replaced in one step.
        title: above it.

    Raises:
        InputError: the file cannot be written.
        ValueError: image and label differ in shape, or are not one 3-D volume each.
    """
    write_figure(draw_views([View(image, label, affine=affine)], class_names, title=title), path)


def write_figure(figure: Figure, path: str | Path) -> None:
    """Save a figure as PNG under a temporary name, then rename it.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def draw_views(views: Sequence[View], class_names: Sequence[str], *, title: str = "", footnote: str = "") -> Figure:
    """Draw rows of: the whole image (where the label fills only a part of it), three planes, the surface.

    The planes of a row are those that show most of every class. All rows have one scale.

    Args:
        views: at least one.
        class_names: of class 1, 2, …
        title, footnote: above and below.

    Raises:
        ValueError: image and label differ in shape, or are not one 3-D volume each.
    """
    from matplotlib.figure import Figure

    from custom_components.inference.surface import draw_surfaces

    rows = [_Row(view) for view in views]
    field = max(row.reach for row in rows)
    overview = any(row.is_part_of_a_whole(field) for row in rows)
    columns = 4 + overview
    figure = Figure(figsize=(2.6 * columns + 0.3, 2.75 * len(rows) + 0.9), dpi=140, facecolor="black", layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.02)
    grid = figure.add_gridspec(len(rows), columns)
    for r, row in enumerate(rows):
        first = True
        if overview:
            axes = figure.add_subplot(grid[r, 0])
            _draw_whole(axes, row, field)
            _caption(axes, "whole image, coronal" if r == 0 else "", row.title)
            first = False
        for c, name in enumerate(PLANES, start=int(overview)):
            axes = figure.add_subplot(grid[r, c])
            _draw_plane(axes, row, name, field, class_names)
            _caption(axes, name if r == 0 else "", row.title if first else "")
            first = False
        axes = figure.add_subplot(grid[r, columns - 1], projection="3d")
        masks = [row.label == index for index in range(1, len(class_names) + 1)]
        draw_surfaces(
            axes, masks, [COLOURS[i % len(COLOURS)] for i in range(len(masks))], row.spacing, row.centre, row.reach - MARGIN
        )
        _caption(axes, "surface" if r == 0 else "", "")
    _legend(figure, class_names, footnote)
    if title:
        figure.suptitle(title, color="white", fontsize=12)
    return figure


class _Row:
    """A view turned to right, anterior, superior, with what the drawing needs to know of it."""

    def __init__(self, view: View) -> None:
        affine = np.asarray(view.image.affine if view.affine is None else view.affine, dtype=np.float64)
        image, label = _volume(view.image), _volume(view.label)
        if image.shape != label.shape:
            raise ValueError(f"image of shape {image.shape}, label of shape {label.shape}")
        orientation = io_orientation(affine)
        self.title = view.title
        self.image = apply_orientation(image, orientation)
        self.label = apply_orientation(label, orientation)
        self.spacing = np.empty(3)
        self.spacing[orientation[:, 0].astype(int)] = voxel_sizes(affine)
        self.low, self.high = _box(self.label)
        self.box = tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        self.centre = ((self.low + self.high - 1) / 2) * self.spacing
        self.reach = float(((self.high - self.low) * self.spacing).max() / 2 + MARGIN)
        self.slices = [self._best_slice(axis) for axis in range(3)]

    def _best_slice(self, axis: int) -> int:
        """Of an axis, the slice that shows most of every class: the root of an area keeps a large class from winning alone."""
        others = tuple(a for a in range(3) if a != axis)
        label = self.label[self.box]
        score = np.zeros(label.shape[axis])
        for value in np.unique(label[label > 0]):
            score += np.sqrt((label == value).sum(axis=others))
        return int(self.low[axis] + (score.argmax() if score.any() else len(score) // 2))

    def is_part_of_a_whole(self, field: float) -> bool:
        return bool((np.array(self.label.shape) * self.spacing).max() > 3 * field)


def _box(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last index of what is not zero, or of the whole where there is nothing."""
    inside = label != 0
    lines = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(lines[0]):
        return np.zeros(3, dtype=int), np.array(label.shape)
    return np.array([line[0] for line in lines]), np.array([line[-1] + 1 for line in lines])


def _volume(values: Volume) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"a picture needs one 3-D volume, this has shape {array.shape}")
    return array


def _show(axes: Axes, row: _Row, name: str, field: float | None = None) -> None:
    """One plane in grey with the letters of its edges; black and white level from what lies in the field."""
    axis, across, up, letters = PLANES[name]
    plane = row.image.take(row.slices[axis], axis)  # the remaining axes are in order, so (across, up)
    sx, sy = row.spacing[across], row.spacing[up]
    nx, ny = plane.shape
    seen = plane
    if field is not None:
        spans = zip((row.centre[across], row.centre[up]), (sx, sy), strict=True)
        seen = plane[tuple(slice(max(0, int((c - field) / s)), int((c + field) / s) + 1) for c, s in spans)]
    # Air and what was masked out are the darkest of an image, often most of it: they must not decide.
    values = seen[seen > seen.min()]
    low, high = np.percentile(values, [0.5, 99.8]) if values.size else (0.0, 1.0)
    edges = (-0.5 * sx, (nx - 0.5) * sx, -0.5 * sy, (ny - 0.5) * sy)
    axes.imshow(plane.T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=edges, aspect="equal", interpolation="bicubic")
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for letter, (x, y, ha, va) in zip(letters, SPOTS, strict=True):
        _write(axes, x, y, letter, ha, va, transform=axes.transAxes)


def _draw_plane(axes: Axes, row: _Row, name: str, field: float, class_names: Sequence[str]) -> None:
    from matplotlib.colors import to_rgba

    axis, across, up, _ = PLANES[name]
    _show(axes, row, name, field)
    plane = row.label.take(row.slices[axis], axis)
    sx, sy = row.spacing[across], row.spacing[up]
    edges = (-0.5 * sx, (plane.shape[0] - 0.5) * sx, -0.5 * sy, (plane.shape[1] - 0.5) * sy)
    x, y = ((np.arange(n + 2) - 1) * s for n, s in zip(plane.shape, (sx, sy), strict=True))
    for index in range(1, len(class_names) + 1):
        inside = plane == index
        if not inside.any():
            continue
        colour = COLOURS[(index - 1) % len(COLOURS)]
        fill = np.zeros((*inside.T.shape, 4))
        fill[inside.T] = to_rgba(colour, 0.22)
        axes.imshow(fill, origin="lower", extent=edges, aspect="equal", interpolation="nearest")
        # A frame of zeros closes contours at the image's edge.
        axes.contour(x, y, np.pad(inside, 1).T.astype(float), levels=[0.5], colors=colour, linewidths=1.6)
    cx, cy = row.centre[across], row.centre[up]
    axes.set_xlim(cx - field, cx + field)
    axes.set_ylim(cy - field, cy + field)
    if name == "coronal":
        _scale_bar(axes, cx, cy, field)


def _draw_whole(axes: Axes, row: _Row, field: float) -> None:
    from matplotlib.patches import Rectangle

    _show(axes, row, "coronal")
    corner = (row.centre[0] - field, row.centre[2] - field)
    axes.add_patch(Rectangle(corner, 2 * field, 2 * field, fill=False, edgecolor="white", linewidth=1.0))


def _scale_bar(axes: Axes, cx: float, cy: float, field: float) -> None:
    length = next(mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm <= field / 1.5 or mm == 1)
    x, y = cx - 0.94 * field, cy - 0.93 * field
    axes.plot([x, x + length], [y, y], color="white", linewidth=2.0, solid_capstyle="butt")
    _write(axes, x, y + 0.03 * field, f"{length} mm", "left", "bottom")


def _write(axes: Axes, x: float, y: float, text: str, ha: str, va: str, **options: Any) -> None:
    """White text with a black rim: readable on any grey."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground="black")]
    axes.text(x, y, text, color="white", fontsize=9, ha=ha, va=va, path_effects=rim, **options)


def _caption(axes: Any, above: str, beside: str) -> None:
    axes.set_title(above, color="white", fontsize=10)
    if beside:
        axes.text(-0.04, 0.5, beside, transform=axes.transAxes, color="white", fontsize=10, rotation=90, ha="right", va="center")


def _legend(figure: Figure, class_names: Sequence[str], footnote: str) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(class_names)]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(len(patches), 6),
        frameon=False,
        labelcolor="white",
        fontsize=10,
        title=" · ".join(part for part in (CONVENTION, footnote) if part),
        title_fontproperties={"size": 9},
        alignment="center",
    ).get_title().set_color("white")
