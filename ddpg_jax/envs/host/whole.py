"""Decides which objects hold their whole state in Python, so that pickling them keeps all of it.

An object that stands for something outside of Python, such as a simulator behind a handle, a file or a process, may pickle
without an error and still be lost. Its copy may even close what both refer to when it is collected.
"""

from __future__ import annotations

import array
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import random
import re
import sys
import types
import uuid
import weakref
from typing import Any

import jax
import numpy as np

HOOKS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__", "__del__")
"""Methods that change what pickling an object records, or what happens when a copy of it is collected."""

TRUSTED = ("gymnasium", "dataclasses")
"""Packages whose own hooks record the whole state."""

EXACTLY = (
    array.array,
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
    collections.deque,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    functools.partial,
    random.Random,
    types.MethodType,
    types.SimpleNamespace,
    uuid.UUID,
)
"""Types of the standard library that hold their whole state; their contents are checked like everything else."""

BY_PARENT = (enum.Enum, np.dtype, np.generic, pathlib.PurePath, bytearray, bytes, complex, range, re.Pattern, slice, jax.Array)
"""Types that hold their whole state, with all types derived from them."""

BY_NAME = ("mujoco._structs.MjModel", "mujoco._structs.MjData")
"""Types of other libraries whose own hooks record the whole state."""


def holds_whole_state(obj: Any) -> bool:
    """Returns True if pickling an object keeps its whole state, provided that this is true of everything that it refers to."""
    cls = type(obj)
    if isinstance(obj, type | types.FunctionType | types.BuiltinFunctionType | np.ufunc):
        return True  # pickled by their names, or refused by pickle
    if cls in EXACTLY or isinstance(obj, BY_PARENT) or f"{cls.__module__}.{cls.__qualname__}" in BY_NAME:
        return True
    if cls.__module__.startswith("numpy.random.") or cls.__name__ == "cython_function_or_method":
        return True
    return cls is np.ndarray or is_plain(cls)


def is_watched(obj: Any) -> bool:
    """Returns True if something refers weakly to an object, as to wait for its end; to a copy, nothing would."""
    return not isinstance(obj, type | types.FunctionType) and weakref.getweakrefcount(obj) > 0


def slots_of(cls: type) -> list[str]:
    """Returns the attributes of a class that are in slots, and hence not among the `vars` of its objects."""
    each = (vars(base).get("__slots__", ()) for base in cls.__mro__)
    names = (name for slots in each for name in ([slots] if isinstance(slots, str) else slots))
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def is_plain(cls: type) -> bool:
    """Returns True if objects of a class consist of their attributes, and nothing happens when a copy is collected."""
    if cls.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False  # such as a thread, a file, or what runs when an object is collected
    if cls in copyreg.dispatch_table or issubclass(cls, np.ndarray):
        return False
    return not any(_is_own(cls, hook) for hook in HOOKS)


def _is_own(cls: type, name: str) -> bool:
    hook = getattr(cls, name, None)
    if hook is None or hook is getattr(object, name, None):
        return False
    if name == "__getnewargs__" and issubclass(cls, tuple):  # a named tuple
        return False
    if any(hook is getattr(base, name, None) for base in (dict, list, set, frozenset, tuple, int, float, str)):
        return False
    return (getattr(hook, "__module__", None) or "").partition(".")[0] not in TRUSTED
