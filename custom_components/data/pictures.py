"""One picture of a data set: histograms, and a few slices with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom_components.data.datalist import Dataset
from custom_components.data.exploration import CaseReport, Slice
from custom_components.data.writing import atomic_path

__all__ = ["draw_dataset"]

SLICES = 6


def draw_dataset(path: Path, dataset: Dataset, reports: Sequence[CaseReport]) -> None:
    """Draw sizes, spacings, intensities and label volumes over the cases, and slices of cases spread over the list.

    Args:
        path: the PNG to write, whole or not at all.
        dataset: the task.
        reports: of its good cases, at least one.

    Raises:
        InputError: the folder cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{dataset.task}: {len(reports)} cases, {', '.join(dataset.channels) or 'unnamed channels'}")
    upper, lower = np.ravel(figure.subfigures(2, 1))
    sizes, spacings, intensities, volumes = upper.subplots(1, 4)
    for axis in "xyz":
        sizes.hist([report.case[f"size_{axis}"] for report in reports], bins=20, alpha=0.6, label=axis)
        spacings.hist([report.case[f"spacing_{axis}"] for report in reports], bins=20, alpha=0.6, label=axis)
    for region in ("all", "foreground"):
        medians = [
            r["p50"]
            for report in reports
            for r in report.intensities
            if r["region"] == region and r["channel"] == 0 and r["voxels"]
        ]
        if medians:
            intensities.hist(medians, bins=20, alpha=0.6, label=region)
    for value, name in sorted(_classes(dataset, reports).items()):
        volume = [r["volume_mm3"] / 1000 for report in reports for r in report.labels if r["value"] == value]
        volumes.hist(volume, bins=20, alpha=0.6, label=name)
    titles = ("Size, voxels", "Spacing, mm", "Median intensity of a case, first channel", "Volume of a label, cm³")
    for axes, title in zip((sizes, spacings, intensities, volumes), titles, strict=True):
        axes.set(title=title, ylabel="cases")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    chosen = sorted({round(i) for i in np.linspace(0, len(reports) - 1, min(SLICES, len(reports)))})
    for axes, index in zip(np.atleast_1d(lower.subplots(1, len(chosen))), chosen, strict=True):
        _draw_slice(axes, reports[index].middle, max([1, *_classes(dataset, reports)]))
        axes.set_title(reports[index].case["case"], fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def _draw_slice(axes: Any, shown: Slice, highest: int) -> None:
    low, high = np.percentile(shown.image, (0.5, 99.5))
    aspect = shown.spacing[1] / shown.spacing[0]
    axes.imshow(shown.image.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
    overlay = np.ma.masked_equal(shown.label.T, 0)
    axes.imshow(
        overlay, cmap="tab10", vmin=1, vmax=max(10, highest), alpha=0.5, origin="lower", aspect=aspect, interpolation="nearest"
    )
    axes.axis("off")


def _classes(dataset: Dataset, reports: Sequence[CaseReport]) -> dict[int, str]:
    """The named classes, or else the values that occur."""
    named = {value: name for value, name in dataset.labels.items() if value}
    return named or {row["value"]: f"value {row['value']}" for report in reports for row in report.labels}
