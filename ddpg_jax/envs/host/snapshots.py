"""What Gymnasium environments hold, as text and back: so that a run which was stopped goes on as if it never was.

The text is pickled: it is for checkpoints of one's own runs, and never for what people share.
"""

from __future__ import annotations

import base64
import copyreg
import inspect
import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpg_jax.errors import EnvironmentFailure


def snapshot(envs: Sequence[Any]) -> str | None:
    """The whole state of the environments, or None where they do not let themselves be written."""
    data = io.BytesIO()
    try:
        layers = _all_layers(envs)
        _Pickler(data, layers).dump([_state(layer) for layer in layers])
        _Unpickler(io.BytesIO(data.getvalue()), layers).load()
    except Exception:  # whatever an environment keeps: locks, windows, sockets
        return None
    return base64.b64encode(data.getvalue()).decode()


def restore(envs: Sequence[Any], text: str) -> None:
    """Puts back what `snapshot` gave. It unpickles.

    Raises:
        EnvironmentFailure: the environment is not as it was, another version of it perhaps.
    """
    try:
        layers = _all_layers(envs)
        states = _Unpickler(io.BytesIO(base64.b64decode(text)), layers).load()
        for layer, state in zip(layers, states, strict=True):
            vars(layer).update(state)
    except Exception as error:
        raise EnvironmentFailure(f"cannot be put back to where it was: {type(error).__name__}: {error}") from error


def _all_layers(envs: Sequence[Any]) -> list[Any]:
    """All wrappers of all environments, from the outside in, and the environments themselves."""
    from gymnasium import Wrapper

    layers = []
    for layer in envs:
        layers.append(layer)
        while isinstance(layer, Wrapper):
            layer = layer.env
            layers.append(layer)
    return layers


def _state(layer: Any) -> dict[str, Any]:
    """What a wrapper or an environment has of its own. Not by pickling it whole: that only remembers how it was made.

    Functions that Gymnasium's own wrappers hold are the same in every copy, and cannot be pickled.
    """
    from gymnasium import Wrapper

    made_with = ("spec", "_cached_spec", *(["env"] if isinstance(layer, Wrapper) else []))
    return {name: value for name, value in vars(layer).items() if name not in made_with and not _of_gymnasium(value)}


def _of_gymnasium(value: Any) -> bool:
    return inspect.isfunction(value) and value.__module__.startswith("gymnasium.")


class _Pickler(pickle.Pickler):
    """Writes what environments hold, and what of it is one and the same thing stays one and the same thing.

    Of what points back to a layer is written which one: a copy of it would live apart. NumPy would make copies of views.
    """

    def __init__(self, file: Any, layers: list[Any]):
        super().__init__(file)
        self._numbers = {id(layer): n for n, layer in enumerate(layers)}

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        from gymnasium.utils import EzPickle

        if getattr(type(obj), "__getstate__", None) is EzPickle.__getstate__:  # it would only remember how it was made
            return copyreg.__newobj__, (type(obj),), vars(obj), None, None, _fill  # pyright: ignore[reportAttributeAccessIssue]
        return _as_view(obj) if isinstance(obj, np.ndarray) and obj.base is not None else NotImplemented


class _Unpickler(pickle.Unpickler):
    """The inverse; `layers` are those that live now."""

    def __init__(self, file: Any, layers: list[Any]):
        super().__init__(file)
        self._layers = layers

    def persistent_load(self, pid: int) -> Any:
        return self._layers[pid]


def _fill(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)


def _as_view(array: np.ndarray) -> Any:
    """How a view is made again of the array that owns its memory, which is written whole."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.base is not None and not isinstance(owner.base, bytes | bytearray | memoryview):
        if array.flags.writeable or owner.flags.writeable:  # a simulator's own memory, say
            raise pickle.PicklingError("a view of memory that is not NumPy's")
        return NotImplemented
    if owner is array:  # what was read from a file lives in bytes that nobody else has
        return NotImplemented
    if type(array) is not np.ndarray or array.dtype.hasobject or owner.dtype.hasobject or not owner.flags.forc:
        raise pickle.PicklingError("a view of objects, of an array with gaps, or one that is more than a view")
    offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return _view, (owner, array.shape, array.dtype, offset, array.strides, array.flags.writeable)


def _view(
    owner: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, offset: int, strides: tuple[int, ...], writeable: bool
) -> np.ndarray:
    view = np.ndarray(shape, dtype, owner.ravel(order="K"), offset, strides)  # pyright: ignore[reportArgumentType]
    view.flags.writeable = writeable
    return view
