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

PACKABLE = ("float32", "int32", "uint32", "bool")
"""Dtypes of the arrays that `make_pack` packs."""

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


def make_pack(shapes: Any, largest: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Makes functions `pack` and `unpack`: a tree becomes `(vectors, arrays)`, its small arrays packed, the others unchanged.

    On an accelerator each array that a loop carries is written by a kernel of its own, however small it is.

    Args:
        shapes: a tree of arrays, or of their shapes and dtypes.
        largest: the largest size of an array that is packed.

    >>> import jax.numpy as jnp
    >>> tree = {"a": jnp.arange(2.0), "b": jnp.ones((2, 3)), "c": jnp.float32(5)}
    >>> pack, unpack = make_pack(tree, largest=2)
    >>> {kind: vector.tolist() for kind, vector in pack(tree)[0].items()}, [array.shape for array in pack(tree)[1]]
    ({'float32': [0.0, 1.0, 5.0]}, [(2, 3)])
    >>> unpack(pack(tree))["c"].item()
    5.0
    """
    leaves, structure = jax.tree.flatten(shapes)
    small = [math.prod(leaf.shape) <= largest and str(leaf.dtype) in PACKABLE for leaf in leaves]
    flatten, unflatten = make_flatten([leaf for leaf, is_small in zip(leaves, small, strict=True) if is_small])

    def pack(tree: Any) -> tuple[Vectors, list[Array]]:
        pairs = list(zip(structure.flatten_up_to(tree), small, strict=True))
        return flatten([leaf for leaf, is_small in pairs if is_small]), [leaf for leaf, is_small in pairs if not is_small]

    def unpack(packed: tuple[Vectors, list[Array]]) -> Any:
        ones, others = iter(unflatten(packed[0])), iter(packed[1])
        return structure.unflatten([next(ones if is_small else others) for is_small in small])

    return pack, unpack
