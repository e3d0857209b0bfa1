"""A tree of many small arrays as few vectors, one for each type of number.

The physics of an environment on the device has dozens of small arrays, some of them empty. A loop copies each by itself, and a
checkpoint cannot hold an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array

Vectors: TypeAlias = dict[str, Array]
"""By type of number, `[..., F]`: all arrays of that type end to end; no vector where there is none, or only empty ones."""


def flattening(shapes: Any) -> tuple[Callable[[Any], Vectors], Callable[[Vectors], Any]]:
    """Functions `flatten` and `unflatten` for trees of these shapes; the trees may have further axes in front.

    Args:
        shapes: the tree, or its shapes and types.

    >>> import jax.numpy as jnp
    >>> tree = {"b": jnp.arange(3.0), "n": jnp.int32(7), "empty": jnp.zeros((0, 4))}
    >>> flatten, unflatten = flattening(tree)
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
