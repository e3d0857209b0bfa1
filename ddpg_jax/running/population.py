"""Population based training (Jaderberg et al. 2017): the worst members go on from the best, with other hyperparameters.

Every decision is a pure function of the seed, the step and the rows of one evaluation. So decisions are the same wherever the
members train, and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import NUMBERS, STRUCTURE, SWITCHES, Experiment, coerce, configure
from ddpg_jax.experiment.grid import MAX_MEMBERS, Range, parse_ranges, random_points
from ddpg_jax.experiment.values import integer
from ddpg_jax.running.clock import evaluation_steps, learning_step, length, step_at, total_iterations
from ddpg_jax.running.groups import Group, make_groups
from ddpg_jax.running.members import Change, check_can_change
from ddpg_jax.running.rows import is_unknown, result_of

EXPLOITS = 20
"""The interval between two exploits is by default about the length of the run divided by this."""
REPLAYS = ("copy", "keep")


class Exploit(NamedTuple):
    """How the members of a population learn from each other."""

    every: int | None = None
    """Steps between two exploits, a multiple of the interval of the evaluations; by default about a twentieth of the run."""
    fraction: float = 0.2
    """Fraction of the members that are replaced, and of those that they are replaced by; at least one member."""
    perturb: tuple[float, float] = (0.8, 1.25)
    """A member that is replaced gets each of its parent's numbers multiplied by one of these, chosen at random."""
    resample: float = 0.0
    """Probability with which a number is drawn from its range instead."""
    replay: str = "copy"
    """`copy`: a member that is replaced goes on from all of the other one's state, its replay included (environments on the
    host stay its own). `keep`: it takes over networks, optimizers and running statistics, and keeps its own replay."""


class Population(NamedTuple):
    """A population, ready to decide."""

    seed: int
    ranges: Mapping[str, Range]
    """The fields that change, and within which limits."""
    exploit: Exploit
    """With all values given."""
    begin: int
    """The step at which learning begins; nobody is replaced before something has been learned."""
    asked: int | None = None
    """The interval between two exploits, if the user gave one."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[Change]:
        """Decides after an evaluation which members are replaced."""
        step = rows[0]["step"] if rows else 0
        if step <= self.begin or self.exploit.every is None or step % self.exploit.every:
            return []
        return replacements(rows, self.seed, self.ranges, exploit=self.exploit)

    def record(self) -> dict[str, Any]:
        """Returns what a manifest says of it."""
        return {"population": {**self.exploit._asdict(), "ranges": {name: list(r) for name, r in self.ranges.items()}}}


def replacements(rows: Sequence[dict[str, Any]], seed: int, ranges: Mapping[str, Range], *, exploit: Exploit) -> list[Change]:
    """Decides who is replaced: truncation selection, then exploration (Jaderberg et al. 2017, section 4.1).

    Members are ranked by the returns in their rows; of equal ones, the lowest number comes first. Each of the worst is replaced
    by one of the best, drawn uniformly, unless that one is no better. A member that has diverged ranks last, and is always
    replaced by the whole state of another one, because its own replay may be spoiled. If nothing is evaluated, a member without
    a finished episode is not compared.

    Args:
        rows: of one evaluation, with the hyperparameters of each member.
        seed: of the run.
        ranges: the fields that are explored.
        exploit: how.
    """
    known = [row for row in rows if not is_unknown(row)]
    results = {row["member"]: float(np.nan_to_num(result_of(row), nan=-math.inf)) for row in known}
    diverged = {row["member"] for row in rows if row["diverged_step"] != ""}
    ranked = sorted(results, key=lambda member: (member in diverged, -results[member], member))
    count = max(1, int(len(ranked) * exploit.fraction + 1e-9))
    best = [member for member in ranked[:count] if results[member] > -math.inf and member not in diverged]
    worst = [member for member in ranked if member in diverged or member in ranked[len(ranked) - count :]]
    by_member = {row["member"]: row for row in rows}
    changes = []
    for member in worst if best else []:
        step = by_member[member]["step"]
        generator = np.random.default_rng([seed, step, member])
        parent = best[int(generator.integers(len(best)))]
        values = {name: _explored(generator, own, by_member[parent][name], exploit=exploit) for name, own in ranges.items()}
        if results[parent] > results[member]:
            changes.append(Change(step, member, parent, values, "copy" if member in diverged else exploit.replay))
    return changes


def _explored(generator: np.random.Generator, own: Range, value: float, *, exploit: Exploit) -> float:
    """Returns the value that a member gets from its parent's: multiplied by a factor and clipped, or drawn from the range."""
    anew, factor = generator.random() < exploit.resample, exploit.perturb[int(generator.integers(2))]
    drawn = float(own.draw(generator, 1)[0])
    return drawn if anew else float(own.scaled(value, factor))


