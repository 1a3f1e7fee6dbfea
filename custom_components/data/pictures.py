"""One picture of a data set: histograms, and a few slices with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom_components.atomic import atomic_path
from custom_components.data.datalist import Dataset
from custom_components.data.exploration import CaseReport, Slice

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
    grid = figure.add_gridspec(2, 1)
    figure.suptitle(f"{dataset.task}: {len(reports)} cases, {', '.join(dataset.channels) or 'unnamed channels'}")
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    sizes, spacings, intensities, volumes = upper.subplots(1, 4)
    cases = [report.case for report in reports]
    labels = [row for report in reports for row in report.labels]
    first = [row for report in reports for row in report.intensities if row["channel"] == 0 and row["voxels"]]
    classes = _classes(dataset, reports)
    _histograms(sizes, "Size, voxels", {axis: [case[f"size_{axis}"] for case in cases] for axis in "xyz"})
    _histograms(spacings, "Spacing, mm", {axis: [case[f"spacing_{axis}"] for case in cases] for axis in "xyz"})
    medians = {region: [row["p50"] for row in first if row["region"] == region] for region in ("all", "foreground")}
    _histograms(intensities, "Median intensity of a case, first channel", medians)
    per_class = {name: [r["volume_mm3"] / 1000 for r in labels if r["value"] == value] for value, name in sorted(classes.items())}
    _histograms(volumes, "Volume of a label, cm³", per_class)
    chosen = sorted({round(i) for i in np.linspace(0, len(reports) - 1, min(SLICES, len(reports)))})
    for axes, index in zip(np.atleast_1d(lower.subplots(1, len(chosen))), chosen, strict=True):
        _draw_slice(axes, reports[index].middle, max([1, *classes]))
        axes.set_title(reports[index].case["case"], fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def _histograms(axes: Any, title: str, groups: dict[str, list[float]]) -> None:
    """One histogram per group on bins that all share."""
    together = [value for group in groups.values() for value in group]
    bins = np.histogram_bin_edges(together, 20) if together else None
    for name, group in groups.items():
        axes.hist(group, bins=bins, alpha=0.6, label=name)
    axes.set(title=title, ylabel="cases")
    if groups:
        axes.legend(fontsize="small")


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
