"""The results at one look: mean Dice of every domain and set-up, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_components.atomic import atomic_path
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
    budgets = sorted({result["steps_per_domain"] for result in results})
    figure = Figure(figsize=(2 + 4 * len(budgets), 1 + 0.18 * len(domains) * (len(setups) + 1.5)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, steps in zip(figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0], budgets, strict=True):
        axes.set(xlim=(0, 1), ylim=(len(domains) - 0.5, -0.5), yticks=range(len(domains)), yticklabels=domains)
        axes.set_title(f"{steps} steps of each domain", fontsize=10)
        axes.set_xlabel("mean Dice, 95 % bootstrap over cases")
        axes.hlines([i + 0.5 for i in range(len(domains) - 1)], 0, 1, color="#cccccc", linewidth=0.8)
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
        for place, setup in enumerate(setups):
            offset = (place + 1) / (len(setups) + 1.5) - 0.5
            of_setup = [r for r in results if r["setup"] == setup and r["steps_per_domain"] == steps]
            _draw_points(axes, _points(of_setup, domains, offset), setup)
    entries = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=max(1, len(entries)), frameon=False)
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path


def _points(
    results: Sequence[Mapping[str, Any]], domains: Sequence[str], offset: float
) -> list[tuple[float, float, float, float]]:
    """Dice, row, and how far the interval goes below and above."""
    points = []
    for result in results:
        for domain, report in result["scores"].items():
            dice = report["summary"]["mean"]["dice"]
            if dice["mean"] is not None:
                low, high = dice["mean"] - dice["ci95_low"], dice["ci95_high"] - dice["mean"]
                points.append((dice["mean"], domains.index(domain) + offset, low, high))
    return points


def _draw_points(axes: Any, points: Sequence[tuple[float, float, float, float]], setup: str) -> None:
    if points:
        order = list(SETUPS).index(setup)
        x, y, below, above = zip(*points, strict=True)
        axes.errorbar(x, y, xerr=(below, above), fmt=MARKERS[order], color=COLOURS[order], markersize=6, capsize=3, label=setup)
