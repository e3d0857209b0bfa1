"""Reads the value of a field, which may be given as text.

Each reader takes the name of the field, which is only used in its error message, and the value. It raises ConfigError if the
value is not allowed.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ddpg_jax.errors import ConfigError

FLOAT32_MIN, FLOAT32_MAX = 1.2e-38, 3.4e38
"""Bounds of the positive numbers that float32 represents."""
INT32_MAX = 2**31 - 1
"""The largest number that int32 represents."""


def word(name: str, value: Any) -> str:
    """Reads text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name}={value!r} is not allowed; it must be a name")
    return value


def text(name: str, value: Any) -> str:
    """Reads text that may be empty, or a path."""
    value = str(value) if isinstance(value, Path) else value
    return word(name, value) if value != "" else ""


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """Reads one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{name}={value} is not allowed; allowed are {', '.join(allowed)}{hint}")
    return value


def boolean(name: str, value: Any) -> bool:
    """Reads a boolean, written as true or false, yes or no, 1 or 0."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in known:
        raise ConfigError(f"{name}={value} is not allowed; it must be true or false")
    return known[str(value).lower()]


def integer(name: str, value: Any, *, low: int, high: int = INT32_MAX) -> int:
    """Reads a whole number in `[low, high]`, which may be written as 2e4 or 20_000."""
    try:
        read = float(str(value).replace("_", ""))
        whole = int(read)
    except (ValueError, OverflowError):
        read, whole = math.nan, 0
    if _is_boolean(value) or read != whole or not low <= whole <= high:
        raise ConfigError(f"{name}={value} is not allowed; it must be a whole number from {low} to {high}")
    return whole


def number(name: str, value: Any, *, low: float = 0.0, high: float = math.inf) -> float:
    """Reads a finite number in `[low, high]`."""
    try:
        read = float(value)
    except (TypeError, ValueError, OverflowError):
        read = math.nan
    if 0 < abs(read) < FLOAT32_MIN or FLOAT32_MAX < abs(read) < math.inf:
        raise ConfigError(
            f"{name}={value} is not allowed; float32 has no numbers between 0 and {FLOAT32_MIN:g} or above {FLOAT32_MAX:g}"
        )
    if _is_boolean(value) or not math.isfinite(read) or not low <= read <= high:
        allowed = f"a number from {low:g} to {high:g}" if math.isfinite(high) else f"a finite number of at least {low:g}"
        raise ConfigError(f"{name}={value} is not allowed; it must be {allowed}")
    return read


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """Reads whole numbers of at least 1, written as 256-256 or 256x256, as a sequence or as one number."""
    plain = to_python(value)
    parts = re.split(r"[-x, ]+", plain.strip("()[] ,")) if isinstance(plain, str) else plain
    try:
        read = tuple(integer(name, part, low=1) for part in (parts if isinstance(parts, list | tuple) else [parts]))
    except ConfigError:
        read = ()
    if not read:
        raise ConfigError(f"{name}={value} is not allowed; it must be sizes of at least 1 joined by -, such as 256-256")
    return read


def sizes_if_any(name: str, value: Any) -> tuple[int, ...]:
    """Reads sizes as `sizes` does, or none at all."""
    return () if isinstance(value, list | tuple | str) and not len(value) else sizes(name, value)


def to_python(value: Any) -> Any:
    """Converts arrays and scalars of NumPy and JAX to lists and numbers of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_boolean(value: Any) -> bool:
    """Returns True for a boolean of Python or NumPy, which would otherwise be read as 1 or 0."""
    return type(value).__name__ in ("bool", "bool_")


def names(name: str, value: Any) -> tuple[str, ...]:
    """Reads words joined by commas or spaces, or a sequence of such texts. Parentheses hold together what is inside of them.

    >>> names("wrappers", "ClipAction,FrameStackObservation(stack_size=4, padding_type='zero')")
    ('ClipAction', "FrameStackObservation(stack_size=4, padding_type='zero')")
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{name}={value!r} is not allowed; it must be names joined by commas")
    return tuple(word for text in texts for word in split(text, ", "))


def split(text: str, separators: str) -> list[str]:
    """Splits at the separators that are outside of brackets.

    >>> split("(8,8),(16,16)", ",")
    ['(8,8)', '(16,16)']
    """
    words, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter in separators and depth <= 0:
            words.append("")
        else:
            words[-1] += letter
    return [word for word in words if word]


def keywords(name: str, value: Any) -> str:
    """Reads `name=value` texts, JSON or a mapping, and returns JSON, which is the same for the same values.

    Values may also be literals of Python; tuples become lists. Relative paths of what exists become absolute, so that the
    environment can be made from another folder; so do names of files in the current folder, if they have a suffix.

    >>> keywords("env_kwargs", "g=9.0,wind=true"), keywords("env_kwargs", {"wind": True, "g": 9.0})
    ('{"g": 9.0, "wind": true}', '{"g": 9.0, "wind": true}')
    """
    read: dict[str, Any] = {}
    try:
        for text in value if isinstance(value, list | tuple) else [value]:
            read |= text if isinstance(text, Mapping) else _read_keywords(text)
        if not all(isinstance(word, str) and word.isidentifier() for word in read):
            raise ValueError
        read = {word: _absolute(given) for word, given in read.items()}
        return json.dumps(read, sort_keys=True, allow_nan=False, default=lambda array: array.tolist())
    except (TypeError, ValueError, AttributeError) as error:
        shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        raise ConfigError(
            f'{name}={shown} is not allowed; it must be name=value joined by commas, or JSON such as {{"g": 9.8}}, and its '
            "values must be allowed in JSON"
        ) from error


def _read_keywords(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        return json.loads(text)
    pairs = [pair.partition("=") for pair in re.split(r",\s*(?=[^\W\d]\w*=)", text) if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("a name without a value")
    return {word.strip(): _read_value(value.strip()) for word, _, value in pairs}


def _read_value(text: str) -> Any:
    """Reads JSON, a literal of Python, or else the text itself."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError):
            return read(text)
    return text


def _absolute(value: Any) -> Any:
    """Makes relative paths of what exists absolute, also in lists and mappings.

    A text is a path if it has a separator, and a name of a file if it has a suffix.

    Raises:
        ValueError: a mapping has keys that are not texts, which JSON would convert.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys must be texts")
        return {key: _absolute(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_absolute(item) for item in value]
    if isinstance(value, str) and (is_path := os.sep in value or os.path.splitext(value)[1]):
        path = os.path.expanduser(value)
        exists = os.path.exists if is_path is True else os.path.isfile
        return os.path.abspath(path) if "\0" not in path and exists(path) else value
    return value


def plain(value: Any) -> Any:
    """Returns a field's value as tables show it: sizes are joined by dashes, names by commas, and one size is a number."""
    if not isinstance(value, tuple):
        return value
    if len(value) == 1 and isinstance(value[0], int):
        return value[0]
    return ",".join(value) if all(isinstance(part, str) for part in value) else "-".join(map(str, value))
