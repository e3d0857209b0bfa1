"""Measures what an accelerator does with this package, the most important first, as far as the given minutes allow.

    python -m benchmarks.accelerator --minutes 8
    python -m benchmarks.accelerator --minutes 4 --rest             # what it had no time for; results are kept where they are
    python -m benchmarks.accelerator --rehearse --out DIR           # everything on little, on any machine
    python -m benchmarks.accelerator_pack WHEELS                    # the wheels that a machine without a network lacks

| stage | what it measures |
|---|---|
| a | correctness: resuming to the bit, the replay in place, learning beside a CPU's, the profiler's account, tests of numbers |
| b | the defaults with 1 .. 4,096 members, compiled together, beside what bandwidth and launches of this device allow |
| c | others' protocols: rejax's DDPG on Brax's Hopper, LeanRL's TD3 on HalfCheetah, where these are installed |
| d | switches: the loop as a CUDA graph, graphs of one kernel, whole products, several together; precision, steps a turn |
| e | the preset for thousands of environments: its rate, and the time until it has solved |
| f | batches and networks of many sizes, beside two cores of a CPU: where an accelerator begins to pay |

Every job is a process of its own, so a job that fails does not end the others. Each result is printed, and written to the file
of its stage as soon as it is known (`benchmarks/results/accelerator_members.json` for b), so a job that is cut off loses only
the rest. A job begins only if it can be expected to get something done in the time that is left, and is ended when its time is
over. A stage that is measured again replaces its file, except with `--rest`, which does the jobs that are not done. Most of the
time goes into compiling: with JAX_COMPILATION_CACHE_DIR set, a later call need not compile the same programs again.

For a rented machine with too few packages and too little time, `benchmarks/accelerator_pack.py` says how to begin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.turns import ANSWER

RESULTS = Path(__file__).parent / "results"


class Job(NamedTuple):
    """One process."""

    stage: str
    name: str
    """A job of `benchmarks.accelerator_stages`."""
    least: float
    """Seconds without which it would get nothing done."""
    most: float
    """Seconds after which it is ended."""
    flags: str = ""
    """For XLA."""


GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"
SMALL_GRAPHS = "--xla_gpu_graph_min_graph_size=1"
WHOLE_PRODUCTS = "--xla_gpu_experimental_force_split_k=1"
"""No product is split along what it sums over, which takes a kernel to add up the parts."""
CONCURRENT = "--xla_gpu_command_buffer_scheduling_mode=CONCURRENT"
SWITCHES = (GRAPHS, WHOLE_PRODUCTS, SMALL_GRAPHS, f"{GRAPHS} {SMALL_GRAPHS} {WHOLE_PRODUCTS}", f"{GRAPHS} {CONCURRENT}")
JOBS = (
    Job("b", "members", 50, 150),
    Job("a", "correctness", 50, 150),
    Job("d", "switches", 40, 90, SWITCHES[0]),
    Job("c", "protocols", 60, 130),
    Job("e", "parallel", 60, 170),
    Job("d", "variants", 50, 130),
    Job("f", "crossover", 45, 120),
    Job("a", "tests", 25, 60),
    *(Job("d", "switches", 30, 60, flags) for flags in SWITCHES[1:]),
)
"""In order. Members come first, so that what they compile has not been compiled before, and their seconds mean something."""
STAGES = {"a": "correctness", "b": "members", "c": "protocols", "d": "switches", "e": "parallel", "f": "crossover"}
USELESS = 3
"""Exit status of a job that finds nothing here to measure, as no job after it would."""
FUTILE = 3
"""Jobs in a row that measure nothing, after which all ends."""
SAID = 1_500
"""Characters that are kept of what a job that failed has said last."""
QUICKLY = "--xla_backend_optimization_level=1"
"""For rehearsals, which compile for most of their time."""


class Records:
    """The files of the stages; none is ever half there."""

    def __init__(self, folder: Path, about: dict[str, Any], known: dict[str, dict[str, Any]] | None = None):
        self._folder, self._about, self._stages = folder, about, dict(known or {})
        folder.mkdir(parents=True, exist_ok=True)

    def note(self, job: Job, **what: Any) -> None:
        """Adds to what is known of a job: its status, the machine, or a row."""
        record = self._stages.setdefault(job.stage, {**self._about, "jobs": []})
        own = entry(record, job)
        if own is None:
            own = {"job": job.name, "flags": job.flags, "status": "", "rows": []}
            record["jobs"].append(own)
        record.update(what.pop("about", {}))
        if row := what.pop("row", None):
            own["rows"] = [other for other in own["rows"] if other["name"] != row["name"]] + [row]
        own.update(what)
        path = self._folder / f"accelerator_{STAGES[job.stage]}.json"
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.replace(path)


def entry(record: dict[str, Any], job: Job) -> dict[str, Any] | None:
    """What the record of a stage says of a job."""
    return next((one for one in record["jobs"] if (one["job"], one["flags"]) == (job.name, job.flags)), None)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records in a folder, by their stages."""
    paths = {stage: folder / f"accelerator_{name}.json" for stage, name in STAGES.items()}
    return {stage: json.loads(path.read_text()) for stage, path in paths.items() if path.exists()}


