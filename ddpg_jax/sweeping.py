"""Seeds x hyperparameter points: which members there are, which of them train in one program, and what comes of it.

Fields of `Hyperparams` are traced: all their values, and all seeds, train in ONE program. Fields of `Experiment` change the
program: points are grouped by them, one program for each group. Seeds are the same at every point, so comparisons are paired.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax import reading
from ddpg_jax.experiment import READ_BY, WHOLE, Experiment, coerce, configure, env_options
from ddpg_jax.placement import memory_limit
from ddpg_jax.program import Member, Program, bytes_of
from ddpg_jax.statistics import interval, iqm, standing
from ddpg_jax.types import ConfigError

Point = dict[str, Any]

HEADROOM = 0.9  # of the memory limit
MOST_MEMBERS = 1_000_000  # more is a slip of the keyboard, and a list of them does not fit in memory


class Leg(NamedTuple):
    """Members that train in one program."""

    experiment: Experiment
    members: list[Member]


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All combinations, the last field changing fastest.

    Raises:
        ConfigError: an unknown field, no values, one that is there twice, or one that is not allowed.

    >>> grid_points({"tau": [0.1, 0.2], "gamma": [0.9]})
    [{'tau': 0.1, 'gamma': 0.9}, {'tau': 0.2, 'gamma': 0.9}]
    """
    if not isinstance(grid, Mapping):
        raise ConfigError(f"grid={grid!r} is not allowed; it must map names of fields to lists of values")
    grid = {name: reading.unboxed(values) for name, values in grid.items()}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            coerce(name, values) if isinstance(values, str) else None
            raise ConfigError(f"grid: {name}={values!r} is not allowed; it must be a list of at least one value")
    columns = {name: [coerce(name, value) for value in values] for name, values in grid.items()}
    for name, values in columns.items():
        twice = next((value for h, value in enumerate(values) if value in values[:h]), None)
        if twice is not None:  # equal points would pass for more seeds
            hint = "; the sizes of one network are joined by dashes, 256-256" if name == "hidden" else ""
            raise ConfigError(f"grid: {name}={plain(twice)} is there twice; it must be there once{hint}")
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


def random_points(ranges: Mapping[str, str], count: int, seed: int = 0) -> list[Point]:
    """Points drawn from `log:LOW:HIGH` or `uniform:LOW:HIGH` for each field, the same for the same seed.

    Of whole numbers one point may be drawn twice. It is given once, as equal points would pass for more seeds.

    Raises:
        ConfigError: an unknown field or a range that is not allowed.

    >>> [sorted(point) for point in random_points({"tau": "log:1e-3:1e-1"}, count=2)]
    [['tau'], ['tau']]
    """
    count = reading.integer("points", count, 1, MOST_MEMBERS)
    generator = np.random.default_rng(seed)
    columns = {}
    for name, text in ranges.items():
        kind, *ends = str(text).split(":")
        if kind not in ("log", "uniform") or len(ends) != 2:
            raise ConfigError(f"sample: {name}={text} is not allowed; it must be log:LOW:HIGH or uniform:LOW:HIGH")
        low, high = (coerce(name, end) for end in ends)
        if isinstance(low, bool) or not isinstance(low, int | float) or not low < high or (kind == "log" and low <= 0):
            raise ConfigError(f"sample: {name}={text} is not allowed; it must be two numbers, the first lower, above 0 for log")
        whole = isinstance(low, int) or name in WHOLE
        end = high + 1 if whole else high  # rounded down, so that both ends are as likely as what is between them
        drawn = generator.uniform(*((math.log(low), math.log(end)) if kind == "log" else (low, end)), size=count)
        values = np.exp(drawn) if kind == "log" else drawn
        columns[name] = [type(low)(math.floor(x) if whole else x) for x in np.clip(values, low, high).tolist()]
    distinct = dict.fromkeys(zip(*columns.values(), strict=True))
    return [dict(zip(columns, values, strict=True)) for values in distinct]


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """`["tau=0.01,0.02", ...]` as a grid.

    Raises:
        ConfigError: not of that form, or a field twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name in grid:
            raise ConfigError(f"grid={text} is not allowed; it must be FIELD=V1,V2,... with every field once")
        apart = re.split(r",(?![^(\[]*[)\]])", values)  # not at the commas of (8,8),(16,16)
        grid[name] = [value.strip() for value in apart if value.strip()]
        if not grid[name]:
            raise ConfigError(f"grid={text} is not allowed; {name} needs at least one value")
    return grid


def make_legs(points: Sequence[Point], seeds: int, fields: Mapping[str, Any]) -> list[Leg]:
    """The programs of a sweep. Member `h * S + s` is point h with the s-th seed, counted from the field `seed`.

    Args:
        points: fields that differ, H of them; `[{}]` for seeds alone.
        seeds: `S`.
        fields: what all points have in common, where they do not say otherwise.

    Raises:
        ConfigError: a point that cannot be trained, no points, or no seeds.
    """
    seeds = reading.integer("seeds", seeds, 1)
    if not points:
        raise ConfigError("points=[] is not allowed; there must be at least one point")
    if len(points) * seeds > MOST_MEMBERS:
        raise ConfigError(f"seeds={seeds} of {len(points)} points are too many members; at most {MOST_MEMBERS:,} are allowed")
    names = list(dict.fromkeys(name for point in points for name in point))
    if "diagnostics" in names:
        raise ConfigError("diagnostics cannot be swept, since it adds columns to the results; give it once, for all points")
    if "seed" in names:
        raise ConfigError("seed cannot be swept as a field; it is varied by seeds=N, which starts at seed")
    groups: dict[Experiment, list[Member]] = {}
    for h, point in enumerate(points):
        if set(point) != set(names):
            raise ConfigError(f"points[{h}]={point} is not allowed; all must have the same fields, {', '.join(names)}")
        point = {name: coerce(name, point[name]) for name in names}
        experiment, hyper = configure({**fields, **point})
        for s in range(seeds):
            member = Member(
                experiment.seed + s, hyper, h * seeds + s, tuple((name, plain(value)) for name, value in point.items())
            )
            groups.setdefault(experiment, []).append(member)
    for name in names:
        if name in READ_BY and not any(READ_BY[name](experiment) for experiment in groups):
            raise ConfigError(f"{name} cannot be swept, since nothing reads it with these fields; leave it out")
    return [Leg(experiment, members) for experiment, members in groups.items()]


def plain(value: Any) -> Any:
    """A field's value as it stands in a table: sizes as 256-256, names with commas. One size alone is a number."""
    if not isinstance(value, tuple):
        return value
    if len(value) == 1 and isinstance(value[0], int):
        return value[0]
    return ",".join(value) if all(isinstance(part, str) for part in value) else "-".join(map(str, value))


