"""The server's own copy of a bundle, which trained adapters go into; what was shipped is never written to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.label_app.collection import Bundle
from custom_components.weights.adapters import TRUNK_FILE, adapter_path, adapter_paths, load_adapter, load_trunk
from custom_components.weights.bundle_changes import replace_adapter
from custom_components.weights.bundle_files import description_path
from custom_components.weights.files import read_header
from custom_components.weights.headers import TrunkHeader, parse_header

__all__ = ["check_name", "differs_from_shipped", "take_in"]

# What a training leaves in a bundle's models and nobody runs.
LEFT_BEHIND = ("last.pt", "before_training", "adapted", "removed", ".*")


def check_name(bundle: Bundle, name: str) -> None:
    """Ask that an adapter of this name may be added or replaced.

    Raises:
        InputError: the bundle was shipped with a domain of this name.
    """
    if adapter_path(bundle.shipped / "models", name).is_file():
        shipped = ", ".join(path.stem for path in adapter_paths(bundle.shipped / "models"))
        raise InputError(
            f"{bundle.name}: came with the domain '{name}', which is not replaced; choose another name than {shipped}"
        )


def take_in(bundle: Bundle, adapter: Path) -> Path:
    """Add a trained adapter to the server's copy of a bundle; one of the same name that was added before is replaced.

    Files of other domains and the trunk's are not written. What is replaced stays in the copy's ``models/removed``, and is
    served until the new one is in its place: also after an error, and after a process that was killed.

    Args:
        bundle: the copy is made if it is not there yet.
        adapter: ``<domain>.safetensors`` with a description in it, trained with the bundle's trunk.

    Returns:
        The adapter's place in the copy.

    Raises:
        InputError: the bundle was shipped with this domain, or see `custom_components.weights.bundle_changes.replace_adapter`.
    """
    name = adapter.stem
    check_name(bundle, name)
    load_adapter(adapter, load_trunk(bundle.models / TRUNK_FILE)[0])  # what does not fit is refused before anything is made
    _make(bundle)
    return replace_adapter(adapter, bundle.own)


def differs_from_shipped(bundle: Bundle) -> bool:
    """Whether the copy runs on another trunk than the shipped bundle: the latter was exchanged since the copy was made."""
    if not bundle.own.is_dir() or not (bundle.shipped / "models" / TRUNK_FILE).is_file():
        return False
    files = [folder / "models" / TRUNK_FILE for folder in (bundle.own, bundle.shipped)]
    own, shipped = (parse_header(TrunkHeader, read_header(file), file).sha256 for file in files)
    return bool(own != shipped)


def _make(bundle: Bundle) -> None:
    """Copy the bundle, as one of many domains; whole or not at all."""
    if bundle.own.is_dir():
        return
    partial = bundle.own.with_name(f".{bundle.name}.{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(bundle.shipped, partial, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        single = partial / "configs" / "domain.json"
        if single.is_file():
            text = description_path(partial, Domain.from_file(single).name)
            text.parent.mkdir(exist_ok=True)
            shutil.copy(single, text)
        partial.rename(bundle.own)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{bundle.own}: cannot be written ({error.strerror}); choose another --state-dir") from None
