"""Instance norm followed by LeakyReLU on the CPU, forward and backward in one sweep each (numba).

Stock torch normalises and activates in separate passes and keeps both results for the backward; here the activation's
input is recomputed from x. The functions work on ``[start, stop)`` of the flattened (N·C) axis and release the GIL.
"""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["apply_range", "backward_range", "forward_range"]

_BLOCK = 1024
_FAST = {"contract", "reassoc", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _block(row, begin, end):  # type: ignore[no-untyped-def]
    """Mean, and sum of squared deviations from it, of a block that the first sum leaves in the fastest cache."""
    part = row[begin:end]
    first = part[0]  # deviations from one voxel: no cancellation for images far from zero
    total = np.float32(0)
    for i in range(part.shape[0]):
        total += part[i] - first
    mean = first + total / np.float32(part.shape[0])
    squares = np.float32(0)
    for i in range(part.shape[0]):
        d = part[i] - mean
        squares += d * d
    return np.float64(mean), np.float64(squares)


@numba.njit(nogil=True, cache=True)
def _moments(row):  # type: ignore[no-untyped-def]
    """Mean and biased variance in one sweep: blocks in float32, merged in float64 (Chan, Golub and LeVeque, 1983)."""
    n = row.shape[0]
    mean, squares = 0.0, 0.0
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        part, part_squares = _block(row, begin, end)
        delta, share = part - mean, (end - begin) / end
        mean += delta * share
        squares += part_squares + delta * delta * share * begin
    return mean, squares / n


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _apply(row, scale, offset, slope, target):  # type: ignore[no-untyped-def]
    for i in range(row.shape[0]):
        v = row[i] * scale + offset
        target[i] = v if v > 0 else v * slope


@numba.njit(nogil=True, cache=True)
def forward_range(x, weight, bias, eps, slope, out, mean, rstd, start, stop):  # type: ignore[no-untyped-def]
    """out = leaky_relu(weight · (x − mean)/sqrt(var + eps) + bias).

    Args:
        x, out: (N·C, V) float32, contiguous.
        weight, bias: (C,) float32.
        eps: added to the variance.
        slope: of the LeakyReLU for negative values; 1 switches the activation off.
        mean, rstd: (N·C,) float32, written: the statistics the backward needs.
    """
    for m in range(start, stop):
        mu, variance = _moments(x[m])
        mean[m] = mu
        rstd[m] = 1.0 / math.sqrt(variance + eps)
        apply_range(x, weight, bias, mean, rstd, slope, out, m, m + 1)


@numba.njit(nogil=True, cache=True)
def apply_range(x, weight, bias, mean, rstd, slope, out, start, stop):  # type: ignore[no-untyped-def]
    """`forward_range` with the statistics given."""
    for m in range(start, stop):
        c = m % weight.shape[0]
        scale = weight[c] * rstd[m]
        _apply(x[m], scale, bias[c] - mean[m] * scale, slope, out[m])


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
