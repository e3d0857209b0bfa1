"""Hyperparameter points: grids, random search, and how their values are written."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS, coerce
from ddpg_jax.experiment.values import integer, plain, unboxed

Point = dict[str, Any]
MOST_MEMBERS = 1_000_000  # more is a slip of the keyboard, and a list of them does not fit in memory


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All combinations, the last field changing fastest.

    Raises:
        ConfigError: an unknown field, no values, one that is there twice, or one that is not allowed.

    >>> grid_points({"tau": [0.1, 0.2], "gamma": [0.9]})
    [{'tau': 0.1, 'gamma': 0.9}, {'tau': 0.2, 'gamma': 0.9}]
    """
    if not isinstance(grid, Mapping):
        raise ConfigError(f"grid={grid!r} is not allowed; it must map names of fields to lists of values")
    grid = {name: unboxed(values) for name, values in grid.items()}
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
    count = integer("points", count, low=1, high=MOST_MEMBERS)
    generator = np.random.default_rng(seed)
    columns = {}
    for name, text in ranges.items():
        kind, *ends = str(text).split(":")
        if kind not in ("log", "uniform") or len(ends) != 2:
            raise ConfigError(f"sample: {name}={text} is not allowed; it must be log:LOW:HIGH or uniform:LOW:HIGH")
        low, high = (coerce(name, end) for end in ends)
        if isinstance(low, bool) or not isinstance(low, int | float) or not low < high or (kind == "log" and low <= 0):
            raise ConfigError(f"sample: {name}={text} is not allowed; it must be two numbers, the first lower, above 0 for log")
        whole = isinstance(low, int) or FIELDS[name].whole
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
