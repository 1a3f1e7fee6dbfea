"""The adapters of a bundle folder and their descriptions: found, read, and checked against each other.

A bundle holds ``models/trunk.safetensors``, ``models/<domain>.safetensors`` and ``models/model.pt``, and the
descriptions: ``configs/domains/<domain>.json`` in one of many domains, ``configs/domain.json`` in one of one. No
configuration is evaluated here, and nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks.fingerprint import fingerprint
from custom_components.weights.adapters import (
    MODEL_FILE,
    TRUNK_FILE,
    adapter_path,
    adapter_paths,
    load_adapter,
    load_network,
    load_trunk,
)
from custom_components.weights.files import WeightsError, read_header
from custom_components.weights.headers import AdapterHeader, check_agrees, parse_header
from custom_components.weights.model_file import read_model_file

__all__ = [
    "Adapter",
    "check_bundle",
    "describe_file",
    "describe_header",
    "description_path",
    "find_domain",
    "list_adapters",
    "models_of",
    "take_adapter",
]


@dataclass(frozen=True)
class Adapter:
    """One adapter file and what is known of it.

    Attributes:
        path: the file.
        header: of the file.
        domain: its description, from the bundle or else from the header; None where there is none.
        parameters: how many numbers it holds.
        size: of the file, bytes.
    """

    path: Path
    header: AdapterHeader
    domain: Domain | None
    parameters: int
    size: int


def list_adapters(bundle_dir: str | Path) -> list[Adapter]:
    """The adapters of a bundle, checked against its trunk, by name.

    Raises:
        InputError: the folder is no bundle, or a file is absent, damaged or does not fit.
    """
    models = models_of(bundle_dir)
    trunk, _ = load_trunk(models / TRUNK_FILE)
    found = []
    for path in adapter_paths(models):
        header, tensors = load_adapter(path, trunk)
        domain = find_domain(bundle_dir, header.domain) or header.domain_description(path)
        if domain is not None:
            check_agrees(path, header, domain)
        found.append(_adapter(path, header, domain, tensors))
    return found


def describe_file(path: str | Path, trunk: str | Path) -> Adapter:
    """An adapter file outside a bundle, checked against a trunk.

    Raises:
        InputError: as `custom_components.weights.load_adapter`.
    """
    header, tensors = load_adapter(path, load_trunk(trunk)[0])
    return _adapter(Path(path), header, header.domain_description(path), tensors)


def find_domain(bundle_dir: str | Path, name: str) -> Domain | None:
    """A bundle's description of a domain, None where it has none.

    Raises:
        DomainError: the file is malformed, or describes another domain than its name says.
    """
    own = description_path(bundle_dir, name)
    if own.is_file():
        domain = Domain.from_file(own)
        if domain.name != name:
            raise WeightsError(f"{own}: describes '{domain.name}'; the file must have its domain's name")
        return domain
    single = Path(bundle_dir) / "configs" / "domain.json"
    if single.is_file() and (domain := Domain.from_file(single)).name == name:
        return domain
    return None


def check_bundle(bundle_dir: str | Path) -> list[str]:
    """What does not agree among adapters, descriptions and ``model.pt``, as after a process that was killed; one line each.

    Raises:
        InputError: as `list_adapters`.
    """
    bundle, models = Path(bundle_dir), models_of(bundle_dir)
    network = load_network(models)
    faults = [
        f"{description_path(bundle, name)}: no such file, but {name} has an adapter; import that again to complete it"
        for name in network.domains
        if find_domain(bundle, name) is None
    ]
    for path in sorted((bundle / "configs" / "domains").glob("*.json")):
        if path.stem not in network.domains and not path.name.startswith("."):
            faults.append(f"{path}: has no adapter in {models}; remove the domain, or import its adapter")
    whole = models / MODEL_FILE
    if not whole.is_file():
        faults.append(f"{whole}: no such file; import an adapter to have it made")
        return faults
    try:
        if fingerprint(read_model_file(whole)) != fingerprint(network.state_dict()):
            faults.append(
                f"{whole}: does not hold the weights of the adapters beside it; repeat the import or removal that was stopped"
            )
    except InputError as error:
        faults.append(str(error))
    return faults


def describe_header(path: str | Path) -> AdapterHeader:
    """The header of an adapter file, whose tensors are not looked at.

    Raises:
        WeightsError: the file is absent, damaged or no adapter.
    """
    header: AdapterHeader = parse_header(AdapterHeader, read_header(path), path)
    return header


def take_adapter(bundle: Path, name: str) -> tuple[Adapter, dict[str, torch.Tensor]]:
    """A domain's adapter with its description, and its tensors.

    Raises:
        InputError: the bundle has no such domain, or no description of it; or see `list_adapters`.
    """
    models = models_of(bundle)
    path = adapter_path(models, name)
    if not path.is_file():
        names = ", ".join(p.stem for p in adapter_paths(models))
        raise WeightsError(f"{bundle}: has no domain '{name}'; it has {names or 'none'}")
    header, tensors = load_adapter(path, load_trunk(models / TRUNK_FILE)[0])
    if header.domain != name:
        raise WeightsError(f"{path}: is the adapter of '{header.domain}', not of '{name}'")
    domain = find_domain(bundle, name) or header.domain_description(path)
    if domain is None:
        raise WeightsError(f"{path}: neither {description_path(bundle, name)} nor its header describes the domain; add the file")
    check_agrees(path, header, domain)
    return _adapter(path, header, domain, tensors), tensors


def models_of(bundle_dir: str | Path) -> Path:
    """A bundle's folder of weights.

    Raises:
        WeightsError: the bundle has none.
    """
    models = Path(bundle_dir) / "models"
    if not models.is_dir():
        raise WeightsError(
            f"{bundle_dir}: is no bundle (it has no folder 'models'); give one such as bundles/universal_segmentation"
        )
    return models


def description_path(bundle_dir: str | Path, name: str) -> Path:
    """Where a bundle of many domains has the description of one."""
    return Path(bundle_dir) / "configs" / "domains" / f"{name}.json"


def _adapter(path: Path, header: AdapterHeader, domain: Domain | None, tensors: dict[str, torch.Tensor]) -> Adapter:
    return Adapter(path, header, domain, sum(t.numel() for t in tensors.values()), path.stat().st_size)
