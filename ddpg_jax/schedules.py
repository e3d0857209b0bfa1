"""How a number goes from a start to an end: shapes for the scale of noise, learning rates, and exponents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from ddpg_jax.types import Array, Scalar

Shape: TypeAlias = Callable[[Scalar, Scalar, Array], Scalar]
"""`(start, end, progress) -> value`, with `progress` from 0 to 1."""


def progress(t: Array, duration: Scalar) -> Array:
    """`t / duration`, from 0 to 1 and there it stays."""
    return jnp.clip(t / duration, 0.0, 1.0)


def constant(start: Scalar, end: Scalar, done: Array) -> Scalar:
    """The start, throughout."""
    del end, done
    return start


def linear(start: Scalar, end: Scalar, done: Array) -> Scalar:
    """Straight.

    >>> import jax.numpy as jnp
    >>> linear(1.0, 0.0, jnp.float32(0.25)).item()
    0.75
    """
    return start + (end - start) * done


def exponential(start: Scalar, end: Scalar, done: Array) -> Scalar:
    """By a constant factor a step. Both must be positive."""
    return start * (end / start) ** done


def cosine(start: Scalar, end: Scalar, done: Array) -> Scalar:
    """Half a cosine: slow at both ends (Loshchilov and Hutter 2017)."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))


SCHEDULES: dict[str, Shape] = {"constant": constant, "linear": linear, "exponential": exponential, "cosine": cosine}
