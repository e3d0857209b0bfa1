"""`drive` walks a program through its schedule, block by block; what happens between the blocks is the caller's."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax.experiment.build import reported
from ddpg_jax.experiment.experiment import Experiment, updates_of
from ddpg_jax.running.program import Interrupted, Program, total_iterations, warmup_iterations
from ddpg_jax.training.loop import Metrics

BLOCK_UPDATES = 1_000
"""Of each member at most: what it reports of a block are sums in float32, and one that has diverged is stopped behind it."""

LOOK_SECONDS = 0.5
"""About how long a program runs between two looks at the world outside: signals, checkpoints, other processes."""

CALL_SECONDS, LONGEST_LOOK = 1 / 8, 5.0
"""But each call of a program lasts at least about so long, unless looks would be too far apart. It costs Python 2 ms, and at
its end all devices wait for the slowest."""

FIRST_LOOK = 10
"""Vector steps before the first look, when nobody knows how long they take."""


class Journal(NamedTuple):
    """What a run remembers besides its state; plain JSON, kept in checkpoints."""

    pending: list[dict[str, Any]]
    """What the blocks since the last evaluation reported."""
    diverged: list[int]
    """For each member the vector step at which it diverged, else -1."""
    begin: int
    """The vector step at which the block began that is not over."""
    seconds: float = 0.0
    """What it has taken so far."""
    metrics: list[Any] | None = None
    """What it has reported so far: `Metrics` as lists."""
    elapsed: float = 0.0
    """Seconds of all blocks that are over."""
    reached: list[int] | None = None
    """The next vector step of each member, where a signal has ended some of them before others."""


class Tick(NamedTuple):
    """What `drive` gives after every look at the world outside."""

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
    failed: bool = False
    """Whether an environment has failed at the next step; `drive` raises it when it is asked to go on."""


def schedule(experiment: Experiment, begin: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Blocks `(begin, end, evaluate)` of vector steps from `begin` to the end of the run; none straddles the warm-up.

    What a run gives depends on them, and so they do not depend on what time anything takes.

    >>> import ddpg_jax as dj
    >>> list(schedule(dj.Experiment(steps=2_500, warmup_steps=500, eval_every=1_000)))
    [(0, 500, False), (500, 1000, True), (1000, 2000, True), (2000, 2500, True)]
    """
    x = experiment
    total = total_iterations(x)
    every = period(x)
    updates, apart = updates_of(x)
    limit = max(1, BLOCK_UPDATES // updates) * apart
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
    gather: Callable[[Any], list[Any]] = lambda message: [message],
) -> Iterator[Tick]:
    """Walks through the run from vector step `begin` on; the caller logs, draws and saves between the ticks.

    Args:
        program: made of this experiment.
        experiment: gives the schedule.
        state: from `program.start`, or of a checkpoint. It is used up.
        begin: vector steps that the state has behind it.
        journal: of the same checkpoint.
        gather: gives what every process that takes part in the run says, as all of them call it at the same time.

    Raises:
        EnvironmentFailure: see `Program.advance`.
    """
    journal = journal or Journal([], [-1] * len(program.members), begin)
    pending, diverged, spent, elapsed = [*journal.pending], np.array(journal.diverged), journal.seconds, journal.elapsed
    reached = np.array(journal.reached or [begin] * len(program.members), int)
    so_far: Any = Metrics(*journal.metrics)._replace(done=reached) if journal.metrics else None
    updates, apart = updates_of(experiment)
    total = total_iterations(experiment)
    warmup = warmup_iterations(experiment)
    patience = look_seconds(program)
    i, look, unfinished = begin, FIRST_LOOK, journal

    def pause(failed: bool = False) -> Tick:
        return Tick(state, i, i * experiment.num_envs, [], unfinished, False, failed)

    for first, end, evaluating in schedule(experiment, journal.begin):
        look = FIRST_LOOK if first == warmup else look  # learning is slower
        while i < end:
            until = min(i + look, end)
            alive = diverged < 0
            state, so_far, seconds = program.advance(state, np.where(alive, reached, until), until, alive, so_far)
            reached = np.maximum(np.where(alive, so_far.done, until), reached)
            now = int(reached.min(initial=until))
            look, spent = _longer(look, now - i, max(gather(seconds / patience))), spent + seconds
            i = min(gather(now))
            unfinished = Journal([*pending], diverged.tolist(), first, spent, _plain(so_far), elapsed, reached.tolist())
            if (so_far.bad_step >= 0).any():
                if program.whole_after_failure:
                    mended = so_far._replace(bad_step=np.full_like(so_far.bad_step, -1))
                    unfinished = unfinished._replace(metrics=_plain(mended))
                    yield pause(failed=True)
                program.raise_failure(so_far)
            if i < end:
                yield pause()
        # A run that is made longer later does not notice that it ended here, be it in the midst of a block or of a row.
        left = unfinished if _cut_short(experiment, first, end) else None
        diverged = np.where(diverged < 0, np.asarray(so_far.diverged_step), diverged)
        sums, counts, *_ = _plain(so_far)
        learned = (end // apart - first // apart) * updates if first >= warmup else 0
        block = {"sums": sums, "counts": counts, "updates": learned, "seconds": spent}
        found = _evaluation(program, state, end) if evaluating else None
        while evaluating and not min(gather(int(found is not None))):
            yield pause()
            found = _evaluation(program, state, end)
        pending.append(block)
        so_far, spent, elapsed = None, 0.0, elapsed + spent
        if found:
            diverged = np.where((diverged < 0) & ~np.isfinite(found[0]).all(axis=1), end - 1, diverged)
        over = end == total or all(gather(bool((diverged >= 0).all())))
        rows = []
        if evaluating or over:
            # Without an evaluation it is over because all have diverged, whose rows show none.
            nothing = np.full((len(program.members), 1), np.nan)
            returns, lengths = found or (nothing, nothing)
            rows = _rows(program, experiment, end, pending, elapsed, diverged, returns, lengths)
            pending = [] if end % period(experiment) == 0 else pending
        journal = left or Journal([*pending], diverged.tolist(), end, elapsed=elapsed)
        yield Tick(state, end, end * experiment.num_envs, rows, journal, over)
        if over:
            return


def _evaluation(program: Program, state: Any, i: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What `Program.evaluate` gives, or None where a signal has ended it."""
    try:
        return program.evaluate(state, i)
    except Interrupted:
        return None


def period(experiment: Experiment) -> int:
    """Vector steps between two evaluations."""
    return -(-experiment.eval_every // experiment.num_envs)


def _cut_short(experiment: Experiment, begin: int, end: int) -> bool:
    """Whether the block would be longer if the run were."""
    return next(schedule(replace(experiment, steps=sys.maxsize), begin))[1] > end


def look_seconds(program: Program) -> float:
    """About how long a program runs between two looks."""
    return max(LOOK_SECONDS, min(program.calls * CALL_SECONDS, LONGEST_LOOK))


def _longer(look: int, steps: int, looks: float) -> int:
    """Vector steps before the next look, when `steps` took as long as so many; not ten times as many, as they may be slower."""
    return max(1, int(min(steps / max(looks, 1e-9), 10 * look)))


def _plain(metrics: Metrics) -> list[Any]:
    return jax.tree.map(lambda column: np.asarray(column).tolist(), list(metrics))


def _rows(
    program: Program,
    experiment: Experiment,
    i: int,
    blocks: list[dict[str, Any]],
    elapsed: float,
    diverged: np.ndarray,
    returns: np.ndarray,
    lengths: np.ndarray,
) -> list[dict[str, Any]]:
    """One row of metrics.csv for each member."""
    seconds = sum(block["seconds"] for block in blocks if block["updates"])
    speed = sum(block["updates"] for block in blocks) / seconds if seconds else math.nan
    rows = []
    for m, member in enumerate(program.members):

        def mean(name: str, m: int = m) -> float:
            known = [block for block in blocks if name in block["sums"]]
            count = sum(block["counts"][name][m] for block in known)
            return sum(block["sums"][name][m] for block in known) / count if count else math.nan

        lost = diverged[m] >= 0
        means = {name: mean(name) for name in ("train_return_mean", *reported(experiment))}
        row = {
            "member": member.number,
            "seed": member.seed,
            **dict(member.swept),
            "step": i * experiment.num_envs,
            "eval_return_mean": math.nan if lost else float(returns[m].mean(dtype=np.float64)),
            "eval_return_std": math.nan if lost else float(returns[m].std(dtype=np.float64)),
            "eval_length_mean": math.nan if lost else float(lengths[m].mean(dtype=np.float64)),
            **means,
            "updates_per_second": math.nan if math.isnan(means["critic_loss"]) else speed,
            "seconds": round(elapsed, 3),
            "diverged_step": (int(diverged[m]) + 1) * experiment.num_envs if lost else "",
        }
        rows.append(row)
    return rows
