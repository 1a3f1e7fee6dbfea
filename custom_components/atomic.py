"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custom_components.errors import InputError

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; on leaving, it replaces ``path``, on an error it is removed.

    The temporary name begins with a dot and ends like ``path``, so writers that go by the suffix work, and a glob for
    results does not find it. The folder is made if it is missing.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    path = Path(path)
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; results get what an ordinary open() would give.
        mask = os.umask(0o077)
        os.umask(mask)
        try:
            temporary.chmod(0o666 & ~mask)
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another name or folder") from None
    finally:
        temporary.unlink(missing_ok=True)
