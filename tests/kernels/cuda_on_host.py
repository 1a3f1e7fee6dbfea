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

# Each thread of a block has a stack of its own. They run one after the other, each up to its next barrier, and then all on
# from there; in every second block in reverse order. Where a barrier is missing, a thread so reads what another has not
# written yet, before it in one kind of block or after it in the other: a NaN, to which a block's dynamic memory is wiped.
HARNESS = r"""
#include <functional>
#include <math.h>
#include <string.h>
#include <ucontext.h>
#include <utility>

template <typename To, typename From> static To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}
static inline float __uint_as_float(unsigned bits) { return bits_of<float>(bits); }
static inline unsigned __float_as_uint(float value) { return bits_of<unsigned>(value); }
static inline float half_to_float(unsigned short bits) { return (float)bits_of<_Float16>(bits); }
static inline unsigned short float_to_half(float value) { return bits_of<unsigned short>((_Float16)value); }

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
template <typename T> T __ldg(const T* p) { return *p; }
struct Index { unsigned x, y, z; } threadIdx, blockIdx, blockDim, gridDim;
constexpr unsigned MOST = 1024;
static ucontext_t block, threads[MOST];
static char stacks[MOST][64 * 1024];
static std::function<void()> work;
static unsigned current;
static bool waits, direct;  // direct: on the block's own stack, where no thread can wait
static void begin() { work(); }
static void __syncthreads() {
    waits = true;
    if (!direct) swapcontext(&threads[current], &block);
}

INCLUDES

constexpr size_t CAPACITY = 48 * 1024 / sizeof(float);
float DYNAMIC[CAPACITY + 1];

template <typename... P, size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

static void go(unsigned i, unsigned x, unsigned count) {
    current = blockIdx.x % 2 ? count - 1 - i : i;
    threadIdx = {current % x, current / x, 0};
}

static void start(unsigned i) {
    getcontext(&threads[i]);
    threads[i].uc_stack.ss_sp = stacks[i];
    threads[i].uc_stack.ss_size = sizeof stacks[i];
    threads[i].uc_link = &block;
    makecontext(&threads[i], begin, 0);
}

// Runs all threads to their ends; false where some wait at a barrier and others do not.
static bool run_block(unsigned x, unsigned count) {
    direct = false;
    for (unsigned waiting = count, phase = 0; waiting; ++phase) {
        waiting = 0;
        for (unsigned i = 0; i < count; ++i) {
            go(i, x, count);
            waits = false;
            if (direct) {
                work();
            } else {
                if (phase == 0) start(current);
                swapcontext(&block, &threads[current]);
            }
            waiting += waits;
            direct = phase == 0 && !waiting;  // quicker: where the first threads meet no barrier, none may
        }
        if (waiting && waiting < count) return false;
    }
    return true;
}

template <typename... P>
static int run(void (*kernel)(P...), unsigned blocks, unsigned x, unsigned y, size_t shared, void** arguments) {
    blockDim = {x, y, 1};
    gridDim = {blocks, 1, 1};
    shared /= sizeof(float);
    if (shared > CAPACITY) return 2;
    if (x * y > MOST) return 5;
    work = [=] { call(kernel, arguments, std::index_sequence_for<P...>()); };
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        WIPE
        for (size_t i = 0; i <= shared; ++i) DYNAMIC[i] = NAN;
        if (!run_block(x, x * y)) return 3;
        if (DYNAMIC[shared] == DYNAMIC[shared]) return 4;
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
    5: "over 1024 threads in a block",
}


def host_compiler() -> str | None:
    """The first C++ compiler of the machine."""
    return next((path for path in map(shutil.which, ("g++", "c++", "clang++")) if path), None)


class HostModule:
    """What a test needs of ``cupy.RawModule``, with kernels that run on the CPU.

    Args:
        source: CUDA C++ without headers; of several files, each may use those before it.
        kernels: names, template arguments included.
        folder: for the library.
        compiler: of C++17.
        flags: further ones for it.
        dynamic: name of the dynamic shared memory.
        static: names of further shared variables.

    Raises:
        subprocess.CalledProcessError: the source does not compile.
    """

    def __init__(
        self,
        source: Path | Sequence[Path],
        kernels: Sequence[str],
        folder: Path,
        compiler: str,
        flags: Sequence[str] = (),
        *,
        dynamic: str = "line_in_block",
        static: Sequence[str] = ("row_in_block",),
    ) -> None:
        files = [source] if isinstance(source, Path) else source
        parts = {
            "INCLUDES": "\n".join(f'#include "{path}"' for path in files),
            "DYNAMIC": dynamic,
            "WIPE": " ".join(f"{name} = {{}};" for name in static),
            "KERNELS": "\n".join(
                f'    if (!strcmp(name, "{k}")) return run({k}, blocks, x, y, shared, arguments);' for k in kernels
            ),
        }
        text = HARNESS
        for name, part in parts.items():
            text = text.replace(name, part)
        harness, library = folder / "harness.cpp", folder / "kernels.so"
        harness.write_text(text)
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
