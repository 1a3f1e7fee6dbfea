"""Scores as a bundle quotes them: a table for its model card, means for its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BEGIN", "END", "metrics", "table"]

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
COLUMNS = {"dice": ("Dice", 3), "surface_dice": ("Surface Dice", 3), "hd95_mm": ("95 % Hausdorff distance, mm", 2)}


def metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Means as the model zoo names them: ``mean_dice``, ``anterior_dice``, …"""
    return {
        f"{name}_{metric}": round(statistics["mean"], 4)
        for name, scores in sorted(summary.items(), key=lambda item: item[0] != "mean")
        for metric, statistics in scores.items()
        if statistics["mean"] is not None
    }


def table(results: Mapping[str, Any]) -> str:
    """Markdown: one row per class, means with their 95 % intervals, and how they were made."""
    summary, made = results["summary"], results["made"]
    shown = [metric for metric in COLUMNS if metric in summary["mean"]]
    lines = ["| | " + " | ".join(COLUMNS[m][0] for m in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in [*(n for n in summary if n != "mean"), "mean"]:
        cells = [_cell(summary[name][metric], COLUMNS[metric][1]) for metric in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cases = len(results["cases"])
    split = "all cases" if made["cases"] == "all" else f"the {made['cases']} cases of fold {made['fold']}; folds: {made['folds']}"
    note = (
        f"Mean over {cases} cases of {made['data']} ({split}), with the 95 % interval of a bootstrap over cases; "
        f"surface Dice at {made['tolerance_mm']:g} mm. Each case's scores are in [results.json](results.json). "
        f"Made on {made['date'][:10]} with torch {made['torch']} on {made['gpu'] or made['cpu']}."
    )
    return "\n".join([*lines, "", note])


def _cell(statistics: Mapping[str, Any], digits: int) -> str:
    if statistics["mean"] is None:
        return "—"
    mean, low, high = (f"{statistics[key]:.{digits}f}" for key in ("mean", "ci95_low", "ci95_high"))
    missing = f", {statistics['undefined']} undefined" if statistics["undefined"] else ""
    return f"{mean} ({low} – {high}{missing})"
