"""What makes an image or a label unusable, said once, in one sentence that names the file.

Pure checks: each returns nothing or raises `InputError`. Affines are 4×4, voxel index (x, y, z as stored) to mm (RAS).
"""

from __future__ import annotations

import gzip
import math
import zlib
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from custom_components.data.sizes import check_declared_size
from custom_components.data.text_headers import check_meta_image, check_nrrd
from custom_components.errors import InputError

__all__ = [
    "LARGEST_SPACING",
    "SMALLEST_SPACING",
    "check_affine",
    "check_image",
    "check_same_grid",
    "check_source",
    "is_nifti",
    "spacing_of",
]

SMALLEST_SPACING, LARGEST_SPACING = 0.01, 100.0  # mm: microscopes below, mistaken units above
LARGEST_VALUE = 1e12  # beyond it, sums of squares over a volume leave float32
ORTHOGONAL_WITHIN = 1e-3  # largest cosine between two axes; ITK refuses what is far from this, nibabel takes anything
SAME_GRID_WITHIN = 0.05  # of the smallest voxel edge, at the corners of the volume


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Voxel size along the stored axes (x, y, z), mm: the lengths of the affine's columns."""
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def is_nifti(path: str | Path) -> bool:
    return str(path).lower().endswith((".nii", ".nii.gz"))


def check_image(image: torch.Tensor, name: str, channels: int | None = None) -> None:
    """Check the values of an image.

    Args:
        image: (C, X, Y, Z), any real type.
        name: what to call it in the message (the file's path).
        channels: how many channels it must have; None takes any number.

    Raises:
        InputError: not three spatial axes, a single slice, another number of channels, no voxel, NaN or infinite
            values, values above `LARGEST_VALUE`, or a channel whose voxels are all equal.
    """
    shape = tuple(image.shape)
    if len(shape) == 3 or (len(shape) == 4 and image.numel() and 1 in shape[1:]):
        size = " × ".join(str(n) for n in shape[1:])
        raise InputError(f"{name}: is 2-D ({size} voxels); give a 3-D volume (for DICOM, the folder of the whole series)")
    if len(shape) != 4:
        raise InputError(
            f"{name}: has {len(shape) - 1} axes beside the channels; give a 3-D volume, or a 4-D one with the channels last"
        )
    if channels is not None and shape[0] != channels:
        raise InputError(
            f"{name}: has {shape[0]} channel{'s' * (shape[0] != 1)}, {channels} {'are' if channels != 1 else 'is'} needed; "
            "give a 4-D file whose last axis is the channels, or one file per channel in the domain's order"
        )
    if image.numel() == 0:
        raise InputError(f"{name}: is empty (shape {shape[1:]}); export it again")
    extremes = [tuple(float(v) for v in torch.aminmax(channel)) for channel in image]  # NaN where there is one: one pass for all
    if not np.isfinite(extremes).all():
        bad = int((~torch.isfinite(image)).sum())
        raise InputError(
            f"{name}: {bad} voxel{'s are' if bad != 1 else ' is'} NaN or infinite; replace them (for example by 0) and try again"
        )
    if (largest := max(abs(v) for pair in extremes for v in pair)) > LARGEST_VALUE:
        raise InputError(
            f"{name}: holds values up to {largest:.2g}, which no scanner gives; its header "
            "(slope, type, byte order) or its data are damaged; export it again"
        )
    for index, (low, high) in enumerate(extremes):
        if low == high:
            which = f"channel {index} of it" if shape[0] > 1 else "it"
            raise InputError(
                f"{name}: {which} is constant (every voxel is {low:g}): there is nothing to segment; check the export"
            )


