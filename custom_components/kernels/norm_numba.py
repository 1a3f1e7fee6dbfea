"""Instance norm followed by LeakyReLU on the CPU, forward and backward in one sweep each (numba).

Stock torch normalises and activates in separate passes and keeps both results for the backward; here the activation's
input is recomputed from x. The functions work on ``[start, stop)`` of the flattened (N·C) axis and release the GIL.
"""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["backward_range", "forward_range"]

_BLOCK = 1024
_FAST = {"contract", "reassoc", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def forward_range(x, weight, bias, eps, slope, out, mean, rstd, start, stop):  # type: ignore[no-untyped-def]
    """out = leaky_relu(weight · (x − mean)/sqrt(var + eps) + bias).

    Args:
        x, out: (N·C, V) float32, contiguous.
        weight, bias: (C,) float32.
        eps: added to the variance.
        slope: of the LeakyReLU for negative values; 1 switches the activation off.
        mean, rstd: (N·C,) float32, written: the statistics the backward needs.
    """
    n = x.shape[1]
    for m in range(start, stop):
        row = x[m]
        shift = row[0]  # sums of deviations from one voxel: no cancellation for images far from zero
        # float32 within a block, float64 across blocks: as fast as float32, as exact as torch.
        total = 0.0
        for block in range(0, n, _BLOCK):
            part = np.float32(0)
            for i in range(block, min(block + _BLOCK, n)):
                part += row[i] - shift
            total += float(part)
        mu = np.float32(shift + total / n)
        squares = 0.0
        for block in range(0, n, _BLOCK):
            part = np.float32(0)
            for i in range(block, min(block + _BLOCK, n)):
                d = row[i] - mu
                part += d * d
            squares += float(part)
        r = np.float32(1.0 / math.sqrt(squares / n + eps))
        mean[m] = mu
        rstd[m] = r
        c = m % weight.shape[0]
        scale = weight[c] * r
        offset = bias[c] - mu * scale
        target = out[m]
        for i in range(n):
            v = row[i] * scale + offset
            target[i] = v if v > 0 else v * slope


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def backward_range(gradient, x, weight, bias, mean, rstd, slope, out, gw, gb, start, stop):  # type: ignore[no-untyped-def]
    """Gradients of `forward_range`.

    Args:
        gradient: (N·C, V) float32, of the output.
        x, weight, bias, mean, rstd, slope: as in the forward.
        out: (N·C, V) float32, written: gradient of x.
        gw, gb: (N·C,) float32, written: gradients of weight and bias per sample; the caller sums over samples.
    """
    n = x.shape[1]
    for m in range(start, stop):
        row = x[m]
        g = gradient[m]
        c = m % weight.shape[0]
        r = rstd[m]
        scale = weight[c] * r
        offset = bias[c] - mean[m] * scale
        shift = mean[m]
        sum_g = 0.0
        sum_gx = 0.0
        for block in range(0, n, _BLOCK):
            part_g = np.float32(0)
            part_gx = np.float32(0)
            for i in range(block, min(block + _BLOCK, n)):
                v = row[i] * scale + offset
                d = g[i] if v > 0 else g[i] * slope
                part_g += d
                part_gx += d * (row[i] - shift)
            sum_g += float(part_g)
            sum_gx += float(part_gx)
        sum_gx *= r
        gb[m] = sum_g
        gw[m] = sum_gx
        a = np.float32(sum_g / n)
        b = np.float32(sum_gx / n * r)
        target = out[m]
        for i in range(n):
            v = row[i] * scale + offset
            d = g[i] if v > 0 else g[i] * slope
            target[i] = scale * (d - a - (row[i] - shift) * b)
