"""What the network's CUDA kernels share: compiled once per process, queued on torch's current stream, on torch's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["COMMON", "STORAGE", "THREADS", "Kernels", "float32", "kernels_on", "pointer", "scratch", "usable"]

COMMON = Path(__file__).with_name("common.cu")
STORAGE = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "BFloat16"}
THREADS = 256  # of every block, as in common.cu
Kernels = Callable[[str], Any]  # the kernel of a name, template arguments included


@torch.compiler.assume_constant_result  # torch.compile asks as well, instead of looking into the answer
def usable() -> bool:
    """Whether CuPy can be imported, finds a GPU, and can compile; found out once per process."""
    return _found()


@lru_cache(maxsize=1)
def _found() -> bool:
    try:
        import cupy
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
        return bool(cupy.cuda.is_available())
    except (ImportError, OSError, RuntimeError):  # a package that fits no library of the machine fails in any of these ways
        return False


@lru_cache(maxsize=1024)
def _kernel(source: Path, names: tuple[str, ...], device: int, name: str) -> Any:
    return _module(source, names, device).get_function(name)


@lru_cache(maxsize=64)
def _module(source: Path, names: tuple[str, ...], device: int) -> Any:
    """The compiled module of a device; CuPy keeps it on disk for the next process."""
    import cupy

    code = COMMON.read_text() + source.read_text()
    return cupy.RawModule(code=code, options=("--std=c++17",), name_expressions=names)


@contextmanager
def kernels_on(x: Tensor, source: Path, names: tuple[str, ...]) -> Iterator[Kernels]:
    """The kernels of ``source`` for x's device, which run on torch's current stream there.

    Nothing waits for the GPU: torch's allocator keeps each tensor until the kernels of its stream are through with it.
    """
    import cupy

    index = x.get_device()
    stream = torch.cuda.current_stream(index)
    with torch.cuda.device(index), cupy.cuda.Device(index), cupy.cuda.Stream.from_external(stream), torch.no_grad():
        yield lambda name: _kernel(source, names, index, name)


def pointer(tensor: Tensor | None) -> np.uint64:
    """The address of a contiguous tensor, or null."""
    return np.uint64(0 if tensor is None else tensor.data_ptr())


def float32(parameter: Tensor) -> Tensor:
    """A layer's parameter as the kernels read it: float32, contiguous; itself where it is that already."""
    return parameter.detach().float().contiguous()


def scratch(count: int) -> int:
    """Bytes of shared memory for ``count`` sums over a block, as ``scratch`` in common.cu."""
    return 4 * count * (THREADS + 8 + 8 + 1)
