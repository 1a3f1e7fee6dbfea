"""The one family of errors a user can cause and mend."""

from __future__ import annotations

import re

__all__ = ["InputError", "input_error_behind"]

LONGEST = 2000  # characters: a screenful


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the file, says what is wrong and what to do. Scripts print it as one line and exit with a
    status that is not 0; nothing has been written when it is raised.

    Args:
        message: what it says. Characters that a terminal would act on or cannot show (a stranger's file may have put them
            into a name) are escaped, lines are joined, and a very long message loses its middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


def input_error_behind(error: BaseException) -> BaseException:
    """The `InputError` that MONAI wrapped on its way out of a transform or a configuration; ``error`` where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    return cause or error


def _printable(message: str) -> str:
    line = re.sub(r"\s*[\r\n]+\s*", " ", message)
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST // 2]} […] {plain[-LONGEST // 2 :]}"
