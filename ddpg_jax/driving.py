"""`drive` walks a program through its schedule, block by block; what happens between the blocks is the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.building import reported
from ddpg_jax.experiment import Experiment
from ddpg_jax.program import Program, total_iterations, warmup_iterations

BLOCK_UPDATES = 1_000  # of each member: for one alone about a second of work between two looks at the world outside


class Journal(NamedTuple):
    """What a run remembers besides its state; plain JSON, kept in checkpoints."""

    pending: list[dict[str, Any]]
    """What the blocks since the last evaluation reported."""
    diverged: list[int]
    """For each member the vector step at which it diverged, else -1."""


class Tick(NamedTuple):
    """What `drive` gives after every block of steps."""

    state: Any
    iteration: int
    """Vector steps done."""
    step: int
    """Steps done by each member: `iteration * num_envs`."""
    rows: list[dict[str, Any]]
    """One row for each member if there was an evaluation, else none."""
    journal: Journal
    finished: bool
    """Whether this is the last one: the end, or nobody is left who has not diverged."""


def schedule(experiment: Experiment, begin: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Blocks `(begin, end, evaluate)` of vector steps from `begin` to the end of the run; none straddles the warm-up.

    >>> import ddpg_jax as dj
    >>> list(schedule(dj.Experiment(steps=2_500, warmup_steps=500, eval_every=1_000)))
    [(0, 500, False), (500, 1000, True), (1000, 2000, True), (2000, 2500, True)]
    """
    x = experiment
    total = total_iterations(x)
    every = -(-x.eval_every // x.num_envs)
    limit = max(1, BLOCK_UPDATES // round(x.num_envs * x.updates_per_step))
    warmup = warmup_iterations(x)
    i = begin
    while i < total:
        evaluation = min((i // every + 1) * every, total)
        end = min(evaluation, i + limit, warmup if i < warmup else total)
        yield i, end, end == evaluation
        i = end


def drive(
    program: Program,
    experiment: Experiment,
    state: Any,
    begin: int = 0,
    journal: Journal | None = None,
    everybody: Callable[[bool], bool] = bool,
) -> Iterator[Tick]:
    """Walks through the run from vector step `begin` on; the caller logs, draws and saves between the ticks.

    Args:
        program: made of this experiment.
        experiment: gives the schedule.
        state: from `program.start`, or of a checkpoint. It is used up.
        begin: vector steps that the state has behind it.
        journal: of the same checkpoint.
        everybody: whether what holds for the members of this program holds for those that train elsewhere, too.

    Raises:
        EnvironmentFailure: see `Program.advance`.
    """
    journal = journal or Journal([], [-1] * len(program.members))
    pending, diverged = list(journal.pending), np.array(journal.diverged)
    updates = round(experiment.num_envs * experiment.updates_per_step)
    total = total_iterations(experiment)
    warmup = warmup_iterations(experiment)
    for first, end, evaluating in schedule(experiment, begin):
        state, metrics, seconds = program.advance(state, first, end, diverged < 0)
        diverged = np.where(diverged < 0, np.asarray(metrics.diverged_step), diverged)
        learned = (end - first) * updates if first >= warmup else 0
        columns = {**metrics.info, "train_return_mean": metrics.train_return_mean}
        means = {name: np.asarray(column, np.float64).tolist() for name, column in columns.items()}
        pending.append({**means, "iterations": end - first, "updates": learned, "seconds": seconds})
        over = everybody(bool((diverged >= 0).all()))
        rows = []
        if evaluating or over:
            rows = _rows(program, experiment, end, pending, diverged, *program.evaluate(state, end))
            pending = []
        over = over or end == total
        yield Tick(state, end, end * experiment.num_envs, rows, Journal(pending, diverged.tolist()), over)
        if over:
            return


def _rows(
    program: Program,
    experiment: Experiment,
    i: int,
    blocks: list[dict[str, Any]],
    diverged: np.ndarray,
    returns: np.ndarray,
    lengths: np.ndarray,
) -> list[dict[str, Any]]:
    """One row of metrics.csv for each member."""
    weight = np.array([block["iterations"] for block in blocks])
    seconds = sum(block["seconds"] for block in blocks if block["updates"])
    speed = sum(block["updates"] for block in blocks) / seconds if seconds else math.nan
    rows = []
    for m, member in enumerate(program.members):

        def mean(name: str, m: int = m) -> float:
            values = np.array([block[name][m] if name in block else math.nan for block in blocks])
            known = ~np.isnan(values)
            return float((values[known] * weight[known]).sum() / weight[known].sum()) if known.any() else math.nan

        lost = diverged[m] >= 0
        row = {
            "member": member.number,
            "seed": member.seed,
            **dict(member.swept),
            "step": i * experiment.num_envs,
            "eval_return_mean": math.nan if lost else float(returns[m].mean(dtype=np.float64)),
            "eval_return_std": math.nan if lost else float(returns[m].std(dtype=np.float64)),
            "eval_length_mean": math.nan if lost else float(lengths[m].mean(dtype=np.float64)),
            **{name: mean(name) for name in ("train_return_mean", *reported(experiment))},
            "updates_per_second": speed,
            "diverged_step": (int(diverged[m]) + 1) * experiment.num_envs if lost else "",
        }
        rows.append(row)
    return rows
