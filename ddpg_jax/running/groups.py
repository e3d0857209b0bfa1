"""Groups the members of a sweep (seeds x hyperparameter points) into programs.

Fields of `Hyperparams` are traced: all their values, and all seeds, train in ONE program. Fields of `Experiment` change the
program: points are grouped by them, with one program for each group. Every point has the same seeds, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, STRUCTURE, Experiment, coerce, configure, reads
from ddpg_jax.experiment.grid import MAX_MEMBERS, Point
from ddpg_jax.experiment.presets import PRESETS
from ddpg_jax.experiment.validate import layer_sizes
from ddpg_jax.experiment.values import integer, plain
from ddpg_jax.running.copies import TooManyCopies
from ddpg_jax.running.hardware import HEADROOM, bytes_of, memory_limit
from ddpg_jax.running.program import Member, Program
from ddpg_jax.running.results import plural

MakeProgram = Callable[[Experiment, list[Member]], Program]


class Group(NamedTuple):
    """Members that train in one program."""

    experiment: Experiment
    members: list[Member]


def make_groups(points: Sequence[Point], seeds: int, fields: Mapping[str, Any]) -> list[Group]:
    """Groups the members of a sweep by structure. Member `h * S + s` is point h with the s-th seed, from the field `seed` on.

    Args:
        points: the fields that differ, length H; `[{}]` for seeds alone.
        seeds: number of seeds S.
        fields: the fields that all points share, unless a point overrides them.

    Raises:
        ConfigError: a point cannot be trained, or there are no points or no seeds.
    """
    seeds = integer("seeds", seeds, low=1)
    if not points:
        raise ConfigError("points=[] is not allowed; there must be at least one point")
    if len(points) * seeds > MAX_MEMBERS:
        raise ConfigError(f"seeds={seeds} of {len(points)} points are too many members; at most {MAX_MEMBERS:,} are allowed")
    names = list(dict.fromkeys(name for point in points for name in point))
    if "diagnostics" in names:
        raise ConfigError("diagnostics cannot be swept, since it adds columns to the results; set it once, for all points")
    if "seed" in names:
        raise ConfigError("seed cannot be swept as a field; seeds=N varies it, starting from seed")
    groups: dict[Experiment, list[Member]] = {}
    for h, point in enumerate(points):
        if set(point) != set(names):
            raise ConfigError(f"points[{h}]={point} is not allowed; all must have the same fields, {', '.join(names)}")
        point = {name: coerce(name, point[name]) for name in names}
        experiment, hyper = configure({**fields, **point})
        swept = tuple((name, plain(value)) for name, value in point.items())
        own = [Member(experiment.seed + s, hyper, h * seeds + s, swept) for s in range(seeds)]
        groups.setdefault(experiment, []).extend(own)
    for name in names:
        if not any(reads(experiment, name) for experiment in groups):
            raise ConfigError(f"{name} cannot be swept, since nothing reads it with these fields; leave it out")
    return [Group(experiment, members) for experiment, members in groups.items()]


def check_read(groups: Sequence[Group], fields: Mapping[str, Any]) -> None:
    """Checks that each field is read in some group, unless its value is what it would be if it were left out.

    Args:
        groups: all that is trained.
        fields: the fields that all points share, unless a point overrides them.

    Raises:
        ConfigError: nothing reads one of them, so giving it would have no effect.
    """
    swept = {name for group in groups for member in group.members for name, _ in member.swept}
    experiments, unset = [group.experiment for group in groups], {**STRUCTURE, **NUMBERS}
    for name in [name for name in fields if name not in swept]:
        value = coerce(name, fields[name])
        if not any(reads(x, name) or value == coerce(name, {**unset, **PRESETS[x.preset].values}[name]) for x in experiments):
            raise ConfigError(
                f'{name}={plain(value)} is not allowed, since nothing reads it with these fields ("{FIELDS[name].help}"); '
                "leave it out, or turn on what reads it"
            )


def fit_to_memory(
    group: Group,
    make: MakeProgram,
    *,
    agree: Callable[[int], int] = int,
    local_processes: int = 1,
    state_copies: int = 0,
    unit: int = 1,
) -> Iterator[tuple[Group, Program]]:
    """Yields the group and its program; if its members do not fit in memory together, smaller groups, one after another.

    Args:
        group: members of one structure.
        make: `(experiment, members) -> program`, for this process's share of the members.
        agree: `(count) -> count`, from how many members fit in this process to how many fit in all processes together.
        local_processes: how many processes share the memory.
        state_copies: how many copies of all states must fit beside the program, as for a checkpoint.
        unit: the number of members that belong together, such as the seeds of a point; they stay together if so many fit.

    Raises:
        ConfigError: not even one member per device fits.
    """
    try:
        program = make(group.experiment, group.members)
    except TooManyCopies as error:
        fit = agree(error.members)
        if fit == 0:
            raise
        program = None
    else:
        try:
            limit = memory_limit(len(program.placement.devices)) * HEADROOM / local_processes
            fit = agree(_count_fitting(group, program, limit, state_copies=state_copies))
        except BaseException:
            program.close()
            raise
    if program and fit >= len(group.members):
        yield group, program
        return
    if program:
        program.close()
    fit -= fit % unit if fit > unit else 0
    for first in range(0, len(group.members), fit):
        smaller = Group(group.experiment, group.members[first : first + fit])
        yield smaller, make(smaller.experiment, smaller.members)


def check_groups(groups: Sequence[Group], make: MakeProgram, *, local_processes: int = 1, state_copies: int = 0) -> None:
    """Checks that all groups can be trained, before any of them is.

    It builds one member of each group but the first. Nothing is compiled.

    Args:
        groups: all groups of a sweep.
        make: `(experiment, members) -> program`.
        local_processes: as in `fit_to_memory`.
        state_copies: as in `fit_to_memory`.

    Raises:
        ConfigError: see `make_program`; or not even one member per device fits.
    """
    for group in groups[1:]:
        devices = min(len(group.members), jax.local_device_count())
        one = Group(group.experiment, group.members[:1])
        program = make(*one)
        try:
            limit = memory_limit(devices) * HEADROOM / local_processes
            _count_fitting(one, program, limit, state_copies=state_copies)
        finally:
            program.close()


def _count_fitting(group: Group, program: Program, limit: float, *, state_copies: int) -> int:
    """Returns how many members fit into `limit` bytes per device at once; all of the group if the program fits."""
    devices, x = len(program.placement.devices), group.experiment
    states = bytes_of(program.shapes()) / devices
    activations = 4 * max(
        x.batch_size * sum(layer_sizes(x)), x.eval_episodes * max(layer_sizes(x))
    )  # learning keeps those of all layers
    # A single member cannot be divided, and this lower bound needs no compilation.
    need = states + activations if len(group.members) == 1 else program.memory()
    if need + state_copies * states <= limit:
        return len(group.members)
    each = (need + state_copies * states) / (program.placement.slots / devices)
    least, shared = each, 0.0
    if program.placement.kind != "vmap":  # mapped members share, approximately, what is needed beside their states
        each = (1 + state_copies) * states / (program.placement.slots / devices)
        least, shared = each + activations, need - states
    if least > limit:
        read = [name for name in ("hidden", "actor_hidden", "critic_hidden") if getattr(x, name) and reads(x, name)]
        sizes = "".join(f", {name}={plain(getattr(x, name))}" for name in read)
        raise ConfigError(
            f"a member with replay_capacity={x.replay_capacity}, batch_size={x.batch_size}{sizes} and "
            f"eval_episodes={x.eval_episodes} takes {least / 2**20:,.0f} MiB, but a device has only {limit / 2**20:,.0f} MiB; "
            "lower one of these fields"
        )
    return max(int((limit - shared) / each), 1) * devices


def describe(group: Group, program: Program) -> str:
    """Describes in one line the program that is about to be launched."""
    placement = program.placement
    devices = len(placement.devices)
    need = program.memory()
    each = need * devices / placement.slots
    points = len({member.swept for member in group.members})
    seeds = len({member.seed for member in group.members})
    which = f" ({plural(points, 'point')} x {plural(seeds, 'seed')})" if points * seeds == len(group.members) else ""
    return (
        f"{plural(len(group.members), 'member')}{which} in one program, "
        f"{placement.kind} over {plural(devices, 'device')}; {each / 2**20:,.1f} MiB a member, "
        f"{need / 2**20:,.0f} MiB a device"
        + (f"; {program.outside_bytes / 2**20:,.0f} MiB of environments" if program.outside_bytes else "")
    )
