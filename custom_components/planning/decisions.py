"""A planned value and the reason for it; what a person sets themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from custom_components.domain import Domain
from custom_components.errors import InputError

__all__ = ["Decision", "Decisions", "Overrides", "nested", "overridden", "parse_merges", "parse_overrides", "rounded"]

SET = "set by --set"


@dataclass(frozen=True)
class Decision:
    """A value, and why it is this one: the numbers it was made from."""

    value: Any
    why: str


Decisions: TypeAlias = dict[str, Decision]  # by the field's dotted path in domain.json
Overrides: TypeAlias = Mapping[str, Any]  # by dotted path


def rounded(value: float) -> str:
    """To two significant digits, as a person writes it: 98.7 → 99, 99.7 → 100 (``%.2g`` says 1e+02), 0.0123 → 0.012."""
    return f"{float(f'{value:.2g}'):g}"


def parse_overrides(given: Iterable[str]) -> dict[str, Any]:
    """``spacing=[1,1,1]`` → ``{"spacing": [1, 1, 1]}``; what is no JSON is text.

    Raises:
        InputError: no ``=``, no such field, or the name, which has an option of its own.
    """
    overrides = {}
    for text in given:
        field, equals, value = text.partition("=")
        field = field.strip()
        if not equals or field.split(".")[0] not in Domain.model_fields:
            raise InputError(
                f"--set {text}: must be FIELD=VALUE, such as spacing=[1,1,1] or sampling.batch_size=4; the fields are "
                f"{', '.join(Domain.model_fields)}"
            )
        if field == "name":
            raise InputError(f"--set {text}: the name is given with --name")
        try:
            overrides[field] = json.loads(value)
        except ValueError:
            overrides[field] = value
    return overrides


def parse_merges(given: Iterable[str]) -> dict[int, int]:
    """``2:1`` → ``{2: 1}``.

    Raises:
        InputError: no pair of whole numbers, a value merged twice or into itself, or into one that is itself merged.
    """
    merges: dict[int, int] = {}
    for text in given:
        try:
            value, target = (int(part) for part in text.split(":"))
        except ValueError:
            raise InputError(f"--merge {text}: must be two label values, FROM:INTO, such as 2:1") from None
        if value in merges or value == target or value == 0:
            raise InputError(f"--merge {text}: a label value other than 0 can be merged once, into another value")
        merges[value] = target
    if chained := sorted(set(merges) & set(merges.values())):
        raise InputError(f"--merge: {', '.join(map(str, chained))} is merged and merged into; name the last value of the chain")
    return merges


def overridden(field: str, overrides: Overrides) -> Any:
    """The value that a person set for a whole top-level field, checked as `Domain` would; None where they did not.

    Raises:
        InputError: it is of the wrong type or out of range.
    """
    if field not in overrides:
        return None
    described = Domain.model_fields[field]
    # What pydantic took apart into type and constraints, put together again.
    kind: Any = Annotated[described.annotation, *described.metadata] if described.metadata else described.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(overrides[field])
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, (field, *e['loc'])))}: {e['msg']}" for e in error.errors(include_url=False))
        raise InputError(f"--set {field}: {what}") from None


def nested(decisions: Decisions, overrides: Overrides) -> tuple[dict[str, Any], Decisions]:
    """Decisions by dotted path, and what overrides them, as one tree.

    Returns:
        The fields of `Domain`, unchecked; and the decisions with those overrides in them.

    Raises:
        InputError: an override leads into a value that has no fields.
    """
    tree: dict[str, Any] = {}
    for path, decision in decisions.items():
        _put(tree, path, decision.value)
    decided = dict(decisions)
    for path, value in overrides.items():
        _put(tree, path, value)
        # What lay below an overridden field went with it.
        decided = {key: decision for key, decision in decided.items() if not key.startswith(f"{path}.")}
        above = next((key for key in decided if path.startswith(f"{key}.")), None)
        if above is not None:
            decided[above] = Decision(_at(tree, above), f"{decided[above].why}; {path.removeprefix(above + '.')} {SET}")
        else:
            decided[path] = Decision(value, SET)
    return tree, decided


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InputError(f"--set {path}: {key} has no fields below it")
    tree[last] = value


def _at(tree: dict[str, Any], path: str) -> Any:
    value: Any = tree
    for key in path.split("."):
        value = value[key]
    return value
