"""Whether what a bundle holds is what its manifest says, and safe to load: weights, descriptions, ``model.pt``, configurations.

Nothing in the bundle is run: safetensors are parsed, JSON is parsed, ``model.pt`` is read without unpickling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from custom_components.errors import InputError
from custom_components.sharing.known_code import json_files
from custom_components.sharing.manifest import DomainEntry, Manifest
from custom_components.weights.adapters import MODEL_FILE, TRUNK_FILE, load_network, load_trunk
from custom_components.weights.bundle_files import find_domain, list_adapters
from custom_components.weights.files import WeightsError
from custom_components.weights.model_file import read_model_file

__all__ = ["check_contents", "domain_entries", "trunk_of"]

METADATA = "configs/metadata.json"
# Files that Python's or torch's loaders unpickle or run.
LOADED_AS_CODE = {".pt", ".pth", ".ts", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".npy", ".npz", ".pyc", ".pyo"}


def trunk_of(bundle_dir: str | Path) -> str:
    """Fingerprint of a bundle's trunk.

    Raises:
        InputError: it has none, or it is damaged.
    """
    sha256: str = load_trunk(Path(bundle_dir) / "models" / TRUNK_FILE)[0].sha256
    return sha256


def domain_entries(bundle_dir: str | Path) -> tuple[DomainEntry, ...]:
    """A bundle's domains, from its adapters and its descriptions.

    Raises:
        InputError: an adapter has another name or no description in the bundle, or see `list_adapters`.
    """
    found = []
    for adapter in list_adapters(bundle_dir):
        if adapter.path.stem != adapter.header.domain:
            raise WeightsError(
                f"{adapter.path}: is the adapter of '{adapter.header.domain}'; the file must have its domain's name"
            )
        domain = find_domain(bundle_dir, adapter.header.domain)
        if domain is None:
            raise WeightsError(f"{bundle_dir}: has no description of {adapter.header.domain}; add its domain.json to configs")
        entry = {"name": domain.name, "organ": domain.organ, "modality": domain.modality, "classes": domain.classes}
        found.append(DomainEntry(adapter=adapter.header.sha256, **entry))  # type: ignore[arg-type]
    return tuple(found)


def check_contents(folder: Path, manifest: Manifest, absent: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is wrong, one line each.

    Args:
        folder: of the bundle, whose files are those of the manifest.
        manifest: of the bundle.
        absent: files that are not there and need not be.
    """
    models = folder / "models"
    weights = {name for name in manifest.by_path if name.startswith("models/") and name.endswith(".safetensors")}
    for name in manifest.by_path:
        if Path(name).suffix.lower() in LOADED_AS_CODE and name != f"models/{MODEL_FILE}":
            yield f"{folder / name}: is a file of a kind that runs code when it is loaded, and no part of a bundle; refused"
    try:
        contents = json_files(folder, manifest.by_path.keys() - absent)
        version = contents.get(METADATA, {}).get("version") if isinstance(contents.get(METADATA), dict) else None
        if version != manifest.version:
            yield f"{folder / METADATA}: says version {version}, the manifest says {manifest.version}; get the bundle again"
        # Whatever else is absent: torch.load unpickles it.
        state = read_model_file(models / MODEL_FILE) if f"models/{MODEL_FILE}" in manifest.by_path.keys() - absent else None
        if weights & absent:
            return
        trunk = trunk_of(folder)
        if trunk != manifest.trunk:
            yield f"{models / TRUNK_FILE}: has fingerprint {trunk}, the manifest says {manifest.trunk}; get the bundle again"
        if domain_entries(folder) != manifest.domains:
            yield f"{folder}: its domains are not those of the manifest; get the bundle again"
        network = load_network(models).state_dict()
        for path in sorted((folder / "configs" / "domains").glob("*.json")):
            if path.stem not in {domain.name for domain in manifest.domains}:
                yield f"{path}: describes a domain that has no adapter; get the bundle again"
        if state is not None:
            yield from _compared(models / MODEL_FILE, state, network)
    except InputError as error:
        yield str(error)


def _compared(path: Path, state: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Whether ``model.pt`` holds the very bits of the safetensors."""
    if state.keys() != network.keys():
        different = sorted(state.keys() ^ network.keys())
        yield f"{path}: has other parameters than the safetensors beside it ({', '.join(different[:3])}, …); get the bundle again"
        return
    for key, value in network.items():
        other = state[key]
        # Bits, not values: NaN differs from itself, and -0 is 0.
        if (other.dtype, other.shape) != (value.dtype, value.shape) or not torch.equal(_bits(other), _bits(value)):
            yield f"{path}: {key} differs from the safetensors beside it; get the bundle again"
            return


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
