"""Keeps the policies of a program's members while it trains: the last of each, and the best by evaluations without noise.

A run that is resumed goes back to a checkpoint, and so must its best policies. What is overwritten after a checkpoint is
therefore put aside first, for as long as there is that checkpoint.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ddpg_jax.agent.policy import read_policy
from ddpg_jax.api import make_policy
from ddpg_jax.app.checkpoints import KEEP, Checkpoint
from ddpg_jax.app.run_folder import ASIDE, RunFolder
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.clock import is_regular, step_at
from ddpg_jax.running.program import Program
from ddpg_jax.types import Params

SHARE = 0.05
"""Share of the time of a run that keeping its policies may take, before the end: a sweep can have thousands."""

Mark: TypeAlias = tuple[int, int]
"""What tells a checkpoint from others: its iteration, and how many rows of metrics.csv came before it."""


def _name(mark: Mark) -> str:
    """Returns the name of the folder of what is overwritten after a checkpoint."""
    return f"{mark[0]}_{mark[1]}"


def _marks(folder: Path) -> list[Mark]:
    """Returns the checkpoints for which something was put aside."""
    found = (re.fullmatch(r"(\d+)_(\d+)", path.name) for path in folder.glob("*"))
    return [(int(one[1]), int(one[2])) for one in found if one]


def _remove(folder: Path) -> None:
    """Removes a folder, under another name, so that no part of it is ever taken for the whole."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder.rename(gone), ignore_errors=True)


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
        self._checkpoints: list[Mark] = []  # those that there are
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
        for m in self._better if self._checkpoints else ():
            aside = self._aside / _name(self._checkpoints[-1]) / str(self._program.members[m].number)
            if (at := self._at(m, "policy_best")).exists() and not aside.exists():
                shutil.copytree(at, aside.with_name(f"{aside.name}.tmp"), dirs_exist_ok=True).rename(aside)
        self._write("policy_best", self._better.items())
        self._better = {}

    def checkpointed(self, mark: Mark) -> None:
        """Notes a new checkpoint, and removes what was put aside for those that it replaces."""
        gone = self._checkpoints[: 1 - KEEP]
        self._checkpoints = [*self._checkpoints[len(gone) :], mark]
        for old in gone:
            _remove(self._aside / _name(old))

    def go_back(self, mark: Mark | None) -> None:
        """Puts back the best policies as they were at this checkpoint; without one, a run begins again, and they with it."""
        asides = sorted(_marks(self._aside), reverse=True)
        for later in (one for one in asides if mark and one >= mark):
            for m, member in enumerate(self._program.members):
                if (aside := self._aside / _name(later) / str(member.number)).exists():
                    read_policy(aside).save(self._at(m, "policy_best"))
        for later in (one for one in asides if not mark or one > mark):  # the latest first, should this be interrupted
            _remove(self._aside / _name(later))
        self._checkpoints = [*[one for one in reversed(asides) if mark and one < mark], *([mark] if mark else [])][-KEEP:]

    @property
    def _aside(self) -> Path:
        """The folder of what is overwritten after checkpoints."""
        return self._folder.path / ASIDE / f"program_{self._k}_process_{self._folder.processes.number}"

    def _at(self, m: int, kind: str) -> Path:
        """Returns the folder of a member's policy."""
        return self._folder.policy_of(self._program.members[m], self._total, kind)

    def _write(self, kind: str, actors: Iterable[tuple[int, Params]]) -> None:
        self._folder.check_held()
        for m, actor in actors:
            policy = make_policy(self._experiment, self._program.spec, actor)
            policy.save(self._at(m, kind))


def take_up(
    folder: RunFolder,
    program: Program,
    experiment: Experiment,
    *,
    k: int,
    total: int,
    rows: Sequence[dict[str, Any]],
    kept: Checkpoint | None,
) -> tuple[Policies, list[dict[str, Any]]]:
    """Returns the policies of a program as they were at its checkpoint, and the rows that `Policies.note` has yet to take.

    These are the rows of an evaluation that took place only because the run ended there; see `clock.is_regular`. The arguments
    are those of `Policies`, with all rows so far, and `kept`, the checkpoint, or None for a program that begins.
    """
    late = step_at(experiment, kept.iteration) if kept and not is_regular(experiment, kept.iteration) else math.inf
    policies = Policies(folder, program, experiment, k=k, total=total, rows=[row for row in rows if row["step"] < late])
    policies.go_back((kept.iteration, kept.rows or 0) if kept else None)
    return policies, [row for row in rows if row["step"] >= late]
