"""One number that says whether two sets of tensors are the same, to the bit."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping

import torch

__all__ = ["fingerprint"]


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values of ``state``, in the order of the names.

    The order of the mapping, the device, the memory layout and the file format do not count; one flipped bit of one
    value does. Every part is preceded by its length, so that no two different states are hashed as the same bytes.

    Args:
        state: parameter name to tensor.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        header = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{','.join(map(str, tensor.shape))}".encode()
        data = _little_endian_bytes(tensor)
        digest.update(len(header).to_bytes(8, "little") + header)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _little_endian_bytes(tensor: torch.Tensor) -> bytes:
    values = tensor.cpu().contiguous().reshape(-1)
    # NumPy knows no bfloat16, so the reinterpretation to bytes is torch's.
    octets = values.view(torch.uint8).numpy() if values.numel() else torch.empty(0, dtype=torch.uint8).numpy()
    if sys.byteorder == "big":
        octets = octets.reshape(-1, values.element_size())[:, ::-1].copy()
    return octets.tobytes()
