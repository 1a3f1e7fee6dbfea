"""Scores as a bundle quotes them: a table for its model card, means for its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BEGIN", "END", "metrics", "of_many", "table"]

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
COLUMNS = {"dice": ("Dice", 3), "surface_dice": ("Surface Dice", 3), "hd95_mm": ("95 % Hausdorff distance, mm", 2)}


LOWEST = 3  # cases that a card names


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
    return "\n".join([*lines, "", note, "", _lowest(results["cases"])])


def of_many(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown for a bundle of several domains, domain to its results: one row per class, and how they were made."""
    shown = [m for m in COLUMNS if all(m in r["summary"]["mean"] for r in results.values())]
    lines = ["| domain | class | cases | " + " | ".join(COLUMNS[m][0] for m in shown) + " |", "|---" * (len(shown) + 3) + "|"]
    for domain, report in results.items():
        summary = report["summary"]
        for name in [*(n for n in summary if n != "mean"), "mean"]:
            cells = " | ".join(_cell(summary[name][m], COLUMNS[m][1]) for m in shown)
            lines.append(f"| `{domain}` | {name} | {len(report['cases'])} | {cells} |")
    notes = ["Means over cases, with the 95 % interval of a bootstrap over cases; surface Dice at the tolerance below."]
    for domain, report in results.items():
        made = report["made"]
        which = "all cases" if made["cases"] == "all" else f"the {made['cases']} cases of fold {made['fold']}"
        notes.append(
            f"- `{domain}`: {which} of {made['data']}, tolerance {made['tolerance_mm']:g} mm; each case is in "
            f"[results/{domain}.json](results/{domain}.json). {_lowest(report['cases'])} Made on {made['date'][:10]} with torch "
            f"{made['torch']} on {made['gpu'] or made['cpu']}."
        )
    return "\n".join([*lines, "", *notes])


def _lowest(cases: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    """The cases that went worst: where a reader should look first."""
    dice = {name: [s["dice"] for s in case.values() if s["dice"] is not None] for name, case in cases.items()}
    means = sorted((sum(values) / len(values), name) for name, values in dice.items() if values)
    named = ", ".join(f"{name} {mean:.3f}" for mean, name in means[:LOWEST])
    return f"Lowest mean Dice: {named}." if named else "No case has a defined Dice."


def _cell(statistics: Mapping[str, Any], digits: int) -> str:
    if statistics["mean"] is None:
        return "—"
    mean, low, high = (f"{statistics[key]:.{digits}f}" for key in ("mean", "ci95_low", "ci95_high"))
    missing = f", {statistics['undefined']} undefined" if statistics["undefined"] else ""
    return f"{mean} ({low} – {high}{missing})"
