"""The two parameter trees: what the trunk owns, and what one domain owns. Neither computes anything.

Both have the same rooms, level by level: ``encoder.<level>.first/second``, ``down.<level>``, ``up.<level>``,
``decoder.<level>.first/second``; the domain has ``stem``, ``heads`` and ``output`` besides. Step ``i`` lies between
levels ``i`` and ``i + 1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from custom_components.networks.layers import InstanceNormAct, PointwiseConv3d, ShrinkConv3d, Size3, convolution
from custom_components.networks.units import UNITS, SeparableUnit

__all__ = ["Plan", "Shape", "build_domain", "build_trunk", "head_levels"]


@dataclass(frozen=True)
class Plan:
    """What all domains of one network share: widths and kinds.

    Attributes:
        channels: width of each level, finest first.
        adapter: a key of `UNITS`.
        downsampling: ``separable`` or ``dense``.
        deep_supervision: ``sum`` (maps are added to the output), ``heads`` (outputs of their own) or ``none``.
    """

    channels: tuple[int, ...]
    adapter: str
    downsampling: str
    deep_supervision: str

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or any(c < 1 for c in self.channels):
            raise ValueError(f"channels: at least two levels of positive width are needed, got {list(self.channels)}")
        for field, allowed in (
            ("adapter", tuple(UNITS)),
            ("downsampling", ("separable", "dense")),
            ("deep_supervision", ("sum", "heads", "none")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}: '{getattr(self, field)}' is none of {', '.join(allowed)}")


@dataclass(frozen=True)
class Shape:
    """What is a domain's own: channels, strides and kernels per level, the rank of its change of the trunk's filters."""

    in_channels: int
    out_channels: int
    strides: tuple[Size3, ...]
    kernel_sizes: tuple[Size3, ...]
    low_rank: int = 0

    @classmethod
    def from_mapping(cls, name: str, values: Mapping[str, Any], plan: Plan) -> Shape:
        """Check one entry of ``U2Net(domains=…)``.

        Raises:
            ValueError: a field is unknown or missing, or does not fit the plan; the message names domain and field.
        """
        fields = ("in_channels", "out_channels", "strides", "kernel_sizes")
        if set(values) - {"low_rank"} != set(fields):
            raise ValueError(f"domain '{name}' needs exactly {', '.join(fields)}; got {', '.join(sorted(values))}")
        low_rank = values.get("low_rank", 0)
        if not isinstance(low_rank, int) or low_rank < 0:
            raise ValueError(f"domain '{name}', low_rank: a whole number, 0 for none, is needed, got {low_rank!r}")
        if low_rank and plan.adapter != "separable":
            raise ValueError(
                f"domain '{name}', low_rank: '{plan.adapter}' adapters have filters across channels of their own; give 0"
            )
        strides, kernels = (tuple(_triple(name, field, v) for v in values[field]) for field in fields[2:])
        if len(kernels) != len(strides) + 1:
            raise ValueError(f"domain '{name}': {len(strides)} strides need {len(strides) + 1} kernel_sizes, got {len(kernels)}")
        if len(kernels) > len(plan.channels) or len(kernels) < 2:
            raise ValueError(f"domain '{name}' has {len(kernels)} levels; the trunk has {len(plan.channels)} (two at least)")
        if any(k % 2 == 0 for kernel in kernels for k in kernel):
            raise ValueError(f"domain '{name}': kernel_sizes must be odd")
        if values["in_channels"] < 1 or values["out_channels"] < 2:
            raise ValueError(f"domain '{name}' needs at least one input channel and two output classes")
        return cls(values["in_channels"], values["out_channels"], strides, kernels, low_rank)

    def trunk_needs(self, plan: Plan) -> tuple[Any, Any]:
        """What a dense trunk dictates to every domain: (strides, kernels), None where the domain is free."""
        dense = plan.downsampling == "dense"
        return (self.strides if dense else None, None if UNITS[plan.adapter].separable else self.kernel_sizes)


def build_trunk(plan: Plan, shape: Shape) -> nn.ModuleDict:
    """The shared filters. ``shape`` (of the first domain) matters only where filters are dense."""
    unit = UNITS[plan.adapter]
    width = plan.channels
    steps = range(len(width) - 1)
    kernels = shape.kernel_sizes + ((3, 3, 3),) * len(width)
    strides = shape.strides + ((2, 2, 2),) * len(width)

    def down(i: int) -> nn.Module:
        if plan.downsampling == "dense":
            return ShrinkConv3d(width[i], width[i + 1], strides[i])
        return PointwiseConv3d(width[i], width[i + 1])

    def pair(inner: int, outer: int, first: Size3, second: Size3) -> nn.ModuleDict:
        return nn.ModuleDict({"first": unit.trunk_part(inner, outer, first), "second": unit.trunk_part(outer, outer, second)})

    return nn.ModuleDict(
        {
            "encoder": nn.ModuleList(pair(c, c, k, k) for c, k in zip(width, kernels, strict=False)),
            "down": nn.ModuleList(down(i) for i in steps),
            "up": nn.ModuleList(unit.trunk_part(width[i + 1], width[i], kernels[i]) for i in steps),
            "decoder": nn.ModuleList(pair(2 * width[i], width[i], kernels[i], (1, 1, 1)) for i in steps),
        }
    )


def build_domain(plan: Plan, shape: Shape) -> nn.ModuleDict:
    """Everything one domain owns: its adapter."""
    unit = UNITS[plan.adapter]
    own: dict[str, int] = {"low_rank": shape.low_rank} if unit.separable else {}
    width = plan.channels[: len(shape.kernel_sizes)]
    kernels = shape.kernel_sizes
    steps = range(len(width) - 1)

    def pair(inner: int, outer: int, kernel: Size3, second_act: bool) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "first": unit.domain_part(inner, outer, kernel, True, **own),
                "second": unit.domain_part(outer, outer, kernel, second_act, **own),
            }
        )

    def down(i: int) -> nn.Module:
        if plan.downsampling == "dense":
            return nn.ModuleDict({"norm": InstanceNormAct(width[i + 1], act=True)})
        return SeparableUnit.domain_part(width[i], width[i + 1], kernels[i], True, shape.strides[i], **own)

    def head(level: int) -> nn.Module:
        parts: dict[str, nn.Module] = {"conv": PointwiseConv3d(width[level], shape.out_channels)}
        if plan.deep_supervision == "sum":
            parts["norm"] = InstanceNormAct(shape.out_channels, act=True)
        return nn.ModuleDict(parts)

    return nn.ModuleDict(
        {
            "stem": nn.ModuleDict(
                {"conv": convolution(shape.in_channels, width[0], kernels[0]), "norm": InstanceNormAct(width[0], act=True)}
            ),
            "encoder": nn.ModuleList(pair(c, c, k, False) for c, k in zip(width, kernels, strict=True)),
            "down": nn.ModuleList(down(i) for i in steps),
            "up": nn.ModuleList(unit.domain_part(width[i + 1], width[i], kernels[i], True, **own) for i in steps),
            "decoder": nn.ModuleList(pair(2 * width[i], width[i], kernels[i], True) for i in steps),
            "heads": nn.ModuleDict({str(level): head(level) for level in head_levels(plan, len(width))}),
            "output": PointwiseConv3d(width[0], shape.out_channels),
        }
    )


def head_levels(plan: Plan, levels: int) -> tuple[int, ...]:
    """Decoder levels with a deep-supervision map: 2 and 1, those that exist above the deepest; deeper first."""
    return () if plan.deep_supervision == "none" else tuple(level for level in (2, 1) if level < levels - 1)


def _triple(name: str, field: str, value: Any) -> Size3:
    if len(value) != 3 or any(not isinstance(v, int) or v < 1 for v in value):
        raise ValueError(f"domain '{name}', {field}: three positive integers (z, y, x) are needed, got {value}")
    return (value[0], value[1], value[2])
