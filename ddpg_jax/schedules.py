"""Defines schedules that move a number from a start to an end: noise scales, learning rates and exponents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from ddpg_jax.types import Array, Scalar

Schedule: TypeAlias = Callable[[Scalar, Scalar, Array], Scalar]
"""`(start, end, fraction) -> value`, with `fraction` from 0 to 1."""


def progress(t: Array, duration: Scalar) -> Array:
    """Returns `t / duration`, clipped to [0, 1]."""
    return jnp.clip(t / duration, 0.0, 1.0)


def constant(start: Scalar, end: Scalar, fraction: Array) -> Scalar:
    """Returns the start throughout."""
    del end, fraction
    return start


def linear(start: Scalar, end: Scalar, fraction: Array) -> Scalar:
    """Interpolates linearly.

    >>> import jax.numpy as jnp
    >>> linear(1.0, 0.0, jnp.float32(0.25)).item()
    0.75
    """
    return start + (end - start) * fraction


def exponential(start: Scalar, end: Scalar, fraction: Array) -> Scalar:
    """Changes by a constant factor per step. Start and end must be positive."""
    return start * (end / start) ** fraction


def cosine(start: Scalar, end: Scalar, fraction: Array) -> Scalar:
    """Follows half a cosine, which is slow at both ends (Loshchilov and Hutter 2017)."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * fraction))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "linear": linear, "exponential": exponential, "cosine": cosine}
