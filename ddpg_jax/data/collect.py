"""Plays whole episodes, in JAX or in Gymnasium environments, and keeps every step of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.data.episodes import Episode, native_actions
from ddpg_jax.envs.host.evaluation import Evaluation
from ddpg_jax.envs.host.lanes import Lane, as_flag, as_reward
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.types import Array, Env, EnvSpec, Key

AT_ONCE = {"device": 32, "host": 10}
"""Environments that play side by side."""

Act: TypeAlias = Callable[[Key, Array], Array]
"""`(key, obs [E, O]) -> action [E, A]` in [-1, 1]; consumes the key."""


def greedy(mu: Callable[[Array], Array]) -> Act:
    """Acts as the policy `mu`, `obs [E, O] -> action [E, A]`, does."""
    return lambda key, obs: mu(obs)


def noisy(mu: Callable[[Array], Array], sigma: float) -> Act:
    """Adds Gaussian noise of deviation `sigma`, in halves of the action range, to the policy's actions, and clips them."""

    def act(key: Key, obs: Array) -> Array:
        action = mu(obs)
        return jnp.clip(action + sigma * jax.random.normal(key, action.shape), -1.0, 1.0)

    return act


def uniform(action_dim: int) -> Act:
    """Draws actions of length `action_dim` uniformly from their whole range."""
    return lambda key, obs: jax.random.uniform(key, (obs.shape[0], action_dim), minval=-1.0, maxval=1.0)


def collect(
    env: Env,
    act: Act,
    *,
    episodes: int,
    seed: int,
    make: Callable[[], Any] | None = None,
    at_once: int | None = None,
) -> list[Episode]:
    """Plays whole episodes, each from another start.

    Args:
        env: the environment; if it lives outside the program, it tells the spec, and `make` makes what is stepped.
        act: how to act.
        episodes: their number.
        seed: of starts and actions. The same seed gives the same episodes, if as many play side by side.
        make: makes a Gymnasium environment, whose observations and rewards are kept as they are.
        at_once: the most environments that play side by side, if not as many as `AT_ONCE` says.

    Raises:
        ConfigError: there are no episodes to play, or an environment in JAX has no time limit.
        EnvironmentFailure: the environment raised, returned a number that is not finite, or did not end an episode.

    >>> import ddpg_jax as dj
    >>> env = dj.envs.make_device("Pendulum-v1")
    >>> [episode] = collect(env, uniform(1), episodes=1, seed=0)
    >>> episode.obs.shape, episode.action.shape, episode.reward.shape, episode.terminated
    ((201, 3), (200, 1), (200,), False)
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes} is not allowed; it must be at least 1")
    count = min(episodes, at_once or AT_ONCE["device" if make is None else "host"])
    if make is not None:
        return _on_host(make, act, env.spec, episodes=episodes, seed=seed, count=count)
    return _on_device(env, act, episodes=episodes, seed=seed, count=count)


def _on_device(env: Env, act: Act, *, episodes: int, seed: int, count: int) -> list[Episode]:
    """Plays in one compiled program, `count` episodes at a time."""
    if env.spec.max_steps is None:
        raise ConfigError(f"env={env.spec.name} has no time limit; it must have one to be played on the device")

    @jax.jit
    def play(key: Key) -> Any:
        start_key, step_key, act_key = jax.random.split(key, 3)
        started = jax.vmap(env.reset)(jax.random.split(start_key, count))

        def step(carry: Any, i: Array) -> Any:
            env_state, obs = carry
            keys = jax.random.split(jax.random.fold_in(step_key, i), count)
            action = act(jax.random.fold_in(act_key, i), obs)
            env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, action)
            return (env_state, obs), transition

        return jax.lax.scan(step, started, jnp.arange(env.spec.max_steps))[1]

    found: list[Episode] = []
    for part in range(-(-episodes // count)):
        t = jax.tree.map(np.asarray, play(jax.random.fold_in(jax.random.key(seed), part)))  # [T, E, ...]
        for e in range(min(count, episodes - len(found))):
            end = int(np.argmax(t.last[:, e])) + 1
            obs = np.concatenate([t.obs[:end, e], t.next_obs[end - 1 : end, e]])
            obs = obs.reshape(end + 1, *env.spec.obs_shape).astype(np.float32)
            if not (np.isfinite(obs).all() and np.isfinite(t.reward[:end, e]).all()):
                raise EnvironmentFailure("gave a number that is not finite with these actions")
            terminated = bool(t.discount[end - 1, e] == 0)
            found.append(Episode(obs, native_actions(t.action[:end, e], env.spec), t.reward[:end, e], terminated))
    return found


class Tape:
    """Stands in for a Gymnasium environment, and keeps what it returns, by the seed of the episode."""

    def __init__(self, env: Any):
        self.env, self.observation_space, self.action_space = env, env.observation_space, env.action_space
        self.played: dict[int, tuple[list[Any], list[Any], list[Any], list[Any]]] = {}
        self._now: Any = None

    def reset(self, seed: int) -> Any:
        """Begins an episode."""
        result = self.env.reset(seed=seed)
        self._now = self.played[seed] = ([copy.deepcopy(result[0])], [], [], [])
        return result

    def step(self, action: np.ndarray) -> Any:
        """Takes a step, with the action in the environment's own units."""
        result = self.env.step(action)
        reward, terminated = as_reward(result[1]), as_flag(result[2], "terminated")
        for own, value in zip(self._now, (result[0], action, reward, terminated), strict=True):
            own.append(copy.deepcopy(value))
        return result

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def _on_host(make: Callable[[], Any], act: Act, spec: EnvSpec, *, episodes: int, seed: int, count: int) -> list[Episode]:
    """Plays in Gymnasium environments, `count` side by side; each episode is reset with a seed of its own."""
    seeds = [int(one) for one in np.random.default_rng(seed).choice(2**31 - 1, episodes, replace=False)]
    lanes: list[Lane] = []
    compiled, key = jax.jit(lambda key, i, obs: act(jax.random.fold_in(key, i), obs)), jax.random.key(seed)
    try:
        lanes.extend(Lane(Tape(make()), spec.obs_shape) for _ in range(count))  # those before one that fails are closed, too
        playing = Evaluation(lanes, seeds, spec.obs_dim, endless=spec.max_steps is None)
        playing.begin()
        going, i = True, 0
        while going:
            going = playing.step(native_actions(np.asarray(compiled(key, np.int32(i), playing.obs)), spec))
            i += 1
    finally:
        for lane in lanes:
            lane.close()
    played = {number: tape for lane in lanes for number, tape in lane.env.played.items()}
    return [_episode(number, *played[number]) for number in seeds]


def _episode(seed: int, obs: list[Any], action: list[Any], reward: list[Any], terminated: list[Any]) -> Episode:
    stacked = {name: np.stack([one[name] for one in obs]) for name in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)
    return Episode(stacked, np.stack(action), np.array(reward), terminated[-1], seed)
