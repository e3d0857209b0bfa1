"""The main job: a run with its folder, progress, checkpoints and signals."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpg_jax.api import make_policy, make_program
from ddpg_jax.app import folder as folders
from ddpg_jax.app import report
from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.evaluation import on_device
from ddpg_jax.app.folder import RunFolder
from ddpg_jax.app.progress import Display
from ddpg_jax.app.tracking import check_tracker, tracker
from ddpg_jax.experiment import Experiment
from ddpg_jax.driving import Journal, drive
from ddpg_jax.program import Member, Program
from ddpg_jax.types import ConfigError, EnvironmentFailure


class Options(NamedTuple):
    """What concerns the job and not its results."""

    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints; there is one at every stop."""
    track: str | None = None


class Stopped(Exception):
    """A signal ended the run, after a checkpoint."""

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.status = 128 + number


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in the user's cache folder or where JAX was told to."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "ddpg-jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; a second one acts as it usually does."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(experiment: Experiment, members: list[Member], options: Options) -> str:
    """Runs or resumes an experiment in its folder; gives the line that reports the result.

    Raises:
        ConfigError: the folder or the environment will not do; nothing was written.
        EnvironmentFailure: the environment failed; the checkpoint before it is kept.
        Stopped: a signal came.
    """
    path = options.out or folders.default_folder(experiment, members)
    check_tracker(options.track)
    program = make_program(experiment, members)
    try:
        place = RunFolder(path)
        place.claim(experiment, members, options.resume, options.overwrite)
        return _run(experiment, members, program, place, options)
    finally:
        program.close()


def _run(experiment: Experiment, members: list[Member], program: Program, place: RunFolder, options: Options) -> str:
    total = -(-experiment.steps // experiment.num_envs) * experiment.num_envs
    if not options.resume:
        place.clear()
        place.write_manifest(**folders.about(experiment, members))
    config = dataclasses.asdict(experiment)
    with (
        tracker(options.track, place.path, config) as track,
        Checkpoints(place.checkpoints) as checkpoints,
        signals() as received,
    ):
        display = Display(total, 0)
        begin, journal, rows, earlier = 0, None, [], 0.0
        state: Any = None
        if options.resume:
            kept = checkpoints.newest(program.shapes(), display.say)
            if kept is None:
                display.say(f"{place.path} has no checkpoint: starting from the beginning")
            else:
                state, begin, journal = program.load(kept.arrays, kept.text), kept.iteration, Journal(*kept.journal)
                step = begin * experiment.num_envs
                display.say(f"{place.path} {'was finished at' if step >= total else 'goes on from'} step {step:,}")
                if kept.text is None and not on_device(experiment.backend, experiment.env):
                    display.say("the environments could not be kept: their episodes start anew")
            rows = [row for row in place.read_rows() if row["step"] <= begin * experiment.num_envs]
            earlier = place.manifest().get("seconds", 0.0) if rows else 0.0
            place.write_manifest(experiment=dataclasses.asdict(experiment), status="running", end=None)
        place.rewrite_rows(rows)
        state = program.start() if state is None else state
        begun = saved = time.monotonic()
        seconds = earlier
        display = Display(total, begin * experiment.num_envs)
        with display:
            last = (begun, begin * experiment.num_envs)
            iteration = begin
            try:
                for tick in drive(program, experiment, state, begin, journal):
                    state, iteration = tick.state, tick.iteration
                    seconds = earlier + time.monotonic() - begun
                    if tick.rows:
                        rows += tick.rows
                        place.append_rows(tick.rows)
                        track(tick.rows)
                    display.update(tick.step, (tick.step - last[1]) / max(time.monotonic() - last[0], 1e-9), tick.rows)
                    last = (time.monotonic(), tick.step)
                    if received or tick.finished or time.monotonic() - saved >= options.checkpoint_seconds:
                        arrays, text = program.save(state)
                        checkpoints.save(Checkpoint(iteration, arrays, text, tick.journal))
                        saved = time.monotonic()
                        place.write_manifest(seconds=round(seconds, 3))
                    if received and not tick.finished:
                        checkpoints.wait()
                        place.write_manifest(status="interrupted", end=folders.now())
                        raise Stopped(received[0], f"stopped at step {tick.step:,}; go on with --resume --out {place.path}")
            except EnvironmentFailure as failure:
                checkpoints.wait()
                place.write_manifest(status=f"failed: {failure}", end=folders.now())
                raise EnvironmentFailure(f"env={experiment.env} {failure}; {place.path} keeps what was before") from failure
            checkpoints.wait()
        return _finish(experiment, members, program, place, state, rows, seconds)


def _finish(
    experiment: Experiment,
    members: list[Member],
    program: Program,
    place: RunFolder,
    state: Any,
    rows: list[Any],
    seconds: float,
) -> str:
    """Writes policy, summary and figure; gives the line that reports the result."""
    if not rows:
        raise ConfigError(f"out={place.path} has lost its metrics.csv; run it again with --overwrite")
    seconds = round(seconds, 3)
    for m in range(len(members)):
        where = place.policy if len(members) == 1 else place.policy / f"member_{m}"
        make_policy(experiment, program.spec, program.actor(state, m)).save(where)
    summary = report.summarize(rows, program.spec.reward_threshold, seconds)
    folders.write(place.path / "summary.json", report.as_json(summary))
    report.plot(report.labels(rows, experiment.preset), f"DDPG on {experiment.env}", place.path / "learning_curve.png")
    place.write_manifest(status="finished", end=folders.now(), seconds=seconds)
    last = rows[-1]
    spread = last["eval_return_std"] / math.sqrt(experiment.eval_episodes)
    return (
        f"{experiment.env}: return {last['eval_return_mean']:.1f} +- {spread:.1f} (standard error of "
        f"{experiment.eval_episodes} episodes) after {last['step']:,} steps in {seconds:.0f} s; {place.path}"
    )
