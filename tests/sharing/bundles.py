"""Bundles to package, and packaged ones to spoil."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from custom_components.sharing.manifest import MANIFEST_FILE
from tests.inference.oracles import universal_bundle

ROOT = Path(__file__).parents[2]


def complete_universal(hippocampus: Path, folder: Path) -> Path:
    """A bundle of two small domains with random weights, and all that a bundle which is shared needs besides."""
    source = ROOT / "bundles" / "universal_segmentation"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("domains", "models"))
    return universal_bundle(hippocampus, folder)


def listed_anew(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Give a folder the manifest that an attacker would: every file with its own hash, and fields changed at will."""
    path = folder / MANIFEST_FILE
    values = json.loads(path.read_text())
    large = {entry["path"] for entry in values["files"] if entry["large"]}
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST_FILE)
    values["files"] = [
        {
            "path": name,
            "size": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            "large": name in large,
        }
        for name in names
        if not name.endswith(".sig")
    ]
    if change is not None:
        change(values)
    path.write_text(json.dumps(values))
