"""One domain's way through the network: a plain U-Net wired from trunk and adapter, owning neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from custom_components.kernels import filter_norm_act
from custom_components.kernels.dispatch import fast_cpu
from custom_components.networks.layers import NEGATIVE_SLOPE, Size3
from custom_components.networks.parts import Plan, Shape, head_levels
from custom_components.networks.units import UNITS, SeparableUnit, in_turn

__all__ = ["DomainPath"]


class DomainPath(nn.Module):
    """U-Net of one domain with one input; scriptable, traceable, exportable.

    Args:
        plan, shape: what the network shares, and what is the domain's own.
        trunk, domain: the parameter trees of `build_trunk` and `build_domain`; storage is shared with them.
    """

    def __init__(self, plan: Plan, shape: Shape, trunk: Any, domain: Any) -> None:
        super().__init__()
        unit = UNITS[plan.adapter]
        steps = range(len(shape.strides))
        heads = head_levels(plan, len(shape.kernel_sizes))

        def down(i: int) -> nn.Module:
            if plan.downsampling == "dense":
                return nn.Sequential(trunk["down"][i], domain["down"][i]["norm"])
            return SeparableUnit(trunk["down"][i], domain["down"][i])

        def stage(i: int) -> nn.Module:
            return DecoderStage(
                nn.Upsample(scale_factor=tuple(float(s) for s in shape.strides[i])),
                unit(trunk["up"][i], domain["up"][i]),
                _pair(unit, trunk["decoder"][i], domain["decoder"][i]),
                nn.Sequential(*domain["heads"][str(i)].values()) if i in heads else nn.Identity(),
                i in heads,
            )

        self.stem = Stem(domain["stem"]["conv"], domain["stem"]["norm"])
        self.encoder = nn.ModuleList(EncoderBlock(unit, trunk["encoder"][i], domain["encoder"][i]) for i in steps)
        self.down = nn.ModuleList(down(i) for i in steps)
        self.bottom = EncoderBlock(unit, trunk["encoder"][len(steps)], domain["encoder"][len(steps)])
        self.stages = nn.ModuleList(stage(i) for i in reversed(steps))
        self.output = domain["output"]
        self.adds_maps: Final[bool] = plan.deep_supervision == "sum"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Z, Y, X) to logits (N, K, Z, Y, X)."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for block, down in zip(self.encoder, self.down):  # noqa: B905  (TorchScript knows no strict=)
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        maps: Tensor | None = None
        for stage in self.stages:
            # The running map lives at the stage's level: it is raised together with the features.
            if maps is not None:
                maps = stage.upsample(maps)  # type: ignore[operator]
            x = stage(x, skips.pop())
            if stage.has_head and self.adds_maps:
                head = stage.head(x)  # type: ignore[operator]
                maps = head if maps is None else maps + head
        logits = self.output(x)
        return logits if maps is None else logits + maps

    @torch.jit.unused
    def forward_heads(self, x: Tensor) -> list[Tensor]:
        """(N, C, Z, Y, X) to logits at full resolution, then those of each head, finer first."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x = stage(x, skips.pop())
            if stage.has_head:
                outputs.insert(0, stage.head(x))  # type: ignore[operator]
        return [self.output(x), *outputs]


class EncoderBlock(nn.Module):
    """u = act(unit(x)); act(x + unit(u)). The first unit ends in act, the second does not."""

    def __init__(self, unit: Any, trunk: Any, domain: Any) -> None:
        super().__init__()
        self.first = unit(trunk["first"], domain["first"])
        self.second = unit(trunk["second"], domain["second"])
        self.act = nn.LeakyReLU(NEGATIVE_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.act(x + self.second(self.first(x)))
        return self._fast(x)

    @torch.jit.unused
    def _fast(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(x + in_turn(self.first, self.second, x))
        return result


class DecoderStage(nn.Module):
    """Nearest up-sampling, unit, concatenation with the skip, two units; no residual."""

    def __init__(self, upsample: nn.Module, up: nn.Module, block: nn.Module, head: nn.Module, has_head: bool) -> None:
        super().__init__()
        self.upsample, self.up, self.block, self.head = upsample, up, block, head
        self.has_head: Final[bool] = has_head

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.up(self.upsample(x)), skip], 1))


class UnitPair(nn.Sequential):
    """Two units, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self[1](self[0](x))
        return self._fast(x)

    @torch.jit.unused
    def _fast(self, x: Tensor) -> Tensor:
        return in_turn(self[0], self[1], x)


class Stem(nn.Sequential):
    """The domain's first convolution and its norm; one input channel goes the way of a depthwise filter."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self[1](self[0](x))
        return self._fast(x)

    @torch.jit.unused
    def _fast(self, x: Tensor) -> Tensor:
        convolution: Any = self[0]
        norm: Any = self[1]
        if convolution.in_channels != 1 or not fast_cpu(x, convolution.weight):
            result: Tensor = norm(convolution(x))
            return result
        return filter_norm_act(x, convolution.weight, convolution.bias, norm.as_norm(), (1, 1, 1))


def _pair(unit: Any, trunk: Any, domain: Any) -> nn.Module:
    return UnitPair(unit(trunk["first"], domain["first"]), unit(trunk["second"], domain["second"]))


def divisors(strides: Sequence[Size3]) -> Size3:
    """What an input's size must be divisible by along z, y, x."""
    product = [1, 1, 1]
    for stride in strides:
        product = [p * s for p, s in zip(product, stride, strict=True)]
    return (product[0], product[1], product[2])
