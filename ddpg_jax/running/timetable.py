"""Traces how the hyperparameters of a member came about, and lets them change in the same way in other runs."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import NUMBERS, STRUCTURE, Experiment, coerce, configure
from ddpg_jax.running.clock import evaluation_steps
from ddpg_jax.running.groups import Group, make_groups
from ddpg_jax.running.members import Change, Member, Stage, ancestry, check_can_change

FINAL = "final_return"
"""The column with the last return of the member; the other ones are a step, two members, and the fields."""
COLUMNS = ("step", "member", "parent")


def beginnings(members: Iterable[Member]) -> list[Change]:
    """Returns the values with which the members start, as changes at step 0."""
    return [Change(0, m.number, m.number, dict(m.swept)) for m in members]


def happened(changes: Iterable[Change], last: int) -> list[Change]:
    """Returns the changes before the last step of a run; one at that step never takes place."""
    return [change for change in changes if change.step < last]


def format_changes(changes: Sequence[Change], final: Mapping[int, float]) -> str:
    """Returns the contents of schedule.csv: one row for each change, with the last return of its member."""
    fields, text = list(changes[0].values), io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *fields, FINAL])
    for change in changes:
        own = [change.values[name] for name in fields]
        writer.writerow([change.step, change.member, change.parent, *own, final[change.member]])
    return text.getvalue()


def read_changes(path: str | Path) -> tuple[list[Change], dict[int, float]]:
    """Reads what `format_changes` has written: the changes, and the last returns, NaN if the file has none.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with open(path, newline="") as file:
            table = list(csv.DictReader(file))
        names = [name for name in (table[0] if table else {}) if name not in (*COLUMNS, FINAL)]
        changes = [
            Change(int(row["step"]), int(row["member"]), int(row["parent"]), {name: float(row[name]) for name in names})
            for row in table
        ]
        final = {int(row["member"]): float(row.get(FINAL) or math.nan) for row in table}
    except OSError as error:
        raise ConfigError(f"schedule={path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ConfigError(f"schedule={path} is not the schedule of a population; its columns must be {_columns()}") from error
    if not changes or not names:
        raise ConfigError(f"schedule={path} has no values; its columns must be {_columns()}")
    return changes, final


def _columns() -> str:
    return f"{', '.join(COLUMNS)}, fields such as critic_lr, and {FINAL}"


class Timetable(NamedTuple):
    """Hyperparameters as a function of the step, for all members of a run."""

    stages: tuple[Stage, ...]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[Change]:
        """Returns the changes after an evaluation: all members have the values of the stage that begins there."""
        begun = {stage.step: stage.values for stage in self.stages[1:]}
        return [Change(row["step"], row["member"], row["member"], begun[row["step"]]) for row in rows if row["step"] in begun]

    def record(self) -> dict[str, Any]:
        """Returns what a manifest says of it."""
        return {"schedule": [[stage.step, dict(stage.values)] for stage in self.stages]}


def make_timetable(given: Any, seeds: int, fields: Mapping[str, Any]) -> tuple[list[Group], Timetable]:
    """Makes the members of a run that repeats a schedule, and what changes their hyperparameters.

    Args:
        given: a schedule.csv, from which the values on the way to the member with the best final return are taken; or pairs of
            a step and values, the first at step 0.
        seeds: number of members.
        fields: the other fields.

    Raises:
        ConfigError: it cannot be read or followed.

    >>> _, timetable = make_timetable([(0, {"tau": 0.1}), (2_000, {"tau": 0.01})], 1, {"env": "Pendulum-v1"})
    >>> [stage.step for stage in timetable.stages]
    [0, 2000]
    """
    stages = _stages(given)
    names = list(stages[0].values)
    for stage in stages:
        if list(stage.values) != names:
            raise ConfigError(f"schedule: step {stage.step} must give values for {', '.join(names)}, as step 0 does")
    if len(stages) > 1:
        check_can_change(names, "schedule")
    twice = next((name for name in names if name in fields), None)
    if twice is not None:
        raise ConfigError(f"{twice}={fields[twice]} cannot be combined with a schedule of it; leave it out")
    groups = make_groups([dict(stages[0].values)], seeds, fields)
    for stage in stages[1:]:
        _check(stage, groups[0].experiment, {**fields, **stage.values})
    return groups, Timetable(tuple(stages))


def _stages(given: Any) -> list[Stage]:
    """Reads the stages of a schedule, with values that the fields allow."""
    if isinstance(given, str | os.PathLike):
        changes, final = read_changes(os.fspath(given))
        stages = ancestry(changes, _best(given, final))
    else:
        try:
            stages = [Stage(int(step), dict(values)) for step, values, *_ in given]
        except (TypeError, ValueError):
            raise ConfigError(f"schedule={given!r} is not allowed; it must be a file, or pairs of a step and values") from None
    steps = [stage.step for stage in stages]
    if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
        raise ConfigError(f"schedule: the steps {', '.join(map(str, steps))} are not allowed; they must ascend from 0")
    structural = next((name for stage in stages for name in stage.values if name not in NUMBERS), None)
    if structural is not None:
        coerce(structural, STRUCTURE.get(structural))  # says so if it is no field
        raise ConfigError(f"{structural} cannot be in a schedule, since it changes the program; fields of Hyperparams can")
    return [Stage(s.step, {name: coerce(name, value) for name, value in s.values.items()}, s.member) for s in stages]


def _best(path: Any, final: Mapping[int, float]) -> int:
    """Returns the member with the best last return."""
    known = {member: value for member, value in final.items() if not math.isnan(value)}
    if not known and len(final) > 1:
        raise ConfigError(
            f"schedule={path} has no {FINAL} that is a number, to say which member is the best; leave one member in it"
        )
    return max(known or final, key=lambda member: (known or final)[member])


def _check(stage: Stage, experiment: Experiment, fields: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the program can go on with the values of a stage."""
    each = evaluation_steps(experiment)
    if stage.step % each:
        raise ConfigError(
            f"schedule: values change at step {stage.step:,}, which is not at an evaluation "
            f"(eval_every={experiment.eval_every}); eval_every must divide it"
        )
    more = [name for name in configure(fields)[0].parts if name not in experiment.parts]
    if more:
        raise ConfigError(
            f"schedule: step {stage.step:,} switches {more[0]} on, which is off at step 0; give it a small value there"
        )
