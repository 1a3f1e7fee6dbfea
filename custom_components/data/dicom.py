"""A DICOM series in a folder: exactly one, with regular slices.

ITK reads a folder with a missing slice, a tilted gantry or two series without an error, and gives wrong millimetres.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.valuerep import VR

from custom_components.errors import InputError

__all__ = ["check_series"]

UNDEFINED_LENGTH = 0xFFFFFFFF
LARGE = 4096  # bytes
KINDS = frozenset(VR)
REGULAR_WITHIN = 0.02  # of the slice distance


def check_series(folder: Path) -> int:
    """Check that a folder holds one DICOM series whose slices are parallel, evenly spaced and not sheared.

    Returns:
        The number of its files.

    Raises:
        InputError: no DICOM image in it, several series, or slices that are missing, doubled, tilted or turned.
    """
    series: dict[str, list[pydicom.Dataset]] = defaultdict(list)
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        try:
            header = pydicom.dcmread(path, defer_size=LARGE)  # to the end of the file, but for the pixels themselves
            _check_elements([*header.file_meta._dict.values(), *header._dict.values()], path)
            meta, uid, rows = header.file_meta, header.get("SeriesInstanceUID"), header.get("Rows")
        except InputError:
            raise
        except pydicom.errors.InvalidDicomError:
            continue  # notes and pictures: not part of the series
        except Exception as error:  # pydicom's exceptions for damaged files are of many kinds
            raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); export or copy the series again") from None
        if uid and rows:
            series[str(uid)].append(header)
        elif (kind := getattr(meta.get("MediaStorageSOPClassUID"), "name", None)) is None or "Image Storage" in str(kind):
            # Left out, the series would be a shorter one without a word. A report or a DICOMDIR says what it is.
            raise InputError(f"{path}: is a damaged image of a DICOM series (no rows, or no series); copy the series again")
    if not series:
        raise InputError(f"{folder}: holds no DICOM image; give an image file, or the folder of one DICOM series")
    if len(series) > 1:
        names = "; ".join(
            f"{uid} ({s[0].get('SeriesDescription', 'no description')}, {len(s)} files)" for uid, s in series.items()
        )
        raise InputError(f"{folder}: holds {len(series)} DICOM series, give a folder with one: {names}")
    slices = next(iter(series.values()))
    if len(slices) > 1:  # one file may be a multi-frame volume; a lone slice is refused as 2-D once it is read
        _check_slices(slices, str(folder))
    return len(slices)


def _check_elements(elements: list[Any], path: Path) -> None:
    """Ask that elements, as read, be as long as they say and of a kind that exists: GDCM takes the memory that is said."""
    for element in elements:
        value, length = element.value, getattr(element, "length", None)
        if length in (None, UNDEFINED_LENGTH):
            cut_off = False
        elif value is None:  # left where it is
            cut_off = element.value_tell + length > path.stat().st_size
        else:
            cut_off = isinstance(value, bytes) and len(value) != length
        if cut_off:
            raise InputError(f"{path}: is damaged (its element {element.tag} is cut off); export or copy the series again")
        if element.VR is not None and element.VR not in KINDS:
            raise InputError(
                f"{path}: is damaged (its element {element.tag} is of no known kind); export or copy the series again"
            )


def _check_slices(slices: list[Any], name: str) -> None:
    try:
        sizes = {(int(s.Rows), int(s.Columns)) for s in slices}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{name}: has slices that do not say how large they are; export the series again") from None
    if len(sizes) > 1:
        raise InputError(f"{name}: its slices have different sizes {sorted(sizes)}; give one series")
    try:
        positions = np.array([[float(v) for v in s.ImagePositionPatient] for s in slices])
        directions = np.array([[float(v) for v in s.ImageOrientationPatient] for s in slices])
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"{name}: slices without position and orientation: their geometry is unknown; export the series again"
        ) from None
    if np.abs(directions - directions[0]).max() > 1e-3:
        raise InputError(f"{name}: its slices are not parallel; give one series of parallel slices")
    normal = np.cross(directions[0, :3], directions[0, 3:])
    order = np.argsort(positions @ normal)
    steps = np.diff(positions[order], axis=0)
    along = steps @ normal
    typical = float(np.median(along))
    if typical <= 0 or np.abs(along - typical).max() > REGULAR_WITHIN * typical:
        raise InputError(
            f"{name}: its slices are not evenly spaced ({along.min():.3g} to {along.max():.3g} mm apart): "
            "slices are missing, doubled or from several scans; export the series again"
        )
    sideways = np.linalg.norm(steps - along[:, None] * normal, axis=1)
    if sideways.max() > REGULAR_WITHIN * typical:
        angle = np.degrees(np.arctan2(sideways.max(), typical))
        raise InputError(
            f"{name}: its slices are sheared by {angle:.1f}° (tilted gantry); resample it onto a rectangular grid first"
        )
