"""Small images with known content, on disk in every format that the project reads. Deterministic under a seed.

Arrays here are (X, Y, Z) as NIfTI stores them, affines RAS in mm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from custom_components.domain import Domain

SHAPE = (30, 40, 32)
# Mean intensities of background, anterior and posterior: a threshold at 150 and 250 is an oracle.
INTENSITIES = (100.0, 300.0, 200.0)


def hippocampus_like(
    shape: tuple[int, int, int] = SHAPE, seed: int = 0, noise: float = 10.0, border: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two ellipsoids that touch along the second axis: anterior (label 1, higher y) and posterior (2).

    Args:
        shape: voxels.
        seed: of the centres, radii and noise.
        noise: standard deviation; the classes are 100 apart.
        border: voxels on every side that are exactly zero.

    Returns:
        image, float32 and label, uint8.
    """
    rng = np.random.default_rng(seed)
    size = np.array(shape)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    radii = size * rng.uniform(0.14, 0.20, 3)
    centre = (size - 1) / 2 + size * rng.uniform(-0.04, 0.04, 3)
    step = np.array([0.0, radii[1] * 0.95, 0.0])
    inside = [(((grid - (centre + sign * step)) / radii) ** 2).sum(axis=-1) <= 1 for sign in (1, -1)]
    label = np.zeros(shape, dtype=np.uint8)
    label[inside[1]] = 2
    label[inside[0]] = 1
    image = np.array(INTENSITIES, dtype=np.float32)[label] + rng.normal(0, noise, shape).astype(np.float32)
    image = np.clip(image, 1, None)  # only the border is zero
    if border:
        kept = np.zeros(shape, dtype=bool)
        kept[(slice(border, -border),) * 3] = True
        image[~kept] = 0
    return image.astype(np.float32), label


def affine_of(
    spacing: Sequence[float] = (1, 1, 1),
    angles: Sequence[float] = (0, 0, 0),
    origin: Sequence[float] = (0, 0, 0),
    axes: Sequence[int] = (0, 1, 2),
    flips: Sequence[int] = (1, 1, 1),
) -> np.ndarray:
    """An affine with orthogonal axes.

    Args:
        spacing: of the stored axes, mm.
        angles: oblique turn about x, y, z, degrees.
        origin: world position of voxel 0, mm.
        axes: world axis that each stored axis runs along before the turn.
        flips: 1 or -1 per stored axis.
    """
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.eye(3)[:, list(axes)] @ np.diag(flips)
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """(X, Y, Z) or, with channels, (X, Y, Z, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def save_itk(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """NRRD, MetaImage and whatever else ITK writes; (X, Y, Z), or (X, Y, Z, C) as a vector image."""
    import itk

    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4) if affine is None else affine
    vector = array.ndim == 4
    stored = np.ascontiguousarray(array.transpose(2, 1, 0, 3) if vector else array.T)
    image = itk.image_from_array(stored, is_vector=vector)
    spacing, direction, origin = _lps(affine)
    image.SetSpacing([float(v) for v in spacing])
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetOrigin([float(v) for v in origin])
    itk.imwrite(image, str(path))
    return path


def save_dicom_series(
    folder: Path, array: np.ndarray, affine: np.ndarray | None = None, uid: str | None = None, description: str = "phantom"
) -> Path:
    """One MR slice per file along the third axis; values are rounded to int16."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    spacing, direction, origin = _lps(np.eye(4) if affine is None else affine)
    entropy = [str(folder.name), description]
    uid = uid or generate_uid(entropy_srcs=entropy)
    for index in range(array.shape[2]):
        data = pydicom.Dataset()
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, f"{uid}.{index + 1}"[:64]
        data.StudyInstanceUID = data.FrameOfReferenceUID = generate_uid(entropy_srcs=["study"])
        data.SeriesInstanceUID, data.SeriesDescription, data.SeriesDate = uid, description, "20260101"
        data.Modality, data.PatientID, data.PatientName = "MR", "phantom", "Phantom"
        data.InstanceNumber, data.SeriesNumber = index + 1, 1
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.PixelSpacing = [_number(spacing[1]), _number(spacing[0])]
        data.SliceThickness = _number(spacing[2])
        data.ImageOrientationPatient = [_number(v) for v in (*direction[:, 0], *direction[:, 1])]
        data.ImagePositionPatient = [_number(v) for v in origin + direction[:, 2] * spacing[2] * index]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = np.ascontiguousarray(array[:, :, index].T).round().astype("<i2").tobytes()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
        data.save_as(folder / f"{description}_{index:03d}.dcm", enforce_file_format=True)
    return folder


