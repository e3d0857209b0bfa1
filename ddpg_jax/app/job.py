"""Runs the main job: an experiment with its folder, progress, checkpoints and signals."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.finish import finish
from ddpg_jax.app.manifest import new_manifest, now, provenance
from ddpg_jax.app.metrics_table import RowDigest
from ddpg_jax.app.processes import ALONE, Processes
from ddpg_jax.app.program_job import ProgramJob
from ddpg_jax.app.progress import Display
from ddpg_jax.app.queue import ProgramQueue
from ddpg_jax.app.release import Released, as_checkpoint, check_release, release
from ddpg_jax.app.resume import restore_rows
from ddpg_jax.app.run_folder import RunFolder, default_folder
from ddpg_jax.app.signals import signals
from ddpg_jax.app.start import Options, check_same_command, claim, stop_before_start
from ddpg_jax.app.stderr import message_of
from ddpg_jax.app.stopping import TIME_IS_UP, Stopped, make_referee
from ddpg_jax.app.tracking import Track, check_tracker, tracker
from ddpg_jax.errors import ConfigError
from ddpg_jax.running.blocks import Tick
from ddpg_jax.running.groups import Group
from ddpg_jax.running.members import Change, Member
from ddpg_jax.running.population import Population, check_together


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
                line = finish(self.folder, self.queue.groups, self._rows, seconds=self.seconds, say=self.say, changes=changes)
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
        own, before = dataclasses.asdict(self.queue.first_experiment), self.folder.manifest()
        longer = any(own[name] != before["experiment"][name] for name in ("steps", "updates"))
        resumes = [*before.get("resumes", []), *([provenance()] if longer else [])]
        self.folder.write_manifest(experiment=own, status="running", end=None, resumes=resumes, **self.written())
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
                raise ConfigError(
                    f"{self.folder.metrics} does not have the columns that this run writes (they differ in {different}); "
                    "restore it, or start again with --overwrite"
                )
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
