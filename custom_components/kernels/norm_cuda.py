"""Instance norm followed by LeakyReLU on CUDA: launches of norm.cu."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.cuda import STORAGE, THREADS, Kernels, float32, kernels_on, pointer, scratch

__all__ = ["NAMES", "SOURCE", "backward", "forward", "launch_backward", "launch_forward"]

SOURCE = Path(__file__).with_name("norm.cu")
_CHUNK = 4096  # voxels of a block, as in norm.cu
_BYTES = 16  # that a thread reads at once
_TEMPLATES = ("norm_chunk", "norm_apply", "norm_backward_chunk", "norm_backward_apply")
# Instances: one number at a time, or as many as one instruction reads.
NAMES = tuple(f"{k}<{t}, {w}>" for k in _TEMPLATES for d, t in STORAGE.items() for w in (1, _BYTES // d.itemsize))


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """`custom_components.kernels.norm.instance_norm_act` for tensors on a GPU; also mean and 1/sqrt(var + eps), (N·C,)."""
    with kernels_on(x, SOURCE, NAMES) as kernels:
        return launch_forward(kernels, x, weight, bias, eps, slope)


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, from that of `forward`'s first result and its other two."""
    with kernels_on(x, SOURCE, NAMES) as kernels:
        return launch_backward(kernels, gradient, x, weight, bias, mean, rstd, slope)


def launch_forward(
    kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the outputs and queue their kernels.

    Args:
        kernels: of `kernels_on`.
        x: (N, C, Z, Y, X), a type of `STORAGE`, under 2^30 voxels per volume.
        weight, bias: (C,).
        eps: added to the variance.
        slope: of the LeakyReLU for negative values.

    Returns:
        As x; mean and 1/sqrt(var + eps), (N·C,), float32.
    """
    source, w, b = x.detach().contiguous(), float32(weight), float32(bias)
    count, n, chunks = _sizes(x)
    out = torch.empty_like(source)
    mean, rstd = (x.new_empty(count, dtype=torch.float32) for _ in range(2))
    partial = x.new_empty((count, chunks, 2) if chunks > 1 else (0,), dtype=torch.float32)
    kind, block = _kind(source, out), (THREADS,)
    volumes, chunk = (np.int32(n), np.int32(chunks)), (count * chunks,)
    channels, added, negative = np.int32(x.shape[1]), np.float32(eps), np.float32(slope)
    operands, statistics = (pointer(source), pointer(w), pointer(b)), (pointer(mean), pointer(rstd))
    first = (*volumes, channels, added, negative, *operands, pointer(partial), *statistics, pointer(out))
    kernels(f"norm_chunk<{kind}>")(chunk, block, first, shared_mem=scratch(3))
    if chunks > 1:
        kernels("norm_finish")((count,), block, (*volumes, added, pointer(partial), *statistics), shared_mem=scratch(3))
        kernels(f"norm_apply<{kind}>")(chunk, block, (*volumes, channels, negative, *operands, *statistics, pointer(out)))
    return out, mean, rstd


def launch_backward(
    kernels: Kernels, gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `launch_forward`, for the gradients; those of weight and bias have the types of these."""
    g, source, w, b = gradient.detach().to(x.dtype).contiguous(), x.detach().contiguous(), float32(weight), float32(bias)
    count, n, chunks = _sizes(x)
    grad_x = torch.empty_like(source)
    sums = x.new_empty((2, count, chunks), dtype=torch.float32)
    kind = _kind(source, g, grad_x)
    grid, block = (count * chunks,), (THREADS,)
    numbers = (np.int32(n), np.int32(chunks), np.int32(x.shape[1]), np.float32(slope))
    operands = tuple(pointer(v) for v in (g, source, w, b, mean, rstd))
    first = (*numbers, *operands, pointer(sums), pointer(grad_x))
    kernels(f"norm_backward_chunk<{kind}>")(grid, block, first, shared_mem=scratch(2))
    totals = sums.sum(2)
    if chunks > 1:
        kernels(f"norm_backward_apply<{kind}>")(grid, block, (*numbers, *operands, pointer(totals), pointer(grad_x)))
    grad_bias, grad_weight = (v.view(x.shape[:2]).sum(0) for v in totals)
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Volumes, voxels of one, and chunks of one."""
    n = prod(x.shape[2:])
    return x.shape[0] * x.shape[1], n, -(-n // _CHUNK)


def _kind(*tensors: Tensor) -> str:
    """Template arguments for contiguous tensors of one type: wide reads where all rows start at a multiple of their width."""
    dtype, n = tensors[0].dtype, prod(tensors[0].shape[2:])
    wide = n * dtype.itemsize % _BYTES == 0 and all(t.data_ptr() % _BYTES == 0 for t in tensors)
    return f"{STORAGE[dtype]}, {_BYTES // dtype.itemsize if wide else 1}"
