"""Makes hyperparameter points from grids and by random search, and reads grids from text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS, coerce
from ddpg_jax.experiment.values import integer, plain, split, to_python

Point = dict[str, Any]
"""Maps fields to the values of one point."""
MAX_MEMBERS = 1_000_000
"""Upper bound on the members of a sweep. A larger number is a typing error, and its members do not fit in memory."""


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns all combinations of the values in a grid; the last field changes fastest.

    Raises:
        ConfigError: a field is not known, or it has no value, a repeated one, or one that is not allowed.

    >>> grid_points({"tau": [0.1, 0.2], "gamma": [0.9]})
    [{'tau': 0.1, 'gamma': 0.9}, {'tau': 0.2, 'gamma': 0.9}]
    """
    if not isinstance(grid, Mapping):
        raise ConfigError(f"grid={grid!r} is not allowed; it must map names of fields to lists of values")
    grid = {name: to_python(values) for name, values in grid.items()}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            coerce(name, values) if isinstance(values, str) else None
            raise ConfigError(f"grid: {name}={values!r} is not allowed; it must be a list of at least one value")
    columns = {name: [coerce(name, value) for value in values] for name, values in grid.items()}
    for name, values in columns.items():
        twice = next((value for h, value in enumerate(values) if value in values[:h]), None)
        if twice is not None:  # equal points would look like more seeds
            hint = "; join the sizes of one network by dashes, as in 256-256" if name == "hidden" else ""
            raise ConfigError(f"grid: {name}={plain(twice)} is given twice; each value may be given only once{hint}")
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


class Range(NamedTuple):
    """Holds the values of a field from which points are drawn."""

    low: float
    high: float
    log: bool
    """True if the logarithm of the value is uniform, instead of the value itself."""
    whole: bool
    """True if only whole numbers are allowed."""

    def draw(self, generator: np.random.Generator, count: int) -> list[Any]:
        """Draws values, of the type of `low`; whole ones are rounded down, from a range that ends at `high + 1`."""
        return self.at(generator.random(count))

    def at(self, shares: Any) -> list[Any]:
        """Returns the values at these shares of the range, which are in [0, 1]: 0 is `low`, and 1 is `high`."""
        low, end = self.low, self.high + 1 if self.whole else self.high
        first, last = (math.log(low), math.log(end)) if self.log else (low, end)
        drawn = first + (last - first) * np.asarray(shares)
        values = np.exp(drawn) if self.log else drawn
        return [type(low)(math.floor(x) if self.whole else x) for x in np.clip(values, low, self.high).tolist()]

    def scaled(self, value: float, factor: float) -> float:
        """Returns `value * factor`, clipped to the range; whole values move by at least 1.

        >>> Range(0.01, 1.0, log=True, whole=False).scaled(0.9, 1.25), Range(1.0, 9.0, log=True, whole=True).scaled(2.0, 1.25)
        (1.0, 3.0)
        """
        moved = value * factor
        if self.whole and factor != 1:
            moved = float(max(round(moved), value + 1) if factor > 1 else min(round(moved), value - 1))
        return min(max(moved, self.low), self.high)


def parse_ranges(ranges: Mapping[str, str]) -> dict[str, Range]:
    """Reads `log:LOW:HIGH` or `uniform:LOW:HIGH` for each field.

    Raises:
        ConfigError: a field is not known, or its range is not allowed.

    >>> parse_ranges({"tau": "log:1e-3:1e-1"})
    {'tau': Range(low=0.001, high=0.1, log=True, whole=False)}
    """
    found = {}
    for name, text in ranges.items():
        kind, *ends = str(text).split(":")
        if kind not in ("log", "uniform") or len(ends) != 2:
            raise ConfigError(f"sample: {name}={text} is not allowed; it must be log:LOW:HIGH or uniform:LOW:HIGH")
        low, high = (coerce(name, end) for end in ends)
        if isinstance(low, bool) or not isinstance(low, int | float):
            raise ConfigError(
                f"sample: {name}={text} is not allowed, since its values are not numbers; give it one value, or a grid"
            )
        if not low < high or (kind == "log" and low <= 0):
            raise ConfigError(f"sample: {name}={text} is not allowed; LOW must be below HIGH, and above 0 for log")
        found[name] = Range(low, high, kind == "log", isinstance(low, int) or FIELDS[name].whole)
    return found


def random_points(ranges: Mapping[str, str], count: int, seed: int = 0) -> list[Point]:
    """Draws points at random, from `log:LOW:HIGH` or `uniform:LOW:HIGH` for each field.

    If a point is drawn twice, as may happen with whole numbers, it is returned once, since equal points would look like more
    seeds. The same seed gives the same points.

    Raises:
        ConfigError: a field is not known, or its range is not allowed.

    >>> [sorted(point) for point in random_points({"tau": "log:1e-3:1e-1"}, count=2)]
    [['tau'], ['tau']]
    """
    count = integer("points", count, low=1, high=MAX_MEMBERS)
    if not ranges:
        raise ConfigError("sample={} is not allowed; it must name at least one field")
    generator = np.random.default_rng(coerce("seed", seed))
    columns = {name: own.draw(generator, count) for name, own in parse_ranges(ranges).items()}
    distinct = dict.fromkeys(zip(*columns.values(), strict=True))
    return [dict(zip(columns, values, strict=True)) for values in distinct]


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Reads a grid from texts such as `["tau=0.01,0.02", ...]`.

    Raises:
        ConfigError: a text has another form, or a field is repeated.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name in grid:
            raise ConfigError(f"grid={text} is not allowed; it must be FIELD=V1,V2,... with each field given once")
        grid[name] = [value.strip() for value in split(values, ",") if value.strip()]
        if not grid[name]:
            raise ConfigError(f"grid={text} is not allowed; it must have at least one value")
    return grid
