"""Errors that reach the user as one sentence."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

NOT_THE_USERS = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen")
"""How the names of files begin that are no user's own; besides, there are installed packages."""


class ConfigError(ValueError):
    """What the user can mend. The message is one sentence that names the field, its value and what is allowed."""


class EnvironmentFailure(RuntimeError):
    """An environment that raised, returned a non-finite number or changed its shapes, and the step at which it did."""


def one_line(error: BaseException) -> str:
    """An error in one line: its words, or the line of source that raised it without any; and where in the user's own files."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        words = str(error)
    except Exception:  # an error that cannot even be said
        words = ""
    words = words or frames[-1].line or "without a word"
    own = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS) and "-packages" not in frame.filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(words.split())}{place}"
