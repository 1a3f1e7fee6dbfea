"""A DICOM series in a folder: exactly one, with regular slices.

ITK reads a folder with a missing slice, a tilted gantry or two series without an error, and gives wrong millimetres.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from custom_components.errors import InputError

__all__ = ["check_series"]

TAGS = ["SeriesInstanceUID", "SeriesDescription", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"]
REGULAR_WITHIN = 0.02  # of the slice distance


def check_series(folder: Path) -> None:
    """Check that a folder holds one DICOM series whose slices are parallel, evenly spaced and not sheared.

    Raises:
        InputError: no DICOM image in it, several series, or slices that are missing, doubled, tilted or turned.
    """
    series: dict[str, list[pydicom.Dataset]] = defaultdict(list)
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        except (pydicom.errors.InvalidDicomError, EOFError):
            continue  # notes, DICOMDIR leftovers, pictures: not part of the series
        if "Rows" in header and "SeriesInstanceUID" in header:
            series[str(header.SeriesInstanceUID)].append(header)
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


def _check_slices(slices: list[Any], name: str) -> None:
    sizes = {(int(s.Rows), int(s.Columns)) for s in slices}
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
