"""How many parameters a universal network has, beside a network of its own for each of its domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from custom_components.networks import U2Net

__all__ = ["CHANNELS", "ParameterCounts", "count_parameters"]

CHANNELS = (16, 32, 64, 128, 256, 512)
"""Widths of the published networks."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters for one list of domains.

    Attributes:
        independent: of one dense network without adapters for each domain, together: as published, 3×3×3 filters
            everywhere, as many levels as the domain halves its longest axis.
        dense: of one universal network with separable adapters on the published trunk, whose strided filters are dense
            and which asks for five halvings of every axis in every domain.
        separable: of one universal network whose strided filters are depthwise and each domain's own.
        trunk: of the latter, what all domains share.
        adapters: of the latter, what each domain owns.
    """

    independent: int
    dense: int
    separable: int
    trunk: int
    adapters: dict[str, int]


def count_parameters(networks: Mapping[str, Mapping[str, Any]], channels: Sequence[int] = CHANNELS) -> ParameterCounts:
    """Count what the three set-ups take for ``networks``, a domain's name to its `Domain.network`."""
    with torch.device("meta"):  # shapes alone: nothing is allocated
        independent = sum(
            _count(U2Net({name: _cubic(network)}, _levels(network, channels), adapter="none", downsampling="dense"))
            for name, network in networks.items()
        )
        halved = {name: {**_cubic(network), **_halvings(len(channels))} for name, network in networks.items()}
        dense = _count(U2Net(halved, channels, adapter="separable", downsampling="dense"))
        universal = U2Net(dict(networks), channels, adapter="separable", downsampling="separable")
    adapters = {name: _count(adapter) for name, adapter in universal.domains.items()}
    return ParameterCounts(independent, dense, _count(universal), _count(universal.trunk), adapters)


def _cubic(network: Mapping[str, Any]) -> dict[str, Any]:
    return {**network, "kernel_sizes": [[3, 3, 3]] * len(network["kernel_sizes"])}


def _levels(network: Mapping[str, Any], channels: Sequence[int]) -> Sequence[int]:
    return channels[: len(network["strides"]) + 1]


def _halvings(levels: int) -> dict[str, Any]:
    return {"strides": [[2, 2, 2]] * (levels - 1), "kernel_sizes": [[3, 3, 3]] * levels}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
