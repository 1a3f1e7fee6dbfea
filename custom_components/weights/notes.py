"""What is said of an adapter beside its weights, from the files that say it: how good it is, how it was trained, its licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from custom_components.bundles.facts import UNKNOWN
from custom_components.domain import Domain
from custom_components.weights.files import WeightsError

__all__ = ["bundle_licence", "bundle_results", "read_metrics", "read_training"]


def read_metrics(path: str | Path, domain: Domain) -> dict[str, Any]:
    """Scores as ``evaluate.json`` and ``scripts/evaluate.py`` write them (``scores.json``), without those of single cases.

    Args:
        path: the file.
        domain: whose scores they are.

    Returns:
        ``summary`` (class to metric to mean and interval), ``cases`` (how many) and ``made`` (on what, when, with what).

    Raises:
        WeightsError: the file cannot be read, is no such file, or scores other classes than the domain's.
    """
    values = _object(path)
    summary, cases = values.get("summary"), values.get("cases")
    if not isinstance(summary, dict) or not isinstance(cases, dict) or not isinstance(values.get("made"), dict):
        raise WeightsError(f"{path}: is no scores.json of an evaluation (summary, cases, made); give one")
    if set(summary) - {"mean"} != set(domain.classes):
        found, wanted = ", ".join(sorted(set(summary) - {"mean"})), ", ".join(domain.classes)
        raise WeightsError(f"{path}: scores {found or 'no class'}, but {domain.name} has {wanted}; give this domain's scores")
    return {"summary": summary, "cases": len(cases), "made": values["made"]}


def read_training(path: str | Path) -> dict[str, Any]:
    """A training's summary: any JSON object (steps, cases, date, command, commit, …).

    Raises:
        WeightsError: the file cannot be read or is no JSON object.
    """
    return _object(path)


def bundle_results(bundle_dir: str | Path, name: str) -> Path | None:
    """The scores of a domain that its bundle ships, of one domain or of many; None where it ships none."""
    docs = Path(bundle_dir) / "docs"
    of_many = (Path(bundle_dir) / "configs" / "domains").is_dir()
    path = docs / "results" / f"{name}.json" if of_many else docs / "results.json"
    return path if path.is_file() else None


def bundle_licence(bundle_dir: str | Path) -> str | None:
    """The licence of a bundle's data, and so of its weights; None where its facts do not say it."""
    path = Path(bundle_dir) / "docs" / "facts.json"
    if not path.is_file():
        return None
    data = _object(path).get("data")
    licence = data.get("licence") if isinstance(data, dict) else None
    return licence if isinstance(licence, str) and licence.strip() and licence != UNKNOWN else None


def _object(path: str | Path) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: must hold one JSON object, holds {type(values).__name__}")
    return values
