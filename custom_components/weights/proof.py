"""Proof that the domains of a bundle are what they were, to the bit, after something was done to it.

What is compared, for every domain that was there before: the trunk's and the adapter's tensors, the description, the logits
of a random patch, and a whole segmentation by `custom_components.inference.Segmenter` (every logit on the way, and the label).
``model.pt``, which MONAI reads instead of trunk and adapters, must hold the same tensors as they, where it is there.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from custom_components.data import read_image
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference import Segmenter, find_images
from custom_components.networks import U2Net, fingerprint
from custom_components.weights.adapters import MODEL_FILE, TRUNK_FILE, adapter_paths, load_network
from custom_components.weights.bundle_files import describe_header, find_domain
from custom_components.weights.files import WeightsError, read_safetensors
from custom_components.weights.model_file import read_model_file

__all__ = ["prove_unchanged"]

logger = logging.getLogger(__name__)

# What segmenting does not read: sampling and augmentation are training's, organ and modality are words.
NOT_OF_OUTPUTS = {"organ", "modality", "label_merges", "stray_labels", "sampling", "augmentation"}
SEEDS = (0, 1)


def prove_unchanged(
    before: str | Path,
    after: str | Path,
    inputs: str | Path | None = None,
    trained: Sequence[str] = (),
    max_voxels: int = 128**3,
    advance: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare two states of a bundle; see the module.

    Args:
        before: a bundle's folder or its ``models`` folder, as it was; a copy made before the change.
        after: the same, as it is.
        inputs: a folder with images, or with one folder of images per domain; images that lie in it directly are given to
            each domain that takes their number of channels. Domains without an image, or None, take generated volumes.
        trained: domains that were meant to change, and are left out.
        max_voxels: patches of more voxels are made smaller, by multiples of the strides.
        advance: called with the name of each domain before it is looked at.

    Returns:
        JSON values: ``verdict`` (``unchanged`` or ``changed``), ``differences`` (one line each), ``notes``, ``trunk``,
        ``domains`` (per domain the fingerprints before and after, SHA-256 of logits and labels, and inputs) and ``added``.

    Raises:
        InputError: ``before`` is no bundle or cannot be loaded, so that nothing can be compared; both are one folder; an input
            cannot be read; or a domain in ``trained`` was not there before.
    """
    old, new = _Side.read(Path(before)), _Side.read(Path(after))
    if old.models.resolve() == new.models.resolve():
        raise WeightsError(f"{before} and {after}: are one folder; give a copy that was made before the change, and the bundle")
    old_network = load_network(old.models)  # what was must be sound: if not, the error says why
    names = [name for name in old.adapters if name not in trained]
    if unknown := sorted(set(trained) - set(old.adapters)):
        raise WeightsError(f"{before}: has no domain {', '.join(unknown)}; it has {', '.join(old.adapters)}")
    images = _images(inputs, before, old.adapters)
    differences = list(new.faults)
    notes: list[str] = []
    if missing := [name for name in names if name not in new.adapters]:
        differences += [f"domain {name}: is missing in {after}" for name in missing]
    differences += _compared(old.trunk, new.trunk, "trunk")
    new_network: U2Net | None = None
    try:
        new_network = load_network(new.models)
    except InputError as error:
        differences.append(f"{after}: cannot be loaded: {error}")
    else:
        differences += _whole(new.models / MODEL_FILE, new_network)
    if (old.models / MODEL_FILE).is_file() and not (new.models / MODEL_FILE).is_file():
        notes.append(f"{MODEL_FILE}: was there before and is missing; MONAI's own tools would need it")
    domains = {}
    for name in names:
        if advance is not None:
            advance(name)
        was, now = old.adapters[name], new.adapters.get(name)
        found: dict[str, Any] = {"fingerprint_before": fingerprint(was), "fingerprint_after": fingerprint(now) if now else None}
        if now is not None:
            differences += _compared(was, now, f"adapter of {name}")
            differences += _described(name, old.domains[name], new.domains[name], notes)
        own = (new_network, new.domains[name]) if new_network is not None and name in new_network.domains else None
        given = images.get(name, images.get("", []))
        if inputs is not None and not given:
            notes.append(f"{name}: has no image in {inputs}; a random volume was compared")
        domain = old.domains[name]
        shape = old_network.config["domains"][name]
        if domain is None and own is not None and own[1] is not None and own[1].network.items() <= shape.items():
            domain = own[1]  # a copy of models alone: the description that there is serves both
        outputs = _outputs(name, (old_network, domain), own, given, max_voxels, notes)
        found["outputs"] = outputs
        differences += [
            f"{name}, {output['input']}: {what} differ" + (f" ({output['error_after']})" if "error_after" in output else "")
            for output in outputs
            for what in ("logits", "label")
            if own is not None and output.get(f"{what}_before") != output.get(f"{what}_after")
        ]
        domains[name] = found
    return {
        "verdict": "changed" if differences else "unchanged",
        "differences": differences,
        "notes": notes,
        "trunk": {"before": fingerprint(old.trunk), "after": fingerprint(new.trunk) if new.trunk else None},
        "domains": domains,
        "added": sorted(set(new.adapters) - set(old.adapters)),
        "left_out": sorted(trained),
    }


