"""Adapter files: a trunk and its domains as files of their own, bound to each other by fingerprint.

``models/trunk.safetensors`` holds the shared filters, ``models/<domain>.safetensors`` all that one domain owns. Each
has a JSON header from which the network is built, so that no other description is needed and no code is run.
``models/model.pt`` holds the same weights as one plain state dict, for the tools that ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from custom_components.domain import Domain
from custom_components.networks import fingerprint
from custom_components.weights.files import WeightsError, read_header, read_safetensors, write_tensors
from custom_components.weights.headers import (
    AdapterHeader,
    AdapterNotes,
    DomainShape,
    NetworkPlan,
    TrunkHeader,
    check_agrees,
    differing_plans,
    parse_header,
    with_notes,
)
from custom_components.weights.states import check_finite, check_state

if TYPE_CHECKING:
    from custom_components.networks import U2Net

__all__ = [
    "MODEL_FILE",
    "TRUNK_FILE",
    "adapter_path",
    "adapter_paths",
    "load_adapter",
    "load_network",
    "load_trunk",
    "save_bundle_weights",
]

TRUNK_FILE = "trunk.safetensors"
MODEL_FILE = "model.pt"


def save_bundle_weights(
    network: U2Net, models_dir: str | Path, notes: Mapping[str, AdapterNotes | Mapping[str, Any]] | None = None
) -> list[Path]:
    """Write the trunk, one adapter per domain, and ``model.pt``; each file appears whole or not at all.

    Args:
        network: of any device.
        models_dir: a bundle's ``models`` folder; made if missing.
        notes: domain name to what its header says besides (``description``, ``training``, ``metrics``, ``licence``). A
            domain that is not named keeps the notes of the file that is there, if that holds the same weights.

    Returns:
        The files, trunk first, ``model.pt`` last.

    Raises:
        WeightsError: a value is not finite, notes are no JSON or another domain's, or the folder cannot be written.
    """
    models = Path(models_dir)
    check_finite(network.state_dict(), str(models))
    config = network.config
    shapes = config.pop("domains")
    plan = NetworkPlan(**config)
    trunk = network.trunk_state()
    trunk_sha = fingerprint(trunk)
    if unknown := sorted(set(notes or {}) - set(shapes)):
        raise WeightsError(f"{models}: notes for {', '.join(unknown)}, which the network does not have")
    headers = []
    for name, shape in shapes.items():
        sha = fingerprint(network.adapter_state(name))
        header = AdapterHeader(domain=name, shape=DomainShape(**shape), network=plan, trunk=trunk_sha, sha256=sha)
        path = adapter_path(models, name)
        headers.append(with_notes(header, notes[name], path) if notes and name in notes else _with_notes_there(header, path))
    paths = [models / TRUNK_FILE]
    write_tensors(paths[0], trunk, TrunkHeader(network=plan, sha256=trunk_sha).model_dump(mode="json"))
    for header in headers:
        paths.append(adapter_path(models, header.domain))
        write_tensors(paths[-1], network.adapter_state(header.domain), header.to_json())
    paths.append(models / MODEL_FILE)
    write_tensors(paths[-1], network.state_dict())
    return paths


def load_network(models_dir: str | Path, domain: Domain | None = None) -> U2Net:
    """Build a network from the headers of its files and load it; no configuration is evaluated, nothing unpickled.

    Args:
        models_dir: folder with ``trunk.safetensors`` and adapters.
        domain: load this domain only, and ask that its adapter agree with the description; None loads every adapter
            in the folder, by name.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        WeightsError: a file is absent, damaged or changed, belongs to another trunk, or does not fit the description.
    """
    models = Path(models_dir)
    trunk_header, state = load_trunk(models / TRUNK_FILE)
    if domain is None:
        paths = adapter_paths(models)
        if not paths:
            raise WeightsError(f"{models}: has a trunk but no adapter (<domain>.safetensors); add the domain's file")
    else:
        paths = [adapter_path(models, domain.name)]
    domains: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for path in paths:
        header, tensors = load_adapter(path, trunk_header)
        if domain is not None:
            check_agrees(path, header, domain)
        if header.domain in origin:
            raise WeightsError(
                f"{path}: is an adapter of '{header.domain}', and so is {origin[header.domain].name}; keep one of the two"
            )
        origin[header.domain] = path
        domains[header.domain] = header.shape.model_dump(mode="json")
        state.update(tensors)
    return _build({"domains": domains, **trunk_header.network.model_dump(mode="json")}, state, models)


def adapter_paths(models_dir: str | Path) -> list[Path]:
    """The adapter files of a folder, by name; none where it is no folder."""
    # Hidden files are those that a killed process was about to write.
    files = Path(models_dir).glob("*.safetensors")
    return sorted(path for path in files if path.name != TRUNK_FILE and not path.name.startswith("."))


def adapter_path(models_dir: str | Path, domain: str) -> Path:
    """Where the adapter of a domain lies.

    Raises:
        WeightsError: the name is that of the trunk's file.
    """
    if f"{domain}.safetensors" == TRUNK_FILE:
        raise WeightsError(f"{models_dir}: a domain cannot be called '{domain}', for {TRUNK_FILE} is the trunk's; rename it")
    return Path(models_dir) / f"{domain}.safetensors"


def load_trunk(path: str | Path) -> tuple[TrunkHeader, dict[str, torch.Tensor]]:
    """Read and check ``trunk.safetensors``.

    Raises:
        WeightsError: absent, damaged, changed, or no trunk.
    """
    tensors, values = read_safetensors(path)
    header = parse_header(TrunkHeader, values, path)
    _must_be_intact(path, header.sha256, tensors)
    return header, tensors


def load_adapter(path: str | Path, trunk: TrunkHeader) -> tuple[AdapterHeader, dict[str, torch.Tensor]]:
    """Read and check one domain's file, which must have been trained with this trunk.

    Args:
        path: ``<domain>.safetensors``.
        trunk: header of the trunk it shall run on.

    Raises:
        WeightsError: absent, damaged, changed, no adapter, or another trunk's: both fingerprints are named.
    """
    path = Path(path)
    tensors, values = read_safetensors(path)
    header = parse_header(AdapterHeader, values, path)
    difference = differing_plans(header.network, trunk.network)
    if header.trunk != trunk.sha256:
        raise WeightsError(
            f"{path}: was trained with trunk {header.trunk}, but this trunk is {trunk.sha256}{difference}; "
            "an adapter runs on its own trunk only: use the trunk.safetensors it was shared with"
        )
    if difference:
        raise WeightsError(f"{path}: names another network plan than its trunk{difference}; the file was changed")
    foreign = [key for key in tensors if not key.startswith(f"domains.{header.domain}.")]
    if foreign:
        raise WeightsError(f"{path}: holds {foreign[0]}, which domain '{header.domain}' does not own; the file was changed")
    _must_be_intact(path, header.sha256, tensors)
    return header, tensors


def _build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], source: Path) -> U2Net:
    # Imported on use: networks takes its fingerprint from this package.
    from custom_components.networks import U2Net

    try:
        # On the meta device a header can ask for any size and costs nothing until the tensors are seen to have it.
        with torch.device("meta"):
            network = U2Net(**config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{source}: the headers describe no network ({error})") from None
    check_state(network.state_dict(), state, str(source))
    network.load_state_dict(dict(state), strict=True, assign=True)
    return network.eval()


def _with_notes_there(header: AdapterHeader, path: Path) -> AdapterHeader:
    """With the notes of the file that is about to be replaced, where that holds the same adapter."""
    try:
        there = AdapterHeader.model_validate(read_header(path))
    except (WeightsError, ValidationError):
        return header
    notes = {field: getattr(there, field) for field in AdapterNotes.model_fields}
    noted = header.model_copy(update=notes)
    return noted if noted == there else header


def _must_be_intact(path: str | Path, expected: str, tensors: Mapping[str, torch.Tensor]) -> None:
    found = fingerprint(tensors)
    if found != expected:
        raise WeightsError(f"{path}: its tensors have fingerprint {found}, its header says {expected}; the file was changed")
