"""`contiguous`: a float32 volume in memory order, also where an image file has its axes the other way round."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from custom_components.kernels.threads import run_ranges

__all__ = ["contiguous"]


def contiguous(volume: Tensor) -> np.ndarray:
    """As an array whose neighbours along x lie next to each other; the same memory where they do already.

    Images come as (x, y, z) and are seen as (z, y, x) by a transposition of the view. That is copied in
    tiles here; torch and NumPy walk through a whole volume for each line.

    Args:
        volume: (Z, Y, X), float32, on the CPU.
    """
    source = volume.detach().numpy()
    if source.flags.c_contiguous or abs(source.strides[0]) != source.itemsize or source.shape[0] == 1:
        return np.ascontiguousarray(source)
    from custom_components.kernels.layout_numba import copy_turned_range

    out = np.empty(source.shape, np.float32)
    run_ranges(lambda a, b: copy_turned_range(source, out, a, b), source.shape[1])
    return out
