"""Figures: learning curves with intervals, a heat map of two swept fields, and how sensitive the result is to each field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ddpg_jax.app.report import by_point, labels, short, swept
from ddpg_jax.statistics import interval, iqm

MOST_LINES = 12  # more learning curves than this cannot be told apart
MOST_VALUES, BINS = 12, 6  # a field with more values than this has them summed up in so many groups


def figures(rows: Sequence[dict[str, Any]], name: str, title: str, folder: Path) -> None:
    """Draws what the rows of metrics.csv have to show.

    `learning_curve.png` always; `heat_map.png` where two fields are swept over a whole grid; `sensitivity.png` where any is.
    """
    learning_curves(labels(rows, name), title, folder / "learning_curve.png")
    fields = swept(rows)
    final = {point: curves[:, -1, 1] for point, curves in by_point(rows).items()}
    if fields:
        sensitivity(fields, final, title, folder / "sensitivity.png")
    if len(fields) == 2 and len(final) == len({point[0] for point in final}) * len({point[1] for point in final}):
        heat_map(fields, final, title, folder / "heat_map.png")


def learning_curves(curves: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Label -> `[S, evaluations, 2]`. The line is the IQM over seeds, the band its interval; the best where there are many."""
    left_out = len(curves) - MOST_LINES
    if left_out > 0:
        last = {label: np.nan_to_num(iqm(curve[:, -1, 1]), nan=-np.inf) for label, curve in curves.items()}
        curves = {label: curves[label] for label in sorted(curves, key=lambda label: -last[label])[:MOST_LINES]}
        title += f"\n(the best {MOST_LINES} points of {MOST_LINES + left_out})"
    figure, axes = _canvas(title)
    for label, curve in curves.items():
        steps, returns = curve[0, :, 0], curve[:, :, 1].T  # [evaluations, S]
        seeds = returns.shape[1]
        named = f"{label} ({seeds} seed{'s' if seeds > 1 else ''})"
        (line,) = axes.plot(steps, iqm(returns), lw=2, label=named, marker="o" if len(steps) == 1 else None)
        if seeds > 1:
            axes.fill_between(steps, *interval(returns), alpha=0.25, lw=0, color=line.get_color())
    many = any(curve.shape[0] > 1 for curve in curves.values())
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return without noise" + ("\n(IQM and 95 % interval over seeds)" if many else ""))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(frameon=False, loc="best", fontsize="small" if len(curves) > 4 else None)
    _save(figure, path)


def sensitivity(fields: list[str], final: dict[tuple[Any, ...], np.ndarray], title: str, path: Path) -> None:
    """One panel for each swept field: the IQM of the final return at each of its values, over seeds and all other fields.

    Numbers that a random search has drawn are each there once, so the line is that of groups of neighbours.
    """
    figure = Figure(figsize=(max(7.0, 3.2 * len(fields)), 4.2), layout="constrained")
    panels = figure.subplots(1, len(fields), sharey=True, squeeze=False)[0]
    for i, (field, axes) in enumerate(zip(fields, panels, strict=True)):
        values = sorted({point[i] for point in final}, key=_order)
        groups = [np.concatenate([returns for point, returns in final.items() if point[i] == value]) for value in values]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        places = np.array(values, float) if numeric else np.arange(len(values), dtype=float)
        for place, group in zip(places, groups, strict=True):
            axes.plot(np.full(len(group), place), group, ".", color="C0", alpha=0.3, ms=4)
        if numeric and len(values) > MOST_VALUES:
            bins = np.array_split(np.arange(len(values)), BINS)
            groups = [np.concatenate([groups[v] for v in own]) for own in bins]
            places = np.array([np.median(places[own]) for own in bins])
        known = [group[np.isfinite(group)] for group in groups]
        middle = np.array([iqm(group) if len(group) else np.nan for group in known])
        bounds = np.array([interval(group) if len(group) > 1 else (np.nan, np.nan) for group in known])
        axes.plot(places, middle, "o-", lw=2, color="C0")
        axes.fill_between(places, bounds[:, 0], bounds[:, 1], alpha=0.25, lw=0, color="C0")
        lost = [len(group) - len(rest) for group, rest in zip(groups, known, strict=True)]
        if numeric and len(values) > 2 and min(values) > 0 and max(values) / min(values) > 20:
            axes.set_xscale("log")
        if not numeric:
            axes.set_xticks(places, [str(value) for value in values], rotation=20 if len(values) > 3 else 0)
        for place, count in zip(places, lost, strict=True):
            if count:
                axes.text(
                    place,
                    0.02,
                    f"{count} diverged",
                    transform=axes.get_xaxis_transform(),
                    ha="center",
                    color="C3",
                    in_layout=False,
                )
        axes.plot(places, np.zeros(len(places)), alpha=0, transform=axes.get_xaxis_transform())
        axes.margins(x=0.2)
        axes.set_xlabel(field)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("final return without noise\n(IQM and 95 % interval)")
    figure.suptitle(title)
    _save(figure, path)


def heat_map(fields: list[str], final: dict[tuple[Any, ...], np.ndarray], title: str, path: Path) -> None:
    """The IQM of the final return over two swept fields; "diverged" where a member has."""
    columns, rows = (sorted({point[i] for point in final}, key=_order) for i in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    for point, returns in final.items():
        table[rows.index(point[1]), columns.index(point[0])] = iqm(returns)
    figure, axes = _canvas(title)
    image = axes.imshow(table, aspect="auto", origin="lower", cmap="viridis")
    figure.colorbar(image, label="final return without noise (IQM)")
    bright = np.nanmean([np.nanmin(table), np.nanmax(table)]) if np.isfinite(table).any() else 0.0
    if table.size <= 100:
        for (y, x), value in np.ndenumerate(table):
            text = "diverged" if np.isnan(value) else f"{value:.4g}"
            axes.text(x, y, text, ha="center", va="center", color="black" if value > bright or np.isnan(value) else "white")
    axes.set_xticks(range(len(columns)), [short(value) for value in columns])
    axes.set_yticks(range(len(rows)), [short(value) for value in rows])
    axes.set_xlabel(fields[0])
    axes.set_ylabel(fields[1])
    axes.grid(visible=False)
    _save(figure, path)


def _canvas(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    matplotlib.use("Agg")
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=150)
    temporary.replace(path)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers before words, each in their order."""
    return (isinstance(value, str), value)
