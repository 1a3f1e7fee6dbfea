"""A plan for people: as Markdown, and its values as short text."""

from __future__ import annotations

import json
from typing import Any

from custom_components.planning.facts import DatasetFacts
from custom_components.planning.plan import Plan

__all__ = ["plan_markdown", "value_text"]


def value_text(value: Any) -> str:
    """A field's value as domain.json has it, on one line; text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plan_markdown(plan: Plan, facts: DatasetFacts, picture: str | None = None) -> str:
    """The plan as a document: the warnings first, then a table of all fields.

    Args:
        plan: what was planned.
        facts: what from.
        picture: name of a picture of the data set beside the document.
    """
    lines = [
        f"# Plan of {plan.domain.name}",
        "",
        f"Measured on the {len(facts.cases)} cases of {facts.task}; triples are in z, y, x order, lengths in mm.",
        "",
    ]
    if plan.warnings:
        lines += ["## Look at this first", "", *(f"- {warning}" for warning in plan.warnings), ""]
    lines += ["## Fields of domain.json", "", "| field | value | why |", "|---|---|---|"]
    lines += [f"| {r.field} | `{_cell(value_text(r.value))}` | {_cell(r.why)} |" for r in plan.reasons]
    if picture:
        lines += ["", f"![Sizes, intensities, label volumes and slices of some cases]({picture})"]
        lines += ["", "The picture shows images of the data set: keep to their licence when this bundle is shared."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
