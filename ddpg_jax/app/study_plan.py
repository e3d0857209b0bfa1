"""Describes what a study varies, and keeps it in the folder of the study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import coerce
from ddpg_jax.experiment.grid import Point, parse_ranges, random_points
from ddpg_jax.experiment.values import plain
from ddpg_jax.running.groups import Group, make_groups

SETTINGS = "tune.json"
"""The file in the folder."""


class Plan(NamedTuple):
    """What a study varies, and how."""

    fields: dict[str, Any]
    """Fields that all points share."""
    ranges: dict[str, str]
    """Maps fields to `log:LOW:HIGH` or `uniform:LOW:HIGH`."""
    seeds: int
    sampler: str

    @property
    def seed(self) -> int:
        """The first seed, which is also that of the sampler."""
        return coerce("seed", self.fields.get("seed", 0))

    def record(self) -> dict[str, Any]:
        """Returns the plan as plain JSON. Whoever works on a study must have the same."""
        fields = {name: plain(value) for name, value in self.fields.items()}
        return json.loads(json.dumps({**self._asdict(), "fields": fields}))  # tuples become lists

    def trial_points(self) -> list[Point]:
        """Returns points within the ranges, to find out whether they can be trained."""
        return random_points(self.ranges, 2, seed=self.seed)

    def ends(self, point: Point) -> list[Point]:
        """Returns variants of a point, each with an end of one range."""
        ranges = parse_ranges(self.ranges)
        return [{**point, name: own.at([share])[0]} for name, own in ranges.items() for share in (0.0, 1.0)]

    def groups(self, points: Sequence[Point]) -> list[Group]:
        """Groups these points by structure, each with all seeds."""
        return make_groups(points, self.seeds, self.fields)


def read_plan(folder: Path) -> Plan:
    """Reads the plan of the study in a folder.

    Raises:
        ConfigError: the file is not that of a study.
    """
    try:
        plan = Plan(**json.loads((folder / SETTINGS).read_text())["plan"])
        return plan._replace(fields={name: coerce(name, value) for name, value in plan.fields.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / SETTINGS} does not hold the settings of a study; restore it") from error
