"""Runs CUDA kernels on the CPU, block by block and thread by thread: for machines without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["HostModule", "host_compiler"]

# Threads run one after the other, each to its end. What a thread reads from shared memory after its k-th barrier is right
# once all threads have come that far, so a block runs once more for every barrier that its threads meet. Every other run
# is in reverse order: where a barrier is missing, the last run still reads what the first thread got wrong in the one
# before. Stale numbers of another block are wiped, and zeros of `Row` are harmless until they are replaced.
HARNESS = r"""
#include <math.h>
#include <string.h>
#include <utility>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(threads)
template <typename T> T __ldg(const T* p) { return *p; }
struct Index { unsigned x, y, z; } threadIdx, blockIdx, blockDim;
static long barriers;
static void __syncthreads() { ++barriers; }

#include "SOURCE"

constexpr size_t CAPACITY = 48 * 1024 / sizeof(float);
float line_in_block[CAPACITY + 1];

template <typename... P, size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

template <typename... P>
static int run(void (*kernel)(P...), unsigned blocks, unsigned x, unsigned y, size_t shared, void** arguments) {
    blockDim = {x, y, 1};
    shared /= sizeof(float);
    if (shared > CAPACITY) return 2;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        row_in_block = Row();
        for (size_t i = 0; i <= shared; ++i) line_in_block[i] = NAN;
        long met = 0;
        for (long round = 0; round <= met; ++round) {
            barriers = 0;
            for (unsigned i = 0; i < x * y; ++i) {
                const unsigned thread = round % 2 ? x * y - 1 - i : i;
                threadIdx = {thread % x, thread / x, 0};
                call(kernel, arguments, std::index_sequence_for<P...>());
            }
            if (barriers % (x * y)) return 3;
            met = barriers / (x * y);
        }
        if (line_in_block[shared] == line_in_block[shared]) return 4;
    }
    return 0;
}

extern "C" int launch(const char* name, unsigned blocks, unsigned x, unsigned y, size_t shared, void** arguments) {
KERNELS
    return 1;
}
"""
ERRORS = {
    1: "no such kernel",
    2: "over 48 KiB of shared memory",
    3: "a barrier that not all threads of a block meet",
    4: "wrote beyond its shared memory",
}


def host_compiler() -> str | None:
    """The first C++ compiler of the machine."""
    return next((path for path in map(shutil.which, ("g++", "c++", "clang++")) if path), None)


class HostModule:
    """What a test needs of ``cupy.RawModule``, with kernels that run on the CPU.

    Args:
        source: CUDA C++ without headers.
        kernels: names, template arguments included.
        folder: for the library.
        compiler: of C++17.
        flags: further ones for it.

    Raises:
        subprocess.CalledProcessError: the source does not compile.
    """

    def __init__(self, source: Path, kernels: Sequence[str], folder: Path, compiler: str, flags: Sequence[str] = ()) -> None:
        choices = [f'    if (!strcmp(name, "{k}")) return run({k}, blocks, x, y, shared, arguments);' for k in kernels]
        harness, library = folder / "harness.cpp", folder / "kernels.so"
        harness.write_text(HARNESS.replace("SOURCE", str(source)).replace("KERNELS", "\n".join(choices)))
        options = ["-std=c++17", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas", *flags]
        subprocess.run([compiler, *options, "-o", str(library), str(harness)], check=True)
        self._launch = ctypes.CDLL(str(library)).launch
        self._launch.argtypes = [ctypes.c_char_p, *[ctypes.c_uint] * 3, ctypes.c_size_t, ctypes.c_void_p]

    def get_function(self, name: str) -> Any:
        def kernel(grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any], *, shared_mem: int = 0) -> None:
            values = [np.array(value) for value in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            x, y = (*block, 1)[:2]
            error = self._launch(name.encode(), grid[0], x, y, shared_mem, pointers)
            if error:
                raise RuntimeError(f"{name}: {ERRORS[error]}")

        return kernel
