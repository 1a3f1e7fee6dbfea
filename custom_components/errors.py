"""The one family of errors a user can cause and mend."""

from __future__ import annotations

__all__ = ["InputError", "input_error_behind"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the file, says what is wrong and what to do. Scripts print it as one line and exit with a
    status that is not 0; nothing has been written when it is raised.
    """


def input_error_behind(error: BaseException) -> BaseException:
    """The `InputError` that MONAI wrapped on its way out of a transform or a configuration; ``error`` where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    return cause or error
