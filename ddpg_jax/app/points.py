"""Reads which members a sweep trains: a grid, random points, a population, or seeds of a schedule."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ddpg_jax.app.evolving import Evolution
from ddpg_jax.app.options import whole
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import coerce
from ddpg_jax.experiment.grid import grid_points, parse_grid, random_points
from ddpg_jax.running.groups import Group, make_groups
from ddpg_jax.running.population import check_alone, make_population
from ddpg_jax.running.timetable import make_timetable


def read_points(options: argparse.Namespace, given: Mapping[str, Any]) -> tuple[list[Group], Evolution | None]:
    """Returns what a sweep trains, and what changes its hyperparameters, if something does.

    Args:
        options: of the command line.
        given: the fields that were given.

    Raises:
        ConfigError: an option is not allowed.
    """
    return read_evolution(options, given) or (_fixed_groups(options, given), None)


def _fixed_groups(options: argparse.Namespace, given: Mapping[str, Any]) -> list[Group]:
    """Returns what a sweep trains in which every member keeps its hyperparameters."""
    seeds = whole("seeds", options.seeds)
    if options.sample and options.grid:
        raise ConfigError("--sample and --grid cannot be combined; give one of them")
    if options.sample:
        if options.points is None:
            raise ConfigError("--sample needs --points N, the number of points to draw, or --population N")
        points = random_points(read_ranges(options), whole("points", options.points), seed=coerce("seed", given.get("seed", 0)))
    elif options.points is not None:
        raise ConfigError("--points is the number of points that --sample draws; also give --sample FIELD=log:LOW:HIGH")
    else:
        points = grid_points(parse_grid(options.grid))
    return make_groups(points, seeds, given)


def read_ranges(options: argparse.Namespace) -> dict[str, str]:
    """Returns the range of each field that is sampled, as text."""
    return {name: ",".join(values) for name, values in parse_grid(options.sample).items()}


def read_evolution(options: argparse.Namespace, given: Mapping[str, Any]) -> tuple[list[Group], Evolution] | None:
    """Returns what a population, or a run that repeats a schedule, trains, and what decides about it; None for other sweeps.

    Args:
        options: of the command line.
        given: the fields that were given.

    Raises:
        ConfigError: an option is not allowed.
    """
    others = {"grid": options.grid or None, "points": options.points, "prune": options.prune}
    if options.population is not None:
        seeds = None if options.seeds == "1" else options.seeds
        others |= {"until": options.until, "schedule": options.schedule, "seeds": seeds}
        check_alone("population", options.population, others)
        count = whole("population", options.population)
        return make_population(count, read_ranges(options), given, exploit=options.exploit)
    if options.exploit is not None:
        raise ConfigError("--exploit says how a population learns; also give --population N")
    if options.schedule is not None:
        check_alone("schedule", options.schedule, {**others, "sample": options.sample or None})
        return make_timetable(options.schedule, whole("seeds", options.seeds), given)
    return None
