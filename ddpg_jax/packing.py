"""A state of few arrays in place of many, for programs that are called at every step of an environment.

What a call costs besides its arithmetic grows with the number of arrays that go in and out, about a microsecond each. The small
ones, biases and counters, are therefore kept end to end in one vector; weight matrices and the replay stay as they are, since
to take those apart would mean to copy them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array

SMALL = 4_096
"""Numbers up to which an array is worth copying."""


class Packed(NamedTuple):
    """A tree of arrays as few arrays; with members, all have a leading `[M]`."""

    large: list[Array]
    floats: list[Array]
    """`[..., F]` float32, the small ones end to end in one vector; empty if there are none."""
    ints: list[Array]
    """`[..., I]` int32, likewise."""


def packing(shapes: Any) -> tuple[Callable[[Any], Packed], Callable[[Packed], Any]]:
    """`pack` and its inverse for trees of these shapes, which are those of ONE member.

    >>> import jax, jax.numpy as jnp
    >>> tree = {"w": jnp.ones((100, 100)), "b": jnp.arange(3.0), "n": jnp.int32(7)}
    >>> pack, unpack = packing(jax.eval_shape(lambda: tree))
    >>> [len(pack(tree).large), pack(tree).floats[0].tolist(), pack(tree).ints[0].tolist()]
    [1, [0.0, 1.0, 2.0], [7]]
    >>> unpack(pack(tree))["b"].tolist()
    [0.0, 1.0, 2.0]
    """
    leaves, structure = jax.tree.flatten(shapes)
    kinds = [_kind(leaf) for leaf in leaves]

    def pack(tree: Any) -> Packed:
        groups: dict[str, list[Array]] = {"large": [], "floats": [], "ints": []}
        for kind, leaf, shape in zip(kinds, jax.tree.leaves(tree), leaves, strict=True):
            lead = leaf.shape[: leaf.ndim - len(shape.shape)]
            groups[kind].append(leaf if kind == "large" else leaf.reshape(*lead, math.prod(shape.shape)))
        return Packed(groups["large"], _join(groups["floats"]), _join(groups["ints"]))

    def unpack(packed: Packed) -> Any:
        large, taken, found = iter(packed.large), {"floats": 0, "ints": 0}, []
        for kind, leaf in zip(kinds, leaves, strict=True):
            if kind == "large":
                found.append(next(large))
            else:
                vector, begin, size = getattr(packed, kind)[0], taken[kind], math.prod(leaf.shape)
                found.append(vector[..., begin : begin + size].reshape(*vector.shape[:-1], *leaf.shape))
                taken[kind] += size
        return jax.tree.unflatten(structure, found)

    return pack, unpack


def _kind(leaf: Any) -> str:
    if math.prod(leaf.shape) > SMALL or leaf.dtype not in (jnp.float32, jnp.int32):
        return "large"
    return "floats" if leaf.dtype == jnp.float32 else "ints"


def _join(vectors: list[Array]) -> list[Array]:
    return [jnp.concatenate(vectors, axis=-1)] if vectors else []
