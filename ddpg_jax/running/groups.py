"""Seeds x hyperparameter points: which members there are, which of them train in one program, and what comes of it.

Fields of `Hyperparams` are traced: all their values, and all seeds, train in ONE program. Fields of `Experiment` change the
program: points are grouped by them, one program for each group. Seeds are the same at every point, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.build import env_options
from ddpg_jax.experiment.experiment import Experiment, coerce, configure, reads
from ddpg_jax.experiment.grid import MOST_MEMBERS, Point
from ddpg_jax.experiment.values import integer, plain
from ddpg_jax.running.hardware import memory_limit
from ddpg_jax.running.program import Member, Program, bytes_of
from ddpg_jax.running.results import several

HEADROOM = 0.9  # of the memory limit


class Leg(NamedTuple):
    """Members that train in one program."""

    experiment: Experiment
    members: list[Member]


def make_legs(points: Sequence[Point], seeds: int, fields: Mapping[str, Any]) -> list[Leg]:
    """The programs of a sweep. Member `h * S + s` is point h with the s-th seed, counted from the field `seed`.

    Args:
        points: fields that differ, H of them; `[{}]` for seeds alone.
        seeds: `S`.
        fields: what all points have in common, where they do not say otherwise.

    Raises:
        ConfigError: a point that cannot be trained, no points, or no seeds.
    """
    seeds = integer("seeds", seeds, low=1)
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
        if not any(reads(experiment, name) for experiment in groups):
            raise ConfigError(f"{name} cannot be swept, since nothing reads it with these fields; leave it out")
    return [Leg(experiment, members) for experiment, members in groups.items()]


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
        f"{several(members, 'member')} ({several(points, 'point')} x {several(seeds, 'seed')}) in one program, "
        f"{placement.kind} over {several(devices, 'device')}; {each / 2**20:,.1f} MiB a member, "
        f"{need / 2**20:,.0f} MiB a device"
    )
