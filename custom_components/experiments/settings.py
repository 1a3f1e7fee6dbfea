"""What a run was asked to do, noted in its folder before it begins: another call goes on with it only if it asks the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom_components.atomic import atomic_path
from custom_components.errors import InputError

__all__ = ["check_settings", "note_settings"]

SETTINGS_FILE = "settings.json"
LEFT_BY_A_RUN = ("models/last.pt", "scores.json", "trained.json")

# Settings that are hashes, and what is said where they differ.
HASHED = {
    "configurations": "the bundle's configurations have changed since",
    "descriptions": "the descriptions of its domains have changed since",
    "cases": "the data set has other cases",
}


def check_settings(folder: Path, settings: Mapping[str, Any], mend: str) -> None:
    """That what is in a run's folder was made with these settings; a folder without anything of a run has none.

    Args:
        folder: of one run; need not be there.
        settings: values that JSON has.
        mend: what to do otherwise.

    Raises:
        InputError: it was made with others, or does not say with which.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        if left := [name for name in LEFT_BY_A_RUN if (folder / name).is_file()]:
            raise InputError(f"{folder}: has {left[0]}, and no {SETTINGS_FILE} that says of what; {mend}")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); {mend}") from None
    if missing := [key for key in settings if key not in found]:
        raise InputError(f"{path}: does not say of what {missing[0]} it was made, as an older version wrote it; {mend}")
    if differing := [key for key, value in settings.items() if found[key] != value]:
        told = ", ".join(HASHED.get(key) or f"{key} {found[key]} there, {settings[key]} here" for key in differing)
        raise InputError(f"{folder}: was run with other settings ({told}); {mend}")


def note_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write them, before the run begins; `check_settings` has found none, or the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(settings) + "\n", encoding="utf-8")
