"""Runs one program of a job: it trains it, logs, shows progress, saves checkpoints and stops at signals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.evolving import changing
from ddpg_jax.app.manifest import now
from ddpg_jax.app.policies import take_up
from ddpg_jax.app.processes import Ended
from ddpg_jax.app.progress import Display
from ddpg_jax.app.resume import backend_of, has_finished, noted_demonstrations
from ddpg_jax.app.stopping import Stopped
from ddpg_jax.errors import EnvironmentFailure
from ddpg_jax.running.blocks import Journal, Tick, run_blocks
from ddpg_jax.running.clock import is_regular, step_at
from ddpg_jax.running.groups import describe
from ddpg_jax.running.program import Program

if TYPE_CHECKING:
    from ddpg_jax.app.job import Job


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
        self._policies, late = take_up(
            self.folder,
            self.program,
            self.experiment,
            k=self.k,
            total=len(self.job.members),
            rows=self.job.rows,
            kept=kept,
        )
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
            for tick in run_blocks(
                self.program,
                self.experiment,
                state,
                begin=begin,
                journal=journal,
                gather=self.processes.gather,
                **ways,
            ):
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

        A checkpoint is saved only if there is an earlier one, and the policies only if there is one or an evaluation: without
        either, the same command can be given again. Nothing is saved if there are other processes, which do not know of the
        failure yet and write no checkpoint.
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
            kept = f"--resume continues {self.folder.given} from its last checkpoint" if self.checkpoints.any() else none_yet
            raise EnvironmentFailure(f"env={self.experiment.env} {failure}; {kept}") from failure
