"""Saves the state of Gymnasium environments as text and restores it, so that a resumed run continues exactly.

Only what holds its whole state is saved, see `whole`, and nothing is unpickled while environments are in use. Whether a
restored environment goes on as the saved one would have is shown by `proof`, before the run.

The text contains a pickle: it is meant for checkpoints of one's own runs, never for files that people share.
"""

from __future__ import annotations

import base64
import contextlib
import copyreg
import inspect
import io
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ddpg_jax.envs.host.lanes import layers_of
from ddpg_jax.envs.host.whole import holds_whole_state, is_watched, slots_of
from ddpg_jax.errors import EnvironmentFailure


def snapshot(envs: Sequence[Any]) -> str | None:
    """Saves the whole state of the environments, or returns None if they hold what cannot be kept."""
    data = io.BytesIO()
    try:
        layers = _all_layers(envs)
        _Pickler(data, layers).dump([_state(layer) for layer in layers])
    except Exception:  # environments may hold locks, windows or sockets
        return None
    return base64.b64encode(data.getvalue()).decode()


def restore(envs: Sequence[Any], text: str) -> None:
    """Restores the state that `snapshot` saved. It unpickles.

    Raises:
        EnvironmentFailure: the environment does not match the saved one, for example because its version differs.
    """
    try:
        layers = _all_layers(envs)
        states = _Unpickler(io.BytesIO(base64.b64decode(text)), layers).load()
        for layer, state in zip(layers, states, strict=True):
            vars(layer).update(state)
    except Exception as error:
        raise EnvironmentFailure(f"cannot be restored: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def attributes_kept(env: Any) -> Iterator[None]:
    """Puts the attributes of an environment and its wrappers back afterwards, so that it closes what it has opened."""
    layers = layers_of(env)
    before = [dict(vars(layer)) for layer in layers]
    try:
        yield
    finally:
        for layer, attributes in zip(layers, before, strict=True):
            vars(layer).clear()
            vars(layer).update(attributes)


def _all_layers(envs: Sequence[Any]) -> list[Any]:
    """Lists the layers of all environments."""
    return [layer for env in envs for layer in layers_of(env)]


def _state(layer: Any) -> dict[str, Any]:
    """Returns the attributes of a wrapper or an environment; pickling the object itself may only record how it was made.

    Functions held by Gymnasium's own wrappers are left out, because they are the same in every copy and cannot be pickled.
    """
    from gymnasium import Wrapper

    if slots_of(type(layer)):
        raise pickle.PicklingError(f"a {type(layer).__name__} has attributes in slots")
    made_with = ("spec", "_cached_spec", *(["env"] if isinstance(layer, Wrapper) else []))
    return {name: value for name, value in vars(layer).items() if name not in made_with and not _of_gymnasium(value)}


def _of_gymnasium(value: Any) -> bool:
    return inspect.isfunction(value) and value.__module__.startswith("gymnasium.")


class _Pickler(pickle.Pickler):
    """Pickles the attributes of environments and preserves shared references among them.

    References to a layer are stored as its number, because a copy of the layer would be a separate object. Views of arrays are
    stored as views, because NumPy would copy them.
    """

    def __init__(self, file: Any, layers: list[Any]):
        super().__init__(file)
        self._numbers = {id(layer): n for n, layer in enumerate(layers)}

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        from gymnasium.utils import EzPickle

        if not holds_whole_state(obj) or is_watched(obj):
            raise pickle.PicklingError(f"a {type(obj).__name__} may stand for something outside of Python")
        if getattr(type(obj), "__getstate__", None) is EzPickle.__getstate__:  # which records only how the object was made
            return copyreg.__newobj__, (type(obj),), vars(obj), None, None, _fill  # pyright: ignore[reportAttributeAccessIssue]
        return _as_view(obj) if isinstance(obj, np.ndarray) and obj.base is not None else NotImplemented


class _Unpickler(pickle.Unpickler):
    """Inverts `_Pickler`; `layers` are the live ones."""

    def __init__(self, file: Any, layers: list[Any]):
        super().__init__(file)
        self._layers = layers

    def persistent_load(self, pid: int) -> Any:
        return self._layers[pid]


def _fill(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)


def _as_view(array: np.ndarray) -> Any:
    """Returns how to remake a view from the array that owns its memory, which is stored whole."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.base is not None and not isinstance(owner.base, bytes | bytearray | memoryview):
        if array.flags.writeable or owner.flags.writeable:  # for example a simulator's own memory
            raise pickle.PicklingError("a view of memory that is not NumPy's")
        return NotImplemented
    if owner is array:  # an array read from a file, whose bytes nobody shares
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
