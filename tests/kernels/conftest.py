"""The GPU of the tests that need one."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def cuda() -> torch.device:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    if not (torch.cuda.is_available() and cupy.cuda.is_available()):
        pytest.skip("no GPU that torch and CuPy can both use")
    return torch.device("cuda", torch.cuda.current_device())
