"""The environments of other libraries that tests use; each is skipped where its library is not installed."""

import contextlib
from collections.abc import Iterator

import jax
import pytest

import ddpg_jax as dj
from ddpg_jax.envs.extras import EXTRAS, installed
from ddpg_jax.envs.registry import family_of, make_device

GYMNAX = tuple(
    f"gymnax/{name}" for name in ("Pendulum-v1", "MountainCarContinuous-v0", "PointRobot-misc", "Reacher-misc", "Swimmer-misc")
)
PHYSICS = ("brax/inverted_pendulum@spring", "playground/CartpoleBalance")
"""Small ones: physics compiles for long."""
ALL_PHYSICS = (*PHYSICS, *(f"brax/inverted_pendulum@{backend}" for backend in ("generalized", "positional", "mjx")))


@contextlib.contextmanager
def family_env(name: str) -> Iterator[dj.Env]:
    """An environment, with JAX in the mood that its library needs: none of them was written for `rank_promotion="raise"`."""
    family = family_of(name)
    if family is None:
        yield make_device(name)
        return
    if not installed(EXTRAS[family.extra]):
        pytest.skip(f"{family.extra} is not installed")
    with jax.numpy_rank_promotion("allow"):
        yield make_device(name)
