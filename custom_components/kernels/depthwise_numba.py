"""Depthwise 3-D convolution of any filter and stride on the CPU: forward, input gradient and weight gradient (numba).

What has stride 1 and 3×3×3 or 1×3×3 taps goes to `custom_components.kernels.stencil_numba`.

Stock torch has no fast backward for depthwise 3-D convolution. Each (sample, channel) volume is copied once into a
zero-padded scratch volume whose rows follow each other without gaps, so that a filter tap is one constant offset into
a flat array: the hot loops are long, contiguous and vectorise on any CPU, also at the coarse levels whose rows hold
only a few voxels. Strided filters run at stride 1 over the planes that are kept, then drop rows and columns.

The functions work on ``[start, stop)`` of the flattened (N·C) axis and release the GIL: the caller spreads the range
over threads. Rounding may differ between machines in the last bit (fused multiply-add, order of sums).
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["forward_range", "input_gradient_range", "weight_gradient_range"]

_FAST = {"contract", "reassoc", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _accumulate(out, source, base, length, w, kernel, pitch_y, pitch_z):  # type: ignore[no-untyped-def]
    """out[:length] += sum over taps of w · source[base + tap offset + i]."""
    kz, ky, kx = kernel
    for a in range(kz):
        plane = base + a * pitch_z
        if ky == 3 and kx == 3:
            w0, w1, w2 = w[a, 0, 0], w[a, 0, 1], w[a, 0, 2]
            w3, w4, w5 = w[a, 1, 0], w[a, 1, 1], w[a, 1, 2]
            w6, w7, w8 = w[a, 2, 0], w[a, 2, 1], w[a, 2, 2]
            r0 = source[plane : plane + length + 2]
            r1 = source[plane + pitch_y : plane + pitch_y + length + 2]
            r2 = source[plane + 2 * pitch_y : plane + 2 * pitch_y + length + 2]
            for i in range(length):
                out[i] += (
                    (w0 * r0[i] + w1 * r0[i + 1] + w2 * r0[i + 2])
                    + (w3 * r1[i] + w4 * r1[i + 1] + w5 * r1[i + 2])
                    + (w6 * r2[i] + w7 * r2[i + 1] + w8 * r2[i + 2])
                )
        else:
            for b in range(ky):
                for c in range(kx):
                    tap = w[a, b, c]
                    row = source[plane + b * pitch_y + c : plane + b * pitch_y + c + length]
                    for i in range(length):
                        out[i] += tap * row[i]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dots(gradient, source, base, length, kernel, pitch_y, pitch_z, out):  # type: ignore[no-untyped-def]
    """out[tap] += <gradient, source shifted by the tap>."""
    kz, ky, kx = kernel
    zero = np.float32(0)
    for a in range(kz):
        for b in range(ky):
            start = base + a * pitch_z + b * pitch_y
            if kx == 3:
                row = source[start : start + length + 2]
                s0 = s1 = s2 = zero
                for i in range(length):
                    g = gradient[i]
                    s0 += g * row[i]
                    s1 += g * row[i + 1]
                    s2 += g * row[i + 2]
                out[a, b, 0] += s0
                out[a, b, 1] += s1
                out[a, b, 2] += s2
            else:
                for c in range(kx):
                    shifted = source[start + c : start + c + length]
                    s = zero
                    for i in range(length):
                        s += gradient[i] * shifted[i]
                    out[a, b, c] += s


@numba.njit(nogil=True, cache=True)
def _spread(volume, stride, padded, pad, pitch_y, pitch_z):  # type: ignore[no-untyped-def]
    """Lay a (Z, Y, X) volume into the padded scratch, ``stride`` voxels apart; the gaps stay as they are."""
    nz, ny, nx = volume.shape
    sz, sy, sx = stride
    for z in range(nz):
        for y in range(ny):
            start = (z * sz + pad[0]) * pitch_z + (y * sy + pad[1]) * pitch_y + pad[2]
            row = volume[z, y]  # slices, not index arithmetic, in the inner loops: LLVM vectorises only those
            if sx == 1:
                target = padded[start : start + nx]
                for i in range(nx):
                    target[i] = row[i]
            else:
                for i in range(nx):
                    padded[start + i * sx] = row[i]


@numba.njit(nogil=True, cache=True)
def _gather(plane, stride, out, pitch_y):  # type: ignore[no-untyped-def]
    """Take every ``stride``-th row and column of a flat plane into ``out`` (Y, X)."""
    ny, nx = out.shape
    for y in range(ny):
        start = y * stride[1] * pitch_y
        target = out[y]
        if stride[2] == 1:
            row = plane[start : start + nx]
            for i in range(nx):
                target[i] = row[i]
        else:
            for i in range(nx):
                target[i] = plane[start + i * stride[2]]


@numba.njit(nogil=True, cache=True)
def forward_range(x, weight, bias, stride, out, start, stop):  # type: ignore[no-untyped-def]
    """out = depthwise correlation of x with weight, plus bias, zero padding k // 2.

    Args:
        x: (N·C, Z, Y, X) float32, contiguous.
        weight: (C, kz, ky, kx) float32, odd sizes.
        bias: (C,) float32.
        stride: (sz, sy, sx).
        out: (N·C, ceil(Z/sz), ceil(Y/sy), ceil(X/sx)) float32, written on ``[start, stop)``.
    """
    nz, ny, nx = x.shape[1:]
    kernel = weight.shape[1:]
    pz, py, px = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
    pitch_y = nx + 2 * px
    pitch_z = pitch_y * (ny + 2 * py)
    padded = np.zeros(pitch_z * (nz + 2 * pz), np.float32)
    length = pitch_y * (ny - 1) + nx
    plane = np.empty(length, np.float32)
    for m in range(start, stop):
        c = m % weight.shape[0]
        _spread(x[m], (1, 1, 1), padded, (pz, py, px), pitch_y, pitch_z)
        for z in range(out.shape[1]):
            plane[:] = bias[c]
            _accumulate(plane, padded, z * stride[0] * pitch_z, length, weight[c], kernel, pitch_y, pitch_z)
            _gather(plane, stride, out[m, z], pitch_y)


@numba.njit(nogil=True, cache=True)
def input_gradient_range(gradient, weight, stride, out, start, stop):  # type: ignore[no-untyped-def]
    """Gradient with respect to x: correlation of the zero-stuffed gradient with the flipped filter.

    Args:
        gradient: (N·C, z', y', x') float32, of the output.
        weight: (C, kz, ky, kx) float32.
        stride: (sz, sy, sx).
        out: (N·C, Z, Y, X) float32, written on ``[start, stop)``.
    """
    nz, ny, nx = out.shape[1:]
    kernel = weight.shape[1:]
    pz, py, px = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
    pitch_y = nx + 2 * px
    pitch_z = pitch_y * (ny + 2 * py)
    padded = np.zeros(pitch_z * (nz + 2 * pz), np.float32)
    length = pitch_y * (ny - 1) + nx
    plane = np.empty(length, np.float32)
    flipped = np.empty(kernel, np.float32)
    for m in range(start, stop):
        c = m % weight.shape[0]
        for a in range(kernel[0]):
            for b in range(kernel[1]):
                for d in range(kernel[2]):
                    flipped[a, b, d] = weight[c, kernel[0] - 1 - a, kernel[1] - 1 - b, kernel[2] - 1 - d]
        _spread(gradient[m], stride, padded, (pz, py, px), pitch_y, pitch_z)
        for z in range(nz):
            plane[:] = np.float32(0)
            _accumulate(plane, padded, z * pitch_z, length, flipped, kernel, pitch_y, pitch_z)
            _gather(plane, (1, 1, 1), out[m, z], pitch_y)


@numba.njit(nogil=True, cache=True)
def weight_gradient_range(x, gradient, stride, out, start, stop):  # type: ignore[no-untyped-def]
    """Gradient with respect to the filter, per sample: sum over voxels of gradient · shifted x.

    Args:
        x: (N·C, Z, Y, X) float32.
        gradient: (N·C, z', y', x') float32, of the output.
        stride: (sz, sy, sx).
        out: (N·C, kz, ky, kx) float32, written on ``[start, stop)``; the caller sums over samples.
    """
    nz, ny, nx = x.shape[1:]
    kernel = out.shape[1:]
    pz, py, px = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
    pitch_y = nx + 2 * px
    pitch_z = pitch_y * (ny + 2 * py)
    padded = np.zeros(pitch_z * (nz + 2 * pz), np.float32)
    length = pitch_y * (ny - 1) + nx
    plane = np.zeros(length, np.float32)  # gaps between rows stay zero: they contribute nothing
    for m in range(start, stop):
        _spread(x[m], (1, 1, 1), padded, (pz, py, px), pitch_y, pitch_z)
        out[m] = np.float32(0)
        for z in range(gradient.shape[1]):
            _spread(gradient[m, z : z + 1], stride, plane, (0, 0, 0), pitch_y, pitch_z)
            _dots(plane, padded, z * stride[0] * pitch_z, length, kernel, pitch_y, pitch_z, out[m])
