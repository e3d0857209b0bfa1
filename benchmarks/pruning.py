"""Successive halving: does it find a point as good as the best of a whole sweep, and what does it cost?

    python -m benchmarks.pruning    # three quarters of an hour on two cores

Pendulum-v1, random points of (critic_lr, actor_lr, tau, noise_sigma), each repetition with other points and other seeds. A
whole sweep and a pruned one train the same members; the point that each calls the best is trained again with new seeds, since
the best of many is partly the luckiest. Reports updates and wall time of the pruned sweep as fractions of the whole one, and
whether its point lies in the interval of the other's, or above it. Each finished repetition is kept in
`benchmarks/results/pruning.json`, and the same command goes on after it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "pruning.json"
RANGES = {
    "critic_lr": "log:1e-5:1e-2",
    "actor_lr": "log:1e-5:1e-2",
    "tau": "log:1e-4:1e-1",
    "noise_sigma": "uniform:0.05:0.5",
}
MEASURED = ("updates", "seconds", "again_iqm")
RERUN = 10_000
"""Seeds of the members that are trained again start here."""


def repetition(number: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Trains a whole sweep and a pruned one of the same points, in alternating order, and the best point of each again."""
    import ddpg_jax as dj

    points = dj.random_points(RANGES, settings["points"], seed=number)
    fields = {**settings["fields"], "seed": 100 * number}
    ways = {"whole": {}, "pruned": {"prune": settings["prune"], "prune_fraction": settings["fraction"]}}
    found: dict[str, Any] = {"repetition": number}
    for way in sorted(ways, reverse=bool(number % 2)):
        begin = time.perf_counter()
        sweep = dj.sweep("Pendulum-v1", settings["seeds"], points=points, **fields, **ways[way])
        seconds, best = time.perf_counter() - begin, sweep.best()
        warmup = fields.get("warmup_steps", dj.Experiment.warmup_steps)
        last = {row["member"]: row["step"] for row in sweep.rows}
        again = dj.sweep("Pendulum-v1", settings["again"], points=[points[best["point"]]], **{**fields, "seed": RERUN + number})
        value = again.best()
        found[way] = {
            "seconds": seconds,
            "updates": sum(step - warmup for step in last.values()),
            "point": best["point"],
            "iqm": best["iqm"],
            "again_iqm": value["iqm"],
            "again_interval": value["interval"],
        }
    return found


def summary(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the fractions of updates and time, and how often the pruned sweep's point is as good, to the interval.

    Where both sweeps have found the same point, it is as good as itself.
    """
    ratios = {name: [one["pruned"][name] / one["whole"][name] for one in repetitions] for name in ("updates", "seconds")}
    same = [one["pruned"]["point"] == one["whole"]["point"] for one in repetitions]
    as_good = [one["pruned"]["again_iqm"] >= one["whole"]["again_interval"][0] for one in repetitions]
    quartiles = {name: np.quantile(values, [0.25, 0.5, 0.75]).tolist() for name, values in ratios.items()}
    return {"fraction_of": quartiles, "same": sum(same), "as_good": sum(as_good), "of": len(as_good)}


def table(result: dict[str, Any]) -> list[str]:
    """Tabulates both ways to sweep, for `benchmarks/README.md`."""
    settings, repetitions = result["settings"], result["repetitions"]
    found = summary(repetitions)
    others = f"{found['as_good'] - found['same']} of {found['of'] - found['same']}"
    steps, hidden = settings["fields"]["steps"], settings["fields"]["hidden"]
    lines = [
        f"## Successive halving on Pendulum-v1: {settings['points']} points of {', '.join(RANGES)}\n",
        f"Each point has {settings['seeds']} seeds, {steps:,} steps and networks {hidden}; `--prune {settings['prune']}` stops "
        "half of the points at each",
        f"rung. The table has medians over {len(repetitions)} repetitions with different points and seeds, and quartiles. The",
        f"best point of each sweep is trained again with {settings['again']} new seeds. In {found['same']} repetitions, both",
        f"sweeps found the same point; in {others} others, that of the pruned sweep is within the 95 % interval of the",
        "whole sweep's, or better.",
        "",
        "| | updates | of the whole | seconds | of the whole | IQM of the best point, trained again |",
        "|---|---|---|---|---|---|",
    ]
    low, middle, high = found["fraction_of"]["seconds"]
    shares = {
        "whole": ("", ""),
        "pruned": (f"{found['fraction_of']['updates'][1]:.0%}", f"{middle:.0%} ({low:.0%} .. {high:.0%})"),
    }
    for way, (of_updates, of_seconds) in shares.items():
        updates, seconds, again = (np.median([one[way][name] for one in repetitions]) for name in MEASURED)
        lines.append(f"| {way} | {updates:,.0f} | {of_updates} | {seconds:.0f} | {of_seconds} | {again:.1f} |")
    return lines


def main() -> None:
    """Runs the repetitions that are missing, and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--again", type=int, default=10, help="seeds with which the best points are trained again")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--prune", default="3")
    parser.add_argument("--fraction", type=float, default=0.5)
    parser.add_argument("--hidden", default="64-64")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    import ddpg_jax as dj
    from ddpg_jax.app.machine import machine
    from ddpg_jax.files import write_text

    fields = {"steps": options.steps, "hidden": options.hidden}
    settings = {name: getattr(options, name) for name in ("points", "seeds", "again", "prune", "fraction")} | {"fields": fields}
    fresh = {"settings": settings, "repetitions": [], **machine()}
    known = json.loads(options.out.read_text()) if options.out.exists() else fresh
    if known["settings"] != settings:
        raise SystemExit(f"{options.out} has other settings; give another --out")
    known["command"] = shlex.join(["python", "-m", "benchmarks.pruning", *sys.argv[1:]])
    # Compiles what all repetitions run, so that no time has a part of it.
    dj.sweep("Pendulum-v1", 2, points=dj.random_points(RANGES, 2), **{**fields, "steps": 1_010})
    for number in range(len(known["repetitions"]), options.repetitions):
        known["repetitions"].append(repetition(number, settings))
        known["summary"] = summary(known["repetitions"])
        write_text(options.out, json.dumps(known, indent=1) + "\n")
    print(json.dumps(known["summary"], indent=1))


if __name__ == "__main__":
    main()
