"""Depthwise 3-D convolution: one public function, the fast kernel where there is one, torch elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from custom_components.kernels.dispatch import fast
from custom_components.kernels.threads import run_ranges

Size3 = tuple[int, ...]
__all__ = [
    "depthwise_conv3d",
    "depthwise_conv3d_reference",
    "forward",
    "input_gradient",
    "is_stencil",
    "output_size",
    "weight_gradient",
]


def depthwise_conv3d(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    """Depthwise correlation with zero padding of k // 2 on each side.

    Args:
        x: (N, C, Z, Y, X).
        weight: (C, 1, kz, ky, kx), odd sizes.
        bias: (C,).
        stride: along z, y, x.

    Returns:
        (N, C, ceil(Z/sz), ceil(Y/sy), ceil(X/sx)), same dtype and device; under autocast on a GPU its dtype.
    """
    if fast(x, weight):
        if x.is_cuda and torch.is_autocast_enabled("cuda"):  # as torch's convolutions; register_autocast knows fixed types only
            x = x.to(torch.get_autocast_dtype("cuda"))
        return torch.ops.u2net.depthwise_conv3d(x, weight, bias, list(stride))
    return depthwise_conv3d_reference(x, weight, bias, stride)


def depthwise_conv3d_reference(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    """`depthwise_conv3d` in plain torch: the reference, and what TorchScript and ONNX export."""
    padding = [weight.shape[2] // 2, weight.shape[3] // 2, weight.shape[4] // 2]
    return F.conv3d(x, weight, bias, list(stride), padding, [1, 1, 1], weight.shape[0])


def _volumes(x: Tensor):  # type: ignore[no-untyped-def]
    """(N, C, Z, Y, X) tensor as an (N·C, Z, Y, X) array over the same memory where it is contiguous."""
    return x.detach().contiguous().flatten(0, 1).numpy()


@torch.library.custom_op("u2net::depthwise_conv3d", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor, stride: list[int]) -> Tensor:
    out = _output(x, stride)
    source, target, filters = _volumes(x), out.flatten(0, 1).numpy(), _volumes(weight)
    offset, stencil = bias.detach().contiguous().numpy(), is_stencil(weight, stride)
    run_ranges(lambda i, j: forward(source, filters, offset, tuple(stride), target, stencil, i, j), source.shape[0])
    return out


@_forward.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: list[int]) -> Tensor:
    from custom_components.kernels import depthwise_cuda as kernel

    return kernel.forward(x, weight, bias, tuple(stride))


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: list[int]) -> Tensor:
    return _output(x, stride)


@torch.library.custom_op("u2net::depthwise_conv3d_backward", mutates_args=(), device_types="cpu")
def _backward(gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int], needs_input: bool) -> tuple[Tensor, Tensor, Tensor]:
    n, c = x.shape[:2]
    g, source, filters = _volumes(gradient), _volumes(x), _volumes(weight)
    per_sample = torch.empty((n * c, *weight.shape[2:]), dtype=x.dtype)
    weights, steps, stencil = per_sample.numpy(), tuple(stride), is_stencil(weight, stride)
    run_ranges(lambda i, j: weight_gradient(source, g, steps, weights, stencil, i, j), n * c)
    grad_x = torch.empty(x.shape if needs_input else (0,), dtype=x.dtype)
    if needs_input:
        target = grad_x.flatten(0, 1).numpy()
        run_ranges(lambda i, j: input_gradient(g, filters, steps, target, stencil, i, j), n * c)
    grad_weight = per_sample.view(n, c, *weight.shape[2:]).sum(0).unsqueeze(1)
    return grad_x, grad_weight, gradient.sum((0, 2, 3, 4))


@_backward.register_kernel("cuda")
def _(gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int], needs_input: bool) -> tuple[Tensor, Tensor, Tensor]:
    from custom_components.kernels import depthwise_cuda as kernel

    return kernel.backward(gradient, x, weight, tuple(stride), needs_input)


@_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, stride: list[int], needs_input: bool) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = x.new_empty(x.shape if needs_input else (0,))  # contiguous, whatever x is
    return grad_x, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, _, stride = inputs
    ctx.save_for_backward(x, weight)
    ctx.stride = stride


def _gradients(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    needs_input = ctx.needs_input_grad[0]
    grad_x, grad_weight, grad_bias = torch.ops.u2net.depthwise_conv3d_backward(gradient, x, weight, ctx.stride, needs_input)
    return (grad_x if needs_input else None), grad_weight, grad_bias, None


_forward.register_autograd(_gradients, setup_context=_setup)


def is_stencil(weight: Tensor, stride: list[int]) -> bool:
    """Whether `custom_components.kernels.stencil_numba` takes it: most layers of a network, and those on the finest grid."""
    return weight.shape[2] in (1, 3) and tuple(weight.shape[3:]) == (3, 3) and list(stride) == [1, 1, 1]


def output_size(x: Tensor, stride: list[int]) -> tuple[int, int, int]:
    """(z, y, x) of the output."""
    z, y, x_ = (-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True))
    return z, y, x_


def forward(
    x: Any, weight: Any, bias: Any, stride: Size3, out: Any, stencil: bool, start: int = 0, stop: int | None = None
) -> None:
    """The filter on ``[start, stop)`` of (N·C, Z, Y, X) volumes; ``stop`` and ``bias`` None are all of them and zero."""
    from custom_components.kernels import depthwise_numba, stencil_numba

    stop = out.shape[0] if stop is None else stop
    bias = np.zeros(weight.shape[0], np.float32) if bias is None else bias
    if stencil:
        stencil_numba.filter_range(x, weight, bias, out, start, stop)
    else:
        depthwise_numba.forward_range(x, weight, bias, stride, out, start, stop)


def weight_gradient(
    x: Any, gradient: Any, stride: Size3, out: Any, stencil: bool, start: int = 0, stop: int | None = None
) -> None:
    """Gradient of the filter of each volume, likewise."""
    from custom_components.kernels import depthwise_numba, stencil_numba

    stop = out.shape[0] if stop is None else stop
    if stencil:
        stencil_numba.weight_gradient_range(x, gradient, out, start, stop)
    else:
        depthwise_numba.weight_gradient_range(x, gradient, stride, out, start, stop)


def input_gradient(
    gradient: Any, weight: Any, stride: Size3, out: Any, stencil: bool, start: int = 0, stop: int | None = None
) -> None:
    """Gradient of the input, likewise; for a stencil it is the filter turned round."""
    from custom_components.kernels import depthwise_numba, stencil_numba

    stop = out.shape[0] if stop is None else stop
    if stencil:
        turned = np.ascontiguousarray(weight[:, ::-1, ::-1, ::-1])
        stencil_numba.filter_range(gradient, turned, np.zeros(weight.shape[0], np.float32), out, start, stop)
    else:
        depthwise_numba.input_gradient_range(gradient, weight, stride, out, start, stop)


def _output(x: Tensor, stride: list[int]) -> Tensor:
    return x.new_empty((*x.shape[:2], *output_size(x, stride)))
