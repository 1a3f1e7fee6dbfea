"""The results at one look: mean Dice of every domain and set-up, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_components.data import atomic_path
from custom_components.experiments.setups import SETUPS

__all__ = ["draw_results"]

COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#666666", "#009e73")
"""Of Okabe and Ito, which the colour-blind tell apart; in the order of `SETUPS`."""
MARKERS = "osD^v"


def draw_results(results: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw a point with its 95 % interval for each set-up, domain by domain.

    Args:
        results: as `read_results` gives them.
        path: PNG to write.

    Returns:
        ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    domains = list(dict.fromkeys(domain for result in results for domain in result["scores"]))
    setups = [name for name in SETUPS if any(result["setup"] == name for result in results)]
    figure = Figure(figsize=(7.5, 0.6 + 0.16 * len(domains) * (len(setups) + 1.5)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for setup in setups:
        order = list(SETUPS).index(setup)
        colour, marker = COLOURS[order], MARKERS[order]
        points = []
        for result in (r for r in results if r["setup"] == setup):
            for domain, report in result["scores"].items():
                dice = report["summary"]["mean"]["dice"]
                if dice["mean"] is not None:
                    row = domains.index(domain) + (setups.index(setup) + 1) / (len(setups) + 1.5) - 0.5
                    points.append((dice["mean"], row, dice["mean"] - dice["ci95_low"], dice["ci95_high"] - dice["mean"]))
        if points:
            x, y, below, above = zip(*points, strict=True)
            axes.errorbar(x, y, xerr=(below, above), fmt=marker, color=colour, markersize=6, capsize=3, label=setup)
    axes.set(xlim=(0, 1), ylim=(len(domains) - 0.5, -0.5), yticks=range(len(domains)), yticklabels=domains)
    axes.set_xlabel("Dice, mean over classes and cases (95 % bootstrap over cases)")
    axes.hlines([i + 0.5 for i in range(len(domains) - 1)], 0, 1, color="#cccccc", linewidth=0.8)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(setups), frameon=False)
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path
