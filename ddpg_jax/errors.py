"""Defines the errors of this package; those that reach the user are one sentence."""

from __future__ import annotations

import errno
import inspect
import sysconfig
import traceback
from pathlib import Path
from typing import Any

NOT_THE_USERS = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen")
"""Prefixes of file names that are not the user's own. Files of installed packages are recognized separately."""


class ConfigError(ValueError):
    """Reports a mistake that the user can correct, in one sentence that names the field, its value and what is allowed."""


class EnvironmentFailure(RuntimeError):
    """Reports that an environment raised, returned a non-finite number or changed its shapes, and at which step."""


class Interrupted(Exception):
    """Says that a signal has stopped an evaluation; the user never sees it."""


def one_line(error: BaseException) -> str:
    """Returns an error as one line: its type, its message and the line of the user's own files that it passed through.

    An error without a message is represented by the line of source code that raised it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    try:
        words = str(error)
    except Exception:  # an error whose own __str__ fails
        words = ""
    words = words or frames[-1].line or "without a message"
    own = [frame for frame in frames if _is_users(frame.filename)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(words.split())}{place}"


def defined_at(function: Any) -> str:
    """Returns where a function is defined, ` (file, line 3)`, or nothing if that is in no file of the user's."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({Path(code.co_filename).name}, line {code.co_firstlineno})" if code and _is_users(code.co_filename) else ""


def _is_users(filename: str) -> bool:
    return not filename.startswith(NOT_THE_USERS) and "-packages" not in filename


def lacks_memory(error: BaseException) -> bool:
    """Returns True if an error comes from a lack of memory, whatever its type."""
    words = ("can't start new thread", "bad_alloc")
    return getattr(error, "errno", None) == errno.ENOMEM or any(word in str(error) for word in words)
