"""Leaf layers: torch's own, with the fast kernels behind them and the original's initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from custom_components.kernels import (
    Norm,
    depthwise_conv3d,
    depthwise_conv3d_reference,
    instance_norm_act,
    instance_norm_act_reference,
    pointwise_conv3d,
    pointwise_conv3d_reference,
)

__all__ = [
    "NEGATIVE_SLOPE",
    "DepthwiseConv3d",
    "InstanceNormAct",
    "LowRank",
    "PointwiseConv3d",
    "ShrinkConv3d",
    "convolution",
    "initialise",
]

NEGATIVE_SLOPE = 0.01
Size3 = tuple[int, int, int]


class DepthwiseConv3d(nn.Conv3d):
    """One filter per channel, zero padding k // 2; runs `custom_components.kernels.depthwise_conv3d`.

    Args:
        channels: C.
        kernel_size: odd, along z, y, x.
        stride: along z, y, x.
    """

    def __init__(self, channels: int, kernel_size: Size3, stride: Size3 = (1, 1, 1)) -> None:
        padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
        super().__init__(channels, channels, kernel_size, stride, padding, groups=channels)
        self.steps: Size3 = stride

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        assert bias is not None  # TorchScript refines the type of a local only
        if torch.jit.is_scripting():
            return depthwise_conv3d_reference(x, self.weight, bias, self.steps)
        return self._fast(x, bias)

    @torch.jit.unused
    def _fast(self, x: Tensor, bias: Tensor) -> Tensor:
        return depthwise_conv3d(x, self.weight, bias, self.steps)


class InstanceNormAct(nn.Module):
    """Instance norm with scale and shift (eps 1e-5), then LeakyReLU 0.01 unless ``act`` is off.

    Args:
        channels: C.
        act: whether the activation follows.
    """

    def __init__(self, channels: int, act: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.slope = NEGATIVE_SLOPE if act else 1.0

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return instance_norm_act_reference(x, self.weight, self.bias, 1e-5, self.slope)
        return self._fast(x)

    @torch.jit.unused
    def _fast(self, x: Tensor) -> Tensor:
        return instance_norm_act(x, self.weight, self.bias, 1e-5, self.slope)

    def as_norm(self) -> Norm:
        """The same for `custom_components.kernels.filter_norm_act`."""
        return Norm(self.weight, self.bias, self.slope)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, slope={self.slope}"


class PointwiseConv3d(nn.Conv3d):
    """1×1×1 convolution; runs `custom_components.kernels.pointwise_conv3d`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor, change: Tensor | None = None) -> Tensor:
        """(N, K, Z, Y, X) to (N, M, Z, Y, X), by the weight, or by weight + change, (M, K)."""
        bias = self.bias
        assert bias is not None  # TorchScript refines the type of a local only
        weight = self.weight
        if change is not None:
            weight = weight + change[:, :, None, None, None]
        if torch.jit.is_scripting():
            return pointwise_conv3d_reference(x, weight, bias)
        return self._fast(x, weight, bias)

    @torch.jit.unused
    def _fast(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return pointwise_conv3d(x, weight, bias)


class LowRank(nn.Module):
    """A domain's own change of a filter across channels, of low rank: up · down (Hu et al., 2021, LoRA).

    It is zero until it is trained.

    Args:
        in_channels, out_channels: of the filter it changes.
        rank: of the change.
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, in_channels))
        self.up = nn.Parameter(torch.zeros(out_channels, rank))
        nn.init.kaiming_normal_(self.down, a=NEGATIVE_SLOPE)

    def forward(self) -> Tensor:
        """The change, (out_channels, in_channels)."""
        return self.up @ self.down


class ShrinkConv3d(nn.Conv3d):
    """The original's dense down step: 3×3×3, per axis stride 2 padded (0, 1) or stride 1 padded (1, 1)."""

    def __init__(self, in_channels: int, out_channels: int, stride: Size3) -> None:
        super().__init__(in_channels, out_channels, 3, stride)
        self.pads: list[int] = [n for s in reversed(stride) for n in ((0, 1) if s == 2 else (1, 1))]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(nn.functional.pad(x, self.pads), self.weight, self.bias)


def convolution(in_channels: int, out_channels: int, kernel_size: Size3) -> nn.Conv3d:
    """Dense convolution with bias that keeps the size."""
    padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
    return nn.Conv3d(in_channels, out_channels, kernel_size, padding=padding)


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights and zero biases for every convolution below ``module`` (He et al., 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, a=NEGATIVE_SLOPE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
