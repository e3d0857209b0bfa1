"""Holds the result of a sweep: `Sweep`."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.grid import Point
from ddpg_jax.running.intervals import interval, iqm, ranking_score
from ddpg_jax.running.members import Change, Stage, ancestry
from ddpg_jax.running.rows import measurement, result_of


def plural(count: int, noun: str) -> str:
    """Formats a count with its noun, as in `1 seed` or `2 seeds`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


class Stop(NamedTuple):
    """Where a member was stopped, and why."""

    step: int
    reason: str
    """`until` or `prune`."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep: H points, S seeds."""

    points: list[Point]
    """The points, length H, in the order in which they were given."""
    seeds: list[int]
    """The seeds, length S. For a population, only that of member 0; member h has this seed plus h."""
    rows: list[dict[str, Any]]
    """One row for each member and evaluation, with the columns of metrics.csv."""
    policies: list[Any]
    """The policy of point h and seed s at index `h * S + s`, callable with observations."""
    stops: dict[int, Stop] = dataclasses.field(default_factory=dict)
    """Where and why members were stopped, for those that `until` or `prune` has stopped. They have no rows after that."""
    changes: list[Change] = dataclasses.field(default_factory=list)
    """For a population: the hyperparameters of every member, as changes; the first ones are at step 0."""

    def __repr__(self) -> str:
        return f"<Sweep of {plural(len(self.points), 'point')} x {plural(len(self.seeds), 'seed')}>"

    @property
    def returns(self) -> np.ndarray:
        """Mean returns without noise, `[H, S, evaluations]`; NaN after the last evaluation of a member."""
        return self._table(result_of)

    def column(self, name: str) -> np.ndarray:
        """Returns a measurement other than the return: a column of metrics.csv such as `q_mean`, `[H, S, evaluations]`.

        Raises:
            ConfigError: there is no such measurement.
        """
        return self._table(measurement(name, self.rows[0], "this sweep"))

    @property
    def steps(self) -> np.ndarray:
        """The step of each evaluation, `[H, S, evaluations]`."""
        return self._table(lambda row: row["step"])

    @property
    def final(self) -> np.ndarray:
        """The last return of each member, `[H, S]`; NaN if it has diverged."""
        last = {row["member"]: result_of(row) for row in self.rows}
        return np.array([last[m] for m in range(len(last))]).reshape(len(self.points), len(self.seeds))

    def best(self, env: str | None = None) -> dict[str, Any]:
        """Finds the point with the highest IQM of the final returns: its fields, the IQM, its interval, and its index.

        Points that were pruned are left out. If every point has members that have diverged, the IQM is NaN. In a sweep over
        environments, `env` names the one whose points are compared.

        The best of many points is partly the luckiest: train it again with other seeds to see how good it is. The fields of a
        population's member are those that it has at the end; `schedule` returns those that it had before.

        Raises:
            ConfigError: `env` is missing, or is not one of the sweep's.
        """
        each = len(self.seeds)
        pruned = {m // each for m, stop in self.stops.items() if stop.reason == "prune"}
        scores = ranking_score(self.final)
        h = max((h for h in self._points_of(env) if h not in pruned), key=lambda h: scores[h])
        low, high = interval(self.final[h])
        point = {**self.points[h], **(self.schedule(h)[-1].values if self.changes else {})}
        return {**point, "iqm": float(iqm(self.final[h])), "interval": (float(low), float(high)), "point": h}

    def _points_of(self, env: str | None) -> list[int]:
        """Returns the indices of the points that are compared."""
        envs = [point.get("env") for point in self.points]
        if (env is None and len(set(envs)) > 1) or (env is not None and env not in envs):
            raise ConfigError(f"env={env} is not allowed; it must be one of {', '.join(map(str, dict.fromkeys(envs)))}")
        return [h for h, own in enumerate(envs) if env is None or own == env]

    def schedule(self, member: int | None = None) -> list[Stage]:
        """Returns the hyperparameters that led to the last state of a population's member, by default of the best one.

        `sweep(..., schedule=...)` trains with them again.
        """
        return ancestry(self.changes, self.best()["point"] if member is None else member)

    def to_csv(self, path: str | Path) -> None:
        """Writes the rows to a CSV file."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def _table(self, value_of: Callable[[dict[str, Any]], float]) -> np.ndarray:
        curves: dict[int, list[float]] = {}
        for row in self.rows:
            curves.setdefault(row["member"], []).append(value_of(row))
        longest = max(map(len, curves.values()))
        padded = [curves[m] + [math.nan] * (longest - len(curves[m])) for m in range(len(curves))]
        return np.array(padded, np.float64).reshape(len(self.points), len(self.seeds), longest)
