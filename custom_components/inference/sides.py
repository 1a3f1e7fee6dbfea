"""Left and right hippocampus of a head: which boxes to segment, both labels as one, and what is suspicious about them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from monai.data import MetaTensor
from nibabel.affines import apply_affine

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference.regions import Part, Region, Triple, Window, cut, extent, grown, paste, window_of

__all__ = ["Finding", "find", "is_mni152", "one_side", "regions_for"]

# Boxes about the hippocampi in MNI152 space, mm.
MNI152_CENTRES: dict[str, Triple] = {"left": (-27.0, -22.0, -15.0), "right": (27.0, -22.0, -15.0)}
BOX: Triple = (36.0, 52.0, 36.0)
# A box that cuts a label off grows there, mm at a time. The MNI152 brain's own tails end 2 mm above its boxes.
GROWTH = 8.0
GROWTHS = 3
CROP_EXTENT = 90.0  # mm; an image no longer than this on any axis is taken for a cropped hippocampal region
PLAUSIBLE = (1500.0, 6000.0)  # mm³ of one hippocampus
WHOLE = "region"  # the name of the only "side" of an image that is a crop
XFORM_MNI152 = 4  # NIFTI_XFORM_MNI_152


class SegmentsImages(Protocol):
    """What is needed of `custom_components.inference.Segmenter`."""

    domain: Domain

    def segment(self, image: MetaTensor, /) -> Any: ...


@dataclass(frozen=True)
class Finding:
    """What was found in an image.

    Attributes:
        label: (X, Y, Z), uint8, on the image's own grid: class indices.
        sides: the same, side i (from 0) having classes 1 … K as i·K + 1 … i·K + K.
        volumes: side to class to mm³.
        windows: side to the voxels of the image that were segmented for it.
        warnings: what a person should look at before believing the result.
        seconds: side to the seconds its segmentation took.
    """

    label: np.ndarray
    sides: np.ndarray
    volumes: dict[str, dict[str, float]]
    windows: dict[str, Window]
    warnings: list[str]
    seconds: dict[str, float]


def regions_for(image: MetaTensor, source: str, mni: bool, centres: Mapping[str, Triple]) -> list[Region]:
    """Decide where the hippocampi are to be looked for.

    Args:
        image: (C, X, Y, Z) as `custom_components.data.read_image` gives it.
        source: what to call it in messages.
        mni: the image is in MNI152 space, whatever its header says.
        centres: ``left`` and/or ``right`` to the middle of that hippocampus, mm in the image's own coordinates.

    Returns:
        Boxes inside the image; none where the image is itself a cropped region.

    Raises:
        InputError: it is a whole head and nothing says where to look, the centres have changed sides, or a box reaches
            outside the image.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    shape = image.shape[1:]
    lengths = extent(shape, affine)
    if mni and centres:
        raise InputError(f"{source}: MNI152 space already says where the hippocampi are; give it or centres, not both")
    if {"left", "right"} <= set(centres) and centres["left"][0] >= centres["right"][0]:
        raise InputError(
            f"{source}: the left centre (x = {centres['left'][0]:g} mm) is not to the left of the right one "
            f"(x = {centres['right'][0]:g} mm); x grows to the patient's right"
        )
    if not mni and not centres:
        if max(lengths) <= CROP_EXTENT:
            return []
        if not is_mni152(image):
            raise InputError(
                f"{source}: measures {' × '.join(f'{n:.0f}' for n in lengths)} mm, so it is more than a cropped hippocampal "
                "region, and its header does not say MNI152 space; say --space mni if it is in that space, or where the "
                "hippocampi are (--centre-left x,y,z --centre-right x,y,z, mm), or crop it"
            )
    regions = [Region(name, tuple(centre), BOX) for name, centre in (centres or MNI152_CENTRES).items()]  # type: ignore[arg-type]
    for region in regions:
        try:
            window_of(region, affine, shape)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
    return regions


def is_mni152(image: MetaTensor) -> bool:
    """Whether a NIfTI header says that the affine in use leads to MNI152 space (its sform's code, else its qform's)."""
    sform, qform = (int(np.asarray(image.meta.get(key, 0))) for key in ("sform_code", "qform_code"))
    return (sform or qform) == XFORM_MNI152


