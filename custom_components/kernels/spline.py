"""Cubic B-spline coefficients of a volume: what cubic interpolation reads instead of the voxels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.layout import contiguous
from custom_components.kernels.threads import run_ranges

__all__ = ["spline_coefficients", "spline_padding"]


def spline_padding(shape: Sequence[int], mode: str) -> tuple[int, int, int]:
    """Coefficients needed beyond each face so that every coordinate of the mode finds its 4×4×4 neighbours.

    Along an axis of one voxel z and y need none: the neighbour of the voxel is itself. Along x they lie in memory.
    """
    width = 10 if mode == "nearest" else 2
    return width if shape[0] > 1 else 0, width if shape[1] > 1 else 0, width


def spline_coefficients(volume: Tensor, mode: str) -> Tensor:
    """Coefficients c with Σ c[k] β³(x − k) = volume[x] (Unser, 1999), continued beyond the faces.

    Args:
        volume: (Z, Y, X), float32, on the CPU.
        mode: of `custom_components.kernels.boundary.BOUNDARY_MODES`.

    Returns:
        (Z + 2 p_z, Y + 2 p_y, X + 2 p_x), float32, p of `spline_padding`.
    """
    from custom_components.kernels import spline_numba as kernel

    code = BOUNDARY_MODES.index(mode)
    pad = np.array(spline_padding(volume.shape, mode))
    out = np.empty([n + 2 * int(p) for n, p in zip(volume.shape, pad, strict=True)], dtype=np.float32)
    source = contiguous(volume)
    nz, ny = volume.shape[:2]
    run_ranges(partial(kernel.filter_rows_range, source, kernel.TAPS, code, pad, out), nz * ny)
    # The planes and rows of the padding are filled by the last two passes.
    run_ranges(lambda a, b: kernel.filter_axis_range(out, kernel.TAPS, code, pad, 1, a + pad[0], b + pad[0]), nz)
    run_ranges(partial(kernel.filter_axis_range, out, kernel.TAPS, code, pad, 0), out.shape[1])
    return torch.from_numpy(out)
