"""Depthwise 3-D convolution on CUDA: launches of depthwise.cu."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.cuda import STORAGE, THREADS, Kernels, float32, kernels_on, pointer, scratch

__all__ = ["NAMES", "SOURCE", "backward", "forward", "launch_backward", "launch_forward"]

SOURCE = Path(__file__).with_name("depthwise.cu")
_ROWS = 2  # as in depthwise.cu
_DEPTHS = (16, 8, 4)  # planes that a column walks through: each reads two more
_ENOUGH = 2048  # blocks that fill a large GPU more than once
_SHARE = 4096  # voxels of the output that a block sums over
_COLUMNS, _ANY = (
    ("depthwise_columns", "depthwise_weight_columns"),
    ("depthwise_any", "depthwise_input_any", "depthwise_weight_any"),
)
# Instances of the templates.
NAMES = (
    *(f"{k}<{t}, {kz}>" for k in _COLUMNS for t in STORAGE.values() for kz in (1, 3)),
    *(f"{k}<{t}>" for k in _ANY for t in STORAGE.values()),
)


def forward(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...]) -> Tensor:
    """`custom_components.kernels.depthwise.depthwise_conv3d` for tensors on a GPU."""
    with kernels_on(x, SOURCE, NAMES) as kernels:
        return launch_forward(kernels, x, weight, bias, stride)


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, ...], needs_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (empty unless needed), weight and bias, from that of `forward`'s result."""
    with kernels_on(x, SOURCE, NAMES) as kernels:
        return launch_backward(kernels, gradient, x, weight, stride, needs_input)


def launch_forward(kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Allocate the output and queue its kernel.

    Args:
        kernels: of `kernels_on`.
        x: (N, C, Z, Y, X), a type of `STORAGE`, under 2^30 voxels per volume.
        weight: (C, 1, kz, ky, kx), odd sizes.
        bias: (C,).
        stride: along z, y, x.

    Returns:
        (N, C, ceil(Z/sz), ceil(Y/sy), ceil(X/sx)), of x's type.
    """
    source, filters, offset = x.detach().contiguous(), float32(weight), float32(bias)
    if _in_columns(weight, stride):
        return _columns(kernels, source, filters, offset)
    out = source.new_empty((*x.shape[:2], *(-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True))))
    geometry = _ints(*x.shape[2:], *out.shape[2:], *weight.shape[2:], *stride, x.shape[1])
    arguments = (*geometry, pointer(source), pointer(filters), pointer(offset), pointer(out))
    kernels(f"depthwise_any<{STORAGE[x.dtype]}>")((_per_voxel(out),), (THREADS,), arguments)
    return out


def launch_backward(
    kernels: Kernels, gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, ...], needs_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `launch_forward`, for the gradients; those of weight and bias have the weight's type."""
    g, source, filters = gradient.detach().to(x.dtype).contiguous(), x.detach().contiguous(), float32(weight)
    columns = _in_columns(weight, stride)
    if not needs_input:
        grad_x = x.new_empty((0,))
    elif columns:
        grad_x = _columns(kernels, g, filters, None)
    else:
        grad_x = x.new_empty(x.shape)
        geometry = _ints(*x.shape[2:], *g.shape[2:], *weight.shape[2:], *stride, x.shape[1])
        kernel = kernels(f"depthwise_input_any<{STORAGE[x.dtype]}>")
        kernel((_per_voxel(grad_x),), (THREADS,), (*geometry, pointer(g), pointer(filters), pointer(grad_x)))
    sums = _weight_columns(kernels, source, g, weight) if columns else _weight_any(kernels, source, g, weight, stride)
    sums = sums.to(weight.dtype)
    return grad_x, sums[:, :-1].clone().view(weight.shape), sums[:, -1].clone()  # an operator's results share no memory


def _in_columns(weight: Tensor, stride: tuple[int, ...]) -> bool:
    return tuple(weight.shape[2:]) in ((3, 3, 3), (1, 3, 3)) and tuple(stride) == (1, 1, 1)


def _columns(kernels: Kernels, x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution at stride 1, or without a bias the gradient of its input from x, that of its output."""
    out = torch.empty_like(x)
    depth, per_volume = _cut(x)
    numbers = _ints(*x.shape[2:], depth, x.shape[1], bias is None)
    kernel = kernels(f"depthwise_columns<{STORAGE[x.dtype]}, {filters.shape[2]}>")
    kernel(
        (x.shape[0] * x.shape[1] * per_volume,),
        (THREADS,),
        (*numbers, pointer(x), pointer(filters), pointer(bias), pointer(out)),
    )
    return out


def _weight_columns(kernels: Kernels, x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """(C, 9 kz + 1): gradients of the filters, flat, and of the bias."""
    depth, per_volume = _cut(x)
    n, c, taps = *x.shape[:2], prod(weight.shape[2:])
    partial = x.new_empty((n, c, per_volume, taps + 1), dtype=torch.float32)
    kernel = kernels(f"depthwise_weight_columns<{STORAGE[x.dtype]}, {weight.shape[2]}>")
    arguments = (*_ints(*x.shape[2:], depth), pointer(x), pointer(gradient), pointer(partial))
    kernel((n * c * per_volume,), (THREADS,), arguments, shared_mem=scratch(taps + 1))
    return partial.sum((0, 2))


def _weight_any(kernels: Kernels, x: Tensor, gradient: Tensor, weight: Tensor, stride: tuple[int, ...]) -> Tensor:
    """(C, kz ky kx + 1): gradients of the filters, flat, and of the bias."""
    n, c, size = *x.shape[:2], tuple(weight.shape[2:])
    parts, groups = -(-prod(gradient.shape[2:]) // _SHARE), size[0] * size[1] * -(-size[2] // 3)
    partial = x.new_empty((n, c, parts, prod(size) + 1), dtype=torch.float32)
    numbers = _ints(*x.shape[2:], *gradient.shape[2:], *size, *stride, _SHARE)
    kernel = kernels(f"depthwise_weight_any<{STORAGE[x.dtype]}>")
    arguments = (*numbers, pointer(x), pointer(gradient), pointer(partial))
    kernel((n * c * parts * groups,), (THREADS,), arguments, shared_mem=scratch(4))
    return partial.sum((0, 2))


def _cut(x: Tensor) -> tuple[int, int]:
    """Planes per block, and blocks per volume: as deep as leaves enough blocks. The same on every GPU, as sums depend on it."""
    nz, ny, nx = x.shape[2:]
    tiles = -(-(-(-ny // _ROWS) * nx) // THREADS)
    for depth in _DEPTHS:
        if x.shape[0] * x.shape[1] * tiles * -(-nz // depth) >= _ENOUGH:
            break
    return depth, tiles * -(-nz // depth)


def _per_voxel(x: Tensor) -> int:
    return x.shape[0] * x.shape[1] * -(-prod(x.shape[2:]) // THREADS)


def _ints(*values: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(v) for v in values)
