"""Keep memory that large tensors leave behind, instead of giving it back to the system after every layer.

glibc maps every large block anew and unmaps it when it is freed; touching fresh pages then takes as long as the layer's
arithmetic. A process that keeps them runs a network on the CPU faster, and stays as large as its peak.
This is a setting of the whole process, so only a program may choose it: the project's scripts and bundle configurations
do, its library does not. The same by environment, before a program starts::

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

__all__ = ["reuse_large_tensors"]

# malloc.h of glibc
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4


def reuse_large_tensors() -> bool:
    """Make this process reuse the memory of large tensors.

    Returns:
        Whether it could: with glibc, on Linux. Elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (musl has mallopt for linking only)
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28))
    return all(mallopt(name, value) == 1 for name, value in settings)
