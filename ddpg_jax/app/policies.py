"""Keeps the policies of a program's members while it trains: the last of each, and the best by evaluations without noise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from ddpg_jax.api import make_policy
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.program import Program
from ddpg_jax.types import Params

SHARE = 0.05
"""Share of the time of a run that keeping its policies may take, before the end: a sweep can have thousands."""


class Policies:
    """The policies of a program, in `policy/` and `policy_best/` of a run folder.

    Args:
        folder: of the run.
        program: the program.
        experiment: that it trains.
        k: the number of the program in the run.
        total: the number of members of the run.
        rows: of metrics.csv so far, from which the best returns are known.
    """

    def __init__(
        self,
        folder: RunFolder,
        program: Program,
        experiment: Experiment,
        *,
        k: int,
        total: int,
        rows: Iterable[dict[str, Any]],
    ):
        self._folder, self._program, self._experiment, self._k, self._total = folder, program, experiment, k, total
        self._saved, self._took = -math.inf, 0.0  # time at which the policies were saved, and how long it took
        self._best: dict[int, float] = {}
        self._better: dict[int, Params] = {}  # actors of evaluations that were the best so far, and are not saved yet
        for row in rows:
            self._is_better(row)

    def note(self, state: Any, rows: Iterable[dict[str, Any]]) -> None:
        """Takes the actors of those members for which an evaluation was the best so far."""
        better = {row["member"] for row in rows if self._is_better(row)}
        own = [m for m, member in enumerate(self._program.members) if member.number in better]
        self._better |= zip(own, self._program.actors(state, own), strict=True)

    def _is_better(self, row: dict[str, Any]) -> bool:
        """Notes the return of an evaluation, and returns True if it is the first of its member, or higher than all before."""
        number, value = row["member"], row["eval_return_mean"]
        better = not math.isnan(value) and value > self._best.get(number, -math.inf)
        if better:
            self._best[number] = value
        return better

    def keep(self, state: Any, step: int) -> None:
        """Saves the policies, so that there are some however the run ends; not if that would take too large a share of it."""
        if time.monotonic() - self._saved >= self._took / SHARE:
            self.save(state, step)

    def save(self, state: Any, step: int) -> None:
        """Saves the policies, which are those of a step. Each file is written under a temporary name first."""
        begin = time.monotonic()
        everyone = range(len(self._program.members))
        self._write("policy", zip(everyone, self._program.actors(state, everyone), strict=True))
        self._folder.write_manifest(policy_steps={**self._folder.manifest().get("policy_steps", {}), str(self._k): step})
        self.save_best()
        self._saved, self._took = time.monotonic(), time.monotonic() - begin

    def save_best(self) -> None:
        """Saves the best policies that are not saved yet, so that a checkpoint is never ahead of them."""
        self._write("policy_best", self._better.items())
        self._better = {}

    def _write(self, kind: str, actors: Iterable[tuple[int, Params]]) -> None:
        self._folder.check_held()
        for m, actor in actors:
            policy = make_policy(self._experiment, self._program.spec, actor)
            policy.save(self._folder.policy_of(self._program.members[m], self._total, kind))
