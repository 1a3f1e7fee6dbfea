"""The one place that decides which implementation of a kernel runs."""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["fast_cpu"]


def fast_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the numba kernels take this call: float32 on the CPU, not being traced, scripted or exported.

    ``U2NET_KERNELS=reference`` in the environment switches them off everywhere.
    """
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return False
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.numel() > 0
        and os.environ.get("U2NET_KERNELS") != "reference"
    )
