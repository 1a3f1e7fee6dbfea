"""Post-processing: which labels are one piece in every case, so that all but the largest piece of a prediction is an error."""

from __future__ import annotations

from collections.abc import Mapping

from custom_components.planning.decisions import Decision, Decisions
from custom_components.planning.facts import DatasetFacts

__all__ = ["plan_components"]

ONE_PIECE = 0.95  # share of the cases


def plan_components(facts: DatasetFacts, names: Mapping[int, str]) -> Decisions:
    """Rules for the classes that need one.

    Args:
        facts: of the data set.
        names: label value to class name.
    """
    rules, told = {}, []
    for value, name in names.items():
        found = [case.labels[value] for case in facts.having(value)]
        one = sum(label.components == 1 for label in found)
        told.append(f"{name} {one} of {len(found)}")
        if one >= ONE_PIECE * len(found):
            rules[name] = {"closing": 0, "keep": 1}
    why = f"one piece (18-neighbourhood) in the labels: {', '.join(told)}; from {100 * ONE_PIECE:g} % on the largest stays"
    return {"postprocessing": Decision(rules, why)}
