"""Instance norm followed by LeakyReLU: one public function, the fused kernel where there is one, torch elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_components.kernels.dispatch import fast
from custom_components.kernels.threads import run_ranges

__all__ = ["instance_norm_act", "instance_norm_act_reference"]


def instance_norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    """leaky_relu(instance_norm(x)); statistics over each sample's voxels, biased variance.

    Args:
        x: (N, C, Z, Y, X).
        weight, bias: (C,), scale and shift.
        eps: added to the variance.
        slope: of the LeakyReLU for negative values; 1.0 is instance norm alone.

    Returns:
        As x.
    """
    if fast(x, weight):
        return torch.ops.u2net.instance_norm_act(x, weight, bias, eps, slope)[0]
    return instance_norm_act_reference(x, weight, bias, eps, slope)


def instance_norm_act_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    """`instance_norm_act` in plain torch: the reference, and what TorchScript and ONNX export."""
    y = F.instance_norm(x, None, None, weight, bias, True, 0.0, eps)
    return y if slope == 1.0 else F.leaky_relu(y, slope)


def _rows(x: Tensor):  # type: ignore[no-untyped-def]
    """(N, C, …) tensor as an (N·C, V) array over the same memory where it is contiguous."""
    return x.detach().contiguous().flatten(0, 1).flatten(1).numpy()


@torch.library.custom_op("u2net::instance_norm_act", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    from custom_components.kernels import norm_numba as kernel

    out = torch.empty(x.shape, dtype=x.dtype)
    count = x.shape[0] * x.shape[1]
    mean, rstd = torch.empty(count), torch.empty(count)
    source, target = _rows(x), out.flatten(0, 1).flatten(1).numpy()
    w, b, m, r = weight.detach().numpy(), bias.detach().numpy(), mean.numpy(), rstd.numpy()
    run_ranges(lambda i, j: kernel.forward_range(source, w, b, eps, _f32(slope), target, m, r, i, j), count)
    return out, mean, rstd


@_forward.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    from custom_components.kernels import norm_cuda as kernel

    return kernel.forward(x, weight, bias, eps, slope)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    count = x.shape[0] * x.shape[1]
    mean, rstd = (x.new_empty(count, dtype=torch.float32) for _ in range(2))  # also where x is stored in 16 bits
    return x.new_empty(x.shape), mean, rstd


@torch.library.custom_op("u2net::instance_norm_act_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    from custom_components.kernels import norm_numba as kernel

    n, c = x.shape[:2]
    grad_x = torch.empty(x.shape, dtype=x.dtype)
    gw, gb = torch.empty(n * c), torch.empty(n * c)
    g, source, target = _rows(gradient), _rows(x), grad_x.flatten(0, 1).flatten(1).numpy()
    w, b, m, r = weight.detach().numpy(), bias.detach().numpy(), mean.numpy(), rstd.numpy()
    per_w, per_b = gw.numpy(), gb.numpy()
    run_ranges(lambda i, j: kernel.backward_range(g, source, w, b, m, r, _f32(slope), target, per_w, per_b, i, j), n * c)
    return grad_x, gw.view(n, c).sum(0), gb.view(n, c).sum(0)


@_backward.register_kernel("cuda")
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    from custom_components.kernels import norm_cuda as kernel

    return kernel.backward(gradient, x, weight, bias, mean, rstd, slope)


@_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight), torch.empty_like(bias)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias, _, slope = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, weight, bias, mean, rstd)
    ctx.slope = slope
    ctx.mark_non_differentiable(mean, rstd)


def _gradients(ctx, gradient: Tensor, *_):  # type: ignore[no-untyped-def]
    return (*torch.ops.u2net.instance_norm_act_backward(gradient, *ctx.saved_tensors, ctx.slope), None, None)


_forward.register_autograd(_gradients, setup_context=_setup)


def _f32(value: float):  # type: ignore[no-untyped-def]
    """A float32 scalar keeps the kernel's arithmetic in float32."""
    import numpy as np

    return np.float32(value)
