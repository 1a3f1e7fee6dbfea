"""Runs the two steps of resample.cu as loops on the CPU: what a block's threads do, one thread after another."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.coordinates import CoordinateField
from custom_components.kernels.resample_cuda import SOURCE
from custom_components.kernels.spline import spline_padding

HARNESS = """
#include <math.h>
#include <vector>
struct Index { unsigned x = 0, y = 0, z = 0; };
static Index blockIdx, blockDim, threadIdx;
static void __syncthreads() {}
#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(n)
#define __ldg(p) (*(p))
#include "RESAMPLE_CU"
float line_in_block[3 * 4096];

template <int ORDER>
static void rows(Shape out, Shape in, Shape points, Shape pad, int mode, int batch, const double* numbers, const float* lattice,
                 const float* images, float* image_out, int channels, float value, const unsigned char* labels,
                 unsigned char* label_out, int label_channels, unsigned char label_value) {
    const int threads = 32;
    const Shape stored = {in.z + 2 * pad.z, in.y + 2 * pad.y, in.x + 2 * pad.x};
    for (long long b = 0; b < batch; ++b)
        for (int row = 0; row < out.z * out.y; ++row) {
            for (int t = 0; t < threads; ++t)
                begin_row(t, threads, row / out.y, row % out.y, numbers + 18 * b, points, row_in_block);
            for (int t = 0; lattice && t < threads; ++t)
                combine_points(t, threads, lattice + 3 * voxels(points) * b, points, row_in_block, line_in_block);
            for (int t = 0; t < threads; ++t)
                read_row<ORDER, unsigned char>(t, threads, row_in_block, line_in_block, points.x, out, in, pad, mode,
                    images + b * channels * voxels(stored), image_out + b * channels * voxels(out) + (long long)row * out.x,
                    channels, value, labels + b * label_channels * voxels(in),
                    label_out + b * label_channels * voxels(out) + (long long)row * out.x, label_channels, label_value);
        }
}

extern "C" void resample_on_host(int order, const int* s, int batch, const double* numbers, const float* lattice,
                                 const float* images, float* image_out, int channels, float value, const unsigned char* labels,
                                 unsigned char* label_out, int label_channels, unsigned char label_value) {
    const Shape out = {s[0], s[1], s[2]}, in = {s[3], s[4], s[5]}, points = {s[6], s[7], s[8]}, pad = {s[9], s[10], s[11]};
    (order == 1 ? rows<1> : rows<3>)(out, in, points, pad, s[12], batch, numbers, lattice, images, image_out, channels, value,
                                     labels, label_out, label_channels, label_value);
}

extern "C" void filter_on_host(const float* source, float* out, int outer, int n, int inner, int pad, int mode) {
    blockDim.x = 8, blockDim.y = 4;
    const int across = (inner + 7) / 8, along = (n + 2 * pad + 3) / 4;
    for (blockIdx.x = 0; blockIdx.x < (unsigned)(outer * across * along); ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
            for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y) spline_filter_axis(source, out, n, inner, pad, mode);
}
"""


def build(folder: Path) -> ctypes.CDLL:
    """The harness as a library; skips the test where there is no C++ compiler."""
    compiler = next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) to run the CUDA source on the CPU with")
    source, library = folder / "harness.cpp", folder / "harness.so"
    source.write_text(HARNESS.replace("RESAMPLE_CU", str(SOURCE)))
    command = [
        compiler,
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
        "-Wno-unknown-pragmas",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def _pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def filtered(library: ctypes.CDLL, image: np.ndarray, mode: str) -> np.ndarray:
    """Coefficients of (B, C, Z, Y, X), axis after axis as `resample_cuda` launches them."""
    pad = spline_padding(image.shape[2:], mode)
    for axis in (4, 3, 2):
        if image.shape[axis] == 1 and not pad[axis - 2]:
            continue
        shape = list(image.shape)
        shape[axis] += 2 * pad[axis - 2]
        out = np.empty(shape, np.float32)
        outer, inner = int(np.prod(image.shape[:axis])), int(np.prod(image.shape[axis + 1 :]))
        code = BOUNDARY_MODES.index(mode)
        library.filter_on_host(_pointer(image), _pointer(out), outer, image.shape[axis], inner, pad[axis - 2], code)
        image = out
    return image


def resample_on_host(
    library: ctypes.CDLL,
    image: torch.Tensor,
    label: torch.Tensor,
    field: CoordinateField,
    size: tuple[int, ...],
    *,
    order: int,
    mode: str,
    image_value: float,
    label_value: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `custom_components.kernels.resample.resample`."""
    shape = image.shape[2:]
    pad = spline_padding(shape, mode) if order == 3 else (0, 0, 0)
    points = (0, 0, 0) if field.lattice is None else field.lattice.shape[2:]
    sizes = np.array([*size, *shape, *points, *pad, BOUNDARY_MODES.index(mode)], np.int32)
    numbers = np.ascontiguousarray(np.concatenate([field.matrix.reshape(len(field), 12), field.origin, field.step], axis=1))
    source = np.ascontiguousarray(image.numpy())
    source = filtered(library, source, mode) if order == 3 else source
    image_out = np.full((*image.shape[:2], *size), np.nan, np.float32)
    label_out = np.full((*label.shape[:2], *size), 255, np.uint8)
    library.resample_on_host(
        order,
        _pointer(sizes),
        len(field),
        _pointer(numbers),
        _pointer(field.lattice),
        _pointer(source),
        _pointer(image_out),
        image.shape[1],
        ctypes.c_float(image_value),
        _pointer(np.ascontiguousarray(label.numpy())),
        _pointer(label_out),
        label.shape[1],
        ctypes.c_ubyte(label_value),
    )
    return torch.from_numpy(image_out), torch.from_numpy(label_out)
