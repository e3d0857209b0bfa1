"""Draws the learning curves of several runs in one figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.app import figures, report
from ddpg_jax.app.options import check_file
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.stopping import stops_of
from ddpg_jax.errors import ConfigError
from ddpg_jax.running.rows import measurement, result_of


class RunData(NamedTuple):
    """What was read from the folder of a run."""

    folder: Path
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    """The rows of metrics.csv, at least one."""


class Curves(NamedTuple):
    """Learning curves of several runs."""

    panels: dict[str, dict[str, np.ndarray]]
    """Environment -> label -> curves `[S, evaluations, 2]` of steps and returns, or values of the column."""
    pruned: set[tuple[str, str]]
    """Environments and labels of points that were pruned."""
    what: str
    """What the returns are, see `report.measured`, or the name of the column."""
    diverged: dict[tuple[str, str], int]
    """Environment and label -> members that diverged."""


def plot(folders: Sequence[Path], out: Path, column: str | None = None) -> None:
    """Draws the learning curves of the runs in the folders, or those of another column of their tables than the return.

    Raises:
        ConfigError: the figure's name has another ending, or its curves cannot be made; see `read_runs` and `collect`.
    """
    if out.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"out={out} is not allowed; the name must end in .png, .pdf or .svg")
    check_file("out", out)
    curves = collect(read_runs(folders), column)
    values = [curve[:, :, 1] for points in curves.panels.values() for curve in points.values()]
    if column is not None and not any(np.isfinite(each).any() for each in values):
        raise ConfigError(f"column={column} has no number in these runs; choose another")
    figures.learning_curves(curves.panels, out, what=curves.what, pruned=curves.pruned, diverged=curves.diverged)


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """Reads the manifests and the tables of runs.

    Raises:
        ConfigError: a folder has no run, no evaluation or a table that cannot be read; or a run is given twice.
    """
    runs: list[RunData] = []
    known: dict[str, Path] = {}
    for folder in folders:
        run = RunFolder(folder)
        manifest, rows = run.manifest(), run.read_rows()
        if not rows:
            raise ConfigError(f"{folder} holds no evaluation yet; train it first")
        run.check_rows(rows)
        same = known.setdefault(json.dumps([manifest["identity"], report.ways(manifest)], sort_keys=True), folder)
        if same is not folder:
            raise ConfigError(f"{folder} and {same} hold the same run, possibly of different lengths; name one of them")
        runs.append(RunData(folder, manifest, rows))
    return runs


def collect(runs: Sequence[RunData], column: str | None = None) -> Curves:
    """Makes the curves of runs; those with the same settings share a curve, and each point of a sweep has one of its own.

    Settings include when members stop, and how their hyperparameters change.

    Args:
        runs: from `read_runs`.
        column: the column of metrics.csv, by default the returns.

    Raises:
        ConfigError: a run has no such column; a seed of a curve is given twice; or runs of one curve were never evaluated at
            the same step.
    """
    settings = []
    for _, manifest, rows in runs:
        own = {name: value for name, value in report.settings(manifest).items() if name not in report.swept(rows)}
        settings.append({**own, **report.ways(manifest)})
    curves: dict[tuple[str, str], list[report.Curve]] = {}
    pruned: set[tuple[str, str]] = set()
    going_on: set[tuple[str, str]] = set()
    seen: dict[tuple[str, str, int], Path] = {}
    for (folder, manifest, table), name in zip(runs, legend(settings), strict=True):
        value_of = result_of if column is None else measurement(column, table[0], folder)
        stops = stops_of(manifest)
        for env, rows in report.by_env(table, manifest["experiment"]["env"]).items():
            ended, begun, labels = report.pruned_points(rows, stops), report.first_values(rows), report.labels(rows, "")
            for point, own in report.curves_by_point(rows, stops, value_of).items():
                whole = ", ".join(filter(None, (name, labels[point])))
                (pruned if point in ended else going_on).add((env, whole))
                curves.setdefault((env, whole), []).extend(own)
                for seed in {row["seed"] for row in rows if begun[row["member"]] == point}:
                    if (other := seen.setdefault((env, whole, seed), folder)) is not folder:
                        raise ConfigError(f"{folder} and {other} both hold seed {seed} of {whole} on {env}; name one of them")
    panels: dict[str, dict[str, np.ndarray]] = {}
    for (env, label), own in curves.items():
        curve = report.joined(own)
        if not curve.size:
            raise ConfigError(
                f"the runs of {label} on {env} have no step in common at which they were evaluated; plot them separately"
            )
        panels.setdefault(env, {})[label] = curve
    what = column or report.measured([row for run in runs for row in run.rows])
    diverged = {at: sum(math.isnan(one.after) for one in own if one.after is not None) for at, own in curves.items()}
    return Curves(panels, pruned - going_on, what, diverged)


def legend(settings: list[dict[str, Any]]) -> list[str]:
    """Returns the labels of runs in a legend: the preset, and fields that differ between the runs and from the preset."""
    fields = dict.fromkeys(name for one in settings for name in one)
    varying = [name for name in fields if any(one.get(name) != settings[0].get(name) for one in settings)]
    return [report.described(one, varying) for one in settings]