def check_affine(affine: np.ndarray, name: str) -> None:
    """Check the geometry of an image.

    Args:
        affine: (4, 4), voxel to mm.
        name: what to call the image in the message.

    Raises:
        InputError: values that are not finite, a spacing of zero, below `SMALLEST_SPACING` or above
            `LARGEST_SPACING`, or axes that are not at right angles.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: its affine is not a finite 4 × 4 matrix; export it again with its geometry")
    spacing = spacing_of(matrix)
    _check_spacing(spacing, name)
    cosines = (matrix[:3, :3] / spacing).T @ (matrix[:3, :3] / spacing)
    worst = float(np.abs(cosines - np.eye(3)).max())
    if worst > ORTHOGONAL_WITHIN:
        angle = np.degrees(np.arccos(np.clip(worst, 0, 1)))
        raise InputError(
            f"{name}: its affine is not orthonormal (two axes meet at {angle:.1f}°, not 90°): sheared, as from a tilted gantry; "
            "resample it onto a rectangular grid first"
        )


def check_same_grid(
    shape: tuple[int, ...], affine: np.ndarray, name: str, of_shape: tuple[int, ...], of_affine: np.ndarray, of: str
) -> None:
    """Check that two volumes lie on one grid.

    Args:
        shape: (X, Y, Z), voxels, of the one to blame.
        affine: its affine.
        name: what to call it in the message.
        of_shape: (X, Y, Z) of the image it must agree with.
        of_affine: that image's affine.
        of: that image's name.

    Raises:
        InputError: the shapes differ, or a corner of the volume lies more than 5 % of a voxel elsewhere.
    """
    if tuple(shape) != tuple(of_shape):
        raise InputError(f"{name}: has shape {_by(shape)}, but {of} has {_by(of_shape)}; both must be on one grid")
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, n - 1.0) for n in shape))])
    difference = np.asarray(affine, dtype=np.float64) - np.asarray(of_affine, dtype=np.float64)
    apart = np.linalg.norm((corners @ difference.T)[:, :3], axis=1)
    if not apart.max() <= SAME_GRID_WITHIN * spacing_of(of_affine).min():  # 'not <=' so that NaN fails
        raise InputError(
            f"{name}: lies up to {apart.max():.3g} mm from {of} (origin, spacing or directions differ); both must be on one grid"
        )


def check_source(path: str | Path) -> int:
    """Check what the readers hide: the file itself, the stored spacing of NIfTI and MetaImage, the slices of a DICOM series.

    Returns:
        The number of files that it consists of: 1, or those of a DICOM series.

    Raises:
        InputError: the path does not exist, its header cannot be read, its stored spacing is not positive, it holds
            complex numbers, or it is a folder that is not exactly one regular DICOM series.
    """
    path = Path(path)
    try:
        if path.is_dir():
            from custom_components.data.dicom import check_series  # only here: pydicom is slow to import

            return check_series(path)
        elif not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        elif is_nifti(path):
            _check_nifti_header(path)
        elif path.stat().st_size == 0:
            raise InputError(f"{path}: is an empty file; copy it again")
        elif path.suffix.lower() in (".mha", ".mhd"):
            _check_meta_header(path)
        elif path.suffix.lower() in (".nrrd", ".nhdr"):
            check_nrrd(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions") from None
    return 1


def _check_nifti_header(path: Path) -> None:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            start = file.read(540)  # the longer of the two headers, NIfTI-2's
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: is damaged or not what its name says ({error}); copy or download it again") from None
    size = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    kind = next((k for k in (nib.Nifti1Header, nib.Nifti2Header) if k.sizeof_hdr in size and len(start) >= k.sizeof_hdr), None)
    if kind is None:
        raise InputError(f"{path}: is not a NIfTI image (no such header); check the file")
    header = kind(start[: kind.sizeof_hdr], check=False)
    axes = int(header["dim"][0])
    # nibabel takes the absolute value of negative entries and puts 1 for zero, so only the bytes tell.
    _check_spacing(np.asarray(header["pixdim"][1 : 1 + min(max(axes, 0), 3)], dtype=np.float64), str(path))
    try:
        complex_valued = header.get_data_dtype().kind == "c"
    except (nib.spatialimages.HeaderDataError, KeyError):
        raise InputError(f"{path}: stores a data type that NIfTI does not know; export it again") from None
    if complex_valued:
        raise InputError(f"{path}: holds complex numbers; give the magnitude image")
    sizes = [int(n) for n in header["dim"][1 : 1 + min(max(axes, 0), 7)]]
    if any(n < 0 for n in sizes):
        raise InputError(f"{path}: its header declares {_by(tuple(sizes))} voxels; copy or download it again")
    declared = math.prod(sizes) * header.get_data_dtype().itemsize
    check_declared_size(path, declared, path.stat().st_size, packed=path.name.lower().endswith(".gz"))


def _check_meta_header(path: Path) -> None:
    fields = check_meta_image(path)
    if "ElementSpacing" in fields:
        spacing = [float(word) for word in fields["ElementSpacing"].split()[:3]]
        _check_spacing(np.array(spacing), str(path))  # ITK turns a negative one into a flipped axis without a word


def _check_spacing(spacing: np.ndarray, name: str) -> None:
    if not ((spacing >= SMALLEST_SPACING) & (spacing <= LARGEST_SPACING)).all():
        values = " × ".join(f"{v:g}" for v in spacing)
        raise InputError(
            f"{name}: its voxel spacing is {values} mm, which must lie between {SMALLEST_SPACING:g} and {LARGEST_SPACING:g} mm "
            "on every axis; correct the header (units are mm) or export it again"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape)
