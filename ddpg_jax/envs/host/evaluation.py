"""Plays whole episodes in a few environments, for evaluations."""

from __future__ import annotations

import time

import numpy as np

from ddpg_jax.envs.host.lanes import Lane
from ddpg_jax.errors import EnvironmentFailure

EVALUATED_AT_ONCE = 10
"""Number of environments in which the episodes of one evaluation run."""
LONGEST = 100_000
"""Length of an evaluation episode after which an environment without a time limit is assumed never to end one."""


class Evaluation:
    """Plays one episode per seed. Each environment plays one episode after another, and is idle once none is left."""

    def __init__(self, lanes: list[Lane], seeds: list[int], obs_dim: int, *, endless: bool):
        self.lanes = lanes
        self.obs = np.zeros((len(lanes), obs_dim), np.float32)
        """`[lanes, O]`, the observations to act on next; an idle environment keeps its last."""
        self.returns, self.lengths = np.full(len(seeds), np.nan), np.zeros(len(seeds), int)
        """`[episodes]`; a return is NaN until its episode has ended."""
        self.successes = np.full(len(seeds), np.nan)
        """`[episodes]`, as in `Episodes`."""
        self._endless = endless
        self._remaining = iter(enumerate(seeds))
        self._episode: dict[int, int] = {}  # by lane index
        self._so_far = np.zeros(len(lanes))
        self._reported = time.monotonic()

    def due(self) -> bool:
        """Returns True if a progress report is due, at most once a second."""
        late = time.monotonic() - self._reported > 1.0
        self._reported = time.monotonic() if late else self._reported
        return late

    def begin(self) -> None:
        """Starts the first episodes."""
        for k in range(len(self.lanes)):
            self._next(k)

    def _next(self, k: int) -> None:
        self._episode.pop(k, None)
        for episode, seed in self._remaining:
            self._episode[k], self._so_far[k] = episode, 0.0
            self.obs[k] = self.lanes[k].reset(seed)
            break

    def step(self, actions: np.ndarray) -> bool:
        """Steps the running episodes, with actions in the environment's own units; returns True while any is running."""
        for k, episode in list(self._episode.items()):
            try:
                reward, _, last = self.lanes[k].step(actions[k])
            except EnvironmentFailure as failure:
                raise EnvironmentFailure(f"{failure} in an episode at step {self.lengths[episode] + 1}") from failure
            self.obs[k] = self.lanes[k].obs
            self._so_far[k] += reward
            self.lengths[episode] += 1
            if last:
                self.returns[episode], self.successes[episode] = self._so_far[k], self.lanes[k].success
                self._next(k)
            elif self._endless and self.lengths[episode] >= LONGEST:
                raise EnvironmentFailure(
                    "needs a time limit, max_episode_steps=N in env_kwargs or where it is made or registered; "
                    f"an episode has not ended after {LONGEST:,} steps"
                )
        return bool(self._episode)
