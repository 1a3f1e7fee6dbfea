from __future__ import annotations

import numpy as np
import pytest
import torch

from custom_components.kernels.layout import contiguous


@pytest.mark.parametrize("shape", [(1, 4, 5), (17, 3, 130), (33, 5, 64), (40, 2, 1), (16, 1, 65)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0)])
def test_the_same_values_in_memory_order(shape, axes):
    volume = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32)).permute(*axes)
    for given in (volume, volume[:, ::2], volume[..., 1:]):
        found = contiguous(given)
        assert found.flags.c_contiguous
        assert np.array_equal(found, given.numpy())


def test_what_is_in_order_is_not_copied():
    volume = torch.zeros(3, 4, 5)
    assert contiguous(volume).ctypes.data == volume.data_ptr()
