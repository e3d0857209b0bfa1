"""`run_blocks` advances a program block by block; what happens between the blocks is up to the caller.

The blocks of a run depend on its experiment alone. Each is advanced in pieces of about `PIECE_SECONDS`, and after every piece
the caller gets a `Tick`, at which it can log, save a checkpoint or stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import numpy as np

from ddpg_jax.errors import Interrupted
from ddpg_jax.experiment.experiment import Experiment, updates_of
from ddpg_jax.running.clock import (
    endless,
    evaluation_interval,
    is_regular,
    offline_iterations,
    origin,
    phase_at,
    step_at,
    total_iterations,
    warmup_iterations,
)
from ddpg_jax.running.heirs import Exchange, nothing_to_exchange
from ddpg_jax.running.members import Change
from ddpg_jax.running.program import Program
from ddpg_jax.running.rows import make_rows
from ddpg_jax.training.loop import Metrics
from ddpg_jax.types import Episodes

BLOCK_UPDATES = 1_000
"""Upper bound on updates per member and block, unless a single vector step has more. Block sums are float32, and divergence is
acted on only between blocks."""

PIECE_SECONDS = 0.5
"""Approximate duration of a piece, after which signals, checkpoints and other processes are attended to."""

CALL_SECONDS, MAX_PIECE_SECONDS = 1 / 8, 5.0
"""Each call of a program should last at least `CALL_SECONDS`, unless its piece would then exceed `MAX_PIECE_SECONDS`. A call
costs 2 ms of Python, and at its end all devices wait for the slowest."""

FIRST_PIECE = 10
"""Iterations of the first piece, when their duration is still unknown."""


class Journal(NamedTuple):
    """The part of a run that is not in its state: plain JSON, kept in checkpoints."""

    pending: list[dict[str, Any]]
    """Reports of the blocks since the last evaluation."""
    diverged: list[int]
    """For each member the iteration at which it diverged, else -1."""
    begin: int
    """The iteration at which the unfinished block began."""
    seconds: float = 0.0
    """Seconds spent on the unfinished block."""
    metrics: list[Any] | None = None
    """Metrics of the unfinished block: `Metrics` as lists."""
    elapsed: float = 0.0
    """Seconds of all finished blocks."""
    reached: list[int] | None = None
    """The next iteration of each member, where a signal stopped some members before others."""
    stopped: list[int] | None = None
    """For each member the iterations after which it was stopped, else -1."""
    waiting: list[int] | None = None
    """For each member, the iteration from which it takes part, if that is later than the next one of the others, else -1."""
    lineage: list[Any] | None = None
    """Every `Change` so far, in order."""
    in_force: int = 0
    """How many changes of `lineage` have taken place; the others do when the next block begins."""
    due: bool = False
    """True if the block is done except for its evaluation, which a signal has stopped."""


class Tick(NamedTuple):
    """The progress of a run, which `run_blocks` yields after every piece and every block."""

    state: Any
    iteration: int
    """Iterations done."""
    step: int
    """Steps done by each member: see `clock.step_at`."""
    rows: list[dict[str, Any]]
    """After an evaluation and in the last tick, one row for each member that is not waiting and had not stopped before;
    otherwise none."""
    journal: Journal
    finished: bool
    """True for the last tick: the run is at its end, or all members have diverged or stopped."""
    failed: bool = False
    """True if an environment failed at the next step; `run_blocks` raises the error when it is resumed."""


Judge: TypeAlias = Callable[[list[dict[str, Any]], Any], Iterable[int]]
"""`(rows, state) -> members`: the indices of the program's members that stop after an evaluation with these rows."""

Evolve: TypeAlias = Callable[[list[dict[str, Any]]], Iterable[Change]]
"""`(rows) -> changes`: what members take over when the next block begins, after an evaluation with these rows."""


def nobody_changes(rows: list[dict[str, Any]]) -> list[Change]:
    """Lets all members go on with the hyperparameters with which they began."""
    del rows
    return []


