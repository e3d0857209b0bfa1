"""Finds the goals of Gymnasium environments, for hindsight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.host.lanes import Lane, layers_of
from ddpg_jax.errors import one_line
from ddpg_jax.types import Array, Goal


class _Info(dict[str, Any]):
    """An empty `info` that notes whether anybody looks into it."""

    read = False

    def _note(self, *_: Any) -> Any:
        self.read = True
        return super()

    def __getitem__(self, key: str) -> Any:
        return self._note().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return self._note().__contains__(key)

    def __iter__(self) -> Any:
        return self._note().__iter__()

    def __len__(self) -> int:
        return self._note().__len__()

    def get(self, key: str, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._note().get(key, default)

    def keys(self) -> Any:
        return self._note().keys()

    def values(self) -> Any:
        return self._note().values()

    def items(self) -> Any:
        return self._note().items()


def find_method(env: Any, name: str) -> Callable[..., Any] | None:
    """Returns a method of the outermost layer of an environment that has it: a wrapper may change what is inside of it."""
    return next((method for layer in layers_of(env) if callable(method := getattr(layer, name, None))), None)


def goal_on_host(any_env: Callable[[], Any], failed: Callable[[Exception], None]) -> tuple[Goal | None, str]:
    """Makes the `Goal` of Gymnasium environments; the compiled program calls one of them for the rewards of a batch.

    Its errors go to `failed`, and the program gets NaN.

    The goal is None if there is no `compute_reward(achieved [B, G], desired [B, G], info) -> [B]`, or if that or
    `compute_terminated` cannot be used, with the reason if it is unusual. `compute_terminated`, if it exists, is called for one
    goal at a time, because it need not support batches. If it does not exist, an episode may still end where its goal is
    reached; see `Goal.tells_ends`.
    """
    env: Any = any_env()
    dim, info = env.observation_space["desired_goal"].shape[0], _Info()
    compute_reward = find_method(env, "compute_reward")
    if compute_reward is None:
        return None, ""
    try:
        shape = np.shape(compute_reward(np.zeros((3, dim)), np.zeros((3, dim)), info))
    except Exception:  # any error that a batch causes
        shape = None
    if info.read:
        return None, "its compute_reward reads info, which is not kept; rewards must depend on the goals alone"
    if fault := _fault_of_ends(find_method(env, "compute_terminated"), dim):
        return None, fault
    if shape != (3,):
        return None, ""

    def rewards_of(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        method: Any = find_method(any_env(), "compute_reward")
        return np.asarray(method(achieved, desired, {}), np.float32)

    def ask(achieved: Any, desired: Any) -> tuple[np.ndarray, np.ndarray]:
        shape = achieved.shape[:-1]
        a, b = (np.asarray(x, np.float64).reshape(-1, dim) for x in (achieved, desired))
        try:
            terminated = find_method(any_env(), "compute_terminated")
            ends = [terminated is not None and bool(terminated(*pair, {})) for pair in zip(a, b, strict=True)]
            return rewards_of(a, b).reshape(shape), 1.0 - np.asarray(ends, np.float32).reshape(shape)
        except Exception as error:  # JAX would print it with a traceback
            failed(error)
            return np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)

    def outcome(achieved: Array, desired: Array) -> tuple[Array, Array]:
        result = jax.ShapeDtypeStruct(achieved.shape[:-1], jnp.float32)
        return jax.pure_callback(ask, (result, result), achieved, desired, vmap_method="broadcast_all")

    return Goal(dim, outcome, tells_ends=find_method(env, "compute_terminated") is not None), ""


def _fault_of_ends(compute_terminated: Callable[..., Any] | None, dim: int) -> str:
    """Returns why a `compute_terminated` cannot be asked, or an empty text."""
    info = _Info()
    try:
        if compute_terminated is not None:
            bool(compute_terminated(np.zeros(dim), np.zeros(dim), info))
    except Exception as error:  # any error of the user's function
        if not info.read:
            return f"its compute_terminated raises {one_line(error)}"
    return "its compute_terminated reads info, which is not kept; ends must depend on the goals alone" if info.read else ""


def check_rewards(lane: Lane, dim: int, actions: np.ndarray) -> str:
    """Takes steps, and returns what is wrong if one of their rewards is not that of its goals, else an empty text."""
    compute_reward: Any = find_method(lane.env, "compute_reward")
    lane.reset(0)
    first: tuple[Any, float] | None = None
    for action in actions:
        desired = lane.obs[-dim:]
        reward, _, last = lane.step(action)
        pair = [np.asarray(goal, np.float64)[None] for goal in (lane.obs[-2 * dim : -dim], desired)]
        computed = float(compute_reward(*pair, {})[0])
        first = first or (pair, computed)
        if not np.isclose(reward, computed, rtol=1e-3, atol=1e-5):
            return (
                f"its step gives the reward {reward:g} where its compute_reward gives {computed:g}; what changes rewards, such "
                "as a wrapper, must have a compute_reward that changes them, too"
            )
        if last:
            break
    if first and float(compute_reward(*first[0], {})[0]) != first[1]:
        return "its compute_reward gives the same goals other rewards later; rewards must depend on the goals alone"
    return ""
