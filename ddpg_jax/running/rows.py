"""Turns what the blocks of a run reported into rows of metrics.csv."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import chex
import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.build import reported
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.clock import step_at
from ddpg_jax.running.program import Member
from ddpg_jax.types import Episodes

FIXED = (
    "member", "seed", "step", "eval_return_mean", "eval_return_std", "eval_length_mean", "train_return_mean", "critic_loss",
    "actor_loss", "q_mean", "updates_per_second", "seconds", "diverged_step",
)  # fmt: skip
"""The columns of metrics.csv that every run has. The swept fields stand between `seed` and `step`."""
SUCCESS = "eval_success_rate"
"""The last column, which tables of older versions do not have."""
KNOWN = tuple(dict.fromkeys((*FIXED, *reported(Experiment(diagnostics=True)), SUCCESS)))
"""All columns that are not swept fields."""
NOT_MEASURED = ("member", "seed", "step", "diverged_step")
"""Those of them that are no measurements."""


def make_rows(
    members: Sequence[Member],
    experiment: Experiment,
    blocks: Sequence[dict[str, Any]],
    *,
    iteration: int,
    seconds: float,
    diverged: np.ndarray,
    episodes: Episodes,
) -> list[dict[str, Any]]:
    """Makes one row of metrics.csv for each of M members.

    Args:
        members: length M.
        experiment: the experiment that they train.
        blocks: reports of the blocks since the last evaluation, as in `Journal.pending`.
        iteration: iterations done.
        seconds: seconds that the run has taken so far.
        diverged: `[M]`, the iteration at which each member diverged, else -1.
        episodes: `[M, K]`, those of the evaluation.
    """
    chex.assert_shape(diverged, (len(members),))
    chex.assert_shape(list(episodes), (len(members), None))
    returns, lengths, successes = episodes
    learning_seconds = sum(block["seconds"] for block in blocks if block["updates"])
    speed = sum(block["updates"] for block in blocks) / learning_seconds if learning_seconds else math.nan
    rows = []
    for m, member in enumerate(members):
        has_diverged = diverged[m] >= 0
        unknown = has_diverged or not returns[m].size
        means = {name: _mean(blocks, name, m) for name in ("train_return_mean", *reported(experiment))}
        row = {
            "member": member.number,
            "seed": member.seed,
            **dict(member.swept),
            "step": step_at(experiment, iteration),
            "eval_return_mean": math.nan if unknown else float(returns[m].mean(dtype=np.float64)),
            "eval_return_std": math.nan if unknown else float(returns[m].std(dtype=np.float64)),
            "eval_length_mean": math.nan if unknown else float(lengths[m].mean(dtype=np.float64)),
            **means,
            "updates_per_second": math.nan if math.isnan(means["critic_loss"]) else speed,
            "seconds": round(seconds, 3),
            "diverged_step": step_at(experiment, int(diverged[m]) + 1) if has_diverged else "",
            SUCCESS: math.nan if has_diverged else success_rate(successes[m]),
        }
        rows.append(row)
    return rows


def success_rate(successes: np.ndarray) -> float:
    """Returns the mean of the successes that are known; NaN if none is.

    >>> success_rate(np.array([1.0, 0.0, 1.0, np.nan])), success_rate(np.array([np.nan]))
    (0.6666666666666666, nan)
    """
    known = successes[~np.isnan(successes)]
    return float(known.mean(dtype=np.float64)) if known.size else math.nan


def result_of(row: dict[str, Any]) -> float:
    """Returns the mean return that a row reports: without noise, or that of training if nothing was evaluated."""
    evaluated = row["diverged_step"] != "" or not math.isnan(row["eval_return_mean"])
    return row["eval_return_mean" if evaluated else "train_return_mean"]


def measurement(name: str, row: dict[str, Any], holder: Any) -> Callable[[dict[str, Any]], float]:
    """Returns a function that reads a column of measurements from a row of `holder`; `row` is one of its rows.

    Raises:
        ConfigError: there is no such column.
    """
    known = [name for name in row if name in KNOWN and name not in NOT_MEASURED]
    if name not in known:
        raise ConfigError(f"column={name} is not in {holder}; it must be one of {', '.join(known)}")
    return itemgetter(name)


def is_unknown(row: dict[str, Any]) -> bool:
    """Returns True if a member has no result, though it has not diverged: nothing was evaluated, and no episode has ended."""
    return row["diverged_step"] == "" and math.isnan(result_of(row))


def _mean(blocks: Sequence[dict[str, Any]], name: str, m: int) -> float:
    """Averages a quantity of member m over all its samples in the blocks; NaN if there are none."""
    reporting = [block for block in blocks if name in block["sums"]]
    count = sum(block["counts"][name][m] for block in reporting)
    return sum(block["sums"][name][m] for block in reporting) / count if count else math.nan
