"""The tasks that people publish on: one sweep of ten seeds after another, for days, on a machine that may go down at any time.

    python -m benchmarks.suite                                    # all tasks, from where it was stopped
    python -m benchmarks.suite --status                           # what is done, what runs, and how long it will take
    python -m benchmarks.suite --only hopper walker2d             # these alone
    python -m benchmarks.suite --only hopper --seeds 2 --steps 20000 --results /tmp/trial    # a trial, kept apart
    python -m benchmarks.suite --pilot                            # small variants, to choose the preset of the family

The tasks, the preset of the family and the published levels are in `benchmarks/suite_tasks.py`. Each task is one `ddpg-jax
sweep` in a run folder of its own under `--work`, beside `TASK.log`, all that the sweep has said. A finished task becomes
`suite_TASK.json`, `suite_TASK.csv` and `suite_TASK.png` in `--results`, a pilot `pilot_NAME.json`. Trials have results only
where `--results` is given.

Ctrl-C and SIGTERM end it with exit status 130, after a checkpoint of the sweep; whatever else ends it costs what the sweep has
done since its last checkpoint. The same command goes on. A task that fails is recorded and the next one is begun; it is tried
again at the next start. The exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TextIO

from benchmarks.suite_results import differences, publish, read_json, read_rows, write
from benchmarks.suite_tasks import PILOTS, TASKS, Task, shrunk
from ddpg_jax.types import ConfigError

HERE = Path(__file__).parent
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of a sweep that was asked to stop."""
WAIT_SECONDS = 0.5


class Refused(Exception):
    """What the user can mend, in one sentence."""


def say(line: str) -> None:
    """One line, for whoever listens."""
    with contextlib.suppress(OSError, ValueError):
        print(f"suite: {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None, tasks: Sequence[Task] = TASKS, pilots: Sequence[Task] = PILOTS) -> int:
    """Works through the tasks, or says how far they are; gives the exit status."""
    options = _parser().parse_args(arguments)
    try:
        chosen = choose(pilots if options.pilot else tasks, options.only, seeds=options.seeds, steps=options.steps)
        if options.status:
            print(status(options.work, chosen))
            return 0
        results = options.results or (None if options.seeds or options.steps else HERE / "results")
        with claimed(options.work) as lock:
            return Suite(options, results, lock).run(chosen)
    except Refused as refused:
        say(str(refused))
        return 2
    except KeyboardInterrupt:  # before anything was begun
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=_folder, default="~/.cache/ddpg-jax-suite", metavar="DIR", help="of the run folders")
    parser.add_argument("--results", type=_folder, metavar="DIR", help="of what is made of them (benchmarks/results)")
    parser.add_argument("--status", action="store_true", help="only say how far it is")
    parser.add_argument("--pilot", action="store_true", help="the pilots in place of the tasks")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="these tasks, or pilots, alone")
    parser.add_argument("--seeds", type=_count, metavar="N", help="a trial with so many")
    parser.add_argument("--steps", type=_count, metavar="N", help="a trial of so many")
    parser.add_argument("--nice", type=int, choices=range(20), default=19, metavar="N", help="niceness of the sweeps (19)")
    parser.add_argument("--checkpoint-seconds", type=float, default=600, metavar="S", help="least between checkpoints (600)")
    return parser


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


def choose(tasks: Sequence[Task], only: Sequence[str] | None, *, seeds: int | None, steps: int | None) -> list[Task]:
    """The tasks that are asked for, in their order.

    Raises:
        Refused: a name of none, or a trial that cannot be trained.
    """
    known = {name for task in tasks for name in (task.name, task.pilot) if name}
    unknown = sorted(set(only or ()) - known)
    if unknown:
        raise Refused(f"{', '.join(unknown)} is no task; tasks are {', '.join(sorted(known))}")
    chosen = [task for task in tasks if not only or {task.name, task.pilot} & set(only)]
    trials = [shrunk(task, seeds, steps) for task in chosen]
    for task in trials:
        try:
            task.configure()
        except ConfigError as error:
            raise Refused(f"{task.name} cannot be trained: {error}") from error
    return trials


# One runner for each work folder


