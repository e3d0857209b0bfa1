"""Reports the results of a run: the summary, and the line at its end."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.experiment.experiment import configure
from ddpg_jax.experiment.presets import PRESETS
from ddpg_jax.experiment.values import plain
from ddpg_jax.running.intervals import interval, iqm, ranking_score
from ddpg_jax.running.results import Stop, plural
from ddpg_jax.running.rows import KNOWN, SUCCESS, result_of


def swept(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of the swept fields among the columns."""
    return [name for name in rows[0] if name not in KNOWN] if rows else []


def by_env(rows: Sequence[dict[str, Any]], env: str) -> dict[str, list[dict[str, Any]]]:
    """Groups rows by environment, without the column that names it; if the environment is not swept, it is `env`."""
    each: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        own = {name: value for name, value in row.items() if name != "env"}
        each.setdefault(row.get("env", env), []).append(own)
    return each


def first_values(rows: Sequence[dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """Returns the swept values with which each member began, `member -> values`; those of a population change later."""
    names = swept(rows)
    return {row["member"]: tuple(row[name] for name in names) for row in reversed(rows)}


def changing(rows: Sequence[dict[str, Any]]) -> bool:
    """Returns True if the swept values of a member change while it trains."""
    begun, names = first_values(rows), swept(rows)
    return any(tuple(row[name] for name in names) != begun[row["member"]] for row in rows)


class Curve(NamedTuple):
    """The returns of a member, or the values of another column."""

    steps: list[int]
    returns: list[float]
    after: float | None
    """The value after the last step: the last one of a member that was stopped, NaN of one that diverged, else None."""


def curves_by_point(
    rows: Sequence[dict[str, Any]],
    stopped: Collection[int] = (),
    value_of: Callable[[dict[str, Any]], float] = result_of,
) -> dict[tuple[Any, ...], list[Curve]]:
    """Groups rows by point: swept values -> curves of its members, in the order of the members.

    Args:
        rows: rows of metrics.csv.
        stopped: members that were stopped.
        value_of: `row -> value`, by default the return.
    """
    members: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(row["member"], []).append(row)
    begun, points = first_values(rows), {}
    for member, own in sorted(members.items()):
        returns = [value_of(row) for row in own]
        after = math.nan if own[-1]["diverged_step"] != "" else returns[-1] if member in stopped else None
        points.setdefault(begun[member], []).append(Curve([row["step"] for row in own], returns, after))
    return points


def joined(curves: Sequence[Curve]) -> np.ndarray:
    """Joins the curves of a point, possibly from several runs, at the steps that they have in common: `[S, evaluations, 2]`.

    The curves are as long as the shortest of those that may go on, and if there are none, as the longest. Those that were
    stopped keep their last returns, and the returns of those that have diverged are NaN from there on.
    """
    running = [curve for curve in curves if curve.after is None] or [max(curves, key=lambda curve: curve.steps[-1])]
    common = set.intersection(*(set(curve.steps) for curve in running))
    for curve in curves:
        if curve.after is not None and not math.isnan(curve.after):  # a diverged one may lack steps
            common = {step for step in common if step > curve.steps[-1] or step in curve.steps}

    def returns(curve: Curve) -> list[tuple[float, float]]:
        reached, after = dict(zip(curve.steps, curve.returns, strict=True)), math.nan if curve.after is None else curve.after
        return [(step, reached.get(step, after)) for step in sorted(common)]

    return np.array([returns(curve) for curve in curves])


def by_point(rows: Sequence[dict[str, Any]], stopped: Collection[int] = ()) -> dict[tuple[Any, ...], np.ndarray]:
    """Groups rows by point: swept values -> array `[S, evaluations, 2]` of steps and returns; see `joined`."""
    return {point: joined(curves) for point, curves in curves_by_point(rows, stopped).items()}


def pruned_points(rows: Sequence[dict[str, Any]], stops: Mapping[int, Stop]) -> dict[tuple[Any, ...], int]:
    """Returns the points that were pruned, by their swept values, and the step at which each was."""
    begun = first_values(rows)
    return {begun[member]: stop.step for member, stop in stops.items() if member in begun and stop.reason == "prune"}


def summarize(
    rows: Sequence[dict[str, Any]],
    thresholds: Mapping[int, float | None],
    seconds: float,
    *,
    stops: Mapping[int, Stop] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the contents of summary.json.

    Steps and seconds to the threshold are medians over all seeds, and infinite unless more than half of them have solved the
    environment. These seconds are those of training, without evaluations.

    Args:
        rows: rows of metrics.csv.
        thresholds: member -> mean return at which its environment counts as solved.
        seconds: wall time of the run so far.
        stops: member -> where it was stopped, and why. The final return of a point that was pruned is that of its last step.
    """
    points, names = [], swept(rows)
    pruned = pruned_points(rows, stops)
    begun = first_values(rows)
    member_of = {values: member for member, values in begun.items()}
    for values, curves in by_point(rows, stops).items():
        threshold = thresholds.get(member_of[values])
        steps, returns = curves[0, :, 0], curves[:, :, 1]
        low, high = interval(returns[:, -1])
        own = [row for row in rows if begun[row["member"]] == values]
        solved = _solved(own, threshold)
        points.append(
            {
                "point": dict(zip(names, values, strict=True)),
                "seeds": len(returns),
                "steps": int(steps[-1]),
                "final_return_mean": returns[:, -1].mean(),
                "final_return_iqm": iqm(returns[:, -1]),
                "final_return_interval": [low, high],
                "final_returns": returns[:, -1].tolist(),
                "best_return_mean": returns.max(axis=1).mean(),
                "final_success_rate": _final_success(own),
                "threshold": threshold,
                "solved_members": sum(math.isfinite(step) for step, _ in solved),
                "steps_to_threshold": float(np.median([step for step, _ in solved])),
                "seconds_to_threshold": float(np.median([took for _, took in solved])),
                "pruned_step": pruned.get(values),
                "stopped_members": {str(m): stops[m].step for m in dict.fromkeys(row["member"] for row in own) if m in stops},
                "diverged_members": {str(row["member"]): row["diverged_step"] for row in own if row["diverged_step"] != ""},
            }
        )
    return {"seconds": seconds, "points": points}


def _final_success(rows: Sequence[dict[str, Any]]) -> float:
    """Returns the mean over members of the success rates of their last evaluations; NaN if one has diverged or is not known."""
    return float(np.mean(list({row["member"]: row.get(SUCCESS, math.nan) for row in rows}.values())))


def _solved(rows: Sequence[dict[str, Any]], threshold: float | None) -> list[tuple[float, float]]:
    """Returns, for each member, the step and the training seconds at which it first reached the threshold, else infinity."""
    first = {row["member"]: (math.inf, math.inf) for row in rows}
    for row in rows:
        if threshold is not None and result_of(row) >= threshold and first[row["member"]][0] > row["step"]:
            first[row["member"]] = (row["step"], row["seconds"])
    return list(first.values())


def as_json(value: Any) -> str:
    """Formats a value as JSON; numbers that are not finite become null."""

    def clean(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: clean(item) for key, item in x.items()}
        if isinstance(x, list | tuple):
            return [clean(item) for item in x]
        if isinstance(x, np.generic | np.ndarray):
            return clean(x.tolist())
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(clean(value), indent=2) + "\n"


def labels(rows: Sequence[dict[str, Any]], name: str) -> dict[tuple[Any, ...], str]:
    """Labels the points of a run with their swept values, or with a name if nothing is swept: `first_values` -> label.

    If values change while members train, the labels are the numbers of the members.
    """
    names, begun = swept(rows), first_values(rows)
    points = list(dict.fromkeys(begun[member] for member in sorted(begun)))
    texts = [named(names, point) for point in points]
    if changing(rows):
        member_of = {values: member for member, values in begun.items()}
        texts = [f"member {member_of[point]}" if len(points) > 1 else "" for point in points]
    if len(set(texts)) < len(texts):  # different values that look the same when they are shortened
        texts = [named(names, point, str) for point in points]
    return {point: text or name for point, text in zip(points, texts, strict=True)}


def labelled(rows: Sequence[dict[str, Any]], name: str, stopped: Collection[int] = ()) -> dict[str, np.ndarray]:
    """Returns the curves of a run by their labels; see `by_point` and `labels`."""
    names = labels(rows, name)
    return {names[point]: curves for point, curves in by_point(rows, stopped).items()}


def settings(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a run, or of a sweep's first member, on which results depend, except the seed and the length."""
    values = {**manifest["identity"], **manifest["members"][0]}
    derived = ["seed", "member", "members", "parts", "eval_every"]
    derived += ["eval_episodes"] if values.get("eval_episodes") else []  # without any, returns are those of training
    return {name: value for name, value in values.items() if name not in derived}


def ways(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns what else the results of a run depend on, by name: when members stop, and how their hyperparameters change."""
    stops, evolution = manifest.get("stopping", {}), manifest.get("evolution", {})
    found = {"until": ":".join(f"{x:g}" for x in stops["until"])} if stops.get("until") else {}
    if stops.get("pruning"):
        found["prune"] = f"{','.join(map(str, stops['pruning'][0]))} by {stops['pruning'][1]:g}"
    stages = [f"{step} {named(list(values), list(values.values()))}" for step, values in evolution.get("schedule", [])]
    found |= {"schedule": "; ".join(stages)} if stages else {}
    population = {name: value for name, value in evolution.get("population", {}).items() if name != "ranges"}
    return {**found, **({"population": named(list(population), list(population.values()))} if population else {})}


WITHOUT_NOISE, IN_TRAINING = "return without noise", "return of training, with noise"


def measured(rows: Sequence[dict[str, Any]]) -> str:
    """Says what the returns of these rows are: those of evaluations, of training, or of both."""
    trained = [math.isnan(row["eval_return_mean"]) and row["diverged_step"] == "" for row in rows]
    if not any(trained):
        return WITHOUT_NOISE
    return IN_TRAINING if all(trained) else "return"


def described(settings: dict[str, Any], fields: Iterable[str]) -> str:
    """Describes settings by their preset, if they name one, and by those fields that differ from it; not by the environment."""
    preset = settings.get("preset", "")
    # A preset of the user's is known only in processes that import its module.
    base, hyper = configure({"preset": preset if preset in PRESETS else "default"})
    usual = {**json.loads(json.dumps(dataclasses.asdict(base))), **hyper._asdict(), "preset": preset}
    known = [name for name in fields if name in settings and name != "env"]
    different = {name: settings[name] for name in known if settings[name] != usual.get(name)}
    values = [plain(tuple(value) if isinstance(value, list) else value) for value in different.values()]
    return ", ".join(filter(None, [preset, named(list(different), values)]))


def short(value: Any) -> str:
    """Formats a swept value for a reader."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def named(fields: Sequence[str], point: Sequence[Any], text: Callable[[Any], str] = short) -> str:
    """Formats a point for a reader, with its values formatted by `text`."""
    return ", ".join(f"{field}={text(value)}" for field, value in zip(fields, point, strict=True))


def readable(number: float) -> str:
    """Formats a return for a reader: with one decimal, or with three significant digits if it is small.

    >>> readable(-143.76), readable(0.0), readable(-0.01637)
    ('-143.8', '0.0', '-0.0164')
    """
    return f"{number:.1f}" if abs(number) >= 1 or number == 0 or not math.isfinite(number) else f"{number:.3g}"


def standard_error(deviation: float, episodes: int) -> str:
    """Formats the standard error that follows a mean over episodes, given their standard deviation; empty for one episode."""
    return (
        f" +- {readable(deviation / math.sqrt(episodes - 1))} (standard error of {episodes} episodes)" if episodes > 1 else ""
    )


def described_success(rate: float) -> str:
    """Formats the success rate that follows a return; empty if it is not known.

    >>> described_success(0.95), described_success(float("nan"))
    (', success rate 95 %', '')
    """
    return f", success rate {rate:.0%}".replace("%", " %") if math.isfinite(rate) else ""


def described_episodes(rewards: Sequence[np.ndarray]) -> str:
    """Describes episodes in one line, given the rewards `[T]` of each.

    >>> described_episodes([np.array([1.0, 2.0]), np.array([5.0])])
    '2 episodes, 3 steps, return 4.0 +- 1.0 (standard deviation)'
    """
    returns = np.array([own.sum(dtype=np.float64) for own in rewards])
    return (
        f"{plural(len(rewards), 'episode')}, {sum(map(len, rewards)):,} steps, return {readable(returns.mean())} +- "
        f"{readable(returns.std())} (standard deviation)"
    )


def headline(
    env: str, rows: Sequence[dict[str, Any]], episodes: int, *, stops: Mapping[int, Stop] = MappingProxyType({})
) -> str:
    """Formats the result as one line: the last evaluation of a run, or the best point of a sweep in each environment.

    Points that were pruned are not the best.
    """
    if "env" in rows[0]:
        return "; ".join(headline(name, own, episodes, stops=stops) for name, own in by_env(rows, env).items())
    points, pruned = by_point(rows, stops), pruned_points(rows, stops)
    last = rows[-1]
    if len({row["member"] for row in rows}) == 1:
        if last["diverged_step"] != "":
            return f"{env}: DIVERGED at step {last['diverged_step']:,}"
        result = f"{readable(result_of(last))}{standard_error(last['eval_return_std'], episodes)}"
        success = described_success(last.get(SUCCESS, math.nan))
        return f"{env}: {'' if episodes else 'training '}return {result}{success} after {last['step']:,} steps"
    candidates = {point: curves for point, curves in points.items() if point not in pruned} or points
    scores = {point: ranking_score(curves[:, -1, 1]) for point, curves in candidates.items()}
    best = max(scores, key=lambda point: scores[point])
    low, high = interval(points[best][:, -1, 1])
    begun = first_values(rows)
    success = described_success(_final_success([row for row in rows if begun[row["member"]] == best]))
    name, seeds = _best_name(rows, best), len(points[best])
    spread = f" [{readable(low)}, {readable(high)}]" if seeds > 1 else ""
    diverged = sum(1 for row in {row["member"]: row for row in rows}.values() if row["diverged_step"] != "")
    if scores[best] == -np.inf and not diverged:
        return f"{env}: every point has a member in which no episode has ended, and nothing was evaluated"
    if scores[best] == -np.inf:
        return f"{env}: NO BEST POINT, as every point has members that diverged or have no return; diverged members: {diverged}"
    return (
        f"{env}: {name + ', ' if name else ''}{'' if episodes else 'training '}IQM "
        f"{readable(scores[best])}{spread} over {plural(seeds, 'seed')}{success}, {plural(len(points), 'point')}, "
        f"{f'{len(pruned)} of them pruned, ' if pruned else ''}diverged members: {diverged}"
    )


def _best_name(rows: Sequence[dict[str, Any]], best: tuple[Any, ...]) -> str:
    """Names the best point, or the best member of a population, for the line at the end; empty if there is only one."""
    names = swept(rows)
    if not changing(rows):
        return f"best point {named(names, best)}" if names else ""
    begun = first_values(rows)
    last = next(row for row in reversed(rows) if begun[row["member"]] == best)
    which = f"best member {last['member']}" if len(set(begun.values())) > 1 else "a schedule"
    return f"{which} that ends with {named(names, [last[name] for name in names])}"
