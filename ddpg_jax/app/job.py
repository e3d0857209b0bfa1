"""The main job: a run with its folder, progress, checkpoints and signals."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpg_jax.agent.policy import reward_threshold
from ddpg_jax.api import make_policy
from ddpg_jax.app import report
from ddpg_jax.app import run_folder as folders
from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.figures import figures
from ddpg_jax.app.processes import ALONE, Ended, Processes
from ddpg_jax.app.progress import Display
from ddpg_jax.app.queue import Programs
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.tracking import Track, check_tracker, tracker
from ddpg_jax.envs.choosing import device_env
from ddpg_jax.envs.host import stopping
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.experiment import Experiment, env_options
from ddpg_jax.running.blocks import Journal, Tick, period, run_blocks, schedule
from ddpg_jax.running.groups import Group, describe
from ddpg_jax.running.program import Member, Program, total_iterations, warmup_iterations


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
        with contextlib.suppress(RuntimeError):  # a user without a home has no cache
            root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            jax.config.update("jax_compilation_cache_dir", str(root / "ddpg-jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT, SIGTERM and SIGHUP in a list; a second one acts as it usually does.

    But for SIGHUP, that of a closed terminal, which comes in pairs. Under nohup it is ignored, and stays so.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        stopping.set()
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else before[number])

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        stopping.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def train(groups: list[Group], options: Options, processes: Processes = ALONE) -> str:
    """Runs or resumes an experiment, of one member or of many, in its folder; gives the line that reports the result.

    Of several processes each trains its share of the members, and the first writes the folder.

    Raises:
        ConfigError: the folder or the environment will not do, before anything is written; or files that were there when the
            run began are gone or changed.
        EnvironmentFailure: the environment failed; the checkpoint before it is kept.
        Stopped: a signal came.
        Ended: another process has died or failed, or a signal came before anything was written.
    """
    with signals() as received:  # from here on: one that comes while JAX is at work would be lost there
        return _train(groups, options, processes, received)


def _train(groups: list[Group], options: Options, processes: Processes, received: list[int]) -> str:
    experiment = groups[0].experiment
    members = sorted((member for group in groups for member in group.members), key=lambda member: member.number)
    place = RunFolder(options.out or folders.default_folder(experiment, members), processes)
    check_tracker(options.track)
    _check_same(experiment, members, place.given, options, processes)
    if options.resume:
        place.claim(experiment, members, options.resume, options.overwrite)
        _check_shared(place, processes)
    else:
        place.check(experiment, members, options.resume, options.overwrite)
    programs = Programs(groups, place.programs() if options.resume else [], processes)
    with contextlib.closing(programs):
        programs.check()  # an environment that will not do says so before anything is written
        if not options.resume:
            stop = [number for each in processes.gather(list(received)) for number in each]
            if stop:
                raise Ended("stopped before anything was written", 128 + stop[0])
            place.claim(experiment, members, options.resume, options.overwrite)
            _check_shared(place, processes)
            place.clear()
            place.write_manifest(**folders.about(experiment, members, processes.total))
            processes.gather(None)  # all find it there
        with tracker(options.track if processes.first else None, place.path, dataclasses.asdict(experiment)) as track:
            return Job(experiment, members, programs, place, options, track, processes).run(received)


def _check_same(experiment: Experiment, members: list[Member], out: Path, options: Options, processes: Processes) -> None:
    """All processes must have been given the same command.

    Raises:
        ConfigError: this one's is not that of process 0.
    """
    mine = {
        "experiment": folders.digest(experiment, members),
        "steps": experiment.steps,
        "out": str(out),
        "resume": options.resume,
        "overwrite": options.overwrite,
    }
    first = processes.gather(mine)[0]
    different = [f"{name}={mine[name]} (there {first[name]})" for name in mine if mine[name] != first[name]]
    if different:
        raise ConfigError(f"process 0 was given another command; this one differs in {', '.join(different)}")


def _check_shared(place: RunFolder, processes: Processes) -> None:
    """All processes must see the folder that process 0 has claimed.

    Raises:
        ConfigError: this one does not.
    """
    if processes.gather(place.mark() if processes.first else None)[0] != place.mark():
        raise ConfigError(f"out={place.given} is not the folder that process 0 has; it must be on a file system that all share")


class Job:
    """One run with its folder. `run` goes through the programs, from the newest checkpoint on."""

    def __init__(
        self,
        experiment: Experiment,
        members: list[Member],
        programs: Programs,
        place: RunFolder,
        options: Options,
        track: Track,
        processes: Processes,
    ):
        self.experiment, self.members, self.programs, self.processes = experiment, members, programs, processes
        self.place, self.options, self.track = place, options, track
        self.rows: list[dict[str, Any]] = []
        self.earlier = 0.0  # seconds of the processes before this one
        self.begun: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the run, all its processes together."""
        return round(self.earlier + (time.monotonic() - self.begun if self.begun else 0.0), 3)

    def run(self, received: list[int]) -> str:
        """Trains, until it is done or a signal is received; gives the line that reports the result.

        Whatever else ends it is noted in the manifest.
        """
        try:
            return self._run(received)
        except Stopped:
            raise
        except BaseException as error:
            what = " ".join(str(error).split()) or type(error).__name__
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {what}"  # by a second Ctrl-C
            with contextlib.suppress(OSError):
                self.place.write_manifest(status=status, end=folders.now())
            raise

    def _run(self, received: list[int]) -> str:
        say = Display(1, 0, not self.processes.first).say
        run = self.place.manifest().get("hash", "")
        with Checkpoints(self.place.checkpoints, self.processes, run) as checkpoints:
            k, kept = 0, None
            if self.options.resume:
                kept = checkpoints.newest(self._shapes, say)
                k = kept.program if kept else 0
                self._recall(kept, say)
            self.place.rewrite_rows(self.rows)
            arrays = [kept.arrays] if kept else []  # for whoever takes them out: they must not be held while the run goes on
            kept = kept and kept._replace(arrays=None)
            while (program := self.programs.get(k)) is not None:
                self._train(k, program, kept, arrays, checkpoints, received, say)
                kept, k = None, k + 1
        self.processes.gather(None)  # all policies are there
        return self.processes.gather(self._finish(say) if self.processes.first else None)[0]

    def _shapes(self, k: int) -> Any | None:
        program = self.programs.get(k)
        return None if program is None else program.shapes()

    def _recall(self, kept: Checkpoint | None, say: Callable[[str], None]) -> None:
        """Takes up what the folder says of the run so far."""
        if kept is None:
            say(f"{self.place.given} has no checkpoint: starting from the beginning")
            reached: dict[int, float] = {}
        else:
            experiment, now = self.programs.parts[kept.program]
            before = [member.number for part in self.programs.parts[: kept.program] for member in part.members]
            step = kept.iteration * experiment.num_envs
            reached = {**dict.fromkeys(before, math.inf), **{member.number: step for member in now}}
            over = self._over(kept)
            if not over and kept.iteration % period(experiment):  # it was to end here, and now does not
                reached |= {member.number: step - 1 for member in now}
            say(f"{self.place.given} {'was finished at' if over else 'goes on from'} step {step:,}")
            if kept.text is None and backend_of(experiment) == "host":
                say("the environments could not be kept: their episodes start anew")
        self.rows = [row for row in self.place.read_rows() if row["step"] <= reached.get(row["member"], -1)]
        there = {row["member"] for row in self.rows}
        gone = [str(number) for number, step in reached.items() if step == math.inf and number not in there]
        if gone:
            say(f"{self.place.metrics} has lost its rows of the members {', '.join(gone)}, whose program is over")
        lost = self._lost(kept, reached) if kept else []
        if lost:
            say(f"{self.place.metrics} has lost its rows of step {', '.join(f'{step:,}' for step in lost)}")
        self.earlier = self.place.manifest().get("seconds", 0.0) if kept else 0.0
        self.place.write_manifest(experiment=dataclasses.asdict(self.experiment), status="running", end=None)

    def _lost(self, kept: Checkpoint, reached: dict[int, float]) -> list[int]:
        """Steps of the evaluations that a checkpoint has behind it and metrics.csv does not have of all members."""
        experiment, now = self.programs.parts[kept.program]
        there = {(row["member"], row["step"]) for row in self.rows}
        ends = [end * experiment.num_envs for _, end, evaluated in schedule(experiment) if evaluated and end <= kept.iteration]
        return [step for step in ends if any((m.number, step) not in there for m in now if step <= reached[m.number])]

    def _over(self, kept: Checkpoint | None) -> bool:
        """Whether the program of a checkpoint has nothing left to do: it is at its end, or all its members diverged."""
        if kept is None:
            return False
        experiment = self.programs.parts[kept.program].experiment
        lost = all(self.processes.gather(all(step >= 0 for step in Journal(*kept.journal).diverged)))
        return lost or kept.iteration * experiment.num_envs >= experiment.steps

    def _train(
        self,
        k: int,
        program: Program,
        kept: Checkpoint | None,
        arrays: list[Any],
        checkpoints: Checkpoints,
        received: list[int],
        say: Callable[[str], None],
    ) -> None:
        """One program, from its start or from a checkpoint to its end."""
        part, processes = self.programs.parts[k], self.processes
        experiment, many = part.experiment, len(part.members)
        if len(self.members) > 1:
            shared = f", shared by {processes.total} processes" if processes.total > 1 else ""
            say(f"program {k + 1} of {self.programs.total()}{shared}: {describe(part, program)}")
        self._note_programs()
        begin, journal = (kept.iteration, Journal(*kept.journal)) if kept else (0, None)
        with self._naming_failures(experiment, checkpoints):
            state = program.load(arrays.pop(), kept.text, kept.iteration) if kept else program.start()
        if self._over(kept):
            self._keep_policies(program, experiment, state)
            return
        self.begun = self.begun or time.monotonic()
        before, saved = self.programs.steps_before(k), time.monotonic()
        last, kept_at = (saved, begin * experiment.num_envs), begin
        what = f"{many} members, program {k + 1} of {self.programs.total()}" if len(self.members) > 1 else ""
        display = Display(self.programs.steps, before + last[1] * many, not processes.first, what)
        with display, self._naming_failures(experiment, checkpoints):
            for tick in run_blocks(program, experiment, state, begin=begin, journal=journal, gather=processes.gather):
                now, rows = time.monotonic(), self._log(tick.rows)
                display.update(before + tick.step * many, (tick.step - last[1]) * many / max(now - last[0], 1e-9), rows)
                last = (now, tick.step) if rows else last
                due = processes.first and now - saved >= self.options.checkpoint_seconds  # one clock for all
                if tick.failed:
                    self._keep_before_failure(k, program, tick, kept_at, checkpoints)
                    continue
                if not any(processes.gather(bool(received or due or tick.finished))):
                    continue
                checkpoints.save(Checkpoint(k, tick.iteration, *program.save(tick.state), tick.journal))
                kept_at = tick.iteration
                saved = time.monotonic()  # not `now`: a save that takes long would be due again at once
                self.place.write_manifest(seconds=self.seconds)
                stop = [number for each in processes.gather(list(received)) for number in each]
                if tick.finished or stop:
                    self._keep_policies(program, experiment, tick.state)
                if stop and (not tick.finished or self.programs.steps_before(k + 1) < self.programs.steps):
                    checkpoints.wait()
                    self.place.write_manifest(status="interrupted", end=folders.now())
                    each = " of each member" if many > 1 else ""
                    which = f" of program {k + 1} of {self.programs.total()}" if self.programs.total() > 1 else ""
                    raise Stopped(stop[0], f"stopped at step {tick.step:,}{each}{which}")
        checkpoints.wait()

    def _keep_before_failure(self, k: int, program: Program, tick: Tick, kept_at: int, checkpoints: Checkpoints) -> None:
        """Keeps what was learned before the step at which an environment failed; the environment itself is to start anew.

        Where nothing was kept yet, so that the command can be given again, nothing is; nor where other processes take part, who
        do not know of it yet and write no checkpoint.
        """
        if self.processes.total == 1 and checkpoints.any() and tick.iteration > kept_at:
            arrays, _ = program.save(tick.state)
            checkpoints.save(Checkpoint(k, tick.iteration, arrays, None, tick.journal))
            self._keep_policies(program, self.programs.parts[k].experiment, tick.state)

    def _note_programs(self) -> None:
        """Has the manifest say which members each program so far trains, and where."""
        parts = self.programs.parts
        self.place.write_manifest(
            programs=[[member.number for member in part.members] for part in parts],
            backends=[backend_of(part.experiment) for part in parts],
        )

    def _log(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Writes the rows of all processes; gives them."""
        rows = [row for each in self.processes.gather(rows) for row in each]
        if rows:
            self._check_columns(rows[0])
            self.rows += rows
            self.place.append_rows(rows)
            self.track(rows)
        return rows

    def _check_columns(self, row: dict[str, Any]) -> None:
        """A row must have the columns of those that were there before.

        Raises:
            ConfigError: it has others.
        """
        before = list(self.rows[0] if self.rows else row)
        if before != list(row):
            different = ", ".join(sorted(set(before) ^ set(row))) or "their order"
            raise ConfigError(f"{self.place.metrics} has other columns than this run writes: {different}; take them out")

    @contextmanager
    def _naming_failures(self, experiment: Experiment, checkpoints: Checkpoints) -> Iterator[None]:
        """Has an environment's failure say whose it is, and what is kept."""
        try:
            yield
        except (EnvironmentFailure, Ended) as failure:
            with contextlib.suppress(OSError):
                checkpoints.wait()
            if isinstance(failure, Ended):
                raise
            kept = f"{self.place.given} keeps what was before" if checkpoints.any() else "there was no checkpoint yet"
            raise EnvironmentFailure(f"env={experiment.env} {failure}; {kept}") from failure

    def _keep_policies(self, program: Program, experiment: Experiment, state: Any) -> None:
        for m, member in enumerate(program.members):
            make_policy(experiment, program.spec, program.actor(state, m)).save(self._policy_folder(member))

    def _policy_folder(self, member: Member) -> Path:
        return self.place.policy if len(self.members) == 1 else self.place.policy / f"member_{member.number}"

    def _finish(self, say: Callable[[str], None]) -> str:
        """Writes summary and figures; gives the line that reports the result."""
        if not self.rows:
            raise ConfigError(f"out={self.place.given} has lost its metrics.csv; run it again with --overwrite")
        seconds = self.seconds
        thresholds = {}
        for member in self.members:
            try:
                thresholds[member.number] = reward_threshold(self._policy_folder(member))
            except FileNotFoundError:
                say(f"{self._policy_folder(member)} is lost, and the program that trained it is over")
        summary = report.summarize(self.rows, thresholds, seconds)
        folders.write(self.place.path / "summary.json", report.as_json(summary))
        settings = report.settings(self.place.manifest())
        figures(self.rows, report.described(settings, settings), self.experiment.env, self.place.path)
        self.place.write_manifest(status="finished", end=folders.now(), seconds=seconds)
        line = report.headline(self.experiment.env, self.rows, self.experiment.eval_episodes)
        if all(total_iterations(part.experiment) <= warmup_iterations(part.experiment) for part in self.programs.parts):
            line += f", all of them warm-up (warmup_steps={self.experiment.warmup_steps}), in which nothing is learned,"
        return f"{line} in {seconds:.0f} s; {self.place.given}"


def backend_of(experiment: Experiment) -> str:
    """Where its environment runs, device or host; what `backend=auto` comes to."""
    return "host" if device_env(experiment.backend, experiment.env, env_options(experiment)) is None else "device"
