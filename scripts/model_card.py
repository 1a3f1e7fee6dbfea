#!/usr/bin/env python
"""Put a bundle's evaluation results into its model card: the table in docs/README.md and eval_metrics in metadata.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from custom_components.errors import InputError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
EXAMPLE = "Example: python scripts/model_card.py bundles/hippocampus_mri_segmentation"
COLUMNS = {"dice": ("Dice", 3), "surface_dice": ("Surface Dice", 3), "hd95_mm": ("95 % Hausdorff distance, mm", 2)}


def main(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle folder; docs/results.json in it is what evaluate.json wrote (scores.json).")
    ],
    check: Annotated[bool, typer.Option(help="Change nothing; exit with 1 where the card disagrees with the results.")] = False,
) -> None:
    """Write the results of docs/results.json into the bundle's README and metadata, so that no figure is typed by hand."""
    try:
        changes = {path: text for path, text in card(bundle).items() if path.read_text(encoding="utf-8") != text}
        if check and changes:
            raise InputError(f"{', '.join(map(str, changes))}: not up to date; run python scripts/model_card.py {bundle}")
        for path, text in changes.items():
            path.write_text(text, encoding="utf-8")
            print(f"updated {path}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if not changes:
        print("up to date")


def card(bundle: Path) -> dict[Path, str]:
    """The two files as they should be.

    Raises:
        InputError: a file is absent or malformed, or the README has no markers.
    """
    readme, metadata = bundle / "docs" / "README.md", bundle / "configs" / "metadata.json"
    results = _json(bundle / "docs" / "results.json")
    text, values = _text(readme), _json(metadata)
    try:
        values["eval_metrics"] = metrics(results["summary"])
        rendered = table(results)
    except (KeyError, TypeError) as error:
        raise InputError(f"{bundle}/docs/results.json: is no scores.json of evaluate.json ({error!r} is missing)") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{readme}: must have {BEGIN} and {END} once each")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    return {
        readme: f"{head}{BEGIN}\n{rendered}\n{END}{tail}",
        metadata: json.dumps(values, indent=4, ensure_ascii=False) + "\n",
    }


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Means as the model zoo names them: ``mean_dice``, ``anterior_dice``, …"""
    return {
        f"{name}_{metric}": round(statistics["mean"], 4)
        for name, scores in sorted(summary.items(), key=lambda item: item[0] != "mean")
        for metric, statistics in scores.items()
        if statistics["mean"] is not None
    }


def table(results: dict[str, Any]) -> str:
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


def _cell(statistics: dict[str, Any], digits: int) -> str:
    if statistics["mean"] is None:
        return "—"
    mean, low, high = (f"{statistics[key]:.{digits}f}" for key in ("mean", "ci95_low", "ci95_high"))
    missing = f", {statistics['undefined']} undefined" if statistics["undefined"] else ""
    return f"{mean} ({low} – {high}{missing})"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return values


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EXAMPLE)(main)
    app()
