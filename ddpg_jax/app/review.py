"""Reports runs to a reviewer on one page: the command `report`."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax import __version__
from ddpg_jax.app import figures
from ddpg_jax.app.citations import bibtex
from ddpg_jax.app.cite import keys_of_run
from ddpg_jax.app.document import Block, Code, Heading, Paragraph, Picture, Table, write_document
from ddpg_jax.app.options import check_file
from ddpg_jax.app.plot import Curves, RunData, collect, read_runs
from ddpg_jax.app.report import IN_TRAINING, WITHOUT_NOISE, described, readable, settings
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS
from ddpg_jax.running.comparison import optimality_gap, performance_profile, probability_of_improvement, resampled_interval
from ddpg_jax.running.intervals import interval, iqm, ranking_score
from ddpg_jax.running.rows import SUCCESS

MAX_ROWS, MAX_COMPARED = 20, 6
"""Points in a table of results, and points that are compared; if there are more, only those that end highest are shown."""


RETURNS = {
    WITHOUT_NOISE: "Returns are those of evaluations without noise.",
    IN_TRAINING: "Returns are those of training, with noise, since nothing was evaluated.",
}
SOME = (
    "Returns are those of evaluations without noise, and where there were none (eval_episodes=0) those of training, with noise."
)


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Writes the page of the runs in the folders.

    Raises:
        ConfigError: the name of the page has another ending, or the curves cannot be made; see `plot`.
    """
    if out.suffix not in (".html", ".md"):
        raise ConfigError(f"out={out} is not allowed; the name must end in .html or .md")
    check_file("out", out)
    runs = read_runs(folders)
    curves, manifests = collect(runs), [run.manifest for run in runs]
    results = _results(curves, _targets(folders, manifests), _success_rates(runs))
    blocks = [*_what_was_run(folders, manifests), *results, *_how_to_repeat(manifests)]
    write_document(out, f"DDPG on {', '.join(curves.panels)}", blocks)