def in_memory(
    leg: Leg,
    make: Callable[[Experiment, list[Member]], Program],
    agree: Callable[[int], int] = int,
    neighbours: int = 1,
    copies: int = 0,
) -> Iterator[tuple[Leg, Program]]:
    """The leg and its program; or, where its members do not fit in memory together, several legs that do, one after another.

    Args:
        leg: members of one structure.
        make: `(experiment, members) -> program`, of this process's share of the members.
        agree: `(fit) -> fit`, from how many members fit in this process to how many fit in all processes together.
        neighbours: how many processes share the memory.
        copies: how often the state of all members must fit beside the program, as for a checkpoint.

    Raises:
        ConfigError: not even one member a device fits.
    """
    program = make(leg.experiment, leg.members)
    try:
        fit = agree(_fitting(leg, program, memory_limit(len(program.placement.devices)) * HEADROOM / neighbours, copies))
    except BaseException:
        program.close()
        raise
    if fit >= len(leg.members):
        yield leg, program
        return
    program.close()
    for first in range(0, len(leg.members), fit):
        part = Leg(leg.experiment, leg.members[first : first + fit])
        yield part, make(part.experiment, part.members)


def check_legs(
    legs: Sequence[Leg], make: Callable[[Experiment, list[Member]], Program], neighbours: int = 1, copies: int = 0
) -> None:
    """Makes a member of every leg that asks for another environment than the first, for other things of it, or for another
    amount of memory, and compiles nothing: what will not do says so before any has trained.

    Args:
        legs: all of a sweep.
        make: `(experiment, members) -> program`.
        neighbours: as in `in_memory`.
        copies: as in `in_memory`.

    Raises:
        ConfigError: see `make_program`; or not even one member a device fits.
    """

    def asked(leg: Leg) -> tuple[Any, ...]:
        x = leg.experiment
        return (
            x.env,
            x.backend,
            env_options(x),
            x.hindsight,
            x.replay,
            x.replay_capacity,
            x.exploration,
            x.hidden,
            x.num_envs,
            x.num_critics,
            x.batch_size,
            x.eval_episodes,
        )

    known = {asked(legs[0])}
    for leg in legs[1:]:
        if asked(leg) not in known:
            known.add(asked(leg))
            devices = min(len(leg.members), jax.local_device_count())
            one = Leg(leg.experiment, leg.members[:1])
            program = make(*one)
            try:
                _fitting(one, program, memory_limit(devices) * HEADROOM / neighbours, copies)
            finally:
                program.close()


def _fitting(leg: Leg, program: Program, limit: float, copies: int) -> int:
    """How many members fit in so many bytes a device at once; all of the leg, if the program does."""
    alone = len(leg.members) == 1  # then there is nothing to divide, and the least that it needs is known without the compiler
    devices, x = len(program.placement.devices), leg.experiment
    held = bytes_of(program.shapes()) / devices
    activations = 4 * max(x.batch_size * sum(x.hidden), x.eval_episodes * max(x.hidden))  # to learn from them all are kept
    need = held + activations if alone else program.memory()
    if need + copies * held <= limit:
        return len(leg.members)
    each = (need + copies * held) / (program.placement.slots / devices)
    least, shared = each, 0.0
    if program.placement.kind != "vmap":  # members that take turns share what is needed beside their states, about
        each = (1 + copies) * held / (program.placement.slots / devices)
        least, shared = each + activations, need - held
    if least > limit:
        raise ConfigError(
            f"a member with replay_capacity={x.replay_capacity}, batch_size={x.batch_size}, hidden={plain(x.hidden)} and "
            f"eval_episodes={x.eval_episodes} takes {least / 2**20:,.0f} MiB, and a device has {limit / 2**20:,.0f} MiB: "
            "0 fit; lower one of them"
        )
    return max(int((limit - shared) / each), 1) * devices


def describe(leg: Leg, program: Program) -> str:
    """What is about to be launched, in one line."""
    members, placement = len(leg.members), program.placement
    devices = len(placement.devices)
    need = program.memory()
    each = need * devices / placement.slots
    points = len({member.swept for member in leg.members})
    seeds = len({member.seed for member in leg.members})
    return (
        f"{_several(members, 'member')} ({_several(points, 'point')} x {_several(seeds, 'seed')}) in one program, "
        f"{placement.kind} over {_several(devices, 'device')}; {each / 2**20:,.1f} MiB a member, "
        f"{need / 2**20:,.0f} MiB a device"
    )


def _several(count: int, what: str) -> str:
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
        return f"<Sweep of {_several(len(self.points), 'point')} x {_several(len(self.seeds), 'seed')}>"

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
