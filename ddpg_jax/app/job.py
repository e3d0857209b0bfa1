"""Runs the main job: an experiment with its folder, progress, checkpoints and signals."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.evolving import changing
from ddpg_jax.app.finish import finish
from ddpg_jax.app.manifest import new_manifest, now
from ddpg_jax.app.metrics_table import RowDigest
from ddpg_jax.app.policies import take_up
from ddpg_jax.app.processes import ALONE, Ended, Processes
from ddpg_jax.app.progress import Display
from ddpg_jax.app.queue import ProgramQueue
from ddpg_jax.app.release import Released, as_checkpoint, check_release, release
from ddpg_jax.app.resume import backend_of, has_finished, noted_demonstrations, restore_rows
from ddpg_jax.app.run_folder import RunFolder, default_folder
from ddpg_jax.app.signals import signals
from ddpg_jax.app.start import Options, check_same_command, claim, stop_before_start
from ddpg_jax.app.stderr import message_of
from ddpg_jax.app.stopping import TIME_IS_UP, make_referee
from ddpg_jax.app.tracking import Track, check_tracker, tracker
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.running.blocks import Journal, Tick, run_blocks
from ddpg_jax.running.clock import is_regular, step_at
from ddpg_jax.running.groups import Group, describe
from ddpg_jax.running.members import Change, Member
from ddpg_jax.running.population import Population, check_together
from ddpg_jax.running.program import Program


class Stopped(Exception):
    """A signal or the time limit stopped the run, after a checkpoint."""

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.status = 128 + number if number != TIME_IS_UP else 0


def train(groups: list[Group], options: Options, processes: Processes = ALONE) -> str:
    """Runs or resumes an experiment, of one member or of many, in its folder, and returns the line that reports the result.

    If there are several processes, each trains its share of the members, and the first writes the folder.

    Raises:
        ConfigError: the folder or the environment cannot be used, before anything is written; or files that were there when
            the run began are gone or changed.
        EnvironmentFailure: the environment failed; the checkpoint before it is kept.
        Stopped: a signal arrived.
        Ended: another process died or failed, or a signal arrived before anything was written.
    """
    begin = options.stopping.clock()
    with signals() as received:  # from here on, since a signal that arrives while JAX is at work would be lost there
        experiment = groups[0].experiment
        members = sorted((member for group in groups for member in group.members), key=lambda member: member.number)
        folder = RunFolder(options.out or default_folder(experiment, members), processes)
        check_tracker(options.track)
        check_same_command(experiment, members, folder, options=options)
        if options.resume:
            claim(folder, experiment, members, options=options)
            options = options.resumed(folder.manifest())
            if options.stopping.words == "none":
                check_release(processes.total)
            folder.write_manifest(stopping=options.stopping.record())
        else:
            folder.check(experiment, members, resume=False, overwrite=options.overwrite)
        unit = len({member.seed for member in members}) if options.stopping.pruning else 1
        queue = ProgramQueue(groups, folder.programs() if options.resume else [], processes, unit=unit)
        with contextlib.closing(queue):
            queue.check()  # reports an environment that cannot be used, before anything is written
            if not options.resume:
                if isinstance(options.evolution, Population):
                    check_together(queue.groups[0], groups[0], queue.close)
                stop_before_start(processes, received)
                claim(folder, experiment, members, options=options)
                folder.clear()
                folder.write_manifest(**new_manifest(experiment, members, processes.total), **options.record())
                processes.gather(None)  # so that all find it there
            with tracker(options.track if processes.first else None, folder.path, folder.manifest()) as track:
                return Job(queue, folder, options, begin=begin, members=members, track=track, received=received).run()


class Job:
    """One run with its folder: it trains one program after the other, from the newest checkpoint on."""

    def __init__(
        self,
        queue: ProgramQueue,
        folder: RunFolder,
        options: Options,
        *,
        begin: float,
        members: list[Member],
        track: Track,
        received: list[int],
    ):
        self.queue, self.folder, self.options = queue, folder, options
        self.members, self.received = members, received
        self.processes = folder.processes
        self.say = Display(1, 0, silent=not self.processes.first).say
        self._track = track
        self._rows: list[dict[str, Any]] = []
        self._deadline = begin + 3600.0 * (math.inf if options.stopping.hours is None else options.stopping.hours)
        self._digest = RowDigest()
        self._lineage: list[Change] = []
        self._earlier_seconds = 0.0
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all the times that it was resumed."""
        return round(self._earlier_seconds + (time.monotonic() - self._begun if self._begun else 0.0), 3)

    @property
    def evaluated(self) -> bool:
        """True after the first evaluation."""
        return bool(self._rows)

    def start_clock(self) -> None:
        """Starts to count wall time, if it is not counted yet."""
        self._begun = self._begun or time.monotonic()

    def run(self) -> str:
        """Trains until the run is finished or a signal arrives, and returns the line that reports the result."""
        with self._noting_failure():
            with Checkpoints(self.folder.checkpoints, self.processes, self.folder.manifest().get("hash", "")) as checkpoints:
                self._train_all(checkpoints)
            self.processes.gather(None)  # so that all policies are there
            line = None
            if self.processes.first:
                changes = self._lineage if isinstance(self.options.evolution, Population) else None
                done = {"seconds": self.seconds, "say": self.say, "changes": changes}
                line = finish(self.folder, self.queue.groups, self._rows, **done)
            return self.processes.gather(line)[0]

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Notes in the manifest whatever ends the run, except a signal that was handled."""
        try:
            yield
        except Stopped:
            raise
        except BaseException as error:
            # A KeyboardInterrupt comes from a second Ctrl-C.
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {message_of(error)}"
            with contextlib.suppress(OSError, ConfigError):  # the folder may be gone
                self.folder.write_manifest(status=status, end=now())
            raise

    def _train_all(self, checkpoints: Checkpoints) -> None:
        kept = self._resume(checkpoints) if self.options.resume else None
        self.folder.rewrite_rows(self._rows)
        self._track(self._rows)
        recorded = self.folder.manifest().get("stopped", {})
        self.referee = make_referee(
            self.options.stopping, self.queue.planned, processes=self.processes, rows=self._rows, recorded=recorded
        )
        self._note_stops()
        k = kept.program if kept else 0
        arrays = [kept.arrays] if kept else []  # a list, from which they are taken so that they are not held while training
        kept = kept and kept._replace(arrays=None)
        while (program := self.queue.get(k)) is not None:
            job = ProgramJob(self, k, program, checkpoints=checkpoints)
            end = job.run(kept, arrays)
            kept, k = None, k + 1
            self._lineage = [Change(*change) for change in end[1].lineage or []]
            wanted = self.options.stopping.words == "none" and self.queue.at_end(k)
            released = release(job.group, program, *end, self.referee) if wanted and self.referee else None
            del end, job  # the next program needs their memory
            if released:
                kept = self._go_on(released, k, checkpoints)
                arrays, kept = [kept.arrays], kept._replace(arrays=None)

    def _go_on(self, released: Released, k: int, checkpoints: Checkpoints) -> Checkpoint:
        """Appends the k-th program, of members that were pruned, and returns its first checkpoint, which is on disk."""
        kept = as_checkpoint(released, k, self.queue.append(released.group))
        kept = kept._replace(rows=self._digest.count, rows_digest=self._digest.text())
        checkpoints.save(kept)
        checkpoints.wait()
        self._note_stops()
        if any(stop.reason == "prune" for stop in (self.referee.stops if self.referee else {}).values()):
            self.say("pruned points of earlier programs stay where they are, since only the last program has a checkpoint")
        return kept

    def _resume(self, checkpoints: Checkpoints) -> Checkpoint | None:
        """Restores what the folder knows of the run so far, and returns its newest checkpoint."""
        kept = checkpoints.newest(self._shapes, self.say)
        self._rows = restore_rows(self.folder, self.queue, kept, say=self.say)
        self._digest.add(self._rows)
        self._earlier_seconds = self.folder.manifest().get("seconds", 0.0) if kept else 0.0
        own = dataclasses.asdict(self.queue.first_experiment)
        self.folder.write_manifest(experiment=own, status="running", end=None, **self.written())
        return kept

    def _shapes(self, k: int) -> Any | None:
        program = self.queue.get(k)
        return None if program is None else program.shapes()

    def log(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Writes the rows of all processes and returns them.

        Raises:
            ConfigError: metrics.csv has other columns.
        """
        rows = [row for each in self.processes.gather(rows) for row in each]
        if rows:
            before = list(self._rows[0] if self._rows else rows[0])
            if before != list(rows[0]):
                different = ", ".join(sorted(set(before) ^ set(rows[0]))) or "their order"
                raise ConfigError(f"{self.folder.metrics} has other columns than this run writes: {different}; remove them")
            self._rows += rows
            self._digest.add(rows)
            self.folder.append_rows(rows)
            self._track(rows)
            self._note_stops()
        return rows

    def _note_stops(self) -> None:
        """Notes in the manifest which members have stopped."""
        stops = {str(number): list(stop) for number, stop in self.referee.stops.items()} if self.referee else {}
        if stops != self.folder.manifest().get("stopped", {}):
            self.folder.write_manifest(stopped=stops)

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        """The rows of metrics.csv so far."""
        return self._rows

    def checkpoint(self, k: int, tick: Tick, arrays: Any, text: str | None) -> Checkpoint:
        """Returns the checkpoint of the k-th program at a tick."""
        return Checkpoint(k, tick.iteration, arrays, text, tick.journal, self._digest.count, self._digest.text())

    def written(self) -> dict[str, Any]:
        """What the manifest says of the rows so far."""
        return {"rows": self._digest.count, "rows_digest": self._digest.text()}

    def received_anywhere(self) -> list[int]:
        """Returns the signals that any process has received, and `TIME_IS_UP`, last, if it is."""
        own = [*self.received, *([TIME_IS_UP] if self.time_is_up else [])]
        return sorted((number for each in self.processes.gather(own) for number in each), reverse=True)

    @property
    def time_is_up(self) -> bool:
        """True if the run has to stop, by the clock of the first process."""
        return self.processes.first and self.options.stopping.clock() >= self._deadline


