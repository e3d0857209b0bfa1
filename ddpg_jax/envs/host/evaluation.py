"""Whole episodes in few environments, for evaluations."""

from __future__ import annotations

import time

import numpy as np

from ddpg_jax.envs.host.lanes import Lane
from ddpg_jax.errors import EnvironmentFailure

LONGEST = 100_000
"""Steps of an episode of the evaluation after which an environment without a time limit is thought never to end one."""


class Evaluation:
    """One episode for each seed. Each environment plays one after the other, and rests when none is left."""

    def __init__(self, lanes: list[Lane], seeds: list[int], obs_dim: int, endless: bool):
        self.lanes = lanes
        self.obs = np.zeros((len(lanes), obs_dim), np.float32)
        """`[lanes, O]`, what to act on next; of one that rests, its last."""
        self.returns, self.lengths = np.full(len(seeds), np.nan), np.zeros(len(seeds), int)
        """`[episodes]`; a return is NaN until the episode is over."""
        self._endless = endless
        self._left = iter(enumerate(seeds))
        self._episode: dict[int, int] = {}  # by lane
        self._so_far = np.zeros(len(lanes))
        self._told = time.monotonic()

    def due(self) -> bool:
        """Whether it is a second since somebody was told how far it is."""
        late = time.monotonic() - self._told > 1.0
        self._told = time.monotonic() if late else self._told
        return late

    def begin(self) -> None:
        """Starts the first episodes."""
        for k in range(len(self.lanes)):
            self._next(k)

    def _next(self, k: int) -> None:
        self._episode.pop(k, None)
        for episode, seed in self._left:
            self._episode[k], self._so_far[k] = episode, 0.0
            self.obs[k] = self.lanes[k].reset(seed)
            break

    def step(self, actions: np.ndarray) -> bool:
        """One step of the episodes that run, with actions in the environment's own units; whether any still do."""
        for k, episode in list(self._episode.items()):
            try:
                reward, _, last = self.lanes[k].step(actions[k])
            except EnvironmentFailure as failure:
                raise EnvironmentFailure(f"{failure} in an episode at step {self.lengths[episode] + 1}") from failure
            self.obs[k] = self.lanes[k].obs
            self._so_far[k] += reward
            self.lengths[episode] += 1
            if last:
                self.returns[episode] = self._so_far[k]
                self._next(k)
            elif self._endless and self.lengths[episode] >= LONGEST:
                raise EnvironmentFailure(
                    "needs a time limit, max_episode_steps=N in env_kwargs or where it is made or registered: "
                    f"{LONGEST:,} steps ended no episode"
                )
        return bool(self._episode)