def rest(jobs: list[Job], records: dict[str, dict[str, Any]]) -> list[Job]:
    """The jobs that are not done, first those that have measured nothing."""
    found = {job: (entry(records[job.stage], job) if job.stage in records else None) or {} for job in jobs}
    return sorted((job for job in jobs if found[job].get("status") != "done"), key=lambda job: bool(found[job].get("rows")))


def answers(job: Job, rehearse: bool, seconds: float, cache: str, *options: str) -> Iterator[dict[str, Any]]:
    """Runs a job for at most so many seconds; gives what it says when it says it, and at last its status."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {job.flags} {QUICKLY if rehearse else ''}".strip()
    own = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": flags}
    own |= {"JAX_PLATFORMS": "cpu"} if rehearse else {}
    command = [sys.executable, "-m", "benchmarks.accelerator_stages", job.name, *(["--rehearse"] if rehearse else []), *options]
    environment = {"JAX_PLATFORMS": "", **os.environ, **own}  # empty means any, also to the settings of the tests
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "errors": "replace"}
        process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)

        def kill() -> None:  # and what it has started, which would keep the pipe open
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), kill()))
        timer.start()
        try:
            assert process.stdout
            for line in process.stdout:
                if line.startswith(ANSWER) and line.endswith("\n"):  # else it was killed while it wrote
                    yield json.loads(line.removeprefix(ANSWER))
            process.wait()
        finally:
            timer.cancel()
            kill()
            process.wait()
        errors.seek(0)
        said = errors.read().strip()[-SAID:]
    ended = "cut off" if late.is_set() else "done" if not process.returncode else f"failed: {process.returncode} {said}"
    yield {"status": ended}


def show(job: Job, row: dict[str, Any]) -> None:
    """Prints one result: its name, and what of it fits in a line."""

    def short(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], float):
            value = statistics.median(value)
        return f"{value:,.4g}" if isinstance(value, float) else str(value)

    line = ", ".join(f"{name} {short(value)}" for name, value in row.items() if name != "name" and not isinstance(value, dict))
    print(f"{job.stage} {row['name']}: {line[:400]}", flush=True)


def carry_out(
    jobs: list[Job],
    records: Records,
    *,
    rehearse: bool,
    seconds: float,
    side_by_side: int = 8,
    clock: Callable[[], float] = time.monotonic,
) -> list[Job]:
    """Does one job after the other in so many seconds; returns those that were skipped because too little was left.

    After a job that measured nothing, programs are compiled one by one. After `FUTILE` such jobs in a row, all ends: the time
    that is left can be used when that is mended.
    """
    end, skipped, futile = clock() + seconds, [], 0
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", folder)
        for k, job in enumerate(jobs):
            left = end - clock()
            if left < (1.0 if rehearse else job.least):
                skipped.append(job)
                records.note(job, status="skipped")
                print(f"{job.stage} {job.name} {job.flags} is skipped: {left:.0f} s are left", flush=True)
                continue
            began, measured, status = clock(), 0, ""
            records.note(job, status="running")
            together = ["--side-by-side", str(0 if futile else side_by_side)]
            for answer in answers(job, rehearse, left if rehearse else min(left, job.most), cache, *together):
                records.note(job, **answer)
                if "row" in answer:
                    measured += "failed" not in answer["row"]
                    show(job, answer["row"])
                status = answer.get("status", "")
            records.note(job, seconds=clock() - began)
            print(f"{job.stage} {job.name} {job.flags} {status}: {clock() - began:.0f} s", flush=True)
            futile = 0 if measured else futile + 1
            if futile == FUTILE or status.startswith(f"failed: {USELESS} "):
                return [*skipped, *jobs[k + 1 :]]
    return skipped


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="how long all of it may take")
    parser.add_argument("--stages", default="abcdef", help="letters of those that are wanted")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--rest", action="store_true", help="only jobs that are not done in the folder of the results")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU; give it another folder")
    help_side = "programs that are compiled at a time, or 0: each when it is its turn"
    parser.add_argument("--side-by-side", type=int, default=8, help=help_side)
    options = parser.parse_args(words)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"--stages {options.stages}: {', '.join(sorted(unknown))} is no stage; they are {', '.join(STAGES)}")
    if options.rehearse and options.out.resolve() == RESULTS:
        parser.error("a rehearsal measures nothing that belongs among the results; name another folder with --out")
    command = f"python -m benchmarks.accelerator --minutes {options.minutes:g} --stages {options.stages}"
    before = read(options.out) if options.rest else {}
    records = Records(options.out, {"command": command, "rehearsal": options.rehearse}, before)
    wanted = [job for job in JOBS if job.stage in options.stages and not (options.rehearse and job.flags in SWITCHES[:-1])]
    wanted = rest(wanted, before)
    how: dict[str, Any] = {"rehearse": options.rehearse, "side_by_side": options.side_by_side}
    skipped = carry_out(wanted, records, seconds=60 * options.minutes, **how)
    print(f"results in {options.out}; {len(wanted) - len(skipped)} of {len(wanted)} jobs were begun", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
