"""Makes the tables and figures of the suite from its results; called by `benchmarks.tables`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.published import curve
from benchmarks.suite_levels import Level
from benchmarks.suite_results import parse
from benchmarks.suite_tasks import ADDED, CALMING, FAMILY, PRECISE, TASKS, VARIANTS, Task
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
            found.append(Done(task, json.loads(path.read_text()), *curves_of(path.with_suffix(".csv"))))
    return found


def curves_of(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads steps `[evaluations]` and returns `[evaluations, S]` of a table with one point."""
    (curves,) = by_point(parse(table.read_text())).values()
    return curves[0, :, 0], curves[:, :, 1].T


INTRODUCTION = """## Tasks that people publish on

Evaluations are without noise, over 10 episodes. The final IQM is the mean of the middle six of ten seeds, with its 95 %
interval: up to two failed seeds do not show in it, only in the interval and in the worst final return in the same row. The
best mean is the highest mean over seeds of any evaluation, as Tianshou and the paper on TD3 report it; they evaluate every
5,000 steps, and runs of 1M steps here every 10,000. Both figures are also given for Tianshou's DDPG after as many steps, from
its curves (`python -m benchmarks.published`). These steps include its 25,000 random ones, which its curves and its "1M" leave
out (`mujoco` has 10,000); its batches have 256 transitions (`mujoco`: 64). Others publish returns on earlier versions of the
tasks. Since then, Reacher and Pusher measure distances after a step instead of before it, which makes returns on Reacher about
.2 higher; Pusher's object is denser; one of Walker2d's feet has twice the friction; and Hopper, Walker2d, Ant and the double
pendulum pay the reward for health only while healthy. The ten seeds are trained in five sweeps of two. Hours are the sum of
their wall times, with evaluations and compilation, on a machine with other work: the same steps took up to four times as long
in one sweep as in another.

The preset `mujoco` trains every task whose row names no other setting. It was chosen on Hopper (seeds 0-9) and HalfCheetah
(seeds 0 and 1), for which the suite uses seeds 10-19, and on Reacher (seeds 0 and 1, which the suite also uses). Hopper and
Walker2d add `n_step=3`, chosen by the ablation on Hopper. BipedalWalker and LunarLander were tried with earlier settings on
two seeds. No file of these runs is left, so their seeds may be among those of the suite.
"""


PROFILE = """
The figure shows, over all runs with the preset `mujoco` on tasks with a published level, the share whose final return passes
each fraction of the way from the untrained policy to that level. The comparison favours the published level, since a final
return is compared with a maximum over time, except on LunarLander, where the level is that of one final policy. On Reacher, the
later version of the task adds about .2 to the returns.
"""


