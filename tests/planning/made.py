"""Facts of data sets that nobody measured: the planner's input, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from custom_components.planning import CaseFacts, ChannelFacts, DatasetFacts, LabelFacts

PERCENTS = (0.5, 2.0, 50.0, 98.0, 99.5)
HOUNSFIELD = (-1024.0, -1020.0, -80.0, 300.0, 900.0)
SCANNER = (1.0, 5.0, 200.0, 900.0, 1200.0)


def channel(values: Sequence[float] = SCANNER, zeros: float = 0.0, low: float | None = None, **more: Any) -> ChannelFacts:
    """A channel whose labels lie within its clip."""
    inside = dict.fromkeys(PERCENTS, values[2])
    lowest = values[0] if low is None else low
    return ChannelFacts(
        lowest, values[-1] * 1.5 + 1, dict(zip(PERCENTS, values, strict=True)), zeros, more.get("foreground", inside)
    )


def case(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    labels: Mapping[int, int | LabelFacts] | None = None,
    channels: Sequence[ChannelFacts] = (),
    name: str = "case_000",
    orientation: str = "RAS",
) -> CaseFacts:
    """A case; a label that is a number has so many voxels, in one piece if any."""
    found = {
        value: label if isinstance(label, LabelFacts) else LabelFacts(label, min(label, 1), label)
        for value, label in ({1: 100} if labels is None else labels).items()
    }
    (z, y, x) = shape
    return CaseFacts(
        name, shape, spacing, ((0, z - 1), (0, y - 1), (0, x - 1)), orientation, tuple(channels) or (channel(),), found
    )


def dataset(
    cases: Sequence[CaseFacts],
    labels: Mapping[int, str] | None = None,
    channels: Sequence[str] = ("MRI",),
    merges: Mapping[int, int] | None = None,
) -> DatasetFacts:
    return DatasetFacts(
        "Task99_Made", tuple(channels), {0: "background", 1: "Organ"} if labels is None else labels, merges or {}, tuple(cases)
    )
