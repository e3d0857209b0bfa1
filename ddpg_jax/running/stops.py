"""Decides which members stop early: those that have reached a return, and the worst points at each rung of a sweep.

All decisions are taken from rows of metrics.csv, so they are the same wherever the members train, and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.experiment.values import to_python
from ddpg_jax.running.blocks import Judge
from ddpg_jax.running.clock import evaluation_steps, learning_step, length, step_at, total_iterations
from ddpg_jax.running.groups import Group
from ddpg_jax.running.intervals import ranking_score
from ddpg_jax.running.members import Member, index_of
from ddpg_jax.running.results import Stop
from ddpg_jax.running.rows import is_unknown, result_of

FRACTION = 0.5
"""Fraction of the points that stops at a rung by default: successive halving."""
MAX_RUNGS = 20
"""Upper bound on the number of rungs."""

PointKey = tuple[Any, ...]
"""The environment of a point, and its swept fields."""


class Until(NamedTuple):
    """The return at which a member counts as solved, and how many consecutive evaluations must reach it."""

    threshold: float
    evaluations: int = 1


class Pruning(NamedTuple):
    """Successive halving: at each rung, the worst fraction of the points stops.

    The points of a program reach a rung together. If there are several programs, the points of a later one are ranked
    together with those that reached the rung before, as in asynchronous successive halving (Li et al. 2020, ASHA). Points are
    ranked within each environment, by the IQM of their returns over the seeds.
    """

    rungs: tuple[int, ...]
    """Steps, in ascending order. A rung takes effect at the first evaluation from its step on."""
    fraction: float = FRACTION


def parse_until(value: Any) -> Until | None:
    """Reads a return, or a return and a number of consecutive evaluations: `-200`, `(-200, 3)` or `"-200:3"`; None stays None.

    Raises:
        ConfigError: it is none of these.

    >>> parse_until("-200:3")
    Until(threshold=-200.0, evaluations=3)
    """
    value = to_python(value)
    if value is None:
        return None
    parts = str(value).split(":") if isinstance(value, str | int | float) else list(value) if _is_pair(value) else []
    try:
        threshold, count = float(parts[0]), float(parts[1] if len(parts) > 1 else 1)
    except (ValueError, TypeError, IndexError):
        threshold = count = math.nan
    if isinstance(value, bool) or len(parts) > 2 or not math.isfinite(threshold) or count < 1 or count % 1:
        raise ConfigError(
            f"until={value} is not allowed; it must be a return, such as -200, or a return and a number of consecutive "
            "evaluations, such as -200:3"
        )
    return Until(threshold, int(count))


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) in (1, 2)


def make_pruning(rungs: Any, fraction: Any, groups: Sequence[Group]) -> Pruning:
    """Reads the rungs of a sweep, and checks that points can stop at each of them.

    Args:
        rungs: a number of rungs, or their steps: `3`, `[2000, 4000]`, `"3"` or `"2000,4000"`. A number n places the k-th at
            `steps * (1 - fraction) ** (n + 1 - k)`, so that the stages between them cost about the same.
        fraction: the fraction of points that stops at each rung; None for `FRACTION`.
        groups: what the sweep trains.

    Raises:
        ConfigError: the rungs or the fraction are not allowed, or there are fewer than two points to compare.
    """
    share = _fraction(FRACTION if fraction is None else fraction)
    points: dict[str, set[PointKey]] = {}
    for group in groups:
        own = {member.swept for member in group.members}
        points.setdefault(group.experiment.env, set()).update(own)
    for env, own in points.items():
        if len(own) < 2:
            raise ConfigError(f"prune={_shown(rungs)} needs at least two points on env={env} to compare; sweep a field")
    first = groups[0].experiment
    steps = _steps(rungs, share, length(first))
    for group in groups:
        _check_rungs(rungs, steps, group.experiment)
    return Pruning(steps, share)


def _fraction(value: Any) -> float:
    try:
        share = float(value)
    except (ValueError, TypeError):
        share = math.nan
    if not 0 < share < 1:
        raise ConfigError(f"prune_fraction={value} is not allowed; it must be a number above 0 and below 1")
    return share


def _shown(rungs: Any) -> str:
    return ",".join(map(str, rungs)) if isinstance(rungs, list | tuple) else str(rungs)


def _steps(rungs: Any, share: float, total: int) -> tuple[int, ...]:
    """Returns the steps of the rungs, in ascending order."""
    wrong = ConfigError(
        f"prune={_shown(rungs)} is not allowed; it must be a number of rungs from 1 to {MAX_RUNGS}, or their steps in "
        "ascending order, such as 2000,4000 (a single one with a comma: 2000,)"
    )
    words = [word for word in rungs.split(",") if word] if isinstance(rungs, str) else rungs
    single = not isinstance(words, Iterable) or (isinstance(rungs, str) and "," not in rungs)
    try:
        numbers = [int(str(word)) for word in ([words] if not isinstance(words, Iterable) else words)]
    except ValueError:
        raise wrong from None
    if not numbers or min(numbers) < 1 or (single and numbers[0] > MAX_RUNGS) or sorted(set(numbers)) != numbers:
        raise wrong
    count = numbers[0]
    return tuple(int(total * (1 - share) ** k) for k in range(count, 0, -1)) if single else tuple(numbers)


def _check_rungs(rungs: Any, steps: Sequence[int], experiment: Experiment) -> None:
    """Raises ConfigError unless each rung has an evaluation of its own, after the warm-up and before the end."""
    x, at = experiment, rung_evaluations(experiment, steps)
    last = step_at(x, total_iterations(x))
    learning = learning_step(x)
    for step, evaluation in zip(steps, at, strict=True):
        where = f"prune={_shown(rungs)} has a rung at step {step:,}, "
        if evaluation >= last:
            raise ConfigError(
                f"{where}which takes effect at the last evaluation or after it; give earlier ones (steps={length(x)})"
            )
        if evaluation <= learning:
            raise ConfigError(
                f"{where}before anything is learned (warmup_steps={x.warmup_steps}); give later ones, or fewer of them"
            )
    if len(set(at)) < len(at):
        raise ConfigError(
            f"prune={_shown(rungs)} has rungs at the steps {', '.join(map(str, steps))}, of which two share an evaluation "
            f"(eval_every={x.eval_every}); lower eval_every, or give fewer rungs"
        )


def rung_evaluations(experiment: Experiment, steps: Sequence[int]) -> list[int]:
    """Returns the step of the evaluation at which each rung takes effect.

    >>> rung_evaluations(Experiment(eval_every=1_000), [1, 1_000, 1_500])
    [1000, 1000, 2000]
    """
    each = evaluation_steps(experiment)
    return [-(-step // each) * each for step in steps]


class Referee:
    """Knows the results of a run so far, and decides after each evaluation which members stop.

    Args:
        groups: what the run trains, in this order.
        until: at which return a member stops.
        pruning: at which steps points stop.
        gather: as in `run_blocks`.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        until: Until | None = None,
        pruning: Pruning | None = None,
        gather: Callable[[Any], list[Any]] = lambda message: [message],
    ):
        self._until, self._gather = until, gather
        self._fraction = pruning.fraction if pruning else FRACTION
        self._results: dict[int, dict[int, float]] = {}
        self._rungs: dict[PointKey, list[int]] = {}
        self._members: dict[PointKey, list[int]] = {}
        self._point_of: dict[int, PointKey] = {}
        order: dict[PointKey, int] = {}
        for group in groups:
            at = rung_evaluations(group.experiment, pruning.rungs) if pruning else []
            for member in group.members:
                point = (group.experiment.env, *member.swept)
                self._rungs[point] = at
                self._members.setdefault(point, []).append(member.number)
                self._point_of[member.number] = point
                order.setdefault(point, member.number)
        self._order = order
        self.stops: dict[int, Stop] = {}
        """Member -> where it was stopped; of all processes."""

    def add(self, rows: Iterable[dict[str, Any]], stops: Iterable[tuple[int, Stop]] = ()) -> None:
        """Takes in the rows and stops of a run that is resumed."""
        for row in rows:
            if not is_unknown(row):
                self._results.setdefault(row["member"], {})[row["step"]] = result_of(row)
        self.stops.update(stops)

    def judge(self, members: Sequence[Member]) -> Judge:
        """Makes the judge of a program that trains these members, or of this process's share of them.

        All processes must call it after the same evaluations.
        """
        index = index_of(members)

        def judge(rows: list[dict[str, Any]], state: Any) -> Iterable[int]:
            del state
            found = [[row["member"], row["step"], result_of(row)] for row in rows if not is_unknown(row)]
            found = [one for each in self._gather(found) for one in each]
            for number, step, result in found:
                self._results.setdefault(number, {})[step] = math.nan if result is None else result
            step = max((step for _, step, _ in found), default=0)
            new = {number: Stop(step, "until") for number, *_ in found if self._solved(number)}
            for number in self._worst({self._point_of[number] for number, *_ in found}, step):
                new.setdefault(number, Stop(step, "prune"))
            new = {number: stop for number, stop in new.items() if number not in self.stops}
            self.stops |= new
            return [index[number] for number in new if number in index]

        return judge

    def _solved(self, member: int) -> bool:
        """Returns True if the last evaluations of a member have all reached the return."""
        if self._until is None:
            return False
        last = list(self._results.get(member, {}).values())[-self._until.evaluations :]
        return len(last) == self._until.evaluations and all(result >= self._until.threshold for result in last)

    def _worst(self, arrived: set[PointKey], step: int) -> list[int]:
        """Returns the members of those points that have arrived at a rung at this step and are too far down in the ranking."""
        worst: list[int] = []
        for env in sorted({point[0] for point in arrived}):
            own = {point for point in arrived if point[0] == env and step in self._rungs[point]}
            if not own:
                continue
            rung = self._rungs[next(iter(own))].index(step)
            ranked = sorted(
                (point for point in self._order if point[0] == env and self._has_reached(point, rung)),
                key=lambda point: (-self._score(point, rung), self._order[point]),
            )
            count = int(len(ranked) * self._fraction + 1e-9)
            members = [m for point in ranked[len(ranked) - count :] if point in own for m in self._members[point]]
            worst += [m for m in members if step in self._results.get(m, {})]  # the others are in programs that come later
        return worst

    def _has_reached(self, point: PointKey, rung: int) -> bool:
        """Returns True if a point has come to a rung, or was solved before it."""
        members = self._members[point]
        stops = [self.stops.get(m) for m in members]
        solved = all(stop is not None and stop.reason == "until" for stop in stops)
        return solved or any(self._rungs[point][rung] in self._results.get(m, {}) for m in members)

    def _score(self, point: PointKey, rung: int) -> float:
        """Returns the IQM over the seeds of a point at a rung; a seed that has stopped keeps its last return."""
        at = self._rungs[point][rung]
        reached = [[r for step, r in self._results.get(m, {}).items() if step <= at] for m in self._members[point]]
        return float(ranking_score([results[-1] for results in reached if results] or [math.nan]))
