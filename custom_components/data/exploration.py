"""What is in a data set: size, spacing, orientation, intensities and labels of every case, as rows of tables."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cc3d
import nibabel as nib
import numpy as np

from custom_components.atomic import atomic_path
from custom_components.data.checking import spacing_of
from custom_components.data.datalist import Case, Dataset
from custom_components.data.reading import read_image, read_label
from custom_components.errors import InputError

__all__ = ["PERCENTILES", "CaseReport", "Row", "Slice", "describe_case", "describe_cases", "summarise", "write_csv"]

Row: TypeAlias = dict[str, Any]

PERCENTILES = (0.5, 2.0, 50.0, 98.0, 99.5)
STATISTICS = ("min", "max", "mean", "std", *(f"p{p:g}" for p in PERCENTILES))
AXES = "xyz"
_NO_MERGES: Mapping[int, int] = {}


@dataclass(frozen=True)
class Slice:
    """An axial slice for a picture, turned to RAS: first axis to the right, second to the front.

    Attributes:
        image: (x, y), intensities of the first channel.
        label: (x, y), label values.
        spacing: of x and y, mm.
    """

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float]


@dataclass(frozen=True)
class CaseReport:
    """All that is known of one case.

    Attributes:
        case: one row: size, spacing, orientation, non-zero box, stray values.
        intensities: a row per channel and region (``all``, ``nonzero``, ``foreground``).
        cropped: a row per channel, of the non-zero box of the first channel: what is left when an image is cut to it.
        labels: a row per label value other than 0, and per class that is absent.
        middle: the axial slice with most foreground.
    """

    case: Row
    intensities: list[Row]
    cropped: list[Row]
    labels: list[Row]
    middle: Slice


def describe_case(case: Case, dataset: Dataset, merges: Mapping[int, int] = _NO_MERGES) -> CaseReport:
    """Read a case and measure it.

    Args:
        case: image and label.
        dataset: what the files should hold.
        merges: label value to the value it counts as.

    Raises:
        InputError: the image or the label cannot be used, they are not on one grid, or the number of channels is not
            that of dataset.json.
    """
    image = read_image(case["image"], channels=len(dataset.channels) or None)
    label_image = read_label(case["label"], image)
    raw = label_image.numpy()[0]
    label = np.rint(raw).astype(np.int64) if np.isfinite(raw).all() else raw
    if not np.isfinite(raw).all() or np.abs(raw - label).max() > 1e-3:
        raise InputError(f"{case['label']}: holds values that are no whole numbers; give the label map as drawn")
    for value, target in merges.items():
        label[label == value] = target
    values, affine = image.numpy(), image.affine.numpy()
    spacing = spacing_of(affine)
    key = {"task": dataset.task, "case": case["case"]}
    rows = _label_rows(label, spacing, dataset.labels)
    strays = [row for row in rows if row["stray"]]
    first, last = _nonzero_box(values[0])
    described: Row = {
        **key,
        "channels": values.shape[0],
        **{f"size_{a}": n for a, n in zip(AXES, values.shape[1:], strict=True)},
        **{f"spacing_{a}": round(float(s), 6) for a, s in zip(AXES, spacing, strict=True)},
        "orientation": "".join(nib.aff2axcodes(affine)),
        **{f"nonzero_first_{a}": int(v) for a, v in zip(AXES, first, strict=True)},
        **{f"nonzero_last_{a}": int(v) for a, v in zip(AXES, last, strict=True)},
        "foreground_voxels": int(np.count_nonzero(label)),
        "stray_values": " ".join(str(row["value"]) for row in strays),
        "stray_voxels": sum(row["voxels"] for row in strays),
    }
    regions = {"all": np.ones(label.shape, dtype=bool), "nonzero": values[0] != 0, "foreground": label != 0}
    intensities = [
        {**key, "channel": index, "region": name, **_statistics(channel[where])}
        for index, channel in enumerate(values)
        for name, where in regions.items()
    ]
    box = tuple(slice(f, n + 1) for f, n in zip(first, last, strict=True))
    cropped = [
        {**key, "channel": index, "zeros": int((channel[box] == 0).sum()), **_statistics(channel[box])}
        for index, channel in enumerate(values)
    ]
    return CaseReport(described, intensities, cropped, [{**key, **row} for row in rows], _middle_slice(values[0], label, affine))


def describe_cases(dataset: Dataset, jobs: int = 1, merges: Mapping[int, int] = _NO_MERGES) -> Iterator[CaseReport | InputError]:
    """`describe_case` of every case in the order of the list; for a bad case its error, so that the others are done.

    Args:
        dataset: the task.
        jobs: cases read at a time, each in a process of its own; with 1, in this one.
        merges: as in `describe_case`.
    """
    measure = partial(_report_or_error, dataset=dataset, merges=dict(merges))
    if jobs == 1:
        yield from map(measure, dataset.cases)
        return
    # Forked from a server that has done no work yet: torch's threads can hang in a fork of this process, and a fresh
    # interpreter for each would import everything again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(jobs, len(dataset.cases)), context) as pool:
        yield from pool.map(measure, dataset.cases)


def summarise(dataset: Dataset, reports: Sequence[CaseReport], bad: int = 0) -> Row:
    """One row for a task: minimum, median and maximum over its cases; the median of each intensity statistic.

    Args:
        dataset: the task.
        reports: of its good cases, at least one.
        bad: number of cases that could not be read.
    """
    cases = [report.case for report in reports]
    row: Row = {"task": dataset.task, "cases": len(cases), "bad_cases": bad, "channels": " ".join(dataset.channels)}
    for field in [f"{quantity}_{a}" for quantity in ("size", "spacing") for a in AXES]:
        row |= _spread(field, [case[field] for case in cases])
    row["orientations"] = " ".join(sorted({case["orientation"] for case in cases}))
    row["cases_with_stray_labels"] = sum(case["stray_voxels"] > 0 for case in cases)
    for channel in range(cases[0]["channels"]):
        for region in ("all", "foreground"):
            rows = [
                r
                for report in reports
                for r in report.intensities
                if (r["channel"], r["region"]) == (channel, region) and r["voxels"]
            ]
            for statistic in STATISTICS:
                row[f"channel{channel}_{region}_{statistic}"] = float(np.median([r[statistic] for r in rows])) if rows else ""
    for value, name in sorted(dataset.labels.items()):
        if value:
            volumes = [r["volume_mm3"] for report in reports for r in report.labels if r["value"] == value]
            row |= _spread(f"{name}_mm3", volumes)
    return row


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that share their fields (those that only later rows have come last), whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    fields = list(dict.fromkeys(field for row in rows for field in row))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _report_or_error(case: Case, dataset: Dataset, merges: Mapping[int, int]) -> CaseReport | InputError:
    try:
        return describe_case(case, dataset, merges)
    except InputError as error:
        return error


def _statistics(values: np.ndarray) -> Row:
    if not values.size:
        return {"voxels": 0, **dict.fromkeys(STATISTICS, "")}
    numbers = [
        values.min(),
        values.max(),
        values.mean(dtype=np.float64),
        values.std(dtype=np.float64),
        *np.percentile(values, PERCENTILES),
    ]
    return {"voxels": values.size, **{name: float(number) for name, number in zip(STATISTICS, numbers, strict=True)}}


def _label_rows(label: np.ndarray, spacing: np.ndarray, classes: dict[int, str]) -> list[Row]:
    """Voxels, volume and 18-connected components of each value. Where dataset.json names no class, none is stray."""
    values, inverse = np.unique(label, return_inverse=True)
    compact = np.where(label == 0, 0, inverse.reshape(label.shape) + 1).astype(np.uint16)  # cc3d takes 0 for the background
    components = cc3d.connected_components(np.ascontiguousarray(compact), connectivity=18)
    sizes = np.bincount(components.ravel())
    owner = np.zeros(len(sizes), dtype=np.int64)
    owner[components.ravel()] = label.ravel()
    rows = []
    for value in sorted({*(int(v) for v in values), *classes} - {0}):
        own = sizes[1:][owner[1:] == value]
        rows.append(
            {
                "value": value,
                "name": classes.get(value, ""),
                "stray": bool(classes) and value not in classes,
                "voxels": int(own.sum()),
                "volume_mm3": round(float(own.sum() * spacing.prod()), 3),
                "components": len(own),
                "largest_component": int(own.max()) if len(own) else 0,
            }
        )
    return rows


def _nonzero_box(channel: np.ndarray) -> tuple[list[int], list[int]]:
    """First and last index of the voxels that are not zero, per axis; there is one, for the image is not constant."""
    spans = [np.flatnonzero((channel != 0).any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return [int(s[0]) for s in spans], [int(s[-1]) for s in spans]


def _middle_slice(channel: np.ndarray, label: np.ndarray, affine: np.ndarray) -> Slice:
    to_ras = nib.orientations.io_orientation(affine)
    image, marked = (nib.orientations.apply_orientation(a, to_ras) for a in (channel, label))
    per_slice = (marked != 0).sum(axis=(0, 1))
    index = int(per_slice.argmax()) if per_slice.any() else image.shape[2] // 2
    spacing = spacing_of(affine @ nib.orientations.inv_ornt_aff(to_ras, channel.shape))
    return Slice(image[:, :, index].copy(), marked[:, :, index].copy(), (float(spacing[0]), float(spacing[1])))


def _spread(field: str, values: Sequence[float]) -> Row:
    return {f"{field}_{name}": float(of(values)) for name, of in (("min", np.min), ("median", np.median), ("max", np.max))}
