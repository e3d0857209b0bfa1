"""Looks at what the methods of an environment can reach beside its objects: global variables, closures and class attributes.

A snapshot does not hold them. What changes there while an environment is reset and stepped may be a part of its state, even if
the first steps after a restore do not show it: a table of worlds, to which the environment only has a number, is still there in
the process that made it.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddpg_jax.envs.host.lanes import layers_of

LIBRARIES = frozenset({*sys.stdlib_module_names, "gymnasium", "numpy", "jax", "jaxlib", "mujoco", "Box2D"}) - {"__main__"}
"""Packages that keep no state of an environment in their own variables."""
MOST = 100
"""Items of a container that are looked at."""
LARGEST = 1 << 20
"""Bytes of the largest array that is looked at."""
DEEPEST = 4
"""Depth to which values are looked at."""

_NUMBERS = (bool, int, float, complex, str, bytes, np.generic, itertools.count, type(None))


def surroundings(envs: list[Any]) -> dict[str, Any]:
    """Returns a description of what the methods of environments can reach, by its place; it changes when that changes."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for env in envs:
        for layer in layers_of(env):
            _of_class(type(layer), found, seen)
    return found


def _is_own(module: str | None) -> bool:
    return (module or "").partition(".")[0] not in LIBRARIES


def _of_class(cls: type, found: dict[str, Any], seen: set[int]) -> None:
    """Adds the attributes of a class, and what its methods can reach."""
    for base in cls.__mro__:
        if id(base) in seen or not _is_own(base.__module__):
            continue
        seen.add(id(base))
        for name, value in list(vars(base).items()):
            functions = list(_functions_in(value))
            for function in functions:
                _of_function(function, found, seen)
            if not functions and not name.startswith("__"):
                found[f"{id(base)}.{name}"] = describe(value)


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    """Yields the functions of a method, a property, or whatever wraps one."""
    if isinstance(value, property):
        for accessor in (value.fget, value.fset):
            yield from _functions_in(accessor)
    value = getattr(value, "__func__", getattr(value, "__wrapped__", value))
    if isinstance(value, types.FunctionType):
        yield value


def _of_function(function: types.FunctionType, found: dict[str, Any], seen: set[int]) -> None:
    """Adds what a function can reach: its cells, the global variables that it names, and so on for functions among these."""
    if id(function) in seen or not _is_own(function.__module__):
        return
    seen.add(id(function))
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    reached = {f"{id(cell)}": _content(cell) for cell in cells.values()}
    names = set(_names_in(function.__code__)) & set(function.__globals__)
    reached |= {f"{id(function.__globals__)}.{name}": function.__globals__[name] for name in names}
    for place, value in reached.items():
        if isinstance(value, types.FunctionType):
            _of_function(value, found, seen)
        elif isinstance(value, type):
            _of_class(value, found, seen)
        elif not isinstance(value, types.ModuleType):
            found[place] = describe(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Yields the names that a function and the functions in it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def describe(value: Any, depth: int = 0) -> Any:
    """Returns plain data that changes if a value does; of what is large, deep or unknown, only if it is replaced."""
    if isinstance(value, _NUMBERS):
        return repr(value)
    if depth > DEEPEST:
        return id(value)
    if isinstance(value, np.ndarray):
        small = value.nbytes <= LARGEST and not value.dtype.hasobject
        return value.shape, hashlib.sha256(value.tobytes()).hexdigest() if small else id(value)
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, dict):
        items = list(itertools.islice(value.items(), MOST))
        return len(value), [(describe(key, depth + 1), describe(one, depth + 1)) for key, one in items]
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        return len(value), [describe(one, depth + 1) for one in itertools.islice(value, MOST)]
    if _is_own(type(value).__module__) and hasattr(value, "__dict__") and not callable(value):
        return id(value), describe(vars(value), depth + 1)
    return id(value)
