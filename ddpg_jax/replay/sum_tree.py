"""A sum tree: draws from C numbers in proportion to them, and changes of them, in O(log C) (Schaul et al. 2016, B.2.1).

A tree is a tuple of levels, the leaves first. A node is the sum of `FAN` nodes of the level below; eight, since fewer levels
take less time. One array for each level, because XLA copies a single one that is read and written level by level.
"""

from __future__ import annotations

from typing import TypeAlias

import jax.numpy as jnp

from ddpg_jax.types import Array

FAN = 8

Tree: TypeAlias = tuple[Array, ...]


def zeros(capacity: int) -> Tree:
    """The tree of `C` zeros. Levels are padded to whole groups with nodes that stay 0.

    >>> [level.size for level in zeros(10)]
    [16, 8]
    """
    size = -(-capacity // FAN) * FAN
    level = (jnp.zeros(size),)
    return level if size == FAN else level + zeros(size // FAN)


def change(tree: Tree, index: Array, value: Array) -> Tree:
    """The tree with leaves `index [B]` set to `value [B]`, at least 0. Of an index that is there twice, one value counts.

    Sums are made anew from what they are of, never corrected by a difference: they do not drift, and the parents of one leaf
    agree whichever of its values won.

    >>> tree = change(zeros(10), jnp.array([2, 9]), jnp.array([1.0, 3.0]))
    >>> total(tree).item()
    4.0
    """
    leaves = tree[0].at[index].set(value, mode="promise_in_bounds")
    if len(tree) == 1:
        return (leaves,)
    parent = index // FAN
    *_, sums = _running(_children(leaves, parent))
    return (leaves, *change(tree[1:], parent, sums))


def total(tree: Tree) -> Array:
    """The sum of all leaves, `[]`."""
    *_, whole = _running(tree[-1])
    return whole


def find(tree: Tree, u: Array) -> Array:
    """The leaf at which the running sum of the leaves exceeds `u [B]`, from 0 to `total(tree)`; `[B]` int32.

    A leaf that is 0 is never found, whatever rounding does, as long as there is another.

    >>> tree = change(zeros(10), jnp.array([2, 9]), jnp.array([1.0, 3.0]))
    >>> find(tree, jnp.array([0.0, 0.9, 1.0, 4.0])).tolist()
    [2, 2, 9, 9]
    """
    node = jnp.zeros(u.shape, jnp.int32)
    for level in reversed(tree):
        children = _children(level, node)
        begins, child, skipped = _running(children), jnp.zeros_like(node), jnp.zeros_like(u)
        for j in range(FAN):
            reached = (begins[j] <= u) & (children[..., j] > 0)
            child, skipped = jnp.where(reached, j, child), jnp.where(reached, begins[j], skipped)
        node, u = node * FAN + child, u - skipped
    return node


def _children(level: Array, parent: Array) -> Array:
    """`[B, FAN]`, the nodes of a level below the nodes `parent [B]` of the one above it."""
    return level.reshape(-1, FAN).at[parent].get(mode="promise_in_bounds")


def _running(children: Array) -> list[Array]:
    """The sums of the first 0, 1 ... FAN of `[..., FAN]`, one order of addition for all programs; `FAN + 1` times `[...]`."""
    sums = [jnp.zeros_like(children[..., 0])]
    for j in range(FAN):
        sums.append(sums[-1] + children[..., j])
    return sums
