"""The files that ``scripts/compare_setups.py`` leaves, one for each run, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from custom_components.errors import InputError
from custom_components.experiments.setups import SETUPS

__all__ = ["read_results"]

FIELDS = {"run", "setup", "domains", "steps_per_domain", "parameters", "scores", "command"}
NOTED = {"fold", "options", "configurations", "descriptions"}
"""Fields without which results cannot be told to be of one kind; older versions of ``compare_setups.py`` did not write them."""


class _Part(BaseModel):
    """What a page of results reads, of the types that it needs; there may be more."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Statistics(_Part):
    mean: float | None
    ci95_low: float | None
    ci95_high: float | None


class _Dice(_Part):
    dice: _Statistics


class _Made(_Part):
    date: str
    commit: str | None
    cpu: str
    gpu: str | None
    threads: int | None = None


class _Scores(_Part):
    summary: dict[str, _Dice]
    cases: Annotated[dict[str, dict[str, dict[str, float | None]]], Field(min_length=1)]
    made: _Made

    @model_validator(mode="after")
    def _has_a_mean(self) -> _Scores:
        if "mean" not in self.summary:
            raise ValueError("has no mean over the classes")
        return self


class _Result(_Part):
    run: str
    setup: str
    domains: list[str]
    fold: int
    options: list[str]
    configurations: str
    descriptions: dict[str, str]
    steps_per_domain: int
    training_seconds: float | None = None
    parameters: dict[str, int]
    scores: Annotated[dict[str, _Scores], Field(min_length=1)]
    command: str

    @model_validator(mode="after")
    def _counts_every_part(self) -> _Result:
        if missing := {"trunk", *self.scores} - self.parameters.keys():
            raise ValueError(f"parameters: has no {min(missing)}")
        return self


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """The results of a folder and of those in it (one for each budget), sorted by path.

    Raises:
        InputError: there are none, or a file is no result of ``compare_setups.py``, or one of an older version of it.
    """
    results = [_read(path) for path in sorted(Path(folder).rglob("*.json"))]
    if not results:
        raise InputError(f"{folder}: has no results; make them with scripts/compare_setups.py")
    return results


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); run scripts/compare_setups.py again") from None
    if not isinstance(values, dict) or not values.keys() >= FIELDS or values["setup"] not in list(SETUPS):
        raise InputError(f"{path}: is no result of scripts/compare_setups.py; take it out of the folder")
    if missing := sorted(NOTED - values.keys()):
        raise InputError(
            f"{path}: was made by an older version of scripts/compare_setups.py, which did not note {' and '.join(missing)}; run "
            "it again, or take it out of the folder"
        )
    try:
        _Result.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}: {where}: {first['msg']}; run scripts/compare_setups.py again, or take it out of the folder"
        ) from None
    return values
