"""Images from disk: NIfTI, NRRD, MetaImage, DICOM series; one clear error for whatever cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from monai.data import ImageReader, ITKReader, MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst
from monai.transforms.io.array import switch_endianness

from custom_components.data.checking import check_affine, check_image, check_same_grid, check_source, is_nifti
from custom_components.errors import InputError

__all__ = ["ImagePath", "image_name", "load_volume", "read_image", "read_label"]

ImagePath: TypeAlias = str | Path | Sequence[str | Path]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


def image_name(paths: ImagePath) -> str:
    """A short name for a case: the (first) file's or folder's name without its image suffix."""
    name = Path(_as_list(paths)[0]).name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] if suffix else name


def read_image(paths: ImagePath, channels: int | None = None) -> MetaTensor:
    """Read an image and refuse what cannot be segmented.

    Args:
        paths: a NIfTI, NRRD or MetaImage file (the last axis of a 4-D one is the channels), a folder with one DICOM
            series, or several of these, one per channel and on one grid.
        channels: how many channels there must be; None takes any number.

    Returns:
        (C, X, Y, Z), float32, axes and direction as stored, with its affine (RAS, mm) and the first path as metadata.

    Raises:
        InputError: a path does not exist or is no readable image, or `check_image`, `check_affine` or `check_same_grid`
            refuses what it holds.
    """
    files = _as_list(paths)
    volumes = [load_volume(path) for path in files]
    first = volumes[0]
    for path, volume in zip(files, volumes, strict=True):
        name = str(path)
        check_image(volume, name, None if len(files) > 1 else channels)
        check_affine(volume.affine.numpy(), name)
        if volume is not first:
            check_same_grid(
                tuple(volume.shape[1:]), volume.affine.numpy(), name, tuple(first.shape[1:]), first.affine.numpy(), str(files[0])
            )
    if len(volumes) == 1:
        return first
    image = MetaTensor(torch.cat([v.as_tensor() for v in volumes]), meta=first.meta)
    check_image(image, ", ".join(str(f) for f in files), channels)
    return image


def read_label(path: str | Path, image: MetaTensor | None = None) -> MetaTensor:
    """Read a label map.

    Args:
        path: a file as in `read_image`, with one channel.
        image: where given, the image (C, X, Y, Z) whose grid the label must have.

    Returns:
        (1, X, Y, Z), float32, values as stored.

    Raises:
        InputError: as `read_image`, except that a label may be constant; or it is not on the image's grid.
    """
    label = load_volume(path)
    name = str(path)
    if label.ndim != 4 or label.shape[0] != 1:
        raise InputError(f"{name}: a label must be one 3-D volume, this has shape {tuple(label.shape)}, channels first")
    check_affine(label.affine.numpy(), name)
    if image is not None:
        of = str(image.meta.get("filename_or_obj", "its image"))
        check_same_grid(tuple(label.shape[1:]), label.affine.numpy(), name, tuple(image.shape[1:]), image.affine.numpy(), of)
    return label


def load_volume(path: str | Path) -> MetaTensor:
    """One file or DICOM folder as (C, X, Y, Z) float32, its values and geometry unchecked.

    Raises:
        InputError: it does not exist, is no image or is damaged.
    """
    path = Path(path).expanduser()
    files = check_source(path)
    # By name rather than MONAI's choice, which depends on the packages that happen to be installed.
    reader: ImageReader = NibabelReader() if is_nifti(path) else ITKReader()
    try:
        with _quiet() if is_nifti(path) else _quiet_itk():
            array, meta = reader.get_data(reader.read(str(path)))
            meta = {**switch_endianness(meta, "<"), "filename_or_obj": str(path)}
            volume = MetaTensor.ensure_torch_and_prune_meta(np.asarray(array, dtype=np.float32), meta)
            volume = cast(MetaTensor, EnsureChannelFirst()(volume))
    except Exception as error:
        raise InputError(f"{path}: cannot be read as an image ({_reason(error)}); check or export it again") from None
    if files > 1 and volume.shape[-1] != files:
        # GDCM takes slices for two series where they differ in their date or other details, and reads one of them.
        raise InputError(
            f"{path}: only {volume.shape[-1]} of its {files} slices are read as one volume; they differ in their series date or "
            "in other details: export the series again"
        )
    return volume


@contextmanager
def _quiet() -> Iterator[None]:
    """What the readers warn of is checked here, so their own warnings would only repeat it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _quiet_itk() -> Iterator[None]:
    import itk  # takes seconds, and NIfTI does without

    shown = itk.Object.GetGlobalWarningDisplay()
    itk.Object.SetGlobalWarningDisplay(False)
    try:
        with _quiet():
            yield
    finally:
        itk.Object.SetGlobalWarningDisplay(shown)


def _reason(error: Exception) -> str:
    """The last telling line of a reader's message: ITK's begin with the place in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _as_list(paths: ImagePath) -> list[str | Path]:
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise InputError("no image given; name a file, or one file per channel")
    return files
