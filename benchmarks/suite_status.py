"""How far `benchmarks.suite` is, as its run folders and its results say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.suite_results import parse, read_json, read_table
from benchmarks.suite_store import Store, differences, of_manifest
from benchmarks.suite_tasks import Task


class Progress(NamedTuple):
    """How far a task is. Steps in which something is learned are those behind the warm-up, of all seeds together."""

    state: str
    task: Task
    batch_size: int
    kept: int
    """Chunks that are done."""
    chunks: int
    step: float
    """Of the chunk that runs or comes next, mean over its seeds."""
    speed: float
    """Steps with learning a second: of that chunk, or before it is known, of those that are done; NaN if there is none."""
    seconds: float
    """That all chunks have taken so far."""
    left: float
    """Steps with learning that are yet to come."""
    why: str


class Run(NamedTuple):
    """What the run folder of a sweep says: the step that it has come to, its steps with learning, and its seconds."""

    step: float = 0.0
    learned: float = 0.0
    seconds: float = 0.0


def run_of(store: Store, sweep: Task, warmup: int) -> Run:
    """How far a sweep is that is not kept yet."""
    manifest, rows = store.manifest(sweep) or {}, parse(read_table(store.folder(sweep) / "metrics.csv"))
    reached = {row["member"]: row["step"] for row in rows}
    seconds = max([float(manifest.get("seconds", 0.0)), *(row["seconds"] for row in rows[-1:])])
    return Run(sum(reached.values()) / sweep.seeds, sum(max(step - warmup, 0) for step in reached.values()), seconds)


def progress(store: Store, task: Task, running: str) -> Progress:
    """How far a task is; `running` is the run folder that a runner is at."""
    experiment, _ = task.configure()
    final, sweeps = store.final(task), store.sweeps(task)
    records = {sweep.place: record for sweep in sweeps if (record := store.record(sweep))}
    to_do = [] if final else [sweep for sweep in sweeps if sweep.place not in records]
    now = next((sweep for sweep in to_do if sweep.place == running), to_do[0] if to_do else None)
    run = run_of(store, now, experiment.warmup_steps) if now else Run(step=task.steps)
    before = sum(record["seconds"] for record in ([final] if final else records.values()))
    each = max(experiment.steps - experiment.warmup_steps, 0)
    learned = each * (task.seeds - sum(sweep.seeds for sweep in to_do))
    if run.learned and run.seconds:
        speed = run.learned / run.seconds
    else:
        speed = learned / before if learned and before else math.nan
    left = each * task.seeds - learned - run.learned
    chunks = len((final or {}).get("chunks", sweeps))
    state, why = _state(store, task, running, sweeps, records, now)
    seconds = before + run.seconds
    return Progress(state, task, experiment.batch_size, chunks - len(to_do), chunks, run.step, speed, seconds, left, why)


def _state(
    store: Store,
    task: Task,
    running: str,
    sweeps: Sequence[Task],
    records: Mapping[str, dict[str, Any]],
    now: Task | None,
) -> tuple[str, str]:
    """In one word, and why it is not as it should be."""
    final, failure = store.final(task), read_json(store.failure(task))
    manifest = store.manifest(now) if now else None
    there = [(task, final)] if final else [(sweep, records[sweep.place]) for sweep in sweeps if sweep.place in records]
    there += [(now, of_manifest(manifest))] if now and manifest else []
    different = next(filter(None, (differences(one, record) for one, record in there)), [])
    states = {
        "other": bool(different),
        "done": now is None,
        "running": running.partition("/")[0] == task.name,
        "failed": failure is not None,
        "stopped": bool(records) or manifest is not None,
    }
    why = ": ".join(str(failure[name]) for name in ("part", "line") if name in failure) if failure else ""
    why = f"differs in {', '.join(different)}" if different else why
    return next((name for name, true in states.items() if true), "left"), why


def to_go(one: Progress, all_of_them: Sequence[Progress]) -> float:
    """Seconds until a task is done, by its own speed, or by that of others: first those with equal batches, and what runs."""
    alike = [other for other in all_of_them if other.batch_size == one.batch_size]
    order = [one, *sorted([*alike, *all_of_them], key=lambda other: (other not in alike, other.state != "running"))]
    speed = next((other.speed for other in order if not math.isnan(other.speed)), math.nan)
    return one.left / speed if one.left else 0.0


def status(store: Store, tasks: Sequence[Task], running: str) -> str:
    """The table of `--status`; `running` is the run folder that a runner is at."""
    all_of_them = [progress(store, task, running) for task in tasks]
    width = max(len("total"), *(len(task.name) for task in tasks))
    heads = f"{'chunks':>10}{'step':>24}{'steps/s':>9}{'seconds':>11}{'to go':>11}"
    lines = [f"{'task':{width}}  {'state':8}{heads}"]
    for one in all_of_them:
        chunks, step = f"{one.kept} of {one.chunks}", f"{one.step:,.0f} of {one.task.steps:,}"
        speed = "?" if math.isnan(one.speed) else f"{one.speed:,.0f}"
        ahead = "" if one.state in ("done", "other") else clock(to_go(one, all_of_them))
        cells = f"{chunks:>10}{step:>24}{speed:>9}{one.seconds:>11,.0f}{ahead:>11}"
        lines.append(f"{one.task.name:{width}}  {one.state:8}{cells}  {one.why}".rstrip())
    ahead = sum(to_go(one, all_of_them) for one in all_of_them if one.state != "other")
    done = f"{sum(one.state == 'done' for one in all_of_them)} of {len(tasks)} done"
    seconds = sum(one.seconds for one in all_of_them)
    lines.append(f"{'total':{width}}  {done:>51}{seconds:>11,.0f}{clock(ahead):>11}")
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
