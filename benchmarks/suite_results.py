"""What `benchmarks.suite` reads of run folders, and the results that it makes of them. Each file is whole or absent."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.suite_tasks import Task
from ddpg_jax.app.machine import machine
from ddpg_jax.app.report import as_json, by_point
from ddpg_jax.statistics import interval, iqm

Row = dict[str, Any]


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file of JSON holds; None if there is no such file, and nothing if it is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_rows(folder: Path) -> list[Row]:
    """The rows of metrics.csv but for a line that is still being written."""
    try:
        text = (folder / "metrics.csv").read_text()
    except FileNotFoundError:
        return []
    table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [{name: _number(cell) for name, cell in row.items()} for row in table]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def differences(task: Task, manifest: dict[str, Any]) -> list[str]:
    """The fields in which the run of a manifest is another one than the task's. What only one of the two knows of is none."""
    members = manifest.get("members", [])
    then = {**manifest.get("experiment", {}), **(members[0] if members else {})}
    if not then:
        return []
    experiment, hyper = task.configure()
    now = json.loads(json.dumps({**asdict(experiment), **hyper._asdict()}))
    different = {name: value for name, value in now.items() if value != then.get(name, None if name in task.fields else value)}
    lines = [f"{name}={value} (there {then.get(name)})" for name, value in different.items()]
    return lines + ([] if len(members) == task.seeds else [f"seeds={task.seeds} (there {len(members)})"])


def publish(task: Task, siblings: Sequence[Task], *, work: Path, results: Path) -> list[Path]:
    """Writes the results of a finished task, or those of its pilot so far, unless they are there; gives the files written.

    Args:
        task: whose run is finished.
        siblings: all tasks of the suite; those of the same pilot share a file.
        work: where the run folders are.
        results: where the files go.

    Raises:
        ValueError: metrics.csv is lost.
    """
    results.mkdir(parents=True, exist_ok=True)
    if not task.pilot:
        return _publish_task(task, work / task.name, results)
    variants = [one for one in siblings if one.pilot == task.pilot]
    manifests = {one.variant: (one, read_json(work / one.name / "manifest.json")) for one in variants}
    finished = {
        variant: (one, manifest)
        for variant, (one, manifest) in manifests.items()
        if manifest and manifest.get("status") == "finished" and not differences(one, manifest)
    }
    path = results / f"pilot_{task.pilot}.json"
    there = (read_json(path) or {}).get("variants", {})
    if {name: one.get("end") for name, one in there.items()} == {name: run["end"] for name, (_, run) in finished.items()}:
        return []
    about = {"pilot": task.pilot, "env": task.env, "steps": task.steps, **_machine(finished[task.variant][1])}
    compared = {name: _variant(one, run, work / one.name) for name, (one, run) in finished.items()}
    return [write(path, as_json({**about, "variants": compared}))]


def _publish_task(task: Task, folder: Path, results: Path) -> list[Path]:
    """The table first and the JSON last: where that is, the others are."""
    path = results / f"suite_{task.name}.json"
    manifest = read_json(folder / "manifest.json") or {}
    there = read_json(path) or {}
    level = task.published._asdict() if task.published else None
    if (there.get("end"), there.get("published"), there.get("note")) == (manifest["end"], level, task.note):
        return []
    rows = read_rows(folder)
    about = {"task": task.name, "note": task.note, **_about(task, manifest), **_machine(manifest)}
    summary = as_json({**about, **outcome(rows, folder), "published": level})
    table = write(results / f"suite_{task.name}.csv", (folder / "metrics.csv").read_text())
    return [table, _draw(task, rows, results / f"suite_{task.name}.png"), write(path, summary)]


def _about(task: Task, manifest: dict[str, Any]) -> dict[str, Any]:
    """What was run."""
    numbers = {name: value for name, value in manifest["members"][0].items() if name not in ("member", "seed")}
    kept = {name: manifest.get(name) for name in ("seeds", "seconds", "start", "end", "hash", "git_commit")}
    command = shlex.join(["ddpg-jax", *task.command])
    return {"experiment": manifest["experiment"], "hyperparams": numbers, "command": command, "steps": task.steps, **kept}


def _machine(manifest: dict[str, Any]) -> dict[str, Any]:
    """The machine; what the run has said of itself goes before what is true here and now."""
    jax.config.update("jax_platforms", "cpu")  # a GPU's memory is for the sweeps
    told = {name: manifest[name] for name in ("platform", "device_kind", "python", "packages") if name in manifest}
    return {**machine(), **told, "date": manifest["end"][:10]}


def outcome(rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Final returns with their IQM and interval, and the highest mean over seeds with its step.

    Raises:
        ValueError: there are no rows.
    """
    curves = _curves(rows, folder)
    steps, returns = curves[0, :, 0], curves[:, :, 1]
    means = np.where(np.isnan(returns).any(axis=0), -np.inf, returns.mean(axis=0))
    final = returns[:, -1]
    return {
        "final_return_iqm": iqm(final),
        "final_return_interval": interval(final),
        "max_mean_return": means.max(),
        "max_mean_return_step": int(steps[means.argmax()]),
        "final_returns": final,
        "diverged_members": {str(row["member"]): row["diverged_step"] for row in rows if row["diverged_step"] != ""},
    }


def _curves(rows: Sequence[Row], folder: Path) -> np.ndarray:
    """`[S, evaluations, 2]`, steps and returns."""
    if not rows:
        raise ValueError(f"{folder} has lost its metrics.csv")
    (curves,) = by_point(rows).values()
    return curves


def _variant(task: Task, manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A variant of a pilot: what is changed, what comes of it, and how fast."""
    rows = read_rows(folder)
    curves = _curves(rows, folder)
    together = len(manifest.get("programs", [[]])[0]) or task.seeds
    rates = [row["updates_per_second"] for row in rows if np.isfinite(row["updates_per_second"])]
    return {
        "overrides": {name: task.fields[name] for name in task.changed},
        **_about(task, manifest),
        **outcome(rows, folder),
        "curves": {"steps": curves[0, :, 0], "returns": curves[:, :, 1]},
        "updates_per_second": float(np.median(rates)) * together if rates else None,
    }


def _draw(task: Task, rows: Sequence[Row], path: Path) -> Path:
    """The learning curve with its interval, and the published level as a dashed line."""
    (curves,) = by_point(rows).values()
    steps, returns = curves[0, :, 0], curves[:, :, 1].T
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, iqm(returns), lw=2, color="C0", label=f"ddpg_jax, {task.seeds} seeds: IQM and 95 % interval")
    if task.seeds > 1:
        axes.fill_between(steps, *interval(returns), alpha=0.25, lw=0, color="C0")
    if task.published and task.published.value is not None:
        level = task.published
        label = textwrap.fill(f"{level.value:g}: {level.source}: {level.protocol}", 100)
        axes.axhline(task.published.value, ls="--", color="0.3", label=label)
    axes.set_title(f"{task.env} ({task.name})")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return without noise")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", frameon=False, fontsize="small")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=150)
    os.replace(temporary, path)
    return path


def write(path: Path, text: str) -> Path:
    """Writes a file whole, to a temporary name first; gives the path."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
    return path