def decathlon(
    folder: Path,
    cases: int = 10,
    channels: int = 1,
    shape: tuple[int, int, int] = SHAPE,
    task: str = "Task99_Phantom",
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """A Decathlon folder of `hippocampus_like` cases, sizes up to two voxels apart. Returns ``folder / task``."""
    root = folder / task
    names = list(names) if names is not None else [f"phantom_{index:03d}" for index in range(cases)]
    for index, name in enumerate(names):
        size = (shape[0] + index % 3, shape[1] - index % 2, shape[2])
        image, label = hippocampus_like(size, seed=seed + index)
        if channels > 1:
            image = np.stack([image * (c + 1) for c in range(channels)], axis=-1)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label)
    described = {
        "name": "Phantom",
        "modality": {str(c): "MRI" for c in range(channels)},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": len(names),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    (root / "dataset.json").write_text(json.dumps(described, indent=1))
    return root


def domain_like(
    domain: Domain, shape: tuple[int, int, int], seed: int = 0, zero_outside: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A body with one ellipsoid per class, as a domain's modality, channels and labels have it.

    Args:
        domain: whose channels, classes and merged label values; a value that is merged lies within the class it goes to.
        shape: voxels, x, y, z.
        seed: of the radii and the noise.
        zero_outside: a CT as HU + 1024 that is 0 outside the body, in place of HU with air outside.

    Returns:
        image, float32, (X, Y, Z) or with several channels (X, Y, Z, C), and label, uint8.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1)
    label = np.zeros(shape, dtype=np.uint8)
    body = (grid[..., :2] ** 2).sum(axis=-1) <= 0.95
    count = len(domain.classes)
    for index in range(1, count + 1):
        turn = 2 * np.pi * index / count
        centre = np.array([0.5 * np.cos(turn), 0.5 * np.sin(turn), 0.0]) if count > 1 else np.zeros(3)
        radii = np.array([0.3, 0.3, 0.8]) * rng.uniform(0.9, 1.1, 3)
        distance = (((grid - centre) / radii) ** 2).sum(axis=-1)
        label[distance <= 1] = index
        for value, target in domain.label_merges.items():
            if target == index:
                label[distance <= 0.3] = value
    contrast = np.zeros(256, dtype=np.float32)
    for value in np.unique(label):
        contrast[value] = 60 * value
    base = {"MR": 200.0, "CT": 40.0}[domain.modality]
    image = base + contrast[label] + rng.normal(0, 8, shape).astype(np.float32)
    if domain.modality == "CT":
        image = np.where(body, image + 1024, 0) if zero_outside else np.where(body, image, -1000)
    else:
        image = np.where(body, image, np.abs(rng.normal(0, 8, shape)) + 1)
    if domain.in_channels > 1:
        image = np.stack([image if c % 2 == 0 else image.max() + 1 - image for c in range(domain.in_channels)], axis=-1)
    return image.astype(np.float32), label


def decathlon_of(folder: Path, domain: Domain, task: str, shape: tuple[int, int, int], cases: int = 5, **how: bool) -> Path:
    """A Decathlon folder of `domain_like` cases on the domain's own spacing; returns ``folder / task``."""
    root = folder / task
    names = [f"case_{index}" for index in range(cases)]
    affine = affine_of(domain.spacing[::-1])
    for index, name in enumerate(names):
        image, label = domain_like(domain, shape, index, **how)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image, affine)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    described = {
        "name": domain.name,
        "modality": {str(index): name for index, name in enumerate(domain.channels)},
        "labels": {str(index): name for name, index in domain.labels.items()},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def _lps(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spacing, direction cosines and origin in ITK's and DICOM's LPS axes."""
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    return spacing, matrix[:3, :3] / spacing, matrix[:3, 3]


def _number(value: float) -> str:
    """DICOM decimal strings have at most 16 characters."""
    return f"{float(value):.10g}"[:16]
