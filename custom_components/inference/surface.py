"""The surface of a mask as smooth, shaded polygons: enough to see a shape, not to measure one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["draw_surfaces", "shaded", "surface_of"]

ROUNDS = 20
LARGEST = 64  # voxels along an axis; larger masks are thinned out, for a picture shows no more


def draw_surfaces(
    axes: Any, masks: Sequence[np.ndarray], colours: Sequence[str], spacing: np.ndarray, centre: np.ndarray, half: float
) -> None:
    """Draw masks' surfaces as seen from the front, the right and above, without perspective.

    Args:
        axes: matplotlib's, with ``projection="3d"``.
        masks: each (X, Y, Z), axes to the right, forward and up; empty ones are left out.
        colours: one per mask.
        spacing: three lengths, mm.
        centre: of what is shown, mm from voxel 0.
        half: half the width of what is shown, mm.
    """
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    axes.set_facecolor("black")
    axes.set_axis_off()
    axes.set_proj_type("ortho")
    axes.view_init(elev=35, azim=50)
    for mask, colour in zip(masks, colours, strict=True):
        if mask.any():
            faces = surface_of(mask, spacing)
            colour_of_face = shaded(faces, colour)
            # Edges in the face's own colour close the seams that anti-aliasing would leave between faces.
            axes.add_collection3d(Poly3DCollection(faces, facecolors=colour_of_face, edgecolors=colour_of_face, linewidths=0.4))
    for set_limits, middle in zip((axes.set_xlim, axes.set_ylim, axes.set_zlim), centre, strict=True):
        set_limits(middle - half, middle + half)
    axes.set_box_aspect((1, 1, 1), zoom=1.2)
    corner = centre + half * np.array([0.75, 0.2, -0.9])
    for letter, step in zip("RAS", np.eye(3) * 0.3 * half, strict=True):
        axes.plot(*zip(corner, corner + step, strict=True), color="white", linewidth=1.0)
        axes.text(*(corner + 1.3 * step), letter, color="white", fontsize=9, ha="center", va="center")


def surface_of(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Smoothed outer faces of a mask's voxels.

    The voxels' faces are welded at their corners, then smoothed without shrinking (Taubin, 1995: a step of the
    umbrella operator inward, a slightly longer one outward).

    Args:
        mask: (X, Y, Z), boolean, with at least one voxel.
        spacing: three lengths, mm.

    Returns:
        (faces, 4, 3), mm; a voxel of index i has its centre at i · spacing. The corners of a face go anticlockwise
        seen from outside.
    """
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    mask = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    step = -(-np.array(mask.shape) // LARGEST)
    mask = mask[tuple(slice(None, None, s) for s in step)]
    corners, faces = _faces(np.pad(mask, 1))
    corners = _smoothed(corners.astype(np.float64), faces)
    # Index 1 is the first voxel behind the padding; corners lie half a voxel off.
    return (((corners - 1.5) * step + (step - 1) / 2 + low) * spacing)[faces]


def shaded(faces: np.ndarray, colour: str) -> np.ndarray:
    """RGBA of each face under a light from above and in front of the viewer (ambient and diffuse parts).

    Args:
        faces: (n, 4, 3), as `surface_of` gives them.
        colour: any of matplotlib's.
    """
    from matplotlib.colors import to_rgb

    normal = np.cross(faces[:, 2] - faces[:, 0], faces[:, 3] - faces[:, 1])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = np.array([0.45, 0.45, 0.77])
    strength = 0.35 + 0.65 * np.clip(normal @ light, 0, 1)
    return np.column_stack([strength[:, None] * np.asarray(to_rgb(colour)), np.ones(len(faces))])


def _faces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 3), as indices between voxels, and the outer faces (m, 4) as indices into them."""
    quads = []
    for axis in range(3):
        u, v = np.eye(3, dtype=int)[[(axis + 1) % 3, (axis + 2) % 3]]
        for side in (0, 1):
            beyond = np.roll(mask, 1 if side == 0 else -1, axis)
            origin = np.argwhere(mask & ~beyond)
            origin[:, axis] += side
            turn = (0 * u, u, u + v, v) if side else (0 * u, v, u + v, u)
            quads.append(np.stack([origin + t for t in turn], axis=1))
    every = np.concatenate(quads)
    corners, index = np.unique(every.reshape(-1, 3), axis=0, return_inverse=True)
    return corners, index.reshape(-1, 4)


def _smoothed(corners: np.ndarray, faces: np.ndarray) -> np.ndarray:
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    ones = np.ones(len(start))
    links = sparse.coo_matrix((ones, (start, end)), (len(corners),) * 2).tocsr()
    links = ((links + links.T) > 0).astype(np.float64)
    mean = sparse.diags_array(1 / np.asarray(links.sum(axis=1)).ravel()) @ links
    for _ in range(ROUNDS):
        for weight in (0.5, -0.53):
            corners = corners + weight * (mean @ corners - corners)
    return corners