@contextlib.contextmanager
def claimed(work: Path) -> Iterator[TextIO]:
    """Locks the folder. The sweeps inherit the lock, so that one which a killed runner has left is over before another begins.

    Raises:
        Refused: another runner is at work here.
    """
    work.mkdir(parents=True, exist_ok=True)
    with open(work / ".lock", "a+") as lock:
        told = False
        while not _lock(lock, fcntl.LOCK_EX):
            number, task = holder(work)
            if _alive(number):
                raise Refused(f"work={work} is in use by process {number}; wait for it, or name another folder")
            if not told:
                say(f"waiting for the last checkpoint of {task or 'a sweep'}, which a killed runner has left")
            told = True
            time.sleep(WAIT_SECONDS)
        _note(lock)
        yield lock


def _lock(file: TextIO, kind: int) -> bool:
    """Whether nobody else holds it; also true where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _note(lock: TextIO, task: str = "") -> None:
    """Has the lock say who holds it, and what for."""
    lock.truncate(0)
    lock.write(f"{os.getpid()} {task}")
    lock.flush()


def holder(work: Path) -> tuple[int, str]:
    """The process that has locked the folder, 0 for none, and the task that it is at; it may have ended."""
    try:
        number, _, task = (work / ".lock").read_text().partition(" ")
        return int(number), task
    except (FileNotFoundError, ValueError):
        return 0, ""


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return number > 0


def at_work(work: Path) -> str:
    """The task that a runner is at, "" for none."""
    try:
        with open(work / ".lock") as lock:
            held = not _lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return ""
    number, task = holder(work)
    return task if held or _alive(number) else ""  # the second where there are no locks


# The work


class Suite:
    """One runner: at most one sweep at a time, to which it passes on the signals that it gets."""

    def __init__(self, options: argparse.Namespace, results: Path | None, lock: TextIO):
        self.work, self.results, self.lock = options.work, results, lock
        self.nice, self.checkpoint_seconds = options.nice, options.checkpoint_seconds
        self.child: subprocess.Popen[bytes] | None = None
        self.signal: int | None = None

    def run(self, tasks: Sequence[Task]) -> int:
        """Sees to one task after another; gives the exit status."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            good = True
            for task in tasks:
                good &= self.see_to(task, tasks)
                if self.signal:
                    say("stopped; the same command goes on")
                    return 130
            return 0 if good else 1
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        if self.child:
            self.child.send_signal(number)

    def see_to(self, task: Task, tasks: Sequence[Task]) -> bool:
        """Trains a task to its end if it is not there, and writes its results; whether nothing went wrong."""
        folder = self.work / task.name
        manifest = read_json(folder / "manifest.json")
        different = differences(task, manifest or {})
        if different:
            what = ", ".join(different)
            say(f"{folder} holds another experiment than {task.name} is now, and is left alone; it differs in {what}")
            return False
        if not manifest or manifest.get("status") != "finished":
            ended, line = self.train(task, folder, resume=manifest is not None)
            if ended in STOPPED or (ended and self.signal):
                self.signal = self.signal or signal.SIGTERM  # the sweep alone may have been asked to stop
                return True
            if ended:
                write(_failure(self.work, task), json.dumps({"status": ended, "line": line}) + "\n")
                say(f"{task.name} FAILED with exit status {ended}: {line}")
                return False
        try:
            written = publish(task, tasks, work=self.work, results=self.results) if self.results else []
        except (OSError, ValueError, LookupError) as error:
            say(f"{task.name}: its results could not be written: {error}")
            return False
        say(f"{task.name} is done" + (f": {', '.join(map(str, written))}" if written else ""))
        return True

    def train(self, task: Task, folder: Path, resume: bool) -> tuple[int, str]:
        """Runs the sweep to its end; gives its exit status and the last line that it said."""
        _failure(self.work, task).unlink(missing_ok=True)
        words = [*task.command, "--out", str(folder), "--checkpoint-seconds", f"{self.checkpoint_seconds:g}"]
        words += ["--resume"] if resume else []
        start = [sys.executable, str(HERE / "suite_child.py"), str(self.nice), str(os.getpid()), *words]
        say(f"{task.name}: {'goes on' if resume else 'begins'}; ddpg-jax {' '.join(words)}")
        _note(self.lock, task.name)
        with open(self.work / f"{task.name}.log", "a+b") as log:
            before = log.tell()
            # in a session of its own, as a terminal sends Ctrl-C to all processes of one, and a second signal does not wait
            self.child = subprocess.Popen(
                start,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self.lock.fileno()],
            )
            if self.signal:  # it came before there was anybody to pass it on to
                self.child.send_signal(self.signal)
            ended = self.child.wait()
            log.seek(before)
            said = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        self.child = None
        _note(self.lock)
        return ended, f"ended by signal {-ended}" if ended < 0 else said[-1] if said else ""


