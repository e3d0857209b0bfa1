"""Reads which hyperparameters change while a run trains, and writes how they changed: populations and schedules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ddpg_jax.app.exchange import make_exchange
from ddpg_jax.app.processes import Processes
from ddpg_jax.app.schedule_figure import draw_schedule
from ddpg_jax.errors import ConfigError
from ddpg_jax.files import write_text
from ddpg_jax.running.members import Change, Member, ancestry
from ddpg_jax.running.population import Population
from ddpg_jax.running.rows import result_of
from ddpg_jax.running.timetable import Timetable, beginnings, format_changes, happened

Evolution: TypeAlias = Population | Timetable
"""What decides after each evaluation how hyperparameters change."""


def record_of(evolution: Evolution | None) -> dict[str, Any]:
    """Returns what a manifest says of an evolution, as plain JSON."""
    return json.loads(json.dumps(evolution.record())) if evolution else {}


def resumed(evolution: Evolution | None, recorded: Mapping[str, Any]) -> Evolution | None:
    """Returns the evolution of a run that is resumed, given what its manifest says.

    The interval of the exploits stays as it was if the user leaves it out, also in a run that becomes longer.

    Raises:
        ConfigError: the user asks for something else.
    """
    before = recorded.get("population", {}).get("every")
    if isinstance(evolution, Population) and before is not None and evolution.asked is None:
        evolution = evolution._replace(exploit=evolution.exploit._replace(every=before))
    own = record_of(evolution)
    kind = next((kind for kind in {**own, **recorded} if own.get(kind) != recorded.get(kind)), None)
    if kind is not None:
        values = own.get(kind), recorded.get(kind)
        old, new = (value if isinstance(value, dict) else {} for value in values)
        which = ", ".join(name for name in new if name in old and new[name] != old[name])
        raise ConfigError(
            f"{kind} is not what this run was started with{f' (it differs in {which})' if which else ''}; give the options of "
            "the command that started it"
        )
    return evolution


def changing(evolution: Evolution | None, folder: Path, processes: Processes) -> dict[str, Any]:
    """Returns the arguments of `run_blocks` with which members change: all processes decide the same, about all members.

    Args:
        evolution: what decides, given the rows of all members; None if nothing changes.
        folder: which the processes share, for states that cross from one to another.
        processes: which train the members.
    """
    if evolution is None:
        return {}

    def evolve(rows: list[dict[str, Any]]) -> Sequence[Change]:
        return evolution([row for each in processes.gather(rows) for row in each])

    return {"evolve": evolve, "exchange": make_exchange(folder, processes)}


def write_evolution(
    folder: Path, members: Sequence[Member], changes: Sequence[Change], *, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Writes schedule.csv and schedule.png of a population, and returns what its summary says.

    Args:
        folder: of the run.
        members: as they began.
        changes: all later changes.
        rows: of metrics.csv.
    """
    final = {row["member"]: result_of(row) for row in rows}
    last = max(row["step"] for row in rows)
    every = [*beginnings(members), *happened(changes, last)]
    best = max(final, key=lambda member: np.nan_to_num(final[member], nan=-np.inf))
    stages = ancestry(every, best)
    write_text(folder / "schedule.csv", format_changes(every, final))
    draw_schedule(every, final, best=best, last=last, path=folder / "schedule.png")
    return {
        "best_member": best,
        "final_return": final[best],
        "values": dict(stages[-1].values),
        "lineage": [{"step": stage.step, "member": stage.member, **stage.values} for stage in stages],
        "replacements": len(every) - len(members),
    }
