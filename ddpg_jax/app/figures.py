"""Draws figures: learning curves with intervals, a heat map of two swept fields, and the sensitivity to each swept field."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ddpg_jax.app import report
from ddpg_jax.running.intervals import interval, interval_over_points, iqm, ranking_score
from ddpg_jax.running.results import Stop, plural

MAX_LINES, HIGHEST = 8, 3
"""Learning curves in a panel that can be told apart. If there are more, all but the `HIGHEST` best and the median are grey."""
MAX_VALUES, BINS = 12, 6
"""A field with more than `MAX_VALUES` values has them grouped into `BINS` bins."""
GREY = "0.75"
WIDTH = 80
"""Characters in a line below or above the axes."""
MAX_TICKS = 6
"""Values of a field that have ticks of their own."""
WIDE = 20.0
"""Ratio of the largest value of a field to the smallest from which on its axis is logarithmic."""
MAX_CELLS = 10
"""Maximum number of rows or columns of a heat map; more leave no room for numbers, nor for the names of all values."""


def figures(
    rows: Sequence[dict[str, Any]], name: str, env: str, *, folder: Path, stops: Mapping[int, Stop] = MappingProxyType({})
) -> None:
    """Draws the figures of a run into its folder.

    `learning_curve.png` is always drawn; with one environment also `sensitivity.png` if a field is swept, and `heat_map.png`
    if two fields are swept over a whole grid; not if the swept values of a member change, as in a population.

    Args:
        rows: rows of metrics.csv.
        name: the label of the run if nothing is swept.
        env: the environment if it is not swept.
        folder: the folder of the figures.
        stops: member -> where it was stopped, and why.
    """
    envs = report.by_env(rows, env)
    panels = {env: report.labelled(own, name, stops) for env, own in envs.items()}
    names = {env: report.labels(own, name) for env, own in envs.items()}
    marked = {(env, names[env][point]) for env, own in envs.items() for point in report.pruned_points(own, stops)}
    what = report.measured(rows)
    learning_curves(panels, folder / "learning_curve.png", what=what, pruned=marked)
    fields = report.swept(rows)
    final = {point: curves[:, -1, 1] for point, curves in report.by_point(rows, stops).items()}
    if not fields or len(envs) > 1 or report.changing(rows):
        return
    pruned = report.pruned_points(rows, stops)
    sensitivity(fields, final, _title(envs), what=what, path=folder / "sensitivity.png", pruned=pruned)
    if len(fields) == 2 and len(final) == len({point[0] for point in final}) * len({point[1] for point in final}):
        heat_map(fields, final, _title(envs), what=what, path=folder / "heat_map.png", pruned=pruned)


def _title(envs: Iterable[str]) -> str:
    return f"DDPG on {', '.join(envs)}"


def learning_curves(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
    *,
    what: str = report.WITHOUT_NOISE,
    pruned: Collection[tuple[str, str]] = (),
    diverged: Mapping[tuple[str, str], int] | None = None,
) -> None:
    """Draws learning curves: the line is the IQM over seeds, the band its interval, and a cross the end of what was pruned.

    Each environment has a panel, since their values are on different scales. Of more than `MAX_LINES` curves, the highest and
    the median, by their last values, have colours and labels; the others are grey.

    Args:
        panels: environment -> label -> curves `[S, evaluations, 2]` of steps and returns, or other values.
        path: the file to write.
        what: what the values are; see `report.measured`.
        pruned: environments and labels of the curves that ended early because the others were better.
        diverged: environment and label -> members that diverged; by default those whose curves end with NaN.
    """
    shown = {env: _told_apart(curves, {label for at, label in pruned if at == env}) for env, curves in panels.items()}
    figure, all_axes = _canvas(_title(panels) if len(panels) == 1 else "", len(panels))
    known = list(dict.fromkeys(label for labels in shown.values() for label in labels))
    colors = (
        [f"C{i}" for i in range(len(known))]
        if len(known) <= 10  # the length of the usual colour cycle
        else [matplotlib.colormaps["viridis"](i / (len(known) - 1)) for i in range(len(known))]
    )
    for axes, (env, curves) in zip(all_axes, panels.items(), strict=True):
        grey = [label for label in curves if label not in shown[env]]
        for label in (*grey, *shown[env]):
            lost = diverged[env, label] if diverged is not None else int(np.isnan(curves[label][:, -1, 1]).sum())
            named = plural(len(grey), "other point")
            if label not in grey:
                named = _named(label, shown[env][label], seeds=len(curves[label]), diverged=lost)
            color = GREY if label in grey else colors[known.index(label)]
            _curve(axes, curves[label], named, color=color, band=label not in grey, ended=(env, label) in pruned)
        if any((env, label) in pruned for label in curves):
            axes.plot([], [], "x", color="black", label="pruned here")
        if len(panels) > 1:
            axes.set_title(env)
        axes.set_xlabel("environment steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    several = any(curve.shape[0] > 1 for curves in panels.values() for curve in curves.values())
    all_axes[0].set_ylabel(what + ("\n(IQM and 95 % interval over seeds)" if several else ""))
    _legend(figure, all_axes)
    save(figure, path)


def _named(label: str, place: str, *, seeds: int, diverged: int) -> str:
    """Returns the text of a curve in the legend."""
    about = [place, plural(seeds, "seed"), f"{diverged} diverged" if diverged else ""]
    return _legible(f"{label} ({', '.join(filter(None, about))})")


def _legible(label: str) -> str:
    """Returns a label with which a line is in the legend, where Matplotlib leaves out what begins with an underscore."""
    return textwrap.fill(f" {label}" if label.startswith("_") else label, WIDTH)


def _curve(axes: Any, curve: np.ndarray, named: str, *, color: Any, band: bool, ended: bool) -> None:
    """Draws a curve `[S, evaluations, 2]`."""
    steps, values = curve[0, :, 0], curve[:, :, 1].T  # [evaluations, S]
    middle = iqm(values)
    marker = "o" if np.isfinite(middle).sum() == 1 else None  # a single point is not visible as a line
    axes.plot(steps, middle, lw=2 if band else 1, label=named, marker=marker, color=color)
    if band and values.shape[1] > 1:
        axes.fill_between(steps, *interval(values), alpha=0.25, lw=0, color=color)
    if ended:
        axes.plot(steps[-1:], middle[-1:], "x", color=color, ms=8 if band else 5)


def _legend(figure: Figure, all_axes: Sequence[Any]) -> None:
    lines = {line.get_label(): line for axes in all_axes for line in axes.get_lines() if line.get_label()[0] != "_"}
    longest = max(map(len, lines))
    if len(lines) <= 4 and longest <= WIDTH // 2 and len(all_axes) == 1:
        all_axes[0].legend(edgecolor="none")
        return
    # Inside the axes it would cover the curves.
    columns = max(1, (WIDTH + 10) // (longest + 8))
    figure.legend(handles=list(lines.values()), frameon=False, loc="outside lower left", fontsize="small", ncols=columns)
    rows = -(-sum(label.count("\n") + 1 for label in lines) // columns)
    figure.set_size_inches(figure.get_figwidth(), 4.2 + 0.18 * rows)


def _told_apart(curves: Mapping[str, np.ndarray], pruned: Collection[str]) -> dict[str, str]:
    """Returns the labels of the curves that have colours, with their places if not all have: the highest, and the median.

    Curves that were pruned come after the others.
    """
    if len(curves) <= MAX_LINES:
        return dict.fromkeys(curves, "")
    last = {label: (label not in pruned, float(ranking_score(curve[:, -1, 1]))) for label, curve in curves.items()}
    ranked = sorted(curves, key=lambda label: last[label], reverse=True)
    places = {ranked[k]: ("highest", "second", "third")[k] for k in range(HIGHEST)}
    return places | {ranked[len(ranked) // 2]: "median"}


def profiles(final: Mapping[str, np.ndarray], profile: Callable[[Any, Any], np.ndarray], *, path: Path) -> None:
    """Draws the fraction of seeds whose final return exceeds each return, one line for each label.

    Args:
        final: label -> final returns `[S]`.
        profile: `(values [S], returns [R]) -> [R]`, see `running.comparison.performance_profile`.
        path: the file to write.
    """
    figure, (axes,) = _canvas("")
    known = np.concatenate([values[np.isfinite(values)] for values in final.values()])
    margin = 0.05 * (np.ptp(known) or 1.0)
    returns = np.linspace(known.min() - margin, known.max() + margin, 400)
    for label, values in final.items():
        axes.plot(returns, profile(values, returns), lw=2, label=_legible(label or "all"))
    axes.set_xlabel("return")
    axes.set_ylabel("fraction of seeds with a higher final return")
    _legend(figure, [axes])
    save(figure, path)


def sensitivity(
    fields: list[str],
    final: dict[tuple[Any, ...], np.ndarray],
    title: str,
    *,
    path: Path,
    what: str = report.WITHOUT_NOISE,
    pruned: Collection[tuple[Any, ...]] = (),
) -> None:
    """Draws the IQM of the final return against each swept field, in a panel of its own, over seeds and all other fields.

    More than `MAX_VALUES` numbers, as a random search draws them, are grouped with their neighbours. The band is the interval
    over seeds, if each point has several. Members that have diverged are counted and left out.

    Args:
        fields: names of the swept fields.
        final: point -> final returns `[S]`.
        title: the title of the figure.
        path: the file to write.
        what: what the returns are; see `report.measured`.
        pruned: points that ended early, whose final returns are crosses.
    """
    figure = Figure(figsize=(max(7.0, 3.2 * len(fields)), 4.2), layout="constrained")
    panels = figure.subplots(1, len(fields), sharey=True, squeeze=False)[0]
    for i, (field, axes) in enumerate(zip(fields, panels, strict=True)):
        values = values_of(final, i)
        numeric = _are_numbers(values)
        positions = np.array(values, float) if numeric else np.arange(len(values), dtype=float)
        groups = [[returns for point, returns in final.items() if point[i] == value] for value in values]
        for point, returns in final.items():
            x, marker = positions[values.index(point[i])], "x" if point in pruned else "."
            axes.plot(np.full(len(returns), x), returns, marker, color="C0", alpha=0.3, ms=4)
        if numeric and len(values) > MAX_VALUES:
            bins = np.array_split(np.arange(len(values)), BINS)
            groups = [[returns for v in own for returns in groups[v]] for own in bins]
            positions = np.array([np.median(positions[own]) for own in bins])
        known = [[returns[np.isfinite(returns)] for returns in group] for group in groups]
        known = [[returns for returns in group if len(returns)] for group in known]
        middle = np.array([iqm(np.concatenate(group)) if group else np.nan for group in known])
        low, high = np.array([interval_over_points(group) for group in known]).T
        axes.plot(positions, middle, "o-", lw=2, color="C0")
        axes.fill_between(positions, low, high, alpha=0.25, lw=0, color="C0")
        if numeric:
            _scale(axes, np.array(values, float))
        else:
            axes.set_xticks(positions, [str(value) for value in values], rotation=20 if len(values) > 3 else 0)
        for x, own, rest in zip(positions, groups, known, strict=True):
            if diverged := sum(map(len, own)) - sum(map(len, rest)):
                transform = axes.get_xaxis_transform()
                axes.text(x, 0.02, f"{diverged} diverged", transform=transform, ha="center", color="C3", in_layout=False)
        axes.plot(positions, np.zeros(len(positions)), alpha=0, transform=axes.get_xaxis_transform())
        axes.margins(x=0.2)
        axes.set_xlabel(field)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    several = min(map(len, final.values())) > 1
    pooled = "\nof all points with this value" if len(fields) > 1 else ""
    crosses = "; crosses: pruned points" if pruned else ""
    panels[0].set_ylabel(f"final {what}\n(IQM" + (" and 95 % interval over seeds" if several else "") + f"{pooled}{crosses})")
    figure.suptitle(title)
    save(figure, path)


def is_wide(values: np.ndarray) -> bool:
    """Returns True for positive numbers of different magnitudes, which need a logarithmic axis."""
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > WIDE)


def _scale(axes: Any, values: np.ndarray) -> None:
    """Scales the axis of a field: logarithmic for numbers of different magnitudes, with room for 0; few values have ticks."""
    above = values[values > 0]
    if values.min() >= 0 and is_wide(above):
        if len(above) == len(values):
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=above.min())
            low, high = np.floor(np.log10(above.min())), np.ceil(np.log10(above.max()))
            axes.set_xticks([0.0, *10.0 ** np.arange(low, high + 1, np.ceil((high - low) / 5))])
    elif len(values) > MAX_TICKS:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    if len(values) <= MAX_TICKS:
        axes.set_xticks(values, [report.short(value) for value in values.tolist()], rotation=20 if len(values) > 3 else 0)
        axes.set_xticks([], minor=True)


def heat_map(
    fields: list[str],
    final: dict[tuple[Any, ...], np.ndarray],
    title: str,
    *,
    path: Path,
    what: str = report.WITHOUT_NOISE,
    pruned: Mapping[tuple[Any, ...], int] = MappingProxyType({}),
) -> None:
    """Draws the IQM of the final return over two swept fields; says where a member has diverged, and where points were pruned.

    The arguments are those of `sensitivity`, except that `pruned` maps points to the steps at which they were pruned.
    """
    columns, rows = values_of(final, 0), values_of(final, 1)
    table = np.full((len(rows), len(columns)), np.nan)
    for point, returns in final.items():
        table[rows.index(point[1]), columns.index(point[0])] = iqm(returns)
    figure, (axes,) = _canvas(title)
    image = axes.imshow(table, aspect="auto", origin="lower", cmap="viridis")
    figure.colorbar(image, label=f"final {what} (IQM)")
    bright = np.nanmean([np.nanmin(table), np.nanmax(table)]) if np.isfinite(table).any() else 0.0
    if len(columns) <= MAX_CELLS and len(rows) <= MAX_CELLS:
        for (y, x), value in np.ndenumerate(table):
            text = "diverged" if np.isnan(value) else f"{value:.4g}"
            if (step := pruned.get((columns[x], rows[y]))) is not None:
                text += f"\n(pruned at {EngFormatter(sep='')(step)})"
            color = "black" if value > bright or np.isnan(value) else "white"
            axes.text(x, y, text, ha="center", va="center", color=color, fontsize="small" if len(columns) > 5 else None)
    for values, set_ticks in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
        shown = range(0, len(values), -(-len(values) // MAX_CELLS))
        set_ticks(shown, [report.short(values[v]) for v in shown])
    if len(columns) > 5:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel(fields[0])
    axes.set_ylabel(fields[1])
    axes.grid(visible=False)
    save(figure, path)


def _canvas(title: str, panels: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(7.0 if panels == 1 else 4.5 * panels, 4.2), layout="constrained")
    all_axes = list(figure.subplots(1, panels, squeeze=False)[0])
    all_axes[0].set_title(textwrap.fill(title, WIDTH * 3 // 4, replace_whitespace=False))
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def save(figure: Figure, path: Path) -> None:
    """Writes a figure atomically."""
    matplotlib.use("Agg")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=150)
    temporary.replace(path)


def values_of(final: dict[tuple[Any, ...], np.ndarray], i: int) -> list[Any]:
    """Returns the values of the i-th field: numbers in ascending order, others in the order in which they were given."""
    values = list(dict.fromkeys(point[i] for point in final))
    return sorted(values) if _are_numbers(values) else values


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