@dataclass
class _Side:
    """One state: its tensors as they are in the files, whether or not they fit together."""

    models: Path
    trunk: dict[str, Tensor]
    adapters: dict[str, dict[str, Tensor]]
    domains: dict[str, Domain | None]
    faults: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> _Side:
        models = folder / "models" if (folder / "models").is_dir() else folder
        if not (models / TRUNK_FILE).is_file():
            raise WeightsError(f"{folder}: has no {TRUNK_FILE}, neither in itself nor in 'models'; give a bundle or its models")
        side = cls(models, {}, {}, {})
        try:
            side.trunk = read_safetensors(models / TRUNK_FILE)[0]
        except InputError as error:
            side.faults.append(str(error))
        for path in adapter_paths(models):
            try:
                header = describe_header(path)
                side.adapters[header.domain] = read_safetensors(path)[0]
                described = find_domain(models.parent, header.domain)
                side.domains[header.domain] = described or header.domain_description(path)
            except InputError as error:
                side.faults.append(str(error))
        side.domains = {name: side.domains.get(name) for name in side.adapters}
        return side


class _Hashed(nn.Module):
    """A network that takes down every bit it gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.digest = hashlib.sha256()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        self.digest.update(fingerprint({"logits": logits}).encode())
        return logits


def _compared(before: Mapping[str, Tensor], after: Mapping[str, Tensor], what: str) -> list[str]:
    if not after:
        return [f"{what}: cannot be read"]
    missing, added = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    changed = [k for k in before if k in after and fingerprint({"": before[k]}) != fingerprint({"": after[k]})]
    parts = [
        f"{len(keys)} {how} ({keys[0]})" for keys, how in ((changed, "changed"), (missing, "missing"), (added, "new")) if keys
    ]
    return [f"{what}: tensors {', '.join(parts)}"] if parts else []


def _whole(path: Path, network: U2Net) -> list[str]:
    """Where ``model.pt`` is not what trunk and adapters beside it are."""
    if not path.is_file():
        return []
    try:
        return _compared(network.state_dict(), read_model_file(path), f"{path.name}, against trunk and adapters")
    except InputError as error:
        return [str(error)]


def _described(name: str, before: Domain | None, after: Domain | None, notes: list[str]) -> list[str]:
    if before is None or after is None:
        if before is not None:
            return [f"description of {name}: is missing"]
        how = "patches were compared, and no segmentation" if after is None else "that of the state after was used for both"
        notes.append(f"{name}: has no description before; {how}")
        return []
    fields = [field for field in type(before).model_fields if getattr(before, field) != getattr(after, field)]
    if of_training := [field for field in fields if field in NOT_OF_OUTPUTS]:
        notes.append(f"description of {name}: {', '.join(of_training)} differ, which segmenting does not read")
    used = [field for field in fields if field not in NOT_OF_OUTPUTS]
    return [f"description of {name}: {', '.join(used)} differ"] if used else []


def _outputs(
    name: str,
    before: tuple[U2Net, Domain | None],
    after: tuple[U2Net, Domain | None] | None,
    images: Sequence[Any],
    max_voxels: int,
    notes: list[str],
) -> list[dict[str, Any]]:
    """SHA-256 of what both states give for the same inputs; of the state before alone where there is no other."""
    network, domain = before
    shape = network.shapes[name]
    size = _patch(shape.strides, domain.patch_size if domain else None, max_voxels)
    outputs: list[dict[str, Any]] = []
    for seed in SEEDS:
        x = torch.randn((1, shape.in_channels, *size), generator=torch.Generator().manual_seed(seed))
        found: dict[str, Any] = {"input": f"random patch {'×'.join(map(str, size))}, seed {seed}"}
        for side, state in (("before", before), ("after", after)):
            if state is not None:
                try:
                    found[f"logits_{side}"] = _logits(state[0], name, x)
                except ValueError as error:  # the domain has another shape now
                    if side == "before":
                        raise WeightsError(f"the state before cannot run {name} on a patch ({error}); is it whole?") from None
                    found[f"logits_{side}"] = f"none ({error})"
        outputs.append(found)
    if domain is None:
        return outputs
    given = [(str(image), loaded) for image in images if (loaded := _loaded(image, domain, notes)) is not None]
    if images and not given:
        notes.append(f"{name}: none of its inputs can be used; a random volume was compared")
    for what, image in given or [_generated(domain, size)]:
        found = {"input": what}
        for side, state in (("before", before), ("after", after)):
            if state is not None and state[1] is not None:
                try:
                    found[f"logits_{side}"], found[f"label_{side}"] = _segmented(state[0], state[1], image)
                except (InputError, RuntimeError, ValueError) as error:
                    if side == "before":
                        raise WeightsError(f"{what}: cannot be segmented as {name} ({error}); give other inputs") from None
                    found[f"error_{side}"] = str(error)
        outputs.append(found)
    return outputs


@torch.no_grad()
def _logits(network: U2Net, name: str, x: Tensor) -> str:
    return fingerprint({"logits": network.eval()(x, name)})


def _segmented(network: U2Net, domain: Domain, image: MetaTensor) -> tuple[str, str]:
    hashed = _Hashed(network.select(domain.name))
    label = Segmenter(domain, hashed, "cpu").segment(image).label
    return hashed.digest.hexdigest(), fingerprint({"label": label.as_tensor()})


def _patch(strides: Sequence[Sequence[int]], patch: Sequence[int] | None, max_voxels: int) -> list[int]:
    """The patch size, or four times the product of the strides; halved until it is small enough."""
    factors = [math.prod(stride[axis] for stride in strides) for axis in range(3)]
    size = list(patch) if patch is not None else [4 * f for f in factors]
    # Two voxels at the bottom along some axis: the norm of one voxel is zero, and would hide all below it.
    while math.prod(size) > max_voxels:
        axis = max(range(3), key=lambda a: size[a] / factors[a])
        if size[axis] < 3 * factors[axis]:
            break
        size[axis] = -(-size[axis] // (2 * factors[axis])) * factors[axis]
    return size


def _generated(domain: Domain, size: Sequence[int]) -> tuple[str, MetaTensor]:
    """A smooth random volume at the domain's spacing, a little larger than a patch, so that windows overlap."""
    shape = [n + n // 4 for n in size]
    noise = torch.randn((1, domain.in_channels, *shape), generator=torch.Generator().manual_seed(2))
    smooth = nn.functional.avg_pool3d(noise, 3, 1, 1, count_include_pad=False)[0] * 100 + 300
    z, y, x = domain.spacing
    affine = torch.diag(torch.tensor([x, y, z, 1.0], dtype=torch.float64))
    # (Z, Y, X) to NIfTI's (X, Y, Z).
    return f"random volume {'×'.join(map(str, shape))}", MetaTensor(smooth.permute(0, 3, 2, 1).contiguous(), affine=affine)


def _images(inputs: str | Path | None, before: str | Path, domains: Collection[str]) -> dict[str, list[Any]]:
    """Domain to its images; those of all domains under the empty name."""
    if inputs is None:
        return {}
    folder = Path(inputs)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of images, or of one folder of images per domain")
    folders = {sub.name: sub for sub in sorted(folder.iterdir()) if sub.is_dir() and any(sub.iterdir())}
    if unknown := [sub for name, sub in folders.items() if name not in domains]:
        raise InputError(
            f"{unknown[0]}: is named like no domain of {before}, which has {', '.join(domains)}; a folder of images in "
            f"{folder} has the name of its domain"
        )
    found = {name: find_images(str(sub)) for name, sub in folders.items()}
    if any(path.is_file() for path in folder.iterdir()):
        found[""] = find_images(str(folder))
    if not any(found.values()):
        raise InputError(f"{folder}: has no images")
    return found


def _loaded(image: Any, domain: Domain, notes: list[str]) -> MetaTensor | None:
    try:
        return read_image(image, domain.in_channels)
    except InputError as error:
        notes.append(f"{domain.name}: input left out: {error}")
        return None
