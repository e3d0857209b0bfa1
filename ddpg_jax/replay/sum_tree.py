"""Implements a sum tree, which samples in proportion to C numbers and updates them in O(log C) (Schaul et al. 2016, B.2.1).

A tree is a tuple of levels, the leaves first. Each node is the sum of `FAN_OUT` nodes of the level below; eight, because fewer
levels take less time. Each level is an array of its own, because XLA copies a single array that is read and written level by
level.
"""

from __future__ import annotations

from typing import TypeAlias

import jax.numpy as jnp

from ddpg_jax.types import Array

FAN_OUT = 8

Tree: TypeAlias = tuple[Array, ...]


def zeros(capacity: int) -> Tree:
    """Makes a tree of `C` zeros. Levels are padded to whole groups with nodes that stay 0.

    >>> [level.size for level in zeros(10)]
    [16, 8]
    """
    size = -(-capacity // FAN_OUT) * FAN_OUT
    level = (jnp.zeros(size),)
    return level if size == FAN_OUT else level + zeros(size // FAN_OUT)


def set_leaves(tree: Tree, index: Array, value: Array) -> Tree:
    """Sets the leaves at `index [B]` to `value [B]`, at least 0. For a repeated index, one of its values is kept.

    Sums are recomputed from their terms instead of being corrected by a difference: they do not drift, and all ancestors of a
    leaf agree on whichever value was kept.

    >>> tree = set_leaves(zeros(10), jnp.array([2, 9]), jnp.array([1.0, 3.0]))
    >>> total(tree).item()
    4.0
    """
    leaves = tree[0].at[index].set(value, mode="promise_in_bounds")
    if len(tree) == 1:
        return (leaves,)
    parent = index // FAN_OUT
    *_, sums = _partial_sums(_children(leaves, parent))
    return (leaves, *set_leaves(tree[1:], parent, sums))


def total(tree: Tree) -> Array:
    """Returns the sum of all leaves, `[]`."""
    *_, whole = _partial_sums(tree[-1])
    return whole


def find(tree: Tree, u: Array) -> Array:
    """Finds the leaf at which the running sum of the leaves exceeds `u [B]`, from 0 to `total(tree)`; `[B]` int32.

    A leaf that is 0 is never found, whatever the rounding, as long as some leaf is positive.

    >>> tree = set_leaves(zeros(10), jnp.array([2, 9]), jnp.array([1.0, 3.0]))
    >>> find(tree, jnp.array([0.0, 0.9, 1.0, 4.0])).tolist()
    [2, 2, 9, 9]
    """
    node = jnp.zeros(u.shape, jnp.int32)
    for level in reversed(tree):
        children = _children(level, node)
        begins, child, skipped = _partial_sums(children), jnp.zeros_like(node), jnp.zeros_like(u)
        for j in range(FAN_OUT):
            reached = (begins[j] <= u) & (children[..., j] > 0)
            child, skipped = jnp.where(reached, j, child), jnp.where(reached, begins[j], skipped)
        node, u = node * FAN_OUT + child, u - skipped
    return node


def _children(level: Array, parent: Array) -> Array:
    """Returns `[B, FAN_OUT]`, the nodes of a level that are the children of nodes `parent [B]` of the level above it."""
    return level.reshape(-1, FAN_OUT).at[parent].get(mode="promise_in_bounds")


def _partial_sums(children: Array) -> list[Array]:
    """Sums the first 0, 1, ..., FAN_OUT of `[..., FAN_OUT]`, in the same order in all programs; `FAN_OUT + 1` of `[...]`."""
    sums = [jnp.zeros_like(children[..., 0])]
    for j in range(FAN_OUT):
        sums.append(sums[-1] + children[..., j])
    return sums
