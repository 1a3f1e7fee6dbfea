"""What a plan is made from: the measured numbers of a data set, in z, y, x order after re-orientation to ``SAR``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from custom_components.data.datalist import Dataset
from custom_components.data.exploration import PERCENTILES, CaseReport

__all__ = ["CaseFacts", "ChannelFacts", "DatasetFacts", "LabelFacts", "facts_of", "label_shares"]

_AXIS_OF = {"S": 0, "I": 0, "A": 1, "P": 1, "R": 2, "L": 2}  # world direction of a stored axis → z, y, x


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of one channel of one case within the non-zero box of the first channel.

    Attributes:
        low, high: minimum and maximum.
        percentiles: percent to value, over all voxels; the keys are `PERCENTILES`.
        zeros: share of the voxels that are exactly zero, 0 … 1.
        foreground: percentiles within the labels; empty where the case has no label.
    """

    low: float
    high: float
    percentiles: Mapping[float, float]
    zeros: float
    foreground: Mapping[float, float]


@dataclass(frozen=True)
class LabelFacts:
    """One label value in one case: voxels, 18-connected components, voxels of the largest of these."""

    voxels: int
    components: int
    largest: int


@dataclass(frozen=True)
class CaseFacts:
    """One case.

    Attributes:
        name: of the case.
        shape: voxels along z, y, x.
        spacing: mm along z, y, x.
        box: first and last index along z, y, x of what is not zero in the first channel.
        orientation: of the axes as stored, e.g. ``RAS``.
        channels: a `ChannelFacts` each.
        labels: label value to `LabelFacts`, for every class of dataset.json and every value that occurs, without 0.
    """

    name: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    orientation: str
    channels: tuple[ChannelFacts, ...]
    labels: Mapping[int, LabelFacts]

    @property
    def foreground(self) -> int:
        """Voxels of any label."""
        return sum(label.voxels for label in self.labels.values())

    def cropped(self, margin: int) -> tuple[int, int, int]:
        """Voxels along z, y, x that are left when it is cut to its box and a margin that ends at the image."""
        z, y, x = (
            min(last + margin, n - 1) - max(first - margin, 0) + 1 for (first, last), n in zip(self.box, self.shape, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class DatasetFacts:
    """A data set.

    Attributes:
        task: the folder's name.
        channels: what each channel is, by dataset.json; empty where it does not say.
        labels: label value to class name, by dataset.json, without values that are merged into others.
        merges: label value to the value it counts as; done before the labels were measured.
        cases: at least one.
    """

    task: str
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    merges: Mapping[int, int]
    cases: tuple[CaseFacts, ...]

    def having(self, value: int) -> list[CaseFacts]:
        """The cases with a voxel of a label value."""
        return [case for case in self.cases if value in case.labels and case.labels[value].voxels]


def facts_of(dataset: Dataset, reports: Sequence[CaseReport], merges: Mapping[int, int]) -> DatasetFacts:
    """Measured reports as facts.

    Args:
        dataset: the task; of its labels, those that are merged into others are left out.
        reports: of all its cases, measured under the same ``merges``.
        merges: label value to the value it counts as.
    """
    labels = {value: name for value, name in dataset.labels.items() if value not in merges}
    return DatasetFacts(dataset.task, dataset.channels, labels, dict(merges), tuple(_case(report, merges) for report in reports))


def label_shares(facts: DatasetFacts) -> dict[int, float]:
    """Label value of each class → its median share of a case's labelled voxels, 0 … 1, over the cases that have it."""
    present = {
        value: [case.labels[value].voxels / case.foreground for case in facts.having(value)] for value in facts.labels if value
    }
    return {value: median(shares) for value, shares in present.items() if shares}


def _case(report: CaseReport, merges: Mapping[int, int]) -> CaseFacts:
    row = report.case
    order = {_AXIS_OF[letter]: axis for letter, axis in zip(row["orientation"], "xyz", strict=True)}
    z, y, x = (order[index] for index in range(3))

    def sorted_by_axis(field: str) -> tuple[Any, Any, Any]:
        return row[f"{field}_{z}"], row[f"{field}_{y}"], row[f"{field}_{x}"]

    labelled = {r["channel"]: r for r in report.intensities if r["region"] == "foreground" and r["voxels"]}
    channels = tuple(
        ChannelFacts(
            r["min"],
            r["max"],
            {p: r[f"p{p:g}"] for p in PERCENTILES},
            r["zeros"] / r["voxels"],
            {p: labelled[r["channel"]][f"p{p:g}"] for p in PERCENTILES} if r["channel"] in labelled else {},
        )
        for r in report.cropped
    )
    first, last = sorted_by_axis("nonzero_first"), sorted_by_axis("nonzero_last")
    return CaseFacts(
        row["case"],
        sorted_by_axis("size"),
        sorted_by_axis("spacing"),
        ((first[0], last[0]), (first[1], last[1]), (first[2], last[2])),
        row["orientation"],
        channels,
        {
            r["value"]: LabelFacts(r["voxels"], r["components"], r["largest_component"])
            for r in report.labels
            if r["value"] not in merges
        },
    )
