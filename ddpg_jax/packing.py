"""A state of few arrays in place of many, for programs that are called at every step of an environment.

What a call costs besides its arithmetic grows with the number of arrays that go in and out, about a microsecond each. The small
ones, biases and counters, are therefore kept end to end, in one vector for each type of number; weight matrices and the replay
stay as they are, since to take those apart would mean to copy them. The physics of an environment on the device, which has
dozens of small arrays, some of them empty, is kept so for the same reason: a loop copies each by itself, and a checkpoint
cannot hold an empty one.
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
    vectors: dict[str, Array]
    """By the type of number, `[..., F]`: the others end to end; no vector where there is none, or only empty ones."""


def packing(shapes: Any, small: float = SMALL) -> tuple[Callable[[Any], Packed], Callable[[Packed], Any]]:
    """`pack` and its inverse for trees of these shapes, which are those of ONE member.

    Args:
        shapes: the tree, or its shapes and types.
        small: numbers up to which an array goes into a vector.

    >>> import jax.numpy as jnp
    >>> tree = {"w": jnp.ones((100, 100)), "b": jnp.arange(3.0), "n": jnp.int32(7), "empty": jnp.zeros((0, 4))}
    >>> pack, unpack = packing(tree)
    >>> len(pack(tree).large), {kind: vector.tolist() for kind, vector in pack(tree).vectors.items()}
    (1, {'float32': [0.0, 1.0, 2.0], 'int32': [7]})
    >>> unpack(pack(tree))["b"].tolist(), unpack(pack(tree))["empty"].shape
    ([0.0, 1.0, 2.0], (0, 4))
    """
    leaves, structure = jax.tree.flatten(shapes)
    large = [math.prod(leaf.shape) > small for leaf in leaves]

    def pack(tree: Any) -> Packed:
        kept, groups = [], {}
        for is_large, shape, leaf in zip(large, leaves, structure.flatten_up_to(tree), strict=True):
            if is_large:
                kept.append(leaf)
            elif size := math.prod(shape.shape):
                lead = jnp.shape(leaf)[: jnp.ndim(leaf) - len(shape.shape)]
                groups.setdefault(str(shape.dtype), []).append(jnp.asarray(leaf, shape.dtype).reshape(*lead, size))
        return Packed(kept, {kind: jnp.concatenate(vectors, axis=-1) for kind, vectors in groups.items()})

    def unpack(packed: Packed) -> Any:
        kept, taken, found = iter(packed.large), dict.fromkeys(packed.vectors, 0), []
        lead = next((vector.shape[:-1] for vector in packed.vectors.values()), ())
        for is_large, shape in zip(large, leaves, strict=True):
            size, kind = math.prod(shape.shape), str(shape.dtype)
            if is_large:
                found.append(next(kept))
            elif size:
                begin = taken[kind]
                taken[kind] += size
                found.append(packed.vectors[kind][..., begin : begin + size].reshape(*lead, *shape.shape))
            else:
                found.append(jnp.zeros((*lead, *shape.shape), shape.dtype))
        return structure.unflatten(found)

    return pack, unpack