def suite(results: Path) -> str:
    """Tabulates the tasks that are done beside the published levels, and names those that are left."""
    done = finished(results)
    heads = ["task", "steps", "seeds", "hours", *HEADS, "TD3's", "worst seed", ""]
    lines = [INTRODUCTION, f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in done:
        task, level = one.task, one.task.published
        links = f"[every seed](results/{task.stem}.csv), [raw](results/{task.stem}.json), [curve](results/{task.stem}.png)"
        td3 = f"{level.td3:,g}" if level and level.td3 is not None else ""
        hours = f"{one.result['seconds'] / 3600:.1f}"
        worst = _rounded(float(one.returns[-1].min()))
        seeds = f"{len(one.result['seeds'])}"
        cells = [_name(task), f"{task.steps:,}", seeds, hours, *_cells(one, results), td3, worst, links]
        lines.append(f"| {' | '.join(cells)} |")
    left = [task.name for task in TASKS if task.name not in {one.task.name for one in done}]
    notes = [f"- {one.task.name}: {_about(one)}" for one in done]
    lines += ["", *notes, "", f"Not finished yet: {', '.join(left)}." if left else "", ""]
    if done:
        lines += ["![Learning curves of the suite](results/suite.png)", ""]
    if (results / "suite_profile.png").exists():
        lines += [PROFILE, "![Share of runs above each fraction of the published level](results/suite_profile.png)", ""]
    return "\n".join(lines)


HEADS = ("final IQM", "best mean", "Tianshou's after as many steps: IQM; best mean", "published")
"""Of the columns that are in `README.md`, too."""


def short(results: Path) -> str:
    """Tabulates the tasks that are done with what a reader compares first, for `README.md`."""
    heads = ["return, ten seeds", "steps", *HEADS]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in finished(results):
        lines.append(f"| {' | '.join([_name(one.task), f'{one.task.steps:,}', *_cells(one, results)])} |")
    return "\n".join(lines)


def _name(task: Task) -> str:
    """The environment, and what is set beside the preset of the family."""
    own = [f"{field}={task.given[field]}" for field in ("n_step", "gamma") if field in task.given]
    if task.given["preset"] != FAMILY["preset"]:
        own = [task.given["preset"] if set(task.given) == {"preset"} else "settings of its own"]
    return ", ".join([task.env, *(["hindsight"] if "hindsight" in task.given else []), *own])


def _cells(one: Done, results: Path) -> list[str]:
    """The cells under `HEADS`."""
    level, result = one.task.published, one.result
    theirs = published = ""
    if level and level.curve:
        beginning = curve(results, level.curve).within(one.task.steps)
        final = with_interval(beginning.iqm[-1], beginning.low[-1], beginning.high[-1])
        algorithm = level.curve.split("/")[1].upper()
        theirs = f"{'' if algorithm == 'DDPG' else f'{algorithm}: '}{final}; {_rounded(beginning.mean.max())}"
    if level and level.value is not None:
        published = f"{level.value:,g} ({'; '.join(filter(None, (level.where, level.better)))})"
    final = with_interval(result["final_return_iqm"], *result["final_return_interval"])
    return [final, _rounded(result["max_mean_return"]), theirs, published]


def with_interval(middle: float, low: float, high: float) -> str:
    """A statistic with its interval."""
    return f"{_rounded(middle)} [{_rounded(low)}, {_rounded(high)}]"


def _about(one: Done) -> str:
    level, machines = one.task.published, one.result["machines"]
    hardware = "; ".join(f"{machine['cores']} cores of {machine['processor']}" for machine in machines)
    packages = one.result["chunks"][0]["packages"]
    names = ("ddpg-jax", "jax", "gymnasium", "gymnasium-robotics", "mujoco", "box2d-py", "Box2D")
    versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
    others = f"; chunks differ in {', '.join(one.result['different_versions'])}" if one.result["different_versions"] else ""
    note = f"{one.task.note} " if one.task.note else ""
    return f"{note}{_source(level)}{hardware}, {versions}{others}, {one.result['end'][:10]}; `{one.result['command']}`."


def _source(level: Level | None) -> str:
    if level is None:
        return ""
    source = f" ({level.source})" if level.source else ""
    return f"published: {level.protocol}{source}{'; ' if level.also else ''}{level.also}; "


def ablations(results: Path) -> str:
    """Tabulates what each part adds to plain DDPG: variants of ten seeds."""
    tables = {name: variants for name, variants in variants_of(results).items() if name.startswith(ABLATION)}
    measured = results / "parts_ablation.json"
    cost = json.loads(measured.read_text()) if measured.exists() else {"rows": {}}
    lines = ["## One part at a time, added to plain DDPG\n"] if tables else []
    for name, variants in tables.items():
        first = next(iter(variants.values()))
        seeds = len(first["seeds"])
        lines += [
            f"{first['experiment']['env']}, {first['steps']:,} steps, {seeds} seeds, batch 64, both learning rates 1e-3:",
            "",
        ]
        lines += [
            "| part | changed | final IQM | 95 % interval | maximum over time of the mean | updates/s over those of mlp | |",
            "|" + "---|" * 7,
        ]
        for variant, one in variants.items():
            changed = ", ".join(f"{field}={value}" for field, value in one["overrides"].items())
            low, high = one["final_return_interval"]
            speed = f"{cost['rows'][variant]['iqm']:.2f}" if variant in cost["rows"] else ""
            lines.append(
                f"| {variant.replace('_', ' ')} | {changed} | {one['final_return_iqm']:,.0f} | [{low:,.0f}, {high:,.0f}] | "
                f"{one['max_mean_return']:,.0f} | {speed} | {_raw(results, name, variant)} |"
            )
        lines += ["", _first_row(first), ""]
    if tables and measured.exists():
        lines += [f"Ratios of updates/s: on Hopper-v5, in turns; `{cost['command']}`; [raw](results/{measured.name}).", ""]
    return "\n".join(lines)


def _rounded(number: float | None) -> str:
    """A return; that of a seed that has diverged is NaN, and in JSON null."""
    if number is None or not np.isfinite(number):
        return "diverged"
    return f"{number:,.{0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2}f}"


def variants_of(results: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The finished variants of each pilot, by their names, in the order in which they are defined."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(results.glob("pilot_*.json")):
        result = json.loads(path.read_text())
        variants = result.get("variants") or {result["variant"]: result}
        tables.setdefault(result["pilot"], {}).update(variants)
    place = {variant: i for i, variant in enumerate([*VARIANTS, *PRECISE, *CALMING, *ADDED])}
    return {
        name: dict(sorted(variants.items(), key=lambda item: place.get(item[0], len(place))))
        for name, variants in tables.items()
    }


def pilots(results: Path) -> str:
    """Tabulates the variants that were tried before the preset of the family was chosen."""
    tables = {name: variants for name, variants in variants_of(results).items() if not name.startswith(ABLATION)}
    lines = ["## Pilots: the choice of the preset, and later trials\n"] if tables else []
    for name, variants in tables.items():
        first = next(iter(variants.values()))
        lines += [f"{first['experiment']['env']}, {first['steps']:,} steps, {len(first['seeds'])} seeds ({name}):", ""]
        lines += ["| variant | changed | final returns | maximum over time of the mean | |", "|---|---|---|---|---|"]
        for variant, one in variants.items():
            changed = ", ".join(f"{field}={value}" for field, value in one["overrides"].items())
            finals = " / ".join(map(_rounded, one["final_returns"]))
            highest = _rounded(one["max_mean_return"])
            lines.append(f"| {variant} | {changed} | {finals} | {highest} | {_raw(results, name, variant)} |")
        lines += ["", _first_row(first), ""]
    return "\n".join(lines)


def _raw(results: Path, pilot: str, variant: str) -> str:
    """A link to the file of one variant, or where there is none, to that of the whole pilot."""
    own = results / f"pilot_{pilot}.{variant}.json"
    return f"[raw](results/{own.name if own.exists() else f'pilot_{pilot}.json'})"


def _first_row(first: dict[str, Any]) -> str:
    """How to repeat the variant from which the others differ."""
    return f"The first row, {first['end'][:10]}: `{first['command']}`."


def draw(results: Path) -> None:
    """Draws the learning curves of all finished tasks, and the performance profile over those of the family."""
    done = finished(results)
    if done:
        draw_curves(done, results).savefig(results / "suite.png", dpi=130)
    levels = [one for one in done if one.task.given["preset"] == FAMILY["preset"] and _is_above_untrained(one)]
    if len(levels) > 3:
        draw_profile(levels).savefig(results / "suite_profile.png", dpi=130)


def _level(one: Done) -> float | None:
    return one.task.published.value if one.task.published else None


def _is_above_untrained(one: Done) -> bool:
    """Whether there is a published level to get to: not one that untrained policies have, too."""
    level = _level(one)
    return level is not None and level > interval(one.returns[0])[1]


def draw_curves(done: Sequence[Done], results: Path) -> Figure:
    """Draws a panel for each task: IQM and interval over seeds, those of Tianshou in grey, and the published level dashed."""
    columns = min(len(done), min((3, 4), key=lambda count: -len(done) % count))  # as few empty places as possible
    rows = -(-len(done) // columns)
    figure = Figure(figsize=(min(4.2 * columns, 13.0), 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, one in zip(panels, done, strict=False):
        if one.task.published and one.task.published.curve:
            theirs = curve(results, one.task.published.curve).within(one.steps[-1])
            axes.plot(theirs.steps, theirs.iqm, lw=1.2, color="0.5")
            axes.fill_between(theirs.steps, theirs.low, theirs.high, alpha=0.2, lw=0, color="0.5")
        axes.plot(one.steps, iqm(one.returns), lw=1.8, color="C0")
        axes.fill_between(one.steps, *interval(one.returns), alpha=0.25, lw=0, color="C0")
        level = _level(one)
        if level is not None:
            axes.axhline(level, ls="--", color="0.3", lw=1)
        span = np.ptp(iqm(one.returns))  # others may begin far below
        axes.set_ylim(bottom=np.nanmax([axes.get_ylim()[0], iqm(one.returns).min() - 0.2 * span]))
        axes.set_title(_name(one.task), fontsize="medium")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(done) :]:
        axes.set_visible(False)
    figure.supxlabel("environment steps", fontsize="small")
    figure.supylabel("return: IQM over 10 seeds", fontsize="small")
    figure.suptitle(
        "blue: this library; grey: Tianshou's; bands: 95 % intervals; dashed: what is published (table)",
        fontsize="small",
    )
    return figure


def draw_profile(done: Sequence[Done]) -> Figure:
    """Draws the share of runs whose final return is above each fraction of the way to the published level.

    The way begins at the return of the untrained policy, which the first evaluation, before the end of the warm-up, measures.
    """
    scores = np.concatenate([fraction_of_level(one.returns, _level(one) or 0.0) for one in done])
    fractions = np.linspace(0.0, max(1.5, float(np.nanmax(scores))), 400)
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(fractions, [(scores >= fraction).mean() for fraction in fractions])
    axes.axvline(1.0, ls="--", color="0.3", lw=1)
    axes.set_xlabel("(final return - untrained) / (published level - untrained)")
    axes.set_ylabel("share of runs above it")
    axes.set_title(
        f"{len(scores)} runs: {', '.join(one.task.name.replace('_', ' ') for one in done)}", fontsize="small", wrap=True
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def fraction_of_level(returns: np.ndarray, level: float) -> np.ndarray:
    """How far each seed has got from the IQM of the first evaluation to a level in the last: `[evaluations, S]` -> `[S]`.

    >>> fraction_of_level(np.array([[-40.0, -40.0], [-20.0, 0.0]]), level=0.0).tolist()
    [0.5, 1.0]
    """
    untrained = iqm(returns[0])
    return (returns[-1] - untrained) / (level - untrained)
