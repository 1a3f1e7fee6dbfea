"""Labels as NIfTI bytes, and several result files that appear together or not at all."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from custom_components.atomic import atomic_path
from custom_components.errors import InputError

__all__ = ["nifti_bytes", "write_together"]

# NIfTI header fields that say where voxels are; all others describe intensities, the scanner or the person.
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def nifti_bytes(label: np.ndarray, affine: np.ndarray, source: Path) -> bytes:
    """A label as the content of a .nii.gz file; the same label always gives the same bytes.

    Args:
        label: (X, Y, Z), integers from 0 to 255, on the source's grid.
        affine: 4 × 4, voxel index to mm.
        source: the image's file. From a NIfTI file the geometry is taken over digit for digit, with the codes of its
            coordinate spaces; names, dates and other fields stay behind.
    """
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_data_shape(label.shape)
    original: Any = nib.load(source).header if source.name.lower().endswith((".nii", ".nii.gz")) else None
    if original is None:
        header.set_sform(affine, code="scanner")
        header.set_qform(affine, code="scanner")
    else:
        for name in GEOMETRY:
            header[name] = original[name]
        header["pixdim"][4:] = 0
    header["descrip"] = b"label"
    image: Any = nib.Nifti1Image(label.astype(np.uint8), affine, header, dtype=np.uint8)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, then rename them all.

    Raises:
        InputError: a folder cannot be made or written to; no file is there then.
    """
    with ExitStack() as stack:
        for path, content in files.items():
            temporary = stack.enter_context(atomic_path(path))
            try:
                temporary.write_bytes(content)
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be written ({error.strerror}); free some space or choose another folder"
                ) from None
