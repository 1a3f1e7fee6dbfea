"""1×1×1 convolution: one public function, the fast kernel on the CPU, torch elsewhere."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_components.kernels.dispatch import fast_cpu
from custom_components.kernels.threads import run_ranges

__all__ = ["pointwise_conv3d", "pointwise_conv3d_reference"]


def pointwise_conv3d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight · x + bias in every voxel.

    Args:
        x: (N, K, Z, Y, X).
        weight: (M, K, 1, 1, 1).
        bias: (M,).

    Returns:
        (N, M, Z, Y, X), same dtype and device.
    """
    if fast_cpu(x, weight):
        return torch.ops.u2net.pointwise_conv3d(x, weight, bias)
    return pointwise_conv3d_reference(x, weight, bias)


def pointwise_conv3d_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`pointwise_conv3d` in plain torch: the reference, what a GPU runs, and what TorchScript and ONNX export."""
    return F.conv3d(x, weight, bias)


def _flat(x: Tensor):  # type: ignore[no-untyped-def]
    """(N, C, Z, Y, X) tensor as an (N, C, V) array over the same memory where it is contiguous."""
    return x.detach().contiguous().flatten(2).numpy()


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``weight`` is (M, K)."""
    from custom_components.kernels import pointwise_numba as kernel

    out = torch.empty((x.shape[0], weight.shape[0], *x.shape[2:]), dtype=x.dtype)
    filters = kernel.packed(weight.detach().numpy())
    offset = torch.zeros(-(-weight.shape[0] // kernel.ROWS) * kernel.ROWS)
    if bias is not None:
        offset[: bias.shape[0]] = bias.detach()
    source, target = _flat(x), out.flatten(2).numpy()
    stretch = kernel.stretch_of(source.shape[2], torch.get_num_threads())
    work = partial(kernel.filter_range, source, filters, offset.numpy(), stretch, target)
    run_ranges(work, x.shape[0] * -(-source.shape[2] // stretch))
    return out


@torch.library.custom_op("u2net::pointwise_conv3d", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _apply(x, weight.flatten(1), bias)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], *x.shape[2:]))


@torch.library.custom_op("u2net::pointwise_conv3d_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, needs_input: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What is not needed, as the weights of a frozen trunk, is empty."""
    gradient = gradient.contiguous()
    grad_x = _apply(gradient, weight.flatten(1).t(), None) if needs_input else torch.empty(0, dtype=x.dtype)
    if not needs_weight:
        return grad_x, torch.empty(0, dtype=x.dtype), torch.empty(0, dtype=x.dtype)
    return grad_x, *_weight_gradients(gradient, x, weight)


def _weight_gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    from custom_components.kernels import pointwise_numba as kernel

    source, g = _flat(x), _flat(gradient)
    long = kernel.voxels_of_a_part(source.shape[2])
    parts = x.shape[0] * -(-source.shape[2] // long)
    products = torch.empty((parts, *weight.shape[:2]), dtype=torch.float64)
    sums = torch.empty((parts, weight.shape[0]), dtype=torch.float64)
    run_ranges(partial(kernel.weight_gradient_range, source, g, long, products.numpy(), sums.numpy()), parts)
    return products.sum(0).to(x.dtype).view(weight.shape), sums.sum(0).to(x.dtype)


@_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, needs_input: bool, needs_weight: bool) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = x.new_empty(x.shape if needs_input else (0,))  # contiguous, whatever x is
    if not needs_weight:
        return grad_x, x.new_empty(0), x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    needs_input, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
    found = torch.ops.u2net.pointwise_conv3d_backward(gradient, x, weight, needs_input, needs_weight)
    grad_x, grad_weight, grad_bias = found
    return (grad_x if needs_input else None), (grad_weight if needs_weight else None), (grad_bias if needs_weight else None)


_forward.register_autograd(_gradients, setup_context=_setup)
