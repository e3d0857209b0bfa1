"""The results that `benchmarks.suite` makes of the rows and manifests of its sweeps. Each file is whole or absent."""

from __future__ import annotations

import contextlib
import csv
import datetime
import importlib.metadata
import io
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.suite_tasks import Task
from ddpg_jax.app.machine import machine
from ddpg_jax.app.metrics_table import parse_cell
from ddpg_jax.app.report import by_point
from ddpg_jax.running.intervals import interval, iqm

Row = dict[str, Any]

MACHINE = ("processor", "cores", "platform", "device_kind", "system")
PHYSICS = ("Box2D", "box2d-py", "gymnasium-robotics")
"""Packages that a manifest does not list, and that returns depend on."""


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file of JSON holds; None if there is no such file, and nothing if it is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_table(path: Path) -> str:
    """The text of a CSV except for a line that is still being written; nothing if there is no such file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ""
    return text[: text.rfind("\n") + 1]


def parse(text: str) -> list[Row]:
    """The rows of a CSV."""
    return [{name: parse_cell(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(text))]


def merged(tables: Sequence[str], first: int) -> str:
    r"""One CSV of several, whose cells stay as they are, except for the member: it is the seed, counted from the first one.

    >>> merged(["member,seed,step\n0,0,5\n0,0,9\n", "member,seed,step\n0,1,5\n0,1,9\n"], first=0).split()
    ['member,seed,step', '0,0,5', '1,1,5', '0,0,9', '1,1,9']
    """
    rows = [row for table in tables for row in csv.DictReader(io.StringIO(table))]
    rows.sort(key=lambda row: (int(row["step"]), int(row["seed"])))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "member": int(row["seed"]) - first} for row in rows)
    return text.getvalue()


def machine_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The machine and the versions of a run. What it has said of itself goes before what is true here and now."""
    jax.config.update("jax_platforms", "cpu")  # a GPU's memory is for the sweeps
    here = {**machine(), **{name: manifest[name] for name in ("platform", "device_kind") if name in manifest}}
    packages = {"python": manifest.get("python", here["python"]), **manifest.get("packages", here["packages"])}
    for package in PHYSICS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    return {"machine": {name: here[name] for name in MACHINE}, "packages": packages}


def together(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several sweeps took, on which machines, and in which versions they differ."""
    machines, packages = [], [record["packages"] for record in records]
    for record in records:
        machines += [] if record["machine"] in machines else [record["machine"]]
    names = sorted({name for each in packages for name in each})
    return {
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "start": min((record["start"] for record in records), key=datetime.datetime.fromisoformat),
        "end": max((record["end"] for record in records), key=datetime.datetime.fromisoformat),
        "machines": machines,
        "different_versions": [name for name in names if len({each.get(name) for each in packages}) > 1],
    }


def outcome(rows: Sequence[Row]) -> dict[str, Any]:
    """Final returns with their IQM and interval, and the highest mean over seeds with its step.

    Raises:
        ValueError: there are no rows.
    """
    curves = _curves(rows)
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


def _curves(rows: Sequence[Row]) -> np.ndarray:
    """`[S, evaluations, 2]`, steps and returns."""
    if not rows:
        raise ValueError("the rows are lost")
    (curves,) = by_point(rows).values()
    return curves


def variant_of(task: Task, manifest: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """A variant of a pilot: what is changed, what comes of it, and how fast."""
    curves = _curves(rows)
    together = len(manifest.get("programs", [[]])[0]) or task.seeds
    rates = [row["updates_per_second"] for row in rows if np.isfinite(row["updates_per_second"])]
    return {
        "overrides": {name: task.fields[name] for name in task.changed},
        **outcome(rows),
        "curves": {"steps": curves[0, :, 0], "returns": curves[:, :, 1]},
        "updates_per_second": float(np.median(rates)) * together if rates else None,
    }


def draw(task: Task, rows: Sequence[Row], path: Path) -> Path:
    """The learning curve with its interval, and the published level as a dashed line."""
    curves = _curves(rows)
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
