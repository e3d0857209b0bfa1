"""Statistics over seeds, the summary, and the figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

FIXED = (
    "member", "seed", "step", "eval_return_mean", "eval_return_std", "eval_length_mean", "train_return_mean", "critic_loss",
    "actor_loss", "q_mean", "updates_per_second",
)  # fmt: skip
"""The columns of metrics.csv that every run has; what stands between `seed` and `step` are the swept fields."""


def iqm(values: Any, axis: int = -1) -> Any:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021).

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    return stats.trim_mean(np.asarray(values), 0.25, axis=axis)


def interval(values: Any, resamples: int = 2_000) -> tuple[Any, Any]:
    """95 % bootstrap interval of the IQM over seeds: `[..., S]` -> two `[...]`. NaN for fewer than two seeds."""
    values = np.asarray(values, np.float64)
    seeds = values.shape[-1]
    if seeds < 2:
        nothing = np.full(values.shape[:-1], math.nan)
        return nothing, nothing
    drawn = np.random.default_rng(0).integers(seeds, size=(resamples, seeds))
    low, high = np.percentile(iqm(values[..., drawn]), [2.5, 97.5], axis=-1)
    return low, high


def swept(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the swept fields among the columns."""
    return [name for name in rows[0] if name not in FIXED] if rows else []


def by_point(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], np.ndarray]:
    """Swept values -> array `[S, evaluations, 2]` of steps and returns; members cut to the shortest."""
    names = swept(rows)
    members: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(row["member"], []).append(row)
    points: dict[tuple[Any, ...], list[Any]] = {}
    for own in members.values():
        curve = [[row["step"], row["eval_return_mean"]] for row in own]
        points.setdefault(tuple(own[0][name] for name in names), []).append(curve)
    return {
        point: np.array([curve[: min(map(len, curves))] for curve in curves], np.float64) for point, curves in points.items()
    }


def summarize(rows: Sequence[dict[str, Any]], threshold: float | None, seconds: float) -> dict[str, Any]:
    """What summary.json says.

    Args:
        rows: of metrics.csv.
        threshold: mean return at which the environment counts as solved.
        seconds: wall time of the run so far.
    """
    points = []
    for values, curves in by_point(rows).items():
        steps, returns = curves[0, :, 0], curves[:, :, 1]
        low, high = interval(returns[:, -1])
        solved = [
            steps[np.argmax(curve >= threshold)] for curve in returns if threshold is not None and (curve >= threshold).any()
        ]
        points.append(
            {
                "point": dict(zip(swept(rows), values, strict=True)),
                "seeds": len(returns),
                "steps": int(steps[-1]),
                "final_return_mean": returns[:, -1].mean(),
                "final_return_iqm": iqm(returns[:, -1]),
                "final_return_interval": [low, high],
                "final_returns": returns[:, -1].tolist(),
                "best_return_mean": returns.max(axis=1).mean(),
                "threshold": threshold,
                "solved_members": len(solved),
                "steps_to_threshold": float(np.median(solved)) if solved else None,
                "seconds_to_threshold": float(np.median(solved)) / steps[-1] * seconds if solved else None,
                "diverged_members": int((~np.isfinite(returns)).any(axis=1).sum()),
            }
        )
    return {"seconds": seconds, "points": points}


def as_json(value: Any) -> str:
    """JSON text; what is not finite becomes null."""

    def clean(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: clean(item) for key, item in x.items()}
        if isinstance(x, list | tuple):
            return [clean(item) for item in x]
        if isinstance(x, np.generic | np.ndarray):
            return clean(x.tolist())
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(clean(value), indent=2) + "\n"


def plot(curves: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Draws learning curves: label -> `[S, evaluations, 2]`. The line is the IQM over seeds, the band its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, axes = plt.subplots(figsize=(7.0, 4.2), layout="constrained")
    for label, curve in curves.items():
        steps, returns = curve[0, :, 0], curve[:, :, 1].T  # [evaluations, S]
        seeds = returns.shape[1]
        (line,) = axes.plot(
            steps,
            iqm(returns),
            lw=2,
            label=f"{label} ({seeds} seed{'s' if seeds > 1 else ''})",
            marker="o" if len(steps) == 1 else None,
        )
        if seeds > 1:
            low, high = interval(returns)
            axes.fill_between(steps, low, high, alpha=0.25, lw=0, color=line.get_color())
    many = any(curve.shape[0] > 1 for curve in curves.values())
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return without noise" + ("\n(IQM and 95 % interval over seeds)" if many else ""))
    axes.set_title(title)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) <= 12:
        axes.legend(frameon=False, loc="best")
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=150)
    plt.close(figure)
    temporary.replace(path)


def labels(rows: Sequence[dict[str, Any]], name: str) -> dict[str, np.ndarray]:
    """The curves of a run, labelled with their swept values, or with a name where nothing is swept."""
    names = swept(rows)
    return {
        ", ".join(f"{field}={value}" for field, value in zip(names, point, strict=True)) or name: curve
        for point, curve in by_point(rows).items()
    }
