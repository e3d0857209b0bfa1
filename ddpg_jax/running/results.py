"""What comes of a sweep."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax.experiment.grid import Point
from ddpg_jax.running.intervals import interval, iqm, standing


def several(count: int, what: str) -> str:
    """A count with its word, as in `1 seed` or `2 seeds`."""
    return f"{count} {what}{'s' if count != 1 else ''}"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep: H points, S seeds."""

    points: list[Point]
    """Length H, in the order asked."""
    seeds: list[int]
    """Length S."""
    rows: list[dict[str, Any]]
    """One for each member and evaluation, with the columns of metrics.csv."""
    policies: list[Any]
    """`policies[h * S + s]`, callable with observations."""

    def __repr__(self) -> str:
        return f"<Sweep of {several(len(self.points), 'point')} x {several(len(self.seeds), 'seed')}>"

    @property
    def returns(self) -> np.ndarray:
        """`[H, S, evaluations]`, mean returns without noise; NaN behind the end of points that have fewer evaluations."""
        return self._table("eval_return_mean")

    @property
    def steps(self) -> np.ndarray:
        """`[H, S, evaluations]`, the step of each evaluation."""
        return self._table("step")

    @property
    def final(self) -> np.ndarray:
        """`[H, S]`, the last return of each member; NaN where it has diverged."""
        last = {row["member"]: row["eval_return_mean"] for row in self.rows}
        return np.array([last[m] for m in range(len(last))]).reshape(len(self.points), len(self.seeds))

    def best(self) -> dict[str, Any]:
        """The point with the highest IQM of the final returns: its fields, the IQM, its interval, and where it is.

        Where each point has members that have diverged, the IQM is NaN.

        The best of many is partly the luckiest: for what it is worth, train it again with other seeds.
        """
        h = int(np.argmax(standing(self.final)))
        low, high = interval(self.final[h])
        return {**self.points[h], "iqm": float(iqm(self.final[h])), "interval": (float(low), float(high)), "point": h}

    def to_csv(self, path: str | Path) -> None:
        """Writes the rows."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def _table(self, column: str) -> np.ndarray:
        curves: dict[int, list[float]] = {}
        for row in self.rows:
            curves.setdefault(row["member"], []).append(row[column])
        longest = max(map(len, curves.values()))
        padded = [curves[m] + [math.nan] * (longest - len(curves[m])) for m in range(len(curves))]
        return np.array(padded, np.float64).reshape(len(self.points), len(self.seeds), longest)