class ProgramJob:
    """One program of a job: `run` trains it, logs, shows progress, saves checkpoints and stops at signals."""

    def __init__(self, job: Job, k: int, program: Program, *, checkpoints: Checkpoints):
        self.job, self.k, self.program, self.checkpoints = job, k, program, checkpoints
        self.queue, self.folder, self.processes = job.queue, job.folder, job.processes
        self.group = job.queue.groups[k]
        self.experiment, self.many = self.group.experiment, len(self.group.members)
        self._steps_before = self.queue.steps_before(k)
        self._saved_at, self._saved_time = 0, 0.0  # vector step and time of the newest checkpoint
        self._shown = (0.0, 0)  # time and step from which the speed is measured

    def run(self, kept: Checkpoint | None, arrays: list[Any]) -> tuple[Any, Journal]:
        """Trains the program from its start, or from a checkpoint whose arrays are taken from the list, to its end.

        Returns its last state and journal.
        """
        self._announce()
        begin, journal = (kept.iteration, Journal(*kept.journal)) if kept else (0, None)
        finished = has_finished(kept, self.queue, self.processes)
        if not finished:
            self._check_environments(kept)
        with self._explaining_failure():
            state = self.program.load(arrays.pop(), kept.text, kept.iteration) if kept else self.program.start()
        about = {"k": self.k, "total": len(self.job.members), "rows": self.job.rows}
        self._policies, late = take_up(self.folder, self.program, self.experiment, kept=kept, **about)
        if kept and finished:
            self._policies.note(state, late)
            self._policies.save(state, step_at(self.experiment, begin))
            return state, Journal(*kept.journal)
        self.job.start_clock()
        self._saved_at, self._saved_time = begin, time.monotonic()
        self._shown = (self._saved_time, step_at(self.experiment, begin))
        with self._display(self._shown[1]) as display, self._explaining_failure():
            ways = changing(self.job.options.evolution, self.folder.path / "checkpoints", self.processes)
            if self.job.referee:
                ways["judge"] = self.job.referee.judge(self.program.members)
            ways["gather"] = self.processes.gather
            for tick in run_blocks(self.program, self.experiment, state, begin=begin, journal=journal, **ways):
                state, journal = tick.state, tick.journal
                self._attend(tick, display)
        self.checkpoints.wait()
        assert journal is not None  # of the last tick
        return state, journal

    def _announce(self) -> None:
        """Describes the program, and records in the manifest which members each program so far trains, and where."""
        if len(self.job.members) > 1:
            shared = f", shared by {self.processes.total} processes" if self.processes.total > 1 else ""
            self.job.say(f"program {self.k + 1} of {self.queue.total()}{shared}: {describe(self.group, self.program)}")
        self.folder.write_manifest(
            programs=[[member.number for member in group.members] for group in self.queue.groups],
            backends=[backend_of(group.experiment) for group in self.queue.groups],
            demonstrations=noted_demonstrations(self.folder, self.experiment, self.program.store),
        )

    def _check_environments(self, kept: Checkpoint | None) -> None:
        """Reports what is unusual about the environments: no time limit, or that checkpoints cannot keep them.

        The latter is found out before the first of them is in use.
        """
        if line := self.program.time_limit_missing():
            self.job.say(line)
        if self.program.keeps_environments():
            return
        if kept is None:
            self.job.say(f"env={self.experiment.env} cannot be kept in checkpoints: after a --resume, its episodes start again")
        elif kept.text is not None:  # otherwise it has been said
            self.job.say("the environments could not be kept: their episodes start again")

    def _display(self, step: int) -> Display:
        what = f"{self.many} members, program {self.k + 1} of {self.queue.total()}" if len(self.job.members) > 1 else ""
        return Display(self.queue.steps, self._steps_before + step * self.many, silent=not self.processes.first, what=what)

    def _attend(self, tick: Tick, display: Display) -> None:
        """Logs and shows a tick, and saves a checkpoint if one is due; stops the run if there was a signal."""
        time_now, rows = time.monotonic(), self.job.log(tick.rows)
        since, step = self._shown
        stopped = tick.journal.stopped or []
        going_on = self.many * (1 - sum(at >= 0 for at in stopped) / max(1, len(stopped)))  # if processes do not differ
        speed = (tick.step - step) * going_on / max(time_now - since, 1e-9)
        display.update(self._steps_before + tick.step * self.many, speed, rows)
        self._shown = (time_now, tick.step) if rows else self._shown
        if rows and is_regular(self.experiment, tick.iteration):
            self._policies.note(tick.state, rows)
            self._policies.keep(tick.state, tick.step)
        # Only the clock of the first process counts.
        due = self.processes.first and time_now - self._saved_time >= self.job.options.checkpoint_seconds
        due = due or self.job.time_is_up
        if tick.failed:
            self._save_before_failure(tick)
        elif any(self.processes.gather(bool(self.job.received or due or tick.finished))):
            self._save(tick, rows)

    def _save(self, tick: Tick, rows: list[dict[str, Any]]) -> None:
        """Saves a checkpoint, and the policies if the program ends here; stops the run if there was a signal.

        Raises:
            Stopped: there was a signal, and the run is not finished.
        """
        self._policies.save_best()
        self.checkpoints.save(self.job.checkpoint(self.k, tick, *self.program.save(tick.state)))
        self._policies.checkpointed((tick.iteration, self.job.written()["rows"]))
        if not is_regular(self.experiment, tick.iteration):  # a longer run, from this checkpoint on, would not have these rows
            self._policies.note(tick.state, rows)
        # After saving, since otherwise a slow save would be due again at once.
        self._saved_at, self._saved_time = tick.iteration, time.monotonic()
        self.folder.write_manifest(seconds=self.job.seconds, **self.job.written())
        stop = self.job.received_anywhere()
        if tick.finished or stop:
            self._policies.save(tick.state, tick.step)
        else:
            self._policies.keep(tick.state, tick.step)
        if stop and (not tick.finished or self.queue.steps_before(self.k + 1) < self.queue.steps):
            self.checkpoints.wait()
            self.folder.write_manifest(status="interrupted", end=now())
            where = " of each member" if self.many > 1 else ""
            where += f" of program {self.k + 1} of {self.queue.total()}" if self.queue.total() > 1 else ""
            raise Stopped(stop[0], f"stopped at step {tick.step:,}{where}")

    def _save_before_failure(self, tick: Tick) -> None:
        """Saves what was learned before the step at which an environment failed; its episodes will start again.

        Nothing is saved before the first checkpoint, so that the same command can be given again; nor if there are other
        processes, which do not know of the failure yet and write no checkpoint.
        """
        if self.processes.total == 1 and self.checkpoints.any() and tick.iteration > self._saved_at:
            self._policies.save_best()
            self.checkpoints.save(self.job.checkpoint(self.k, tick, self.program.save(tick.state)[0], None))
            self._policies.checkpointed((tick.iteration, self.job.written()["rows"]))
        if self.processes.total == 1 and (self.checkpoints.any() or self.job.evaluated):
            self._policies.save(tick.state, tick.step)

    @contextlib.contextmanager
    def _explaining_failure(self) -> Iterator[None]:
        """Adds to the failure of an environment its name and what is kept."""
        try:
            yield
        except (EnvironmentFailure, Ended) as failure:
            with contextlib.suppress(OSError):
                self.checkpoints.wait()
            if isinstance(failure, Ended):
                raise
            policy = f"; the policy of the last evaluation is in {self.folder.given}" if self.job.evaluated else ""
            none_yet = f"there was no checkpoint yet{policy}"
            kept = f"{self.folder.given} keeps everything before it" if self.checkpoints.any() else none_yet
            raise EnvironmentFailure(f"env={self.experiment.env} {failure}; {kept}") from failure
