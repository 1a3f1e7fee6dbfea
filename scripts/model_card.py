#!/usr/bin/env python
"""Put a bundle's evaluation results into its model card: the table in docs/README.md and eval_metrics in metadata.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from custom_components.bundles.results import BEGIN, END, metrics, table
from custom_components.errors import InputError

EXAMPLE = "Example: python scripts/model_card.py bundles/hippocampus_mri_segmentation"


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