def find(image: MetaTensor, regions: Sequence[Region], segmenter: SegmentsImages, source: str) -> Finding:
    """Segment each region, or the whole image where there is none, and put the labels together.

    Where a label touches a face of its box, the box grows there and is segmented anew.

    Args:
        image: (C, X, Y, Z) with its affine.
        regions: from `regions_for`.
        segmenter: ``segment(MetaTensor)`` gives an object whose ``label`` is (1, x, y, z) on its argument's grid.
        source: what to call the image in messages.

    Raises:
        InputError: a region cannot be segmented, for instance because it is empty.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    shape = tuple(image.shape[1:])
    classes = segmenter.domain.classes
    parts: list[Part] = []
    seconds: dict[str, float] = {}
    warnings: list[str] = []
    for region in regions or [Region(WHOLE, (0.0, 0.0, 0.0), BOX)]:
        start = time.perf_counter()
        try:
            window, label, complete = _on_region(image, region, segmenter) if regions else _on_all(image, segmenter)
        except InputError as error:
            raise InputError(f"{source}, {region.name}: {error}" if regions else str(error)) from None
        seconds[region.name] = time.perf_counter() - start
        if not complete:
            warnings.append(f"{region.name}: the label still touches a face of its box, or of the image; is its centre right?")
        # Sides are told apart before pasting, so that one paste settles whose every voxel is.
        parts.append(Part(region, window, np.where(label > 0, label + len(parts) * len(classes), 0).astype(np.uint8)))
    sides = paste(parts, shape, affine)
    voxel = abs(float(np.linalg.det(affine[:3, :3])))
    counts = np.bincount(sides.ravel(), minlength=len(parts) * len(classes) + 1)[1:].reshape(len(parts), len(classes))
    volumes = {
        part.region.name: {name: float(n * voxel) for name, n in zip(classes, row, strict=True)}
        for part, row in zip(parts, counts, strict=True)
    }
    label = np.where(sides > 0, (sides - 1) % len(classes) + 1, 0).astype(np.uint8)
    for index, part in enumerate(parts):
        own = one_side(sides, index, len(classes))
        warnings += _doubts(part.region.name, volumes[part.region.name], own, affine, segmenter.domain)
    windows = {part.region.name: part.window for part in parts}
    return Finding(label, sides, volumes, windows, warnings, seconds)


def one_side(sides: np.ndarray, index: int, classes: int) -> np.ndarray:
    """Of `Finding.sides`, the class indices of one side; zero elsewhere.

    Args:
        sides: integers of any shape.
        index: of the side, from 0.
        classes: K, the background left out.
    """
    first = index * classes + 1
    return np.where((sides >= first) & (sides < first + classes), sides - (first - 1), 0).astype(np.uint8)


def _on_region(image: MetaTensor, region: Region, segmenter: SegmentsImages) -> tuple[Window, np.ndarray, bool]:
    """The window that was segmented at last, its label, and whether that touches none of its faces."""
    affine, shape = np.asarray(image.affine, dtype=np.float64), image.shape[1:]
    window = window_of(region, affine, shape)
    label = _segment(cut(image, window), segmenter)
    for _ in range(GROWTHS):
        larger = grown(window, label, GROWTH, affine, shape)
        if larger == window:
            break
        window, label = larger, _segment(cut(image, larger), segmenter)
    return window, label, not any(label.take(index, axis).any() for axis in range(3) for index in (0, -1))


def _on_all(image: MetaTensor, segmenter: SegmentsImages) -> tuple[Window, np.ndarray, bool]:
    x, y, z = (slice(0, n) for n in image.shape[1:])
    return (x, y, z), _segment(cut(image, (x, y, z)), segmenter), True


def _segment(image: MetaTensor, segmenter: SegmentsImages) -> np.ndarray:
    return np.asarray(segmenter.segment(image).label)[0].astype(np.uint8)


def _doubts(side: str, volumes: Mapping[str, float], label: np.ndarray, affine: np.ndarray, domain: Domain) -> list[str]:
    """What makes a hippocampus implausible: a missing part, its size, a head that is not in front of its tail."""
    total = sum(volumes.values())
    doubts = [f"{side}: no voxel is {name}; look at the picture before you use this" for name, v in volumes.items() if v == 0]
    if not PLAUSIBLE[0] <= total <= PLAUSIBLE[1]:
        doubts.append(
            f"{side}: {total / 1000:.2f} cm³ is outside {PLAUSIBLE[0] / 1000:g} to {PLAUSIBLE[1] / 1000:g} cm³, what one "
            "hippocampus has; is this a T1 image, and the region the right one?"
        )
    if {"anterior", "posterior"} <= {name for name, v in volumes.items() if v > 0}:
        middle = {
            name: apply_affine(affine, np.argwhere(label == domain.labels[name]).mean(axis=0))
            for name in ("anterior", "posterior")
        }
        if middle["anterior"][1] <= middle["posterior"][1]:
            doubts.append(f"{side}: anterior does not lie in front of posterior; are the image's directions right?")
    return doubts
