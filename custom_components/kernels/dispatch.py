"""The one place that decides which implementation of a kernel runs."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from custom_components.kernels.cuda import STORAGE, usable

__all__ = ["fast", "fast_cpu", "fast_cuda"]

_LARGEST = 2**30  # voxels of a volume on a GPU, whose positions there take 32 bits


def fast(x: Tensor, weight: Tensor) -> bool:
    """Whether a kernel of our own takes this call: numba's on the CPU, CUDA's on a GPU."""
    return fast_cpu(x, weight) or fast_cuda(x, weight)


def fast_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the numba kernels take this call: float32 on the CPU, not being traced, scripted or exported.

    ``U2NET_KERNELS=reference`` in the environment switches them off everywhere.
    """
    return x.device.type == "cpu" and x.dtype == torch.float32 and weight.dtype == torch.float32 and _allowed(x)


def fast_cuda(x: Tensor, weight: Tensor) -> bool:
    """Whether the CUDA kernels take this call, on the same terms: float32, float16 or bfloat16 on a GPU that CuPy can use.

    The weight has x's type; under autocast it may be float32, as a layer's parameters are. Without CuPy, plain
    torch runs instead, silently: correct and slower.
    """
    if x.device.type != "cuda" or not _allowed(x):
        return False
    known = x.dtype in STORAGE and weight.device == x.device and x.shape[2:].numel() < _LARGEST
    mixed = weight.dtype == torch.float32 and torch.is_autocast_enabled("cuda")
    return known and (weight.dtype == x.dtype or mixed) and usable()


def _allowed(x: Tensor) -> bool:
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return False
    return x.numel() > 0 and os.environ.get("U2NET_KERNELS") != "reference"
