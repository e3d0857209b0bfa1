"""Packs a tree of many small arrays into few vectors, one for each dtype.

The physics state of an environment on the device has dozens of small arrays, some of them empty. A compiled loop copies each
one separately, and a checkpoint cannot hold an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array

Vectors: TypeAlias = dict[str, Array]
"""Maps a dtype to `[..., F]`, all arrays of that dtype concatenated. A dtype without any elements has no entry."""


def make_flatten(shapes: Any) -> tuple[Callable[[Any], Vectors], Callable[[Vectors], Any]]:
    """Makes functions `flatten` and `unflatten` for trees of the given shapes; trees may have further leading axes.

    Args:
        shapes: a tree of arrays, or of their shapes and dtypes.

    >>> import jax.numpy as jnp
    >>> tree = {"b": jnp.arange(3.0), "n": jnp.int32(7), "empty": jnp.zeros((0, 4))}
    >>> flatten, unflatten = make_flatten(tree)
    >>> {kind: vector.tolist() for kind, vector in flatten(tree).items()}
    {'float32': [0.0, 1.0, 2.0], 'int32': [7]}
    >>> unflatten(flatten(tree))["b"].tolist(), unflatten(flatten(tree))["empty"].shape
    ([0.0, 1.0, 2.0], (0, 4))
    """
    leaves, structure = jax.tree.flatten(shapes)

    def flatten(tree: Any) -> Vectors:
        groups: dict[str, list[Array]] = {}
        for shape, leaf in zip(leaves, structure.flatten_up_to(tree), strict=True):
            if size := math.prod(shape.shape):
                lead = jnp.shape(leaf)[: jnp.ndim(leaf) - len(shape.shape)]
                groups.setdefault(str(shape.dtype), []).append(jnp.asarray(leaf, shape.dtype).reshape(*lead, size))
        return {kind: jnp.concatenate(vectors, axis=-1) for kind, vectors in groups.items()}

    def unflatten(vectors: Vectors) -> Any:
        taken, found = dict.fromkeys(vectors, 0), []
        lead = next((vector.shape[:-1] for vector in vectors.values()), ())
        for shape in leaves:
            size, kind = math.prod(shape.shape), str(shape.dtype)
            if size:
                begin = taken[kind]
                taken[kind] += size
                found.append(vectors[kind][..., begin : begin + size].reshape(*lead, *shape.shape))
            else:
                found.append(jnp.zeros((*lead, *shape.shape), shape.dtype))
        return structure.unflatten(found)

    return flatten, unflatten
