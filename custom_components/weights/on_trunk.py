"""One domain's network on a trunk that exists: to train an adapter, or to go on with one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from custom_components.domain import Domain
from custom_components.weights.adapters import adapter_paths, load_adapter, load_trunk
from custom_components.weights.files import WeightsError
from custom_components.weights.headers import NetworkPlan, TrunkHeader, check_agrees
from custom_components.weights.states import check_state

if TYPE_CHECKING:
    from custom_components.networks import U2Net

__all__ = ["network_on_trunk"]

logger = logging.getLogger(__name__)

STEM = "stem.conv.weight"
LOW_RANK = ".low_rank."
MEAN, RANDOM = "mean", "random"
"""Words for ``warm_start``: the mean of the adapters beside the trunk, and none (MONAI's ``run`` drops overrides of None)."""


def network_on_trunk(
    trunk: str | Path,
    domain: Domain,
    adapter: str | Path | None = None,
    warm_start: str | Path | None = None,
    freeze: bool = True,
    low_rank: int = 0,
) -> U2Net:
    """A network of one domain on the trunk of a file; its plan and widths come from that file.

    For a bundle's ``network_def``: ``{"_target_": "custom_components.weights.network_on_trunk", "trunk": "$@ckpt_dir +
    '/trunk.safetensors'", "domain": "@domain"}``.

    Args:
        trunk: ``trunk.safetensors``.
        domain: the task; it may use fewer levels than the trunk has.
        adapter: this domain's file, trained with this trunk; None starts a new adapter.
        warm_start: start the new adapter from other domains instead of from random values: the adapter file of one
            domain of this trunk, or a folder with several, whose mean is taken; `MEAN` takes those beside the trunk, if there
            are any and ``adapter`` is None; `RANDOM` is the same as None. See `fitted` for what fits; what does not stays
            random, and the log says so.
        freeze: exclude the trunk from training, so that the domains that exist stay as they are.
        low_rank: of a new adapter: the rank of its own change to each of the trunk's pointwise filters, 0 for none. Zero at
            first; an adapter that exists keeps the rank it has.

    Returns:
        The network on the CPU, in training mode. Random values come from torch's generator.

    Raises:
        WeightsError: a file is absent, damaged or changed, the adapter is another trunk's (both fingerprints are named),
            another architecture's or another domain's, or the domain does not fit the trunk.
    """
    if warm_start == RANDOM:
        warm_start = None
    elif warm_start == MEAN:
        warm_start = None if adapter is not None else _beside(Path(trunk), domain.name)
    if adapter is not None and warm_start is not None:
        raise WeightsError(f"{warm_start}: warm_start is for a new adapter, but {adapter} is given as well; give one of them")
    header, shared = load_trunk(trunk)
    own_header, own = load_adapter(adapter, header) if adapter is not None else (None, {})
    if adapter is not None and own_header is not None:
        check_agrees(Path(adapter), own_header, domain)
        low_rank = own_header.shape.low_rank
    network = _new(Path(trunk), header.network, domain, low_rank)
    check_state(network.trunk_state(), shared, str(trunk))
    network.load_state_dict(shared, strict=False)  # the trunk's keys are complete, the adapter's are not there
    if adapter is not None:
        check_state(network.adapter_state(), own, str(adapter))
        network.load_state_dict(own, strict=False)
    elif warm_start is not None:
        sources = _sources(Path(warm_start), header, domain.name)
        started = _start(network.adapter_state(), sources, f"domains.{domain.name}.", str(warm_start))
        network.load_state_dict(started, strict=False)
    return network.freeze_trunk() if freeze else network


def fitted(source: torch.Tensor, target: torch.Tensor, name: str) -> torch.Tensor | None:
    """A tensor of another domain in the shape of this domain's, or None where their meanings differ.

    - Equal shapes: as it is.
    - Filters of other sizes: a larger one loses its outer planes, a smaller one lies in the middle of zeros. From 1×3×3 to
      3×3×3 the filter's output is the same.
    - The stem with other numbers of input channels: each channel gets the sum over the source's channels divided by their new
      number, so that equal images in all channels give an equal output.
    - Anything else, which is output layers of other numbers of classes: None.
    """
    if source.shape == target.shape:
        return source.clone()
    if source.ndim != 5 or source.shape[0] != target.shape[0]:
        return None
    if source.shape[1] != target.shape[1]:
        if name != STEM:
            return None
        source = source.sum(1, keepdim=True).expand(-1, target.shape[1], -1, -1, -1) / target.shape[1]
    # Kernels are odd, so both have a middle.
    cut = [slice((s - t) // 2, (s - t) // 2 + t) if s > t else slice(None) for s, t in _sizes(source, target)]
    put = [slice((t - s) // 2, (t - s) // 2 + s) if t > s else slice(None) for s, t in _sizes(source, target)]
    result = torch.zeros_like(target)
    result[(..., *put)] = source[(..., *cut)]
    return result


def _sizes(source: torch.Tensor, target: torch.Tensor) -> list[tuple[int, int]]:
    return list(zip(source.shape[2:], target.shape[2:], strict=True))


def _new(trunk: Path, plan: NetworkPlan, domain: Domain, low_rank: int) -> U2Net:
    from custom_components.networks import U2Net  # networks and weights know each other; see adapters

    levels = len(domain.kernel_sizes)
    if levels > len(plan.channels):
        raise WeightsError(
            f"{trunk}: has {len(plan.channels)} levels, domain '{domain.name}' wants {levels}; take "
            f"{levels - len(plan.channels)} of its strides and kernel_sizes away, or a deeper trunk"
        )
    try:
        return U2Net({domain.name: {**domain.network, "low_rank": low_rank}}, **plan.model_dump(mode="json"))
    except ValueError as error:
        raise WeightsError(f"{trunk}: domain '{domain.name}' does not fit this trunk ({error})") from None


def _beside(trunk: Path, own: str) -> Path | None:
    """The trunk's folder if an adapter of another domain lies there."""
    folder = trunk.parent
    if folder.is_dir() and any(file.name != f"{own}.safetensors" for file in adapter_paths(folder)):
        return folder
    logger.warning("%s: no adapter of another domain lies beside it; '%s' starts from random values", trunk, own)
    return None


def _sources(path: Path, trunk: TrunkHeader, own: str) -> dict[str, dict[str, torch.Tensor]]:
    """Domain to its tensors by their name within the adapter; of a folder, all but the domain's own."""
    if path.is_dir():
        files = [file for file in adapter_paths(path) if file.name != f"{own}.safetensors"]
        if not files:
            raise WeightsError(f"{path}: has no adapter of another domain to start from; leave warm_start out")
    else:
        files = [path]
    sources = {}
    for file in files:
        header, tensors = load_adapter(file, trunk)
        prefix = f"domains.{header.domain}."
        sources[header.domain] = {key.removeprefix(prefix): value for key, value in tensors.items()}
        check_state(sources[header.domain], sources[header.domain], str(file))  # finite
    return sources


def _start(
    target: Mapping[str, torch.Tensor], sources: Mapping[str, Mapping[str, torch.Tensor]], prefix: str, where: str
) -> dict[str, torch.Tensor]:
    """Per tensor the mean of those of equal shape; where there is none, of those that can be fitted; else as it was."""
    started: dict[str, torch.Tensor] = {}
    copied: list[str] = []
    changed: list[str] = []
    fresh: list[str] = []
    for key, own in target.items():
        name = key.removeprefix(prefix)
        given = [source[name] for source in sources.values() if name in source]
        if LOW_RANK in name and len(sources) > 1:
            given = []  # up · down: a product of means is no mean of products
        equal = [value for value in given if value.shape == own.shape]
        fits = [value for other in equal or given if (value := fitted(other, own, name)) is not None]
        if not fits:
            fresh.append(name)
            continue
        (copied if equal else changed).append(name)
        started[key] = fits[0] if len(fits) == 1 else torch.stack(fits).mean(0)
    logger.info(
        "%s: %d tensors start from %s%s; %d with their filters changed in size%s; %d random%s",
        where,
        len(copied),
        "the mean of " if len(sources) > 1 else "",
        ", ".join(sources),
        len(changed),
        _named(changed),
        len(fresh),
        _named(fresh),
    )
    return started


def _named(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
