"""The tasks that people publish on: ten seeds each, for days, on machines that may be lost at any time.

    python -m benchmarks.suite                                    # all tasks, from where it was stopped
    python -m benchmarks.suite --status                           # what is done, what runs, and how long it will take
    python -m benchmarks.suite --only hopper walker2d             # these alone
    python -m benchmarks.suite --only hopper --seeds 2 --steps 20000 --results /tmp/trial    # a trial, kept apart
    python -m benchmarks.suite --pilot                            # small variants, to choose the preset of the family

It needs the extras `mujoco`, `box2d` and `goals`, and for the last two tasks `playground`. The tasks and the preset of the
family are in `benchmarks/suite_tasks.py`, what others have published in `benchmarks/suite_levels.py`. A task is trained in
chunks of its seeds, one after the other. Each chunk is one `ddpg-jax sweep` in a run folder of its own under `--work`, such as
TASK/seeds_0-1. All output of the sweeps is in `TASK.log` under `--work`.

What is to outlast the machine is in `--results`, and is committed to git by whoever starts the suite. A finished chunk becomes
`suite_TASK.seeds_0-1.csv` and `.json`, and is not trained again, whether or not its run folder is still there. When all are
there, `suite_TASK.json`, `suite_TASK.csv` and `suite_TASK.png` take their place. Each variant of a pilot is one sweep and
becomes `pilot_NAME.VARIANT.json`, and all together `pilot_NAME.json`. A result is never overwritten if its experiment differs
from that of the task as it is now. The results of trials are in `results` of the work folder, unless `--results` is given.

Ctrl-C and SIGTERM end it with exit status 130, after a checkpoint of the sweep; whatever else ends it costs what the sweep has
done since its last checkpoint. The same command goes on. A task that fails is recorded and the next one is begun; it is tried
again at the next start. The exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from benchmarks.suite_results import write
from benchmarks.suite_status import status
from benchmarks.suite_store import Store, differences, of_manifest
from benchmarks.suite_tasks import PILOTS, TASKS, Task, shrunk
from ddpg_jax.errors import ConfigError

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
        everyone = pilots if options.pilot else tasks
        chosen = choose(everyone, options.only, seeds=options.seeds, steps=options.steps)
        trial = options.seeds or options.steps
        store = Store(options.work, options.results or (options.work if trial else HERE) / "results", options.chunk)
        if options.status:
            print(status(store, chosen, at_work(options.work)))
            return 0
        siblings = [shrunk(task, options.seeds, options.steps) for task in everyone]
        with claimed(options.work) as lock:
            return Suite(options, store, lock).run(chosen, siblings)
    except Refused as refused:
        say(str(refused))
        return 2
    except KeyboardInterrupt:  # before anything was begun
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=_folder, default="~/.cache/ddpg-jax-suite", metavar="DIR", help="of the run folders")
    parser.add_argument("--results", type=_folder, metavar="DIR", help="of their results (benchmarks/results)")
    parser.add_argument("--status", action="store_true", help="only say how far it is")
    parser.add_argument("--pilot", action="store_true", help="the pilots instead of the tasks")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="these tasks, or pilots, alone")
    parser.add_argument("--seeds", type=_count, metavar="N", help="a trial with so many")
    parser.add_argument("--steps", type=_count, metavar="N", help="a trial of so many")
    parser.add_argument("--chunk", type=_count, default=2, metavar="N", help="most seeds that are trained in one sweep (2)")
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
            number, place = holder(work)
            if _alive(number):
                raise Refused(f"work={work} is in use by process {number}; wait for it, or name another folder")
            if not told:
                say(f"waiting for the last checkpoint of {place or 'a sweep'}, which a killed runner has left")
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


def _note(lock: TextIO, place: str = "") -> None:
    """Has the lock say who holds it, and what for."""
    lock.truncate(0)
    lock.write(f"{os.getpid()} {place}")
    lock.flush()


def holder(work: Path) -> tuple[int, str]:
    """The process that has locked the folder, 0 for none, and the run folder that it is at; it may have ended."""
    try:
        number, _, place = (work / ".lock").read_text().partition(" ")
        return int(number), place
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
    """The run folder that a runner is at, within `work`; "" for none."""
    try:
        with open(work / ".lock") as lock:
            held = not _lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return ""
    number, place = holder(work)
    return place if held or _alive(number) else ""  # the second where there are no locks


# The work


class Suite:
    """One runner: at most one sweep at a time, to which it passes on the signals that it gets."""

    def __init__(self, options: argparse.Namespace, store: Store, lock: TextIO):
        self.store, self.lock = store, lock
        self.nice, self.checkpoint_seconds = options.nice, options.checkpoint_seconds
        self.child: subprocess.Popen[bytes] | None = None
        self.signal: int | None = None

    def run(self, tasks: Sequence[Task], siblings: Sequence[Task]) -> int:
        """Sees to one task after another; gives the exit status. The siblings are all that there are."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            good = True
            for task in tasks:
                good &= self.see_to(task, siblings)
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

    def see_to(self, task: Task, siblings: Sequence[Task]) -> bool:
        """Trains what is not there of a task, chunk by chunk, and writes its results; whether nothing went wrong."""
        final = self.store.final(task)
        if final and self._is_another(task, final, self.store.path(task)):
            return False
        for sweep in [] if final else self.store.sweeps(task):
            if self.signal or not self.has(sweep):
                return self.signal is not None
        try:
            written = self.store.publish(task, siblings)
        except (OSError, ValueError, LookupError) as error:
            say(f"{task.name}: its results could not be written: {error}")
            return False
        say(f"{task.name} is done" + (f": {', '.join(map(str, written))}" if written else ""))
        return True

    def has(self, sweep: Task) -> bool:
        """Whether the result of a sweep is there, after it was trained to its end if it was not."""
        record = self.store.record(sweep)
        if record:
            return not self._is_another(sweep, record, self.store.part(sweep))
        manifest = self.store.manifest(sweep)
        if self._is_another(sweep, of_manifest(manifest or {}), self.store.folder(sweep)):
            return False
        if not manifest or manifest.get("status") != "finished":
            ended, line = self.train(sweep, resume=manifest is not None)
            if ended in STOPPED or (ended and self.signal):
                self.signal = self.signal or signal.SIGTERM  # the sweep alone may have been asked to stop
                return False
            if ended:
                failure = {"status": ended, "part": sweep.part, "line": line}
                write(self.store.failure(sweep), json.dumps(failure) + "\n")
                say(f"{sweep.place} FAILED with exit status {ended}: {line}")
                return False
        try:
            written = self.store.keep(sweep)
        except (OSError, ValueError, LookupError) as error:
            say(f"{sweep.place}: its results could not be written: {error}")
            return False
        say(f"{sweep.place} is kept: {', '.join(map(str, written))}")
        return True

    def _is_another(self, task: Task, record: Mapping[str, Any], there: Path) -> bool:
        """Whether what is there is of another experiment than the task; says so."""
        different = differences(task, record)
        if different:
            what = ", ".join(different)
            say(f"{there} holds another experiment than {task.name} is now, and is left alone; it differs in {what}")
        return bool(different)

    def train(self, sweep: Task, resume: bool) -> tuple[int, str]:
        """Runs a sweep to its end; gives its exit status and the last line that it said."""
        self.store.failure(sweep).unlink(missing_ok=True)
        folder = self.store.folder(sweep)
        words = [*sweep.command, "--out", str(folder), "--checkpoint-seconds", f"{self.checkpoint_seconds:g}"]
        words += ["--resume"] if resume else []
        start = [sys.executable, str(HERE / "suite_child.py"), str(self.nice), str(os.getpid()), *words]
        say(f"{sweep.place}: {'goes on' if resume else 'begins'}; ddpg-jax {' '.join(words)}")
        _note(self.lock, sweep.place)
        with open(self.store.work / f"{sweep.name}.log", "a+b") as log:
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


if __name__ == "__main__":
    raise SystemExit(main())
