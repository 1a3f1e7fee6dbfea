"""The one family of errors a user can cause and mend."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the file, says what is wrong and what to do. Scripts print it as one line and exit with a
    status that is not 0; nothing has been written when it is raised.
    """
