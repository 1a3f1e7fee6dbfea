"""Whether as much as a header declares can be in the file at all: asked before memory is taken for it."""

from __future__ import annotations

from pathlib import Path

from custom_components.errors import InputError

__all__ = ["LARGEST_VOLUME", "check_declared_size"]

LARGEST_VOLUME = 2**34
"""Bytes of all voxels as stored: a whole body at half a millimetre has less than half of it."""
DEFLATE = 1032
"""No byte that deflate writes stands for more (zlib's technical details, maximum compression factor)."""


def check_declared_size(path: Path, declared: int, available: int, packed: bool) -> None:
    """Check the size that a header declares.

    Args:
        path: the file, for the message.
        declared: bytes of all voxels.
        available: bytes of the file that hold them.
        packed: whether these are compressed (gzip, zlib).

    Raises:
        InputError: so much cannot be in them, or it is more than is read here.
    """
    if declared > available * (DEFLATE if packed else 1):
        raise InputError(f"{path}: its header declares {declared} bytes of voxels, but the file is cut off; copy it again")
    if declared > LARGEST_VOLUME:
        raise InputError(
            f"{path}: its header declares {declared / 2**30:.0f} GiB of voxels, {LARGEST_VOLUME // 2**30} are read; cut it"
        )