def _what_was_run(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> list[Block]:
    rows = []
    for folder, manifest in zip(folders, manifests, strict=True):
        fields = settings(dict(manifest))
        fixed = {name: value for name, value in fields.items() if name not in manifest.get("swept", [])}
        packages = manifest.get("packages", {})
        versions = ", ".join(f"{name} {packages[name]}" for name in ("ddpg-jax", "jax", "gymnasium") if name in packages)
        where = " ".join(filter(None, [manifest.get("device_kind", ""), f"({manifest.get('platform', '')})"]))
        stops = manifest.get("stopping") or {}
        early = [f"until {stops['until'][0]:g}"] if stops.get("until") else []
        early += [f"pruned at {', '.join(f'{step:,}' for step in stops['pruning'][0])}"] if stops.get("pruning") else []
        rows.append(
            [
                str(folder),
                str(manifest["experiment"]["env"]),
                described(fixed, [name for name in fixed if name in FIELDS]) or "default",
                ", ".join(manifest.get("swept", [])) or "-",
                _length(manifest["experiment"]) + (f" ({'; '.join(early)})" if early else ""),
                str(len(set(manifest.get("seeds", [])))),
                f"{manifest.get('seconds', math.nan):,.0f} s on {where}",
                f"{versions}; commit {str(manifest.get('git_commit') or 'unknown')[:12]}",
                f"{manifest.get('start', '')}, {manifest.get('status', '')}",
            ]
        )
    header = ["run", "environment", "settings", "swept", "steps", "seeds", "wall time", "software", "start, status"]
    return [Heading("What was run"), Table(header, rows)]


def _length(experiment: Mapping[str, Any]) -> str:
    """Returns the length of a run, in steps, or in updates if it has no steps."""
    return f"{experiment['steps']:,}" if experiment["steps"] else f"{experiment['updates']:,} updates"


def _results(curves: Curves, targets: Mapping[str, float], successes: Mapping[str, Mapping[str, float]]) -> list[Block]:
    pruned = set(curves.pruned)
    blocks: list[Block] = [
        Heading("Learning curves"),
        Picture(
            "curves",
            "Learning curves",
            _drawn(lambda path: figures.learning_curves(curves.panels, path, what=curves.what, pruned=pruned)),
        ),
        Paragraph(f"{RETURNS.get(curves.what, SOME)} Lines are interquartile means (IQM) over seeds."),
    ]
    for number, (env, points) in enumerate(curves.panels.items()):
        final = {label: curve[:, -1, 1] for label, curve in points.items()}
        steps = {label: int(curve[0, -1, 0]) for label, curve in points.items()}
        ended = {label for label in points if (env, label) in pruned}
        ranked = sorted(final, key=lambda label: (label not in ended, float(ranking_score(final[label]))), reverse=True)
        table = _table(ranked, final, steps=steps, ended=ended, success=successes.get(env, {}))
        blocks += [Heading(f"Results on {env}"), table]
        if len(ranked) > MAX_ROWS:
            blocks.append(Paragraph(f"{len(ranked) - MAX_ROWS} more points are in the summary.json of their runs."))
        compared = {label: final[label] for label in ranked if label not in ended}
        blocks += _comparison(f"profile_{number}", env, compared, threshold=targets.get(env))
    return blocks


def _success_rates(runs: Sequence[RunData]) -> dict[str, dict[str, float]]:
    """Returns the mean success rates at the ends of curves, environment -> label -> rate; NaN as in summary.json.

    It is empty if one of the runs is of an older version, which does not have them.
    """
    panels = collect(runs, SUCCESS).panels if all(SUCCESS in run.rows[0] for run in runs) else {}
    return {env: {label: float(curve[:, -1, 1].mean()) for label, curve in points.items()} for env, points in panels.items()}


def _table(
    ranked: list[str],
    final: Mapping[str, np.ndarray],
    *,
    steps: Mapping[str, int],
    ended: set[str],
    success: Mapping[str, float],
) -> Table:
    rows, told = [], any(map(math.isfinite, success.values()))
    for label in ranked[:MAX_ROWS]:
        values = final[label]
        diverged = int(np.isnan(values).sum())
        at = f"{steps[label]:,}" + (" (pruned)" if label in ended else "")
        row = [label, readable(float(iqm(values))), _between(*interval(values)), readable(float(values.mean()))]
        row += [f"{success[label]:.2f}" if math.isfinite(success[label]) else "-"] if told else []
        rows.append([*row, str(len(values)), str(diverged), at])
    rate = ["success rate (mean)"] if told else []
    return Table(["", "final return (IQM)", "95 % interval", "mean", *rate, "seeds", "diverged", "steps"], rows)


def _comparison(name: str, env: str, final: Mapping[str, np.ndarray], *, threshold: float | None) -> list[Block]:
    """Compares the best points of an environment: performance profiles, optimality gaps, probabilities of improvement."""
    shown = dict(list(final.items())[:MAX_COMPARED])
    known = [value for values in shown.values() for value in values if np.isfinite(value)]
    if not known:
        return []
    target = max(known) if threshold is None else threshold
    about = "the highest of these returns" if threshold is None else "the return at which the environment counts as solved"
    gaps = []
    for label, values in shown.items():
        low, high = resampled_interval(lambda own: optimality_gap(own, target), values)
        gaps.append([label, readable(optimality_gap(values, target)), _between(low, high)])
    blocks: list[Block] = []
    if max(map(len, shown.values())) > 1:
        png = _drawn(lambda path: figures.profiles(shown, performance_profile, path=path))
        blocks.append(Picture(name, f"Performance profiles on {env}", png))
        blocks.append(Paragraph("A performance profile is the fraction of seeds whose final return exceeds a given one."))
    blocks.append(Table(["", f"optimality gap to {readable(float(target))}", "95 % interval"], gaps))
    blocks.append(
        Paragraph(
            "The optimality gap is how far final returns fall short of the target on average, with higher ones counted as the "
            f"target; the target is {about}."
        )
    )
    if len(shown) > 1:
        rows = [[row, *[_improvement(shown, row, column) for column in shown]] for row in shown]
        blocks.append(Table(["probability that the row is better", *shown], rows))
        blocks.append(
            Paragraph("An entry is the probability that a seed of the row has a higher final return than one of the column.")
        )
    return blocks


def _improvement(final: Mapping[str, np.ndarray], row: str, column: str) -> str:
    if row == column:
        return "-"
    value = probability_of_improvement(final[row], final[column])
    low, high = resampled_interval(probability_of_improvement, final[row], final[column])
    return f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")


def _between(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"[{readable(float(low))}, {readable(float(high))}]"


def _targets(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the returns at which environments count as solved, from the summaries of those runs that have finished."""
    targets: dict[str, float] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        path = folder / "summary.json"
        try:
            summary = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise ConfigError(f"{path} cannot be read: {error}; remove it, or restore it") from error
        for point in summary.get("points", []):
            if point.get("threshold") is not None:
                targets[point["point"].get("env", manifest["experiment"]["env"])] = point["threshold"]
    return targets


def _how_to_repeat(manifests: Sequence[Mapping[str, Any]]) -> list[Block]:
    starts = [one for manifest in manifests for one in (manifest, *manifest.get("resumes", []))]  # a resume may be longer
    commands = list(dict.fromkeys(str(one.get("command", "")) for one in starts))
    keys = list(dict.fromkeys([key for manifest in manifests for key in keys_of_run(dict(manifest))] + ["agarwal2021"]))
    repeat: list[Block] = [Heading("How to repeat it"), Code("\n".join(commands))]
    return [*repeat, Heading("Citations"), Code(bibtex(keys, __version__))]


def _drawn(draw: Any) -> bytes:
    """Draws a figure into a temporary file and returns it as PNG."""
    with tempfile.TemporaryDirectory(prefix="ddpg-jax-") as folder:
        path = Path(folder) / "figure.png"
        draw(path)
        return path.read_bytes()
