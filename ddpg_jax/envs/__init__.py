"""Provides environments by name, with one adapter per file.

A third-party library is imported only when one of its environments is requested.
"""

from ddpg_jax.envs.adapters.functional import from_functional
from ddpg_jax.envs.checking import check
from ddpg_jax.envs.make import as_env, make_env, renew_always, renew_at_ends
from ddpg_jax.envs.registry import DEVICE, FAMILIES, Family, family_of, in_jax, make_device, nearest, on_device, only_in_jax

__all__ = [
    "DEVICE",
    "FAMILIES",
    "Family",
    "as_env",
    "check",
    "family_of",
    "from_functional",
    "in_jax",
    "make_device",
    "make_env",
    "nearest",
    "on_device",
    "only_in_jax",
    "renew_always",
    "renew_at_ends",
]
