"""How raw intensities become network input: floor, clip, and which voxels the z-score counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from custom_components.planning.decisions import Decision, Decisions, rounded
from custom_components.planning.facts import ChannelFacts, DatasetFacts

__all__ = ["plan_intensity"]

AIR = -1024.0  # HU; scanners pad the field of view with less
BELOW_WATER = -200.0  # a CT in Hounsfield units has air, one that is offset has not
MASKED = 0.05  # share of exact zeros from which zero is a background that somebody cut out
CLIPS = ((2.0, 98.0), (0.5, 99.5))


def plan_intensity(facts: DatasetFacts, modality: str) -> Decisions:
    """Floor, percentiles and statistics, one rule for all channels.

    Args:
        facts: of the data set.
        modality: ``MR`` or ``CT``.
    """
    channels = [channel for case in facts.cases for channel in case.channels]
    floor = _floor(channels, modality)
    statistics = _statistics(channels, modality)
    percentiles = _percentiles(facts, statistics.value)
    if statistics.value == "positive" and not _usable(channels, percentiles.value, "positive"):
        statistics = Decision("all", f"some image has no positive voxel left after the clip; else: {statistics.why}")
    return {"intensity.floor": floor, "intensity.percentiles": percentiles, "intensity.statistics": statistics}


def _floor(channels: Sequence[ChannelFacts], modality: str) -> Decision:
    lows = [channel.low for channel in channels]
    told = f"minima {min(lows):g} to {max(lows):g}, median {np.median(lows):g}"
    if modality != "CT":
        return Decision(None, f"MR has no scale of its own ({told})")
    if np.median(lows) > BELOW_WATER:
        return Decision(None, f"CT, but offset: {told}, where Hounsfield units have air at -1000; nothing to cut")
    return Decision(AIR, f"CT in Hounsfield units ({told}): what lies below air is padding")


def _statistics(channels: Sequence[ChannelFacts], modality: str) -> Decision:
    zeros = float(np.median([channel.zeros for channel in channels]))
    negative = sum(channel.low < 0 for channel in channels)
    told = f"{rounded(100 * zeros)} % of a median image is exactly 0, {negative} of {len(channels)} have negative values"
    hounsfield = modality == "CT" and np.median([channel.low for channel in channels]) <= BELOW_WATER
    if hounsfield:
        return Decision("positive", "CT in Hounsfield units: what is denser than water, however much air is in view")
    if zeros >= MASKED and not negative:
        return Decision("positive", f"zero is a background that was cut out ({told})")
    if zeros >= MASKED:
        return Decision("nonzero", f"zero is a background that was cut out, and values below it count ({told})")
    return Decision("all", f"no background was cut out ({told})")


def _percentiles(facts: DatasetFacts, statistics: str) -> Decision:
    """The original's clip, or a wider one where that would cut into the labels or leave nothing."""
    refused = []
    channels = [channel for case in facts.cases for channel in case.channels]
    by_channel = list(zip(*(case.channels for case in facts.cases), strict=True))
    for clip in CLIPS:
        told = f"{clip[0]:g} and {clip[1]:g} %"
        if not _usable(channels, clip, statistics):
            refused.append(f"{told} leave all voxels equal in an image")
        elif clip == CLIPS[0] and (cut := next(filter(None, (_cuts(channel, clip) for channel in by_channel)), "")):
            refused.append(f"{told} would cut off {cut}")
        else:
            kept = [[_median(channel, p) for p in clip] for channel in by_channel]
            ranges = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in kept)
            return Decision(list(clip), "; ".join([*refused, f"a median image keeps {ranges}"]))
    return Decision(None, "; ".join([*refused, "no clip"]))


def _usable(channels: Sequence[ChannelFacts], clip: Sequence[float] | None, statistics: str) -> bool:
    """Whether every image still has two values, among positive voxels where these are counted."""
    floor = 0.0 if statistics == "positive" else -np.inf
    for channel in channels:
        low, high = (channel.percentiles[p] for p in clip) if clip else (channel.low, channel.high)
        if not max(low, floor) < high:
            return False
    return True


def _cuts(images: Sequence[ChannelFacts], clip: Sequence[float]) -> str:
    """What a clip would take from the labels in the median of one channel's images; empty where that is under 2 %."""
    lowest, highest = (float(np.median([c.foreground[p] for c in images if c.foreground])) for p in (2.0, 98.0))
    low, high = (_median(images, p) for p in clip)
    parts = [f"the labels' darkest 2 % ({lowest:.4g} and less)"] if lowest < low else []
    parts += [f"the labels' brightest 2 % ({highest:.4g} and more)"] if highest > high else []
    return " and ".join(parts)


def _median(images: Sequence[ChannelFacts], percent: float) -> float:
    return float(np.median([channel.percentiles[percent] for channel in images]))
