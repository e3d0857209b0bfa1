"""Defines the members of a program, and stacks what each of them brings."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax.running.placement import Placement
from ddpg_jax.types import Hyperparams


class Member(NamedTuple):
    """One training run: its seed and its hyperparameters."""

    seed: int
    hyper: Hyperparams
    number: int = 0
    """Index among all members of a sweep."""
    swept: tuple[tuple[str, Any], ...] = ()
    """The fields that the sweep varies, with this member's values."""


def stack_members(members: list[Member], placement: Placement) -> tuple[jax.Array, Hyperparams]:
    """Stacks the keys `[M]` and the hyperparameters `[M]` of the members, padded with copies of the last one."""
    padded = members + members[-1:] * (placement.slots - len(members))
    hypers = Hyperparams(*np.array([member.hyper for member in padded], np.float32).T)
    if placement.single:
        return placement.put((jax.random.key(padded[0].seed), jax.tree.map(lambda x: x[0], hypers)))
    return placement.put((jax.vmap(jax.random.key)(np.array([member.seed for member in padded], np.uint32)), hypers))