def blocks_of(experiment: Experiment, begin: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Yields blocks `(begin, end, evaluate)` of iterations from `begin` to the end of the run; none straddles the warm-up.

    Updates on demonstrations before the first step are blocks of their own, with an evaluation after them. Results depend on
    the blocks, so the blocks do not depend on timing.

    >>> import ddpg_jax as dj
    >>> list(blocks_of(dj.Experiment(steps=2_500, warmup_steps=500, eval_every=1_000)))
    [(0, 500, False), (500, 1000, True), (1000, 2000, True), (2000, 2500, True)]
    """
    x = experiment
    total = total_iterations(x)
    every = evaluation_interval(x)
    updates, apart = updates_of(x)
    limit = max(1, BLOCK_UPDATES // updates) * apart
    warmup, offline, first = warmup_iterations(x), offline_iterations(x), origin(x)
    i = begin
    while i < total:
        evaluation = min(first if i < first else first + ((i - first) // every + 1) * every, total)
        most = BLOCK_UPDATES if i < offline else limit
        end = min(evaluation, i + most, offline if i < offline else warmup if i < warmup else total)
        yield i, end, end == evaluation
        i = end


def run_blocks(
    program: Program,
    experiment: Experiment,
    state: Any,
    *,
    begin: int = 0,
    journal: Journal | None = None,
    gather: Callable[[Any], list[Any]] = lambda message: [message],
    judge: Judge = lambda rows, state: [],
    evolve: Evolve = nobody_changes,
    exchange: Exchange = nothing_to_exchange,
) -> Iterator[Tick]:
    """Runs a program from iteration `begin` to its end; the caller logs, draws and saves at the ticks.

    Args:
        program: a program made from this experiment.
        experiment: defines the blocks.
        state: from `program.start`, or from a checkpoint. It is consumed.
        begin: iterations that the state has done.
        journal: from the same checkpoint.
        gather: `(message) -> messages`, one from each process that takes part in the run; all processes call it together.
        judge: decides after each evaluation which members stop. With several processes, each asks its own at the same steps.
        evolve: decides after each evaluation which members take over the states of others, or other hyperparameters. With
            several processes, each asks its own at the same steps, and all must decide the same.
        exchange: brings states of members from one process to another.

    Raises:
        EnvironmentFailure: an environment failed; see `Program.raise_failure`.
    """
    run = _Run(
        program,
        experiment,
        state,
        begin=begin,
        journal=journal,
        gather=gather,
        judge=judge,
        evolve=evolve,
        exchange=exchange,
    )
    for block_begin, end, evaluating in blocks_of(experiment, run.journal.begin):
        run.begin_block(block_begin)
        while run.iteration < end:
            run.advance(end)
            if run.failed:
                if program.state_survives_failure:
                    yield run.failure_tick()
                program.raise_failure(run.metrics)
            if run.iteration < end:
                yield run.tick()
        while evaluating and not run.evaluate():
            yield run.tick()._replace(journal=run.journal._replace(due=True))
        tick = run.end_block(evaluating)
        yield tick
        if tick.finished:
            return


class _Run:
    """A run in progress: what changes from piece to piece."""

    def __init__(
        self,
        program: Program,
        experiment: Experiment,
        state: Any,
        *,
        begin: int,
        journal: Journal | None,
        gather: Callable[[Any], list[Any]],
        judge: Judge,
        evolve: Evolve,
        exchange: Exchange,
    ):
        members = len(program.members)
        journal = journal or Journal([], [-1] * members, begin)
        self.program, self.experiment = program, experiment
        self.gather, self.judge, self.evolve, self.exchange = gather, judge, evolve, exchange
        self.state, self.iteration, self.journal = state, begin, journal
        self.pending, self.elapsed = [*journal.pending], journal.elapsed
        self.diverged = np.array(journal.diverged)
        self.stopped = np.array(journal.stopped or [-1] * members, int)
        self.waiting = np.array(journal.waiting or [-1] * members, int)
        self.lineage, self.in_force = [Change(*change) for change in journal.lineage or []], journal.in_force
        if self.in_force:
            program.adopt(self.lineage[: self.in_force])
        if self.absent.any():
            self.state = program.regroup(state, self.absent)
        self.reached = np.array(journal.reached or [begin] * members, int)
        chex.assert_shape([self.diverged, self.reached], (members,))
        self.block_begin, self.block_seconds = journal.begin, journal.seconds
        self.metrics: Any = Metrics(*journal.metrics)._replace(done=self.reached) if journal.metrics else None
        self.evaluation: Episodes | None = None
        self.piece = FIRST_PIECE

    def begin_block(self, begin: int) -> None:
        """Begins a block, or resumes an unfinished one: changes that are due take place, and waiting members join."""
        self.block_begin = begin
        if due := self.lineage[self.in_force :]:
            self.state = self.program.inherit(self.state, due, self.exchange)
            reborn = {change.member for change in due if change.parent != change.member}
            self.diverged[[member.number in reborn for member in self.program.members]] = -1
            self.in_force = len(self.lineage)
        arriving = (self.waiting >= 0) & (self.waiting <= begin)
        if arriving.any():
            self.waiting[arriving] = -1
            self.reached[arriving] = begin
            self.state = self.program.regroup(self.state, self.absent)
        if begin == warmup_iterations(self.experiment):
            self.piece = FIRST_PIECE  # learning steps are slower

    def advance(self, end: int) -> None:
        """Advances the block by one piece, or by less if a signal stops it."""
        until = min(self.iteration + self.piece, end)
        active = self.active
        begin = np.where(active, self.reached, until)
        self.state, self.metrics, seconds = self.program.advance(self.state, begin, until, active=active, so_far=self.metrics)
        chex.assert_shape([self.metrics.bad_step, self.metrics.diverged_step, self.metrics.done], active.shape)
        self.reached = np.maximum(np.where(active, self.metrics.done, until), self.reached)
        reached = int(self.reached.min(initial=until))
        pieces = max(self.gather(seconds / piece_seconds(self.program)))
        self.piece = _next_piece(self.piece, reached - self.iteration, pieces)
        self.block_seconds += seconds
        self.iteration = min(self.gather(reached))
        self.journal = Journal(
            pending=[*self.pending],
            diverged=self.diverged.tolist(),
            begin=self.block_begin,
            seconds=self.block_seconds,
            metrics=_to_lists(self.metrics),
            elapsed=self.elapsed,
            reached=self.reached.tolist(),
            stopped=self.stopped.tolist(),
            waiting=self.waiting.tolist(),
            **self._kept_lineage(),
        )

    def _kept_lineage(self) -> dict[str, Any]:
        """Returns what a journal says of the changes."""
        return {"lineage": [*self.lineage] or None, "in_force": self.in_force}

    @property
    def absent(self) -> np.ndarray:
        """The mask of the members that have been stopped or are still waiting, `[M]`."""
        return (self.stopped >= 0) | (self.waiting >= 0)

    @property
    def active(self) -> np.ndarray:
        """The mask of the members that go on, `[M]`: those that have neither diverged nor been stopped, and are not waiting."""
        return (self.diverged < 0) & ~self.absent

    @property
    def failed(self) -> bool:
        """True if an environment failed in the last piece."""
        return bool((self.metrics.bad_step >= 0).any())

    def tick(self) -> Tick:
        """Returns the progress in the middle of a block."""
        step = step_at(self.experiment, self.iteration)
        return Tick(self.state, self.iteration, step, [], self.journal, finished=False)

    def failure_tick(self) -> Tick:
        """Returns the progress before the failed step, without the failure in its metrics, so that a run can resume there."""
        metrics = self.metrics._replace(bad_step=np.full_like(self.metrics.bad_step, -1))
        return self.tick()._replace(journal=self.journal._replace(metrics=_to_lists(metrics)), failed=True)

    def evaluate(self) -> bool:
        """Evaluates all members; returns False if a signal stopped the evaluation in any process."""
        try:
            self.evaluation = self.program.evaluate(self.state, self.iteration)
            self.state = self.program.after_evaluation(self.state, self.iteration)
        except Interrupted:
            self.evaluation = None
        return bool(min(self.gather(int(self.evaluation is not None))))

    def end_block(self, evaluating: bool) -> Tick:
        """Closes the block, and returns the progress with the rows of its evaluation, if there was one."""
        end, experiment = self.iteration, self.experiment
        # Extending a run later must give the same result as never having stopped, even inside a block or between evaluations.
        unfinished = self.journal if _is_cut_short(experiment, self.block_begin, end) else None
        self._add_report(end)
        self.elapsed, self.block_seconds, self.metrics = self.elapsed + self.block_seconds, 0.0, None
        diverged, regular = self.diverged.copy(), is_regular(experiment, end)
        if self.evaluation:
            chex.assert_shape(self.evaluation, (len(self.program.members), None))
            wrong = ~np.isfinite(self.evaluation.returns).all(axis=1)
            self.diverged = np.where((self.diverged < 0) & wrong, end - 1, self.diverged)
        rows = self._take_rows(end) if evaluating else []
        stops = [member for member in (self.judge(rows, self.state) if evaluating else []) if self.stopped[member] < 0]
        self.stopped[stops] = end
        here = {self.program.members[m].number for m in np.flatnonzero(~self.absent)}
        self.lineage += self.evolve([row for row in rows if row["member"] in here]) if evaluating else []
        over = not (self.active | (self.waiting >= 0)).any()
        finished = end == total_iterations(experiment) or all(self.gather(over))
        if stops and not finished:
            self.state = self.program.regroup(self.state, self.absent)
        rows = self._take_rows(end) if finished and not evaluating else rows
        stopped = self.stopped.copy()
        if regular:
            diverged = self.diverged
        else:  # a longer run does not evaluate here, so it knows nothing of these stops and of what diverged here
            stopped[stops] = -1
        journal = unfinished or Journal([*self.pending], diverged.tolist(), end, elapsed=self.elapsed)
        kept = {"stopped": stopped.tolist(), "waiting": self.waiting.tolist(), **self._kept_lineage()}
        self.journal = journal._replace(**kept)
        return self.tick()._replace(rows=rows, finished=finished)

    def _add_report(self, end: int) -> None:
        """Adds what the block reported to the pending reports."""
        self.diverged = np.where(self.diverged < 0, np.asarray(self.metrics.diverged_step), self.diverged)
        sums, counts, *_ = _to_lists(self.metrics)
        each, apart = updates_of(self.experiment)
        begin, first = self.block_begin, origin(self.experiment)
        learned = ((end - first) // apart - (begin - first) // apart) * each
        updates = {"offline": end - begin, "fill": 0, "learn": learned}[phase_at(self.experiment, begin)]
        self.pending.append({"sums": sums, "counts": counts, "updates": updates, "seconds": self.block_seconds})

    def _take_rows(self, end: int) -> list[dict[str, Any]]:
        """Makes the rows of an evaluation, and drops the pending reports if a period is over."""
        # A run that finishes without an evaluation has only diverged members, whose rows show no returns.
        unknown = np.full((len(self.program.members), 1), np.nan)
        episodes = self.evaluation or Episodes(unknown, unknown, unknown)
        self.evaluation = None
        rows = make_rows(
            self.program.members,
            self.experiment,
            self.pending,
            iteration=end,
            seconds=self.elapsed,
            diverged=self.diverged,
            episodes=episodes,
        )
        self.pending = [] if is_regular(self.experiment, end) else self.pending
        return [row for row, absent in zip(rows, self.absent, strict=True) if not absent]


def _is_cut_short(experiment: Experiment, begin: int, end: int) -> bool:
    """Returns True if the block would be longer in a longer run."""
    return next(blocks_of(endless(experiment), begin))[1] > end


def piece_seconds(program: Program) -> float:
    """Returns the approximate duration of a piece of this program."""
    return max(PIECE_SECONDS, min(program.calls * CALL_SECONDS, MAX_PIECE_SECONDS))


def _next_piece(piece: int, steps: int, pieces: float) -> int:
    """Returns the iterations of the next piece, given that `steps` took as long as `pieces` pieces should.

    It grows at most tenfold, since the next steps may be slower.
    """
    return max(1, int(min(steps / max(pieces, 1e-9), 10 * piece)))


def _to_lists(metrics: Metrics) -> list[Any]:
    return jax.tree.map(lambda column: np.asarray(column).tolist(), list(metrics))
