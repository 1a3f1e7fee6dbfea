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
#include <cmath>
#include <vector>
using std::floor;
#define __device__
#include "%(source)s"

template <int ORDER>
static void rows(Grid g, int batch, const double* numbers, const float* lattice, const float* image, float* image_out,
                 int channels, float value, const unsigned char* label, unsigned char* label_out, int labels,
                 unsigned char label_value) {
    const int threads = 32;
    std::vector<float> line(3 * g.lx + 1);
    for (int b = 0; b < batch; ++b)
        for (int z = 0; z < g.nz; ++z)
            for (int y = 0; y < g.ny; ++y) {
                if (g.lz)
                    for (int t = 0; t < threads; ++t)
                        combine_control_points(g, numbers, lattice, b, z, y, t, threads, line.data());
                for (int t = 0; t < threads; ++t)
                    read_row<ORDER, unsigned char>(g, numbers, line.data(), image, image_out, channels, value, label, label_out,
                                                   labels, label_value, b, z, y, t, threads);
            }
}

extern "C" void resample_on_host(int order, const int* sizes, int batch, const double* numbers, const float* lattice,
                                 const float* image, float* image_out, int channels, float value, const unsigned char* label,
                                 unsigned char* label_out, int labels, unsigned char label_value) {
    Grid g = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10],
              sizes[11], sizes[12]};
    if (order == 1)
        rows<1>(g, batch, numbers, lattice, image, image_out, channels, value, label, label_out, labels, label_value);
    else
        rows<3>(g, batch, numbers, lattice, image, image_out, channels, value, label, label_out, labels, label_value);
}

extern "C" void filter_on_host(const float* source, float* out, int n, long long inner, int pad, int mode, long long count) {
    for (long long i = 0; i < count; ++i) out[i] = filtered(source, n, inner, pad, mode, i);
}
"""


def build(folder: Path) -> ctypes.CDLL:
    """The harness as a library; skips the test where there is no C++ compiler."""
    compiler = next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) to run the CUDA source on the CPU with")
    source, library = folder / "harness.cpp", folder / "harness.so"
    source.write_text(HARNESS % {"source": SOURCE})
    command = [
        compiler,
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
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
        inner = int(np.prod(image.shape[axis + 1 :]))
        library.filter_on_host(
            _pointer(image),
            _pointer(out),
            image.shape[axis],
            ctypes.c_longlong(inner),
            pad[axis - 2],
            BOUNDARY_MODES.index(mode),
            ctypes.c_longlong(out.size),
        )
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
