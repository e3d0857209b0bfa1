"""Restores what a run folder knows of a run that is resumed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ddpg_jax.app.checkpoints import Checkpoint
from ddpg_jax.app.metrics_table import RowDigest
from ddpg_jax.app.processes import Processes
from ddpg_jax.app.queue import ProgramQueue
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.envs.choosing import device_env
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.build import env_options
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.blocks import Journal, blocks_of
from ddpg_jax.running.clock import is_regular, step_at, total_iterations
from ddpg_jax.running.rows import SUCCESS


def restore_rows(
    folder: RunFolder, queue: ProgramQueue, kept: Checkpoint | None, *, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Reads the rows of metrics.csv up to the checkpoint; the run will write the others again.

    Args:
        folder: of the run.
        queue: its programs.
        kept: the checkpoint that the run resumes from, if there is one.
        say: reports where the run resumes, and which rows are missing.

    Raises:
        ConfigError: the rows up to the checkpoint are not those that the run wrote.
    """
    reached: dict[int, float] = {}
    if kept is None:
        say(f"{folder.given} has no checkpoint: starting from the beginning")
    else:
        experiment = queue.groups[kept.program].experiment
        finished = has_finished(kept, queue, folder.processes)
        reached = _steps_reached(kept, queue, finished)
        step = step_at(experiment, kept.iteration)
        say(f"{folder.given} {'has finished at' if finished else 'resumes from'} step {step:,}")
        if kept.text is None and backend_of(experiment) == "host":
            say("the environments could not be kept: their episodes start again")
    table = folder.read_rows()
    intact = kept is None or kept.rows is None or RowDigest(table[: kept.rows]).text() == kept.rows_digest
    if kept and intact:
        table = table[: kept.rows]  # the run adds rows at the end only
    table = [row | {SUCCESS: row.get(SUCCESS, math.nan)} for row in table]  # those of older versions have no such column
    rows = [row for row in table if row["step"] <= reached.get(row["member"], -1)]
    present = {row["member"] for row in rows}
    missing = [str(number) for number, step in reached.items() if step == math.inf and number not in present]
    if missing:
        say(f"{folder.metrics} is missing the rows of the members {', '.join(missing)}, whose program has finished")
    steps = _missing_steps(kept, queue, rows, reached=_until_stopped(kept, queue, reached, folder.processes)) if kept else []
    if steps:
        say(f"{folder.metrics} is missing the rows of step {', '.join(f'{step:,}' for step in steps)}")
    if not (intact or missing or steps):
        raise ConfigError(
            f"{folder.metrics} was changed after this run wrote it, since its rows up to the checkpoint have another digest; "
            "restore it, or start again with --overwrite"
        )
    return rows


def _steps_reached(kept: Checkpoint, queue: ProgramQueue, finished: bool) -> dict[int, float]:
    """Returns, for each member, the last step whose rows are kept; infinity in programs before that of the checkpoint."""
    experiment, members = queue.groups[kept.program]
    step = step_at(experiment, kept.iteration)
    if not finished and not is_regular(experiment, kept.iteration):  # the run was to end here, and now does not
        step -= 1
    later = zip(members, Journal(*kept.journal).waiting or [], strict=False)
    waits = [(member.number, step_at(experiment, at)) for member, at in later]
    waiting = {number: at for number, at in waits if at > step}
    earlier = [member.number for group in queue.groups[: kept.program] for member in group.members]
    return {**dict.fromkeys(earlier, math.inf), **{member.number: step for member in members}, **waiting}


def _until_stopped(kept: Checkpoint, queue: ProgramQueue, reached: dict[int, float], processes: Processes) -> dict[int, float]:
    """Returns, for each member, the last step that has a row: that in `reached`, or an earlier one at which it was stopped."""
    experiment, members = queue.groups[kept.program]
    stopped = Journal(*kept.journal).stopped or []
    own = zip(processes.share(members), stopped, strict=False)
    stops = [[member.number, step_at(experiment, stop)] for member, stop in own if stop is not False and stop >= 0]
    return reached | {number: min(step, reached[number]) for each in processes.gather(stops) for number, step in each}


def _missing_steps(
    kept: Checkpoint, queue: ProgramQueue, rows: list[dict[str, Any]], *, reached: dict[int, float]
) -> list[int]:
    """Returns the steps of evaluations before the checkpoint for which metrics.csv lacks the row of some member."""
    experiment, members = queue.groups[kept.program]
    present = {(row["member"], row["step"]) for row in rows}
    last = kept.iteration - Journal(*kept.journal).due
    ends = [step_at(experiment, end) for _, end, evaluated in blocks_of(experiment) if evaluated and end <= last]
    return [step for step in ends if any((m.number, step) not in present for m in members if step <= reached[m.number])]


def has_finished(kept: Checkpoint | None, queue: ProgramQueue, processes: Processes) -> bool:
    """Returns True if the program of a checkpoint has nothing left to do: all its members have diverged, stopped or ended."""
    if kept is None:
        return False
    experiment = queue.groups[kept.program].experiment
    journal = Journal(*kept.journal)
    stopped = [stop is not False and stop >= 0 for stop in journal.stopped or [False] * len(journal.diverged)]
    over = all(step >= 0 or stop for step, stop in zip(journal.diverged, stopped, strict=True))
    return all(processes.gather(over)) or (kept.iteration >= total_iterations(experiment) and not journal.due)


def noted_demonstrations(folder: RunFolder, experiment: Experiment, store: Any) -> dict[str, str]:
    """Returns the digests of the demonstrations of a run by their names, with those of a program that starts or goes on.

    Args:
        folder: of the run.
        experiment: of the program.
        store: its demonstrations.

    Raises:
        ConfigError: they are not those that the run was started with.
    """
    known = folder.manifest().get("demonstrations", {})
    if not experiment.demonstrations or not jax.tree.leaves(store):
        return known
    name, digest = experiment.demonstrations, hashlib.sha256()
    for leaf in jax.tree.leaves(store):
        digest.update(np.ascontiguousarray(leaf).data)
    found = digest.hexdigest()[:12]
    if known.get(name, found) != found:
        raise ConfigError(
            f"demonstrations={name} holds other data (digest {found}) than those that {folder.given} was started with "
            f"({known[name]}); restore them, or start again with --overwrite"
        )
    return {**known, name: found}


def backend_of(experiment: Experiment) -> str:
    """Returns where the environment of an experiment runs, device or host, with `backend=auto` resolved."""
    return "host" if device_env(experiment.backend, experiment.env, env_options(experiment)) is None else "device"
