"""Defines when a run or its members stop early, as the command line and the manifest say, and reads where they stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ddpg_jax.app.processes import Processes
from ddpg_jax.errors import ConfigError
from ddpg_jax.running.groups import Group
from ddpg_jax.running.results import Stop
from ddpg_jax.running.stops import Pruning, Referee, Until

TIME_IS_UP = 0
"""Stands for the time limit among the numbers of signals."""


class Stopped(Exception):
    """A signal or the time limit stopped the run, after a checkpoint."""

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.status = 128 + number if number != TIME_IS_UP else 0


class Stopping(NamedTuple):
    """When a run, or members of it, stop before the end."""

    hours: float | None = None
    """Wall time of this command, after which the run stops with a checkpoint."""
    until: Until | None = None
    pruning: Pruning | None = None
    words: str = ""
    """The rungs as the user gave them; `none` if nothing is pruned any more, and pruned points go on at the end."""
    clock: Callable[[], float] = time.monotonic
    """Returns seconds; only differences count."""

    def record(self) -> dict[str, Any]:
        """Returns what a manifest says of it."""
        return {"until": self.until, "pruning": self.pruning, "prune": self.words if self.pruning else ""}

    def resumed(self, recorded: Mapping[str, Any]) -> Stopping:
        """Returns how a run goes on, given what its manifest says. What the user leaves out stays as it was.

        Raises:
            ConfigError: the user asks for something else.
        """
        until = Until(*recorded["until"]) if recorded.get("until") else None
        rungs, fraction = recorded.get("pruning") or ((), 0.0)
        pruning = Pruning(tuple(rungs), fraction) if rungs else None
        if self.until not in (None, until):
            raise ConfigError(
                f"until={_shown(self.until)} is not what this run was started with ({_shown(until)}); leave it out"
            )
        # The rungs of a longer run would be others; those of the run count, whatever its length.
        given = (self.words, self.pruning.fraction) if self.pruning else None
        there = (recorded.get("prune"), fraction) if pruning else None
        if given and given != there:
            raise ConfigError(
                f"prune={given[0]} with fraction {given[1]:g} is not what this run was started with "
                f"({f'{there[0]} with fraction {there[1]:g}' if there else 'no pruning'}); leave it out"
            )
        if self.words == "none":
            return self._replace(until=until)
        return self._replace(until=until, pruning=pruning, words=recorded.get("prune", ""))


def _shown(until: Until | None) -> str:
    return f"{until.threshold:g}:{until.evaluations}" if until else "none"


def make_referee(
    stopping: Stopping,
    groups: Sequence[Group],
    *,
    processes: Processes,
    rows: Sequence[dict[str, Any]],
    recorded: Mapping[str, Sequence[Any]],
) -> Referee | None:
    """Makes the referee of a run, or None if no member stops early.

    Args:
        stopping: when members stop.
        groups: what the run trains.
        processes: that train it.
        rows: of metrics.csv so far.
        recorded: where members have stopped, from the manifest. What is later than the rows will be decided again.
    """
    if stopping.until is None and stopping.pruning is None and not recorded:
        return None
    referee = Referee(groups, until=stopping.until, pruning=stopping.pruning, gather=processes.gather)
    present = {(row["member"], row["step"]) for row in rows}
    stops = {int(number): Stop(*stop) for number, stop in recorded.items()}
    referee.add(rows, [(number, stop) for number, stop in stops.items() if (number, stop.step) in present])
    return referee


def stops_of(manifest: Mapping[str, Any]) -> dict[int, Stop]:
    """Returns where the members of a run have stopped, and why, from its manifest."""
    return {int(number): Stop(*stop) for number, stop in manifest.get("stopped", {}).items()}
