"""Filter in space, instance norm and LeakyReLU as one step, channel by channel: what a domain does between two mixtures.

Whatever acts on one channel at a time can run on a channel while it is in the cache: it is read once and written once,
not once for every layer. Between forward and backward only the input is kept; what lies between is computed again, which
takes less time than fetching it from memory would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from custom_components.kernels.depthwise import depthwise_conv3d, input_gradient, is_stencil, output_size, weight_gradient
from custom_components.kernels.depthwise import forward as depthwise_forward
from custom_components.kernels.dispatch import fast, fast_cpu
from custom_components.kernels.norm import instance_norm_act
from custom_components.kernels.threads import run_ranges

__all__ = ["Norm", "filter_norm_act", "filter_norm_act_reference"]

_HELD = 2**16  # voxels of the channels that one thread takes at a time, where a channel is not larger


@dataclass(frozen=True)
class Norm:
    """Scale and shift (C,) of an instance norm, and the slope of the LeakyReLU after it (1.0 is none)."""

    weight: Tensor
    bias: Tensor
    slope: float


def filter_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    after: Norm,
    stride: tuple[int, int, int],
    before: Norm | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """after(filter(before(x))), the norms with their activations.

    Args:
        x: (N, C, Z, Y, X), or (N, 1, Z, Y, X), whose channel then meets every filter.
        weight: (C, 1, kz, ky, kx), odd sizes; zero padding of k // 2.
        bias: (C,). The norm takes it away again: it changes nothing, and its gradient is zero.
        after: norm of the filters' output.
        stride: along z, y, x.
        before: norm of the input.
        eps: added to the variances.

    Returns:
        (N, C, ceil(Z/sz), ceil(Y/sy), ceil(X/sx)), same dtype and device.

    Raises:
        ValueError: a norm before filters that share one channel.
    """
    if before is not None and x.shape[1] != weight.shape[0]:
        raise ValueError(f"a norm before the filters needs a channel for each of the {weight.shape[0]}, got {x.shape[1]}")
    if not fast_cpu(x, weight):
        return filter_norm_act_reference(x, weight, bias, after, stride, before, eps)
    first = (None, None, 1.0) if before is None else (before.weight, before.bias, before.slope)
    return torch.ops.u2net.filter_norm_act(x, *first, weight, bias, after.weight, after.bias, after.slope, list(stride), eps)[0]


def filter_norm_act_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    after: Norm,
    stride: tuple[int, int, int],
    before: Norm | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`filter_norm_act` layer by layer: the reference, and what a GPU runs, with kernels of its own for each layer."""
    if before is not None:
        x = instance_norm_act(x, before.weight, before.bias, eps, before.slope)
    if fast(x, weight) and x.shape[1] == weight.shape[0]:
        y = depthwise_conv3d(x, weight, bias, stride)
    else:
        padding = [weight.shape[2] // 2, weight.shape[3] // 2, weight.shape[4] // 2]
        y = F.conv3d(x, weight, bias, list(stride), padding, [1, 1, 1], x.shape[1])
    return instance_norm_act(y, after.weight, after.bias, eps, after.slope)


class _Channels:
    """Arrays of all (sample, channel) volumes, and what is done to a few of them at a time."""

    def __init__(self, x: Tensor, weight: Tensor, stride: list[int]) -> None:
        self.samples, self.count = x.shape[0], x.shape[0] * weight.shape[0]
        self.stride, self.stencil = tuple(stride), is_stencil(weight, stride)
        self.source = _volumes(x)
        self.shared = 1 if x.shape[1] == weight.shape[0] else weight.shape[0]
        self.filters = self.per_channel(weight.flatten(0, 1))
        self.inside, self.outside = tuple(x.shape[2:]), output_size(x, stride)
        self.step = 1 if self.shared > 1 else max(1, _HELD // int(np.prod(self.inside)))

    def per_channel(self, values: Tensor | None) -> Any:
        """Parameters of every channel, for every sample anew."""
        return None if values is None else np.concatenate([values.detach().numpy()] * self.samples)

    def parts(self, start: int, stop: int) -> Any:
        """(slice of the outputs, slice of the inputs) of ``[start, stop)``."""
        for a in range(start, stop, self.step):
            b = min(stop, a + self.step)
            yield slice(a, b), slice(a // self.shared, (b - 1) // self.shared + 1)

    def room(self, size: tuple[int, ...]) -> Any:
        return np.empty((self.step, *size), np.float32)


def _volumes(x: Tensor) -> Any:
    return x.detach().contiguous().flatten(0, 1).numpy()


def _rows(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


@torch.library.custom_op("u2net::filter_norm_act", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor,
    before_weight: Tensor | None,
    before_bias: Tensor | None,
    before_slope: float,
    weight: Tensor,
    bias: Tensor,
    after_weight: Tensor,
    after_bias: Tensor,
    after_slope: float,
    stride: list[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from custom_components.kernels import norm_numba as norm

    channels = _Channels(x, weight, stride)
    first, second = (channels.per_channel(v) for v in (before_weight, before_bias))
    scale, shift = channels.per_channel(after_weight), channels.per_channel(after_bias)
    slopes = np.float32(before_slope), np.float32(after_slope)
    out = torch.empty((x.shape[0], weight.shape[0], *channels.outside))
    target = _rows(out.flatten(0, 1).numpy())
    # Mean and 1/σ of both norms, by channel.
    moments_before, moments = torch.zeros(2, 0 if first is None else channels.count), torch.empty(2, channels.count)
    kept_before, kept = moments_before.numpy(), moments.numpy()

    def work(start: int, stop: int) -> None:
        room, normed = channels.room(channels.outside), None if first is None else channels.room(channels.inside)
        for own, given in channels.parts(start, stop):
            n = own.stop - own.start
            source = channels.source[given]
            if normed is not None:
                mean, rstd = kept_before[0, own], kept_before[1, own]
                norm.forward_range(_rows(source), first[own], second[own], eps, slopes[0], _rows(normed), mean, rstd, 0, n)
                source = normed[:n]
            filtered = room[:n]
            depthwise_forward(source, channels.filters[own], None, channels.stride, filtered, channels.stencil)
            mean, rstd = kept[0, own], kept[1, own]
            norm.forward_range(_rows(filtered), scale[own], shift[own], eps, slopes[1], target[own], mean, rstd, 0, n)

    run_ranges(work, channels.count)
    return out, moments_before, moments


@_forward.register_fake
def _(x, before_weight, before_bias, before_slope, weight, bias, after_weight, after_bias, after_slope, stride, eps):  # type: ignore[no-untyped-def]
    count = x.shape[0] * weight.shape[0]
    out = x.new_empty((x.shape[0], weight.shape[0], *output_size(x, stride)))
    return out, x.new_empty((2, 0 if before_weight is None else count)), x.new_empty((2, count))


@torch.library.custom_op("u2net::filter_norm_act_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor,
    x: Tensor,
    before_weight: Tensor | None,
    before_bias: Tensor | None,
    before_slope: float,
    weight: Tensor,
    after_weight: Tensor,
    after_bias: Tensor,
    after_slope: float,
    stride: list[int],
    moments_before: Tensor,
    moments: Tensor,
    needs_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of the norm before (2, C or 0), of the filters, of the norm after (2, C)."""
    from custom_components.kernels import norm_numba as norm

    channels = _Channels(x, weight, stride)
    first, second = (channels.per_channel(v) for v in (before_weight, before_bias))
    scale, shift = channels.per_channel(after_weight), channels.per_channel(after_bias)
    slopes = np.float32(before_slope), np.float32(after_slope)
    kept_before, kept = moments_before.numpy(), moments.numpy()
    given_gradient = _rows(_volumes(gradient))
    filters = torch.empty((channels.count, *weight.shape[2:]))
    norms_before, norms = torch.zeros(moments_before.shape), torch.empty(2, channels.count)
    per_filter, per_before, per_norm = filters.numpy(), norms_before.numpy(), norms.numpy()
    passes = needs_input or first is not None
    whole = torch.empty((channels.count, *channels.inside) if passes else (0,))
    target = whole.numpy()

    def work(start: int, stop: int) -> None:
        filtered_room, gradient_room = channels.room(channels.outside), channels.room(channels.outside)
        normed, normed_gradient = (None if first is None else channels.room(channels.inside) for _ in range(2))
        for own, given in channels.parts(start, stop):
            n = own.stop - own.start
            raw = source = channels.source[given]
            if normed is not None:
                mean, rstd = kept_before[0, own], kept_before[1, own]
                norm.apply_range(_rows(raw), first[own], second[own], mean, rstd, slopes[0], _rows(normed), 0, n)
                source = normed[:n]
            filtered, passed = filtered_room[:n], gradient_room[:n]
            depthwise_forward(source, channels.filters[own], None, channels.stride, filtered, channels.stencil)
            mean, rstd = kept[0, own], kept[1, own]
            norm.backward_range(
                given_gradient[own], _rows(filtered), scale[own], shift[own], mean, rstd, slopes[1], _rows(passed),
                per_norm[0, own], per_norm[1, own], 0, n,
            )  # fmt: skip
            weight_gradient(source, passed, channels.stride, per_filter[own], channels.stencil)
            if normed_gradient is not None:
                input_gradient(passed, channels.filters[own], channels.stride, normed_gradient[:n], channels.stencil)
                mean, rstd = kept_before[0, own], kept_before[1, own]
                norm.backward_range(
                    _rows(normed_gradient), _rows(raw), first[own], second[own], mean, rstd, slopes[0], _rows(target[own]),
                    per_before[0, own], per_before[1, own], 0, n,
                )  # fmt: skip
            elif needs_input:
                input_gradient(passed, channels.filters[own], channels.stride, target[own], channels.stencil)

    run_ranges(work, channels.count)
    n, c = x.shape[0], weight.shape[0]
    grad_x = whole.view(n, c, *channels.inside) if needs_input else torch.empty(0)
    if needs_input and channels.shared > 1:
        grad_x = grad_x.sum(1, keepdim=True)
    before = norms_before.view(2, n, -1).sum(1)
    return grad_x, before, filters.view(n, c, *weight.shape[2:]).sum(0).unsqueeze(1), norms.view(2, n, c).sum(1)


@_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    gradient,
    x,
    before_weight,
    before_bias,
    before_slope,
    weight,
    after_weight,
    after_bias,
    after_slope,
    stride,
    moments_before,
    moments,
    needs_input,
):
    grad_x = x.new_empty(x.shape if needs_input else (0,))  # contiguous, whatever x is
    before = x.new_empty((2, 0 if before_weight is None else weight.shape[0]))
    return grad_x, before, weight.new_empty(weight.shape), weight.new_empty((2, weight.shape[0]))


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, before_weight, before_bias, before_slope, weight, _, after_weight, after_bias, after_slope, stride, _ = inputs
    _, moments_before, moments = output
    ctx.save_for_backward(x, before_weight, before_bias, weight, after_weight, after_bias, moments_before, moments)
    ctx.before_slope, ctx.after_slope, ctx.stride = before_slope, after_slope, stride
    ctx.mark_non_differentiable(moments_before, moments)


def _gradients(ctx, gradient: Tensor, *_):  # type: ignore[no-untyped-def]
    x, before_weight, before_bias, weight, after_weight, after_bias, moments_before, moments = ctx.saved_tensors
    needs_input = ctx.needs_input_grad[0]
    grad_x, before, filters, after = torch.ops.u2net.filter_norm_act_backward(
        gradient, x, before_weight, before_bias, ctx.before_slope, weight, after_weight, after_bias, ctx.after_slope, ctx.stride,
        moments_before, moments, needs_input,
    )  # fmt: skip
    firsts = (None, None) if before_weight is None else (before[0], before[1])
    zeros = torch.zeros_like(after_bias)  # of the filters' bias
    return (grad_x if needs_input else None), *firsts, None, filters, zeros, after[0], after[1], None, None, None


_forward.register_autograd(_gradients, setup_context=_setup)
