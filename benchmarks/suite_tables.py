"""Makes the tables and figures of the suite from its results; called by `benchmarks.tables`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.suite_results import parse
from benchmarks.suite_tasks import ADDED, TASKS, VARIANTS, Task
from ddpg_jax.app.report import by_point
from ddpg_jax.running.intervals import interval, iqm

ABLATION = "ablation_"
"""What the names of ablations among the pilots begin with."""


class Done(NamedTuple):
    """A task whose seeds are all trained."""

    task: Task
    result: dict[str, Any]
    steps: np.ndarray
    """`[evaluations]`"""
    returns: np.ndarray
    """`[evaluations, S]`"""


def finished(results: Path) -> list[Done]:
    """Returns the tasks that are done, in the order of the suite."""
    found = []
    for task in TASKS:
        path = results / f"{task.stem}.json"
        if path.exists():
            (curves,) = by_point(parse(path.with_suffix(".csv").read_text())).values()
            found.append(Done(task, json.loads(path.read_text()), curves[0, :, 0], curves[:, :, 1].T))
    return found


def suite(results: Path) -> str:
    """Tabulates the tasks that are done beside the published levels, and names those that are left."""
    done = finished(results)
    lines = [
        "## Tasks that people publish on\n",
        "Noise-free evaluation over 10 episodes. The maximum over time is that of the mean over seeds, which is what most",
        "others report; the final IQM is what a user gets. One preset for all tasks of the family (`suite_tasks.py`).",
        "",
        "| task | steps | seeds | final IQM | 95 % interval | maximum over time | published | hours | |",
        "|" + "---|" * 9,
    ]
    for one in done:
        task, result = one.task, one.result
        low, high = result["final_return_interval"]
        lines.append(
            f"| {task.name.replace('_', ' ')} ({task.env}) | {task.steps:,} | {len(result['seeds'])} | "
            f"{result['final_return_iqm']:,.1f} | [{low:,.1f}, {high:,.1f}] | {result['max_mean_return']:,.1f} | "
            f"{_published(task)} | {result['seconds'] / 3600:.1f} | "
            f"[every seed](results/{task.stem}.csv), [raw](results/{task.stem}.json), "
            f"[curve](results/{task.stem}.png) |"
        )
    left = [task.name for task in TASKS if task.name not in {one.task.name for one in done}]
    notes = [f"- {one.task.name}: {_about(one)}" for one in done]
    lines += ["", *notes, "", f"Not finished yet: {', '.join(left)}." if left else "", ""]
    if done:
        lines += ["![Learning curves of the suite](results/suite.png)", ""]
    return "\n".join(lines)


def short(results: Path) -> str:
    """Tabulates the tasks that are done with what a reader compares first, for `README.md`."""
    lines = ["| return over ten seeds | steps | final IQM | 95 % interval | maximum over time | published |", "|" + "---|" * 6]
    for one in finished(results):
        low, high = one.result["final_return_interval"]
        numbers = one.result["final_return_iqm"], low, high, one.result["max_mean_return"]
        final, low, high, highest = map(_rounded, numbers)
        names = [one.task.env]
        names += ["hindsight"] if "hindsight" in one.task.given else []
        names += [one.task.given["preset"]] if set(one.task.given) == {"preset"} else []
        cells = [", ".join(names), f"{one.task.steps:,}", final, f"[{low}, {high}]", highest, _published(one.task)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _published(task: Task) -> str:
    """The level in a cell: a number, or the words before the explanation."""
    level = task.published
    if level is None:
        return ""
    return level.protocol.partition(":")[0] if level.value is None else f"{level.value:,g}"


def _about(one: Done) -> str:
    level, machines = one.task.published, one.result["machines"]
    hardware = "; ".join(f"{machine['cores']} cores of {machine['processor']}" for machine in machines)
    packages = one.result["chunks"][0]["packages"]
    physics = ", ".join(f"{name} {packages[name]}" for name in ("gymnasium", "mujoco", "box2d-py", "Box2D") if name in packages)
    source = f"published: {level.protocol} ({level.source}); " if level else ""
    note = f"{one.task.note} " if one.task.note else ""
    return f"{note}{source}{hardware}, jax {packages['jax']}, {physics}, {one.result['end'][:10]}; `{one.result['command']}`."


def ablations(results: Path) -> str:
    """Tabulates what each part adds to plain DDPG: variants of ten seeds."""
    tables = {name: variants for name, variants in variants_of(results).items() if name.startswith(ABLATION)}
    measured = results / "parts_ablation.json"
    cost = json.loads(measured.read_text()) if measured.exists() else {"rows": {}}
    lines = ["## One part at a time, added to plain DDPG\n"] if tables else []
    for name, variants in tables.items():
        first = next(iter(variants.values()))
        seeds = len(first["seeds"])
        lines += [f"{first['experiment']['env']}, {first['steps']:,} steps, {seeds} seeds, batch 64, both rates 1e-3:", ""]
        lines += [
            "| part | changed | final IQM | 95 % interval | maximum over time of the mean | updates/s over those of mlp | |",
            "|" + "---|" * 7,
        ]
        for variant, one in variants.items():
            changed = ", ".join(f"{field}={value}" for field, value in one["overrides"].items())
            low, high = one["final_return_interval"]
            speed = f"{cost['rows'][variant]['iqm']:.2f}" if variant in cost["rows"] else ""
            whole = results / f"pilot_{name}.json"
            raw = whole if whole.exists() else results / f"pilot_{name}.{variant}.json"
            lines.append(
                f"| {variant.replace('_', ' ')} | {changed} | {one['final_return_iqm']:,.0f} | [{low:,.0f}, {high:,.0f}] | "
                f"{one['max_mean_return']:,.0f} | {speed} | [raw](results/{raw.name}) |"
            )
        lines.append("")
    if tables and measured.exists():
        lines += [f"Ratios of updates/s: on Hopper-v5, in turns; `{cost['command']}`; [raw](results/{measured.name}).", ""]
    return "\n".join(lines)


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.1f}"


def variants_of(results: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The finished variants of each pilot, by their names, in the order in which they are defined."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(results.glob("pilot_*.json")):
        result = json.loads(path.read_text())
        variants = result.get("variants") or {result["variant"]: result}
        tables.setdefault(result["pilot"], {}).update(variants)
    place = {variant: i for i, variant in enumerate([*VARIANTS, *ADDED])}
    return {
        name: dict(sorted(variants.items(), key=lambda item: place.get(item[0], len(place))))
        for name, variants in tables.items()
    }


def pilots(results: Path) -> str:
    """Tabulates the variants that were tried before the preset of the family was chosen."""
    tables = {name: variants for name, variants in variants_of(results).items() if not name.startswith(ABLATION)}
    lines = ["## Pilots: how the preset of the family was chosen\n"] if tables else []
    for name, variants in tables.items():
        first = next(iter(variants.values()))
        lines += [f"{first['experiment']['env']}, {first['steps']:,} steps, {len(first['seeds'])} seeds ({name}):", ""]
        lines += ["| variant | changed | final returns | maximum over time of the mean |", "|---|---|---|---|"]
        for variant, one in variants.items():
            changed = ", ".join(f"{field}={value}" for field, value in one["overrides"].items())
            finals = ", ".join(map(_rounded, one["final_returns"]))
            lines.append(f"| {variant} | {changed} | {finals} | {_rounded(one['max_mean_return'])} |")
        lines.append("")
    return "\n".join(lines)


def draw(results: Path) -> None:
    """Draws the learning curves of all finished tasks, and the performance profile over them."""
    done = finished(results)
    if done:
        draw_curves(done).savefig(results / "suite.png", dpi=130)
    levels = [one for one in done if one.task.published and (one.task.published.value or 0) > 0]
    if len(levels) > 1:
        draw_profile(levels).savefig(results / "suite_profile.png", dpi=130)


def draw_curves(done: Sequence[Done]) -> Figure:
    """Draws a panel for each task: IQM and interval over seeds, and the published level as a dashed line."""
    columns = min(3, len(done))
    rows = -(-len(done) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, one in zip(panels, done, strict=False):
        axes.plot(one.steps, iqm(one.returns), lw=1.8)
        axes.fill_between(one.steps, *interval(one.returns), alpha=0.25, lw=0)
        if one.task.published and one.task.published.value is not None:
            axes.axhline(one.task.published.value, ls="--", color="0.3", lw=1)
        axes.set_title(one.task.name.replace("_", " "), fontsize="medium")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(done) :]:
        axes.set_visible(False)
    figure.supxlabel("environment steps")
    figure.supylabel("return without noise: IQM over 10 seeds, 95 % interval; dashed: published", fontsize="small")
    return figure


def draw_profile(done: Sequence[Done]) -> Figure:
    """Draws the share of runs whose final return is above each fraction of the published level."""
    scores = np.concatenate([one.returns[-1] / (one.task.published.value or 1) for one in done if one.task.published])
    fractions = np.linspace(0.0, max(2.0, float(np.nanmax(scores))), 400)
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(fractions, [(scores >= fraction).mean() for fraction in fractions])
    axes.axvline(1.0, ls="--", color="0.3", lw=1)
    axes.set_xlabel("final return / published level")
    axes.set_ylabel("share of runs above it")
    axes.set_title(f"{len(done)} tasks, {len(scores)} runs", fontsize="medium")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
