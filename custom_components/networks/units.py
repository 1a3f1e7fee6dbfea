"""Convolution units: the four ways in which a domain adapts the trunk.

A unit is made of two parts with one owner each: the trunk's (a convolution across channels) and the domain's (its
adapter). The unit wires them; it owns no parameter of its own. `UNITS` maps an adapter's name to its class.

====================  ==============================================================  ==========================
adapter               unit(x)                                                         source
====================  ==============================================================  ==========================
``separable``         IN(pointwise(act(IN(depthwise(x)))))                            Huang et al., 2019
                      … with ``low_rank``: pointwise + a change of low rank           Hu et al., 2021
``series``            IN(y + conv1(IN(y))), y = conv(x)                               Rebuffi et al., 2017
``parallel``          IN(conv(x) + conv1(x))                                          Rebuffi et al., 2018
``none``              IN(conv(x))                                                     Çiçek et al., 2016
====================  ==============================================================  ==========================

pointwise and conv belong to the trunk, everything else to the domain: the change of low rank, too, by which a domain that
comes to a frozen trunk mixes channels its own way. Each unit ends in act where ``act`` is set;
an encoder's residual unit leaves it to its block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from custom_components.kernels import filter_norm_act
from custom_components.networks.layers import DepthwiseConv3d, InstanceNormAct, LowRank, PointwiseConv3d, Size3, convolution

__all__ = ["UNITS", "DenseUnit", "ParallelUnit", "SeparableUnit", "SeriesUnit", "in_turn"]


class SeparableUnit(nn.Module):
    """The domain filters in space, the trunk across channels."""

    separable = True

    @staticmethod
    def trunk_part(in_channels: int, out_channels: int, kernel_size: Size3) -> nn.Module:
        return PointwiseConv3d(in_channels, out_channels)

    @staticmethod
    def domain_part(
        in_channels: int, out_channels: int, kernel_size: Size3, act: bool, stride: Size3 = (1, 1, 1), low_rank: int = 0
    ) -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {
            "depthwise": DepthwiseConv3d(in_channels, kernel_size, stride),
            "norm_in": InstanceNormAct(in_channels, act=True),
            "norm": InstanceNormAct(out_channels, act=act),
        }
        if low_rank:
            parts["low_rank"] = LowRank(in_channels, out_channels, low_rank)
        return nn.ModuleDict(parts)

    def __init__(self, trunk: Any, domain: Any) -> None:
        super().__init__()
        self.depthwise, self.norm_in, self.pointwise, self.norm = domain["depthwise"], domain["norm_in"], trunk, domain["norm"]
        self.low_rank = domain["low_rank"] if "low_rank" in domain else None  # noqa: SIM401 (a ModuleDict has no get)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            change = None if self.low_rank is None else self.low_rank()
            return self.norm(self.pointwise(self.norm_in(self.depthwise(x)), change))
        return self._fast(x)

    @torch.jit.unused
    def _fast(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.mixed(x))
        return result

    @torch.jit.unused
    def mixed(self, x: Tensor, before: InstanceNormAct | None = None) -> Tensor:
        """The unit without its last norm, of before(x)."""
        first = None if before is None else before.as_norm()
        depthwise = self.depthwise
        filtered = filter_norm_act(x, depthwise.weight, depthwise.bias, self.norm_in.as_norm(), depthwise.steps, first)
        result: Tensor = self.pointwise(filtered, None if self.low_rank is None else self.low_rank())
        return result


def in_turn(first: nn.Module, second: nn.Module, x: Tensor) -> Tensor:
    """second(first(x)); the norm between two separable units is computed together with the filter that follows it."""
    if isinstance(first, SeparableUnit) and isinstance(second, SeparableUnit):
        result: Tensor = second.norm(second.mixed(first.mixed(x), first.norm))
        return result
    result = second(first(x))
    return result


class DenseUnit(nn.Module):
    """No adapter: the domain owns the norm only."""

    separable = False

    @staticmethod
    def trunk_part(in_channels: int, out_channels: int, kernel_size: Size3) -> nn.Module:
        return convolution(in_channels, out_channels, kernel_size)

    @staticmethod
    def domain_part(in_channels: int, out_channels: int, kernel_size: Size3, act: bool) -> nn.ModuleDict:
        return nn.ModuleDict({"norm": InstanceNormAct(out_channels, act=act)})

    def __init__(self, trunk: Any, domain: Any) -> None:
        super().__init__()
        self.conv, self.norm = trunk, domain["norm"]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class SeriesUnit(DenseUnit):
    """A 1×1×1 filter of the domain after the trunk's convolution, with a residual."""

    @staticmethod
    def domain_part(in_channels: int, out_channels: int, kernel_size: Size3, act: bool) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "adapter_norm": InstanceNormAct(out_channels, act=False),
                "adapter": PointwiseConv3d(out_channels, out_channels),
                "norm": InstanceNormAct(out_channels, act=act),
            }
        )

    def __init__(self, trunk: Any, domain: Any) -> None:
        super().__init__(trunk, domain)
        self.adapter_norm, self.adapter = domain["adapter_norm"], domain["adapter"]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y + self.adapter(self.adapter_norm(y)))


class ParallelUnit(DenseUnit):
    """A 1×1×1 filter of the domain beside the trunk's convolution."""

    @staticmethod
    def domain_part(in_channels: int, out_channels: int, kernel_size: Size3, act: bool) -> nn.ModuleDict:
        return nn.ModuleDict(
            {"adapter": PointwiseConv3d(in_channels, out_channels), "norm": InstanceNormAct(out_channels, act=act)}
        )

    def __init__(self, trunk: Any, domain: Any) -> None:
        super().__init__(trunk, domain)
        self.adapter = domain["adapter"]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x) + self.adapter(x))


UNITS: dict[str, Any] = {"separable": SeparableUnit, "series": SeriesUnit, "parallel": ParallelUnit, "none": DenseUnit}
