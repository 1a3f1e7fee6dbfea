"""Adapter files: a trunk and its domains as files of their own, bound to each other by fingerprint.

``models/trunk.safetensors`` holds the shared filters, ``models/<domain>.safetensors`` all that one domain owns. Each
has a JSON header from which the network is built, so that no other description is needed and no code is run.
``models/model.pt`` holds the same weights as one plain state dict, for the tools that ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from custom_components.domain import Domain
from custom_components.networks import fingerprint
from custom_components.weights.files import WeightsError, read_safetensors, write_tensors
from custom_components.weights.states import check_finite, check_state

if TYPE_CHECKING:
    from custom_components.networks import U2Net

__all__ = ["AdapterHeader", "TrunkHeader", "load_adapter", "load_network", "load_trunk", "save_bundle_weights"]

TRUNK_FILE = "trunk.safetensors"
MODEL_FILE = "model.pt"


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkPlan(_Header):
    """`U2Net`'s arguments apart from the domains."""

    channels: tuple[int, ...]
    adapter: str
    downsampling: str
    deep_supervision: str


class DomainShape(_Header):
    """`Domain.network`."""

    in_channels: int
    out_channels: int
    strides: tuple[tuple[int, int, int], ...]
    kernel_sizes: tuple[tuple[int, int, int], ...]


class TrunkHeader(_Header):
    """Header of ``trunk.safetensors``; ``sha256`` is the `fingerprint` of its tensors."""

    format: Literal[1] = 1
    kind: Literal["trunk"] = "trunk"
    network: NetworkPlan
    sha256: str


class AdapterHeader(_Header):
    """Header of ``<domain>.safetensors``.

    Attributes:
        domain: the domain's name; its tensors' keys begin with ``domains.<domain>.``.
        shape: what the network needs to know of it.
        network: the plan of the trunk it was trained with.
        trunk: fingerprint of that trunk's tensors.
        sha256: fingerprint of the adapter's own tensors.
    """

    format: Literal[1] = 1
    kind: Literal["adapter"] = "adapter"
    domain: str
    shape: DomainShape
    network: NetworkPlan
    trunk: str
    sha256: str


def save_bundle_weights(network: U2Net, models_dir: str | Path) -> list[Path]:
    """Write the trunk, one adapter per domain, and ``model.pt``; each file appears whole or not at all.

    Args:
        network: of any device.
        models_dir: a bundle's ``models`` folder; made if missing.

    Returns:
        The files, trunk first, ``model.pt`` last.

    Raises:
        WeightsError: a value is not finite, or the folder cannot be written.
    """
    models = Path(models_dir)
    check_finite(network.state_dict(), str(models))
    config = network.config
    shapes = config.pop("domains")
    plan = NetworkPlan(**config)
    trunk = network.trunk_state()
    trunk_sha = fingerprint(trunk)
    paths = [models / TRUNK_FILE]
    write_tensors(paths[0], trunk, TrunkHeader(network=plan, sha256=trunk_sha).model_dump(mode="json"))
    for name, shape in shapes.items():
        tensors = network.adapter_state(name)
        header = AdapterHeader(
            domain=name, shape=DomainShape(**shape), network=plan, trunk=trunk_sha, sha256=fingerprint(tensors)
        )
        paths.append(models / f"{name}.safetensors")
        write_tensors(paths[-1], tensors, header.model_dump(mode="json"))
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
        paths = sorted(p for p in models.glob("*.safetensors") if p.name != TRUNK_FILE)
        if not paths:
            raise WeightsError(f"{models}: has a trunk but no adapter (<domain>.safetensors); add the domain's file")
    else:
        paths = [models / f"{domain.name}.safetensors"]
    domains = {}
    for path in paths:
        header, tensors = load_adapter(path, trunk_header)
        if domain is not None:
            check_agrees(path, header, domain)
        domains[header.domain] = header.shape.model_dump(mode="json")
        state.update(tensors)
    return _build({"domains": domains, **trunk_header.network.model_dump(mode="json")}, state, models)


def load_trunk(path: str | Path) -> tuple[TrunkHeader, dict[str, torch.Tensor]]:
    """Read and check ``trunk.safetensors``.

    Raises:
        WeightsError: absent, damaged, changed, or no trunk.
    """
    tensors, values = read_safetensors(path)
    header = _parse(TrunkHeader, values, path)
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
    header = _parse(AdapterHeader, values, path)
    difference = _plans(header.network, trunk.network)
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


def check_agrees(path: Path, header: AdapterHeader, domain: Domain) -> None:
    """Ask that an adapter be the one of this description.

    Raises:
        WeightsError: it is another domain's, or its shape is another.
    """
    if header.domain != domain.name:
        raise WeightsError(f"{path}: is the adapter of '{header.domain}', not of '{domain.name}'")
    own = header.shape.model_dump(mode="json")
    for field, wanted in domain.network.items():
        if own[field] != wanted:
            raise WeightsError(
                f"{path}: {field} is {own[field]}, but domain.json says {wanted}; use the domain.json of its bundle"
            )


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


def _plans(adapter: NetworkPlan, trunk: NetworkPlan) -> str:
    """What tells two architectures apart, in brackets; empty where nothing does."""
    own, other = adapter.model_dump(mode="json"), trunk.model_dump(mode="json")
    different = [f"{field} {own[field]} against {other[field]}" for field in own if own[field] != other[field]]
    return f" (another architecture: {', '.join(different)})" if different else ""


def _parse(kind: type[Any], values: dict[str, Any] | None, path: str | Path) -> Any:
    if values is None:
        raise WeightsError(f"{path}: has no header of this project; give a file that save_bundle_weights wrote")
    if values.get("format") != 1:
        raise WeightsError(f"{path}: has format {values.get('format')!r}, this version reads format 1; update the package")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        field = ".".join(str(p) for p in item["loc"])
        raise WeightsError(
            f"{path}: is no {kind.model_fields['kind'].default} file; header field {field}: {item['msg']}"
        ) from None


def _must_be_intact(path: str | Path, expected: str, tensors: Mapping[str, torch.Tensor]) -> None:
    found = fingerprint(tensors)
    if found != expected:
        raise WeightsError(f"{path}: its tensors have fingerprint {found}, its header says {expected}; the file was changed")
