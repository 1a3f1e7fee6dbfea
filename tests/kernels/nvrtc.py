"""Compiles CUDA kernels as CuPy does on a machine with a GPU, for machines without one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

__all__ = ["compile_cubin"]


def compile_cubin(code: str, names: Sequence[str], architecture: str) -> tuple[bytes, list[str]]:
    """The binary for an architecture (``sm_80``), and the symbols of the instances of templates; skips without NVRTC."""
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed", exc_type=ImportError)
    try:
        nvrtc.getVersion()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no NVRTC library (package nvidia-cuda-nvrtc): {error}".splitlines()[0])
    program = nvrtc.createProgram(code, "kernels.cu", (), ())
    try:
        for name in names:
            nvrtc.addNameExpression(program, name)
        # What CuPy adds of its own accord comes last.
        options = ("--std=c++17", f"--gpu-architecture={architecture}", "-ftz=true", "--device-as-default-execution-space")
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))
        return nvrtc.getCUBIN(program), [nvrtc.getLoweredName(program, name) for name in names]
    finally:
        nvrtc.destroyProgram(program)