def _failure(work: Path, task: Task) -> Path:
    return work / f"{task.name}.failed.json"


# How far it is


class Progress(NamedTuple):
    """How far a task is. Steps in which something is learned are those behind the warm-up, of all seeds together."""

    state: str
    task: Task
    batch_size: int
    step: float
    """Mean over the seeds."""
    seconds: float
    learned: float
    left: float
    why: str

    @property
    def speed(self) -> float:
        """Steps with learning a second, NaN if not known yet."""
        return self.learned / self.seconds if self.learned and self.seconds else math.nan


def progress(work: Path, task: Task, running: str) -> Progress:
    """How far a task is, as its run folder says; `running` is the task that a runner is at."""
    folder = work / task.name
    manifest, rows = read_json(folder / "manifest.json"), read_rows(folder)
    failure, different = read_json(_failure(work, task)), differences(task, manifest or {})
    experiment, _ = task.configure()
    reached = {row["member"]: row["step"] for row in rows}
    finished = bool(manifest) and manifest.get("status") == "finished"
    learned = sum(max(step - experiment.warmup_steps, 0) for step in reached.values())
    total = task.seeds * max(experiment.steps - experiment.warmup_steps, 0)
    seconds = max([float((manifest or {}).get("seconds", 0.0)), *(row["seconds"] for row in rows[-1:])])
    states = {
        "other": bool(different),
        "done": finished,
        "running": task.name == running,
        "failed": failure is not None,
        "stopped": manifest is not None,
    }
    state = next((name for name, true in states.items() if true), "left")
    why = f"differs in {', '.join(different)}" if different else str((failure or {}).get("line", ""))
    left = 0 if finished else total - learned
    return Progress(state, task, experiment.batch_size, sum(reached.values()) / task.seeds, seconds, learned, left, why)


def to_go(one: Progress, all_of_them: Sequence[Progress]) -> float:
    """Seconds until a task is done, by its own speed, or by that of others: first those with equal batches, and what runs."""
    alike = [other for other in all_of_them if other.batch_size == one.batch_size]
    order = [one, *sorted([*alike, *all_of_them], key=lambda other: (other not in alike, other.state != "running"))]
    speed = next((other.speed for other in order if not math.isnan(other.speed)), math.nan)
    return one.left / speed if one.left else 0.0


def status(work: Path, tasks: Sequence[Task]) -> str:
    """The table of `--status`."""
    running = at_work(work)
    all_of_them = [progress(work, task, running) for task in tasks]
    width = max(len("total"), *(len(task.name) for task in tasks))
    lines = [f"{'task':{width}}  {'state':8}{'step':>22}{'seconds':>11}{'to go':>11}"]
    for one in all_of_them:
        step = f"{one.step:,.0f} of {one.task.steps:,}"
        ahead = "" if one.state in ("done", "other") else clock(to_go(one, all_of_them))
        lines.append(f"{one.task.name:{width}}  {one.state:8}{step:>22}{one.seconds:>11,.0f}{ahead:>11}  {one.why}".rstrip())
    ahead = sum(to_go(one, all_of_them) for one in all_of_them if one.state != "other")
    done = f"{sum(one.state == 'done' for one in all_of_them)} of {len(tasks)} done"
    lines.append(f"{'total':{width}}  {done:>30}{sum(one.seconds for one in all_of_them):>11,.0f}{clock(ahead):>11}")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(3725.0), clock(float("nan"))
    ('1:02:05', '?')
    """
    if math.isnan(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


if __name__ == "__main__":
    raise SystemExit(main())
