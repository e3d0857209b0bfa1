"""Tunes hyperparameters: a sampler of Optuna chooses points, and batches of them train in one compiled program.

Every process that works on a study repeats the same turn: ask for a batch, train it, tell what it has reached, and write the
files of the folder. What is in the folder is always whole, and a turn that is interrupted leaves no trace but its trials, which
are marked as failed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax import files
from ddpg_jax.app.hold import LOCK, one_at_a_time
from ddpg_jax.app.machine import machine
from ddpg_jax.app.processes import ALONE
from ddpg_jax.app.progress import Display
from ddpg_jax.app.queue import ProgramQueue
from ddpg_jax.app.report import as_json, readable
from ddpg_jax.app.run_folder import in_runs
from ddpg_jax.app.signals import signals
from ddpg_jax.app.stderr import tell
from ddpg_jax.app.stopping import Stopped
from ddpg_jax.app.study import Finished, Reached, Study, check_installed
from ddpg_jax.app.study_plan import SETTINGS, Plan, read_plan
from ddpg_jax.app.tune_figure import tune_figure
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.experiment import reads
from ddpg_jax.experiment.grid import Point, parse_ranges
from ddpg_jax.experiment.values import plain
from ddpg_jax.running.blocks import run_blocks
from ddpg_jax.running.groups import check_read
from ddpg_jax.running.intervals import ranking_score
from ddpg_jax.running.results import Sweep, plural

LEFTOVERS = {LOCK, f"{SETTINGS}.tmp"}
"""Files of whoever was killed while it began a study."""


def tune(plan: Plan, *, points: int, batch: int, out: Path | None, resume: bool) -> str:
    """Tunes until the study has so many points, and returns the line that reports the best one.

    Args:
        plan: what is varied.
        points: the number of points in the study, of all processes together.
        batch: points that train together.
        out: the folder, by default `runs/tune-ENV-seedK`.
        resume: go on with the study in the folder, or work on it beside other processes.

    Raises:
        ConfigError: the plan or the folder cannot be used, before anything is written.
        EnvironmentFailure: the environment failed; the points of this batch are not asked for again.
        Stopped: a signal arrived.
    """
    ranges = parse_ranges(plan.ranges)
    check_installed(plan.sampler)
    folder = out or in_runs(f"tune-{plan.fields['env']}-seed{plan.seed}")
    at = folder.absolute()  # an environment may change the current folder
    with signals() as received:
        _check(plan, {} if resume else plan.fields)
        _claim(at, plan, resume=resume)
        study = Study(at, ranges, sampler=plan.sampler, seed=plan.seed)
        while True:
            _write(at, plan, study)
            with _asked(at, study, points=points, batch=batch) as trials:
                if not trials:
                    break
                sweep = _train(plan, [trial.params for trial in trials], received=received, beside=len(study.finished))
                study.tell(trials, [_reached(sweep, h) for h in range(len(trials))])
            _tell_progress(study.finished, points)
        return _conclusion(folder, study.finished)


def _check(plan: Plan, given: Mapping[str, Any]) -> None:
    """Checks that points within these ranges can be trained, with two of them, and the ends of each range.

    Each field that is given must be read by at least one of these points.
    """
    points = plan.trial_points()
    groups = plan.groups(points)
    check_read([*groups, *plan.groups(plan.ends(points[0]))], given)
    with contextlib.closing(ProgramQueue(groups, [], ALONE, unit=plan.seeds)) as queue:
        queue.check()


def _claim(folder: Path, plan: Plan, *, resume: bool) -> None:
    """Begins a study in a folder, or checks that the one there has the same plan.

    Raises:
        ConfigError: the folder cannot be used.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder} is a file; it must be a folder, new or empty")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if resume and SETTINGS not in there:
        raise ConfigError(f"out={folder} holds no study to resume; leave out --resume to begin one")
    if SETTINGS not in there:
        if there - LEFTOVERS:
            raise ConfigError(f"out={folder} is not an empty folder and holds no study; name a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["ddpg-jax", *sys.argv[1:]])
        with one_at_a_time(folder / LOCK):
            if not (folder / SETTINGS).exists():  # nobody else has begun one meanwhile
                files.write_text(folder / SETTINGS, as_json({"plan": plan.record(), "command": command, **machine()}))
                return
    if not resume:
        raise ConfigError(
            f"out={folder} holds a study; give --resume to continue it, or to work on it beside other processes, or name "
            "another folder"
        )
    begun, own = read_plan(folder).record(), plan.record()
    different = [f"{name}={begun[name]}, not {own[name]}" for name in own if own[name] != begun[name]]
    if different:
        raise ConfigError(f"out={folder} holds a study with {different[0]}; name another folder")


@contextlib.contextmanager
def _asked(folder: Path, study: Study, *, points: int, batch: int) -> Iterator[list[Any]]:
    """Asks for a batch of points, or for fewer if fewer are left; points that others are training do not count.

    They are given back if they are not trained to the end, or set aside if they cannot be.
    """
    with one_at_a_time(folder / "workers" / "asking"):  # otherwise two that ask at once would ask for too many
        left = points - study.taken
        trials = study.ask(min(batch, left)) if left > 0 else []
    try:
        yield trials
    except (EnvironmentFailure, ConfigError) as failure:
        study.set_aside(trials)
        kind = EnvironmentFailure if isinstance(failure, EnvironmentFailure) else ConfigError
        raise kind(f"{failure}; --resume goes on with other points than the {len(trials)} of this batch") from failure
    except BaseException:
        study.give_back(trials)
        raise


def _train(plan: Plan, points: list[Point], *, received: list[int], beside: int) -> Sweep:
    """Trains points, and returns them as a sweep.

    Raises:
        Stopped: a signal arrived.
    """
    rows: list[dict[str, Any]] = []
    what = f"points {beside + 1} to {beside + len(points)}"
    queue = ProgramQueue(plan.groups(points), [], ALONE, unit=plan.seeds)
    with contextlib.closing(queue), Display(queue.steps, 0, what=what) as display:
        k, done, begun = 0, 0, time.monotonic()
        while (program := queue.get(k)) is not None:
            experiment, many = queue.groups[k].experiment, len(queue.groups[k].members)
            try:
                for tick in run_blocks(program, experiment, program.start()):
                    rows += tick.rows
                    steps = done + tick.step * many
                    display.update(steps, steps / (time.monotonic() - begun), [])
                    if received:
                        raise Stopped(received[0], f"stopped at {what}, which will be trained again")
            except EnvironmentFailure as failure:
                raise EnvironmentFailure(f"env={experiment.env} {failure}") from failure.__cause__
            k, done = k + 1, done + experiment.steps * many
    return Sweep(points, list(range(plan.seed, plan.seed + plan.seeds)), rows, [])


def _reached(sweep: Sweep, h: int) -> Reached:
    """Returns what a point has reached. Its curve ends where a seed diverges, since others may have more steps."""
    means = sweep.returns[h].mean(axis=0)
    curve = {int(step): float(mean) for step, mean in zip(sweep.steps[h, 0], means, strict=True) if math.isfinite(mean)}
    return Reached(sweep.final[h].tolist(), float(ranking_score(sweep.final[h])), curve)


def _best(finished: Sequence[Finished]) -> Finished | None:
    """Returns the point with the highest value, or None if none has one."""
    return max((one for one in finished if math.isfinite(one.value)), key=lambda one: one.value, default=None)


def _write(folder: Path, plan: Plan, study: Study) -> None:
    """Writes what is known so far: points.csv, best.json and the figure."""
    with one_at_a_time(folder / "workers" / "writing"):
        _write_all(folder, plan, study, study.finished)


def _write_all(folder: Path, plan: Plan, study: Study, finished: list[Finished]) -> None:
    if not finished:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    returns = [f"return_seed_{plan.seed + s}" for s in range(plan.seeds)]
    writer.writerow(["point", *plan.ranges, "final_return_iqm", *returns])
    for one in finished:
        writer.writerow([one.number, *(one.point[name] for name in plan.ranges), one.value, *one.returns])
    files.write_text(folder / "points.csv", text.getvalue())
    if best := _best(finished):
        (group,) = plan.groups([best.point])
        fields = {name: value for name, value in {**plan.fields, **best.point}.items() if reads(group.experiment, name)}
        shown = {name: plain(value) for name, value in fields.items() if name not in ("env", "seed")}
        files.write_text(folder / "best.json", as_json(shown))
        title = f"DDPG on {plan.fields['env']}, {plural(plan.seeds, 'seed')} a point"
        tune_figure(finished, study.importances(), title, path=folder / "importance.png")


def _tell_progress(finished: Sequence[Finished], points: int) -> None:
    best = _best(finished)
    reached = f"best {readable(best.value)} with {_shown(best.point)}" if best else "all have diverged"
    tell(f"{len(finished)} of {points} points: {reached}")


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in point.items())


def _conclusion(folder: Path, finished: Sequence[Finished]) -> str:
    best = _best(finished)
    if best is None:
        return f"all points have diverged ({plural(len(finished), 'point')}); the study is in {folder}"
    values = np.array([one.value for one in finished])
    diverged, median = int(np.isnan(values).sum()), readable(float(np.nanmedian(values)))
    others = f"{diverged} diverged, median of the others {median}" if diverged else f"median {median}"
    return (
        f"best of {plural(len(finished), 'point')}: {readable(best.value)} ({others}) with "
        f"{_shown(best.point)}; train it on new seeds with --preset {folder / 'best.json'}"
    )