def make_population(
    count: Any, sample: Mapping[str, Any] | None, fields: Mapping[str, Any], *, exploit: Any = None
) -> tuple[list[Group], Population]:
    """Makes the members of a population, each at a random point with a seed of its own, and what decides about them.

    Args:
        count: the number of members.
        sample: maps fields of `Hyperparams` to ranges, `log:LOW:HIGH` or `uniform:LOW:HIGH`.
        fields: the fields that all share.
        exploit: an `Exploit`, the values that differ from its defaults as a dict, or as text: `every=2000,fraction=0.25`.

    Raises:
        ConfigError: something is not allowed.

    >>> groups, _ = make_population(2, {"tau": "log:0.001:0.1"}, {"env": "Pendulum-v1"})
    >>> [member.seed for member in groups[0].members]
    [0, 1]
    """
    count = integer("population", count, low=2, high=MAX_MEMBERS)
    if not sample:
        raise ConfigError(f"population={count} needs sample, the ranges of the fields that it explores")
    for name in sample:
        if name not in NUMBERS:
            coerce(name, STRUCTURE.get(name))  # says so if it is no field
            raise ConfigError(
                f"{name} cannot be in a population, since it changes the program; sample numbers such as critic_lr"
            )
    check_can_change(sample, "population")
    ranges = parse_ranges(sample)
    seed = coerce("seed", fields.get("seed", 0))
    for end in ("low", "high"):  # explored numbers may all get there
        configure({**fields, **{name: getattr(own, end) for name, own in ranges.items()}})
    points = random_points({name: str(text) for name, text in sample.items()}, count, seed=seed)
    if len(points) < count:
        raise ConfigError(f"population={count} has only {len(points)} different points in these ranges; widen them or lower it")
    groups = make_groups(points, 1, fields)
    if len(groups) > 1:
        off = ", ".join(f"{name}={SWITCHES[name]:g}" for name in ranges if name in SWITCHES)
        raise ConfigError(f"a population is one program, and {off} switches a part off; choose a range without this value")
    experiment, members = groups[0]
    own = [member._replace(seed=coerce("seed", member.seed + member.number)) for member in members]
    begin = learning_step(experiment)
    chosen = make_exploit(exploit, experiment)
    plan = Population(experiment.seed, ranges, chosen, begin, chosen.every if _values(exploit).get("every") else None)
    return [Group(experiment, own)], plan


def check_alone(name: str, value: Any, others: Mapping[str, Any]) -> None:
    """Checks that nothing is given that cannot be combined with a population or a schedule.

    Args:
        name: `population` or `schedule`.
        value: its value, which the message shows unless it is empty.
        others: what cannot be combined with it, with their values, None if they are not given.

    Raises:
        ConfigError: something of it is given.
    """
    other = next((other for other, given in others.items() if given is not None), None)
    if other is not None:
        said = f"{name}={value}" if value != "" else name
        raise ConfigError(f"{said} cannot be combined with {other}; give one of them")


def check_together(part: Group, group: Group, close: Callable[[], None]) -> None:
    """Checks that all members of a population fit in memory together; calls `close` if they do not.

    Raises:
        ConfigError: they do not.
    """
    if len(part.members) < len(group.members):
        close()
        raise ConfigError(
            f"population={len(group.members)} does not fit in memory, where only {len(part.members)} members fit; lower "
            "population, replay_capacity or batch_size"
        )


def make_exploit(given: Any, experiment: Experiment) -> Exploit:
    """Reads how the members of a population learn from each other; see `make_population`.

    Raises:
        ConfigError: a value is not allowed.
    """
    words = _values(given)
    unknown = next((name for name in words if name not in Exploit._fields), None)
    if unknown is not None:
        raise ConfigError(f"exploit: {unknown} is not one of its settings, which are {', '.join(Exploit._fields)}")
    fraction = _number("fraction", words.get("fraction", Exploit().fraction), "above 0 and at most 0.5")
    resample = _number("resample", words.get("resample", Exploit().resample), "from 0 to 1")
    if not 0 < fraction <= 0.5:
        raise ConfigError(f"exploit: fraction={fraction:g} is not allowed; it must be above 0 and at most 0.5")
    if not 0 <= resample <= 1:
        raise ConfigError(f"exploit: resample={resample:g} is not allowed; it must be from 0 to 1")
    replay = words.get("replay", Exploit().replay)
    if replay not in REPLAYS:
        raise ConfigError(f"exploit: replay={replay} is not allowed; it must be {' or '.join(REPLAYS)}")
    perturb = _factors(words.get("perturb", Exploit().perturb))
    return Exploit(_every(words.get("every"), experiment), fraction, perturb, resample, replay)


def _values(given: Any) -> dict[str, Any]:
    """Returns the values of an exploit that are given."""
    if isinstance(given, Exploit):
        return given._asdict()
    if isinstance(given, Mapping):
        return dict(given)
    parts = [part.partition("=") for part in str(given or "").split(",") if part]
    if not all(equals and value for _, equals, value in parts) or len({name for name, *_ in parts}) < len(parts):
        raise ConfigError(f"exploit={given} is not allowed; it must be like every=2000,fraction=0.2, with each name once")
    return {name.strip(): value.strip() for name, _, value in parts}


def _number(name: str, value: Any, allowed: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"exploit: {name}={value} is not allowed; it must be a number {allowed}") from None


def _factors(value: Any) -> tuple[float, float]:
    """Reads two factors, `0.8:1.25` or a pair."""
    parts = str(value).split(":") if not isinstance(value, tuple | list) else value
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 < low <= high < math.inf:
        shown = ":".join(map(str, parts))
        raise ConfigError(f"exploit: perturb={shown} is not allowed; it must be two positive factors, such as 0.8:1.25")
    return low, high


def _every(value: Any, experiment: Experiment) -> int:
    """Reads the steps between two exploits, and checks that at least one exploit takes place."""
    each = evaluation_steps(experiment)
    default = max(1, int(length(experiment) / EXPLOITS / each + 0.5)) * each
    every = default if value is None else integer("every", value, low=1)
    if every % each:
        raise ConfigError(
            f"exploit: every={every} is not allowed; it must be a multiple of {each}, the steps between two evaluations "
            f"(eval_every={experiment.eval_every})"
        )
    last, begin = step_at(experiment, total_iterations(experiment)), learning_step(experiment)
    if (begin // every + 1) * every >= last:
        raise ConfigError(
            f"exploit: every={every} leaves no exploit between the warm-up and the last evaluation "
            f"(warmup_steps={experiment.warmup_steps}, steps={length(experiment)}); lower it or eval_every"
        )
    return every
