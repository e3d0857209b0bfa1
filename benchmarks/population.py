"""Population based training beside the same members without it.

    python -m benchmarks.population
    python -m benchmarks.population --task mountain_car --repetitions 5

Eight members over the ranges of a task. In a repetition, the members of every arm begin with the same seeds at the same random
points: `none` trains them as a random search does, `copy` and `keep` are populations with the defaults of `Exploit` and that
value of `replay`. The best member of each arm is the one with the best last evaluation of ten episodes; what is compared is its
return, and that of all others, over a hundred other episodes. Writes `benchmarks/results/population.json`, or
`population_mountain_car.json`; repetitions that it holds are not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
MEMBERS, EPISODES = 8, 100
RANGES = {
    "critic_lr": "log:1e-5:1e-2",
    "actor_lr": "log:1e-5:1e-2",
    "tau": "log:1e-3:1e-1",
    "noise_sigma": "uniform:0.05:0.5",
}
TASKS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "population": ({"env": "Pendulum-v1", "steps": 30_000, "hidden": (32, 32)}, RANGES),
    "population_mountain_car": (
        {"env": "MountainCarContinuous-v0", "steps": 20_000, "hidden": (32, 32), "layer_norm": True},
        {**RANGES, "noise_sigma": "uniform:0.2:1.0"},
    ),
}
"""Name of the file of results -> the fields that all members share, and the ranges of the others."""
ARMS = ("none", "copy", "keep")


def train(arm: str, seed: int, fields: dict[str, Any], *, ranges: dict[str, str]) -> dict[str, Any]:
    """Trains the members of one arm on a task, and returns the returns of all of them and what became of the best."""
    import ddpg_jax as dj
    from ddpg_jax.running.blocks import nobody_changes
    from ddpg_jax.running.population import make_population
    from ddpg_jax.running.rows import result_of

    exploit = {"replay": "copy" if arm == "none" else arm}
    (group,), population = make_population(MEMBERS, ranges, {**fields, "seed": seed}, exploit=exploit)
    program = dj.make_program(group.experiment, group.members)
    begin, rows, tick = time.perf_counter(), [], None
    for tick in dj.run_blocks(
        program, group.experiment, program.start(), evolve=nobody_changes if arm == "none" else population
    ):
        rows = tick.rows or rows
    seconds = time.perf_counter() - begin
    assert tick is not None
    judges = [member._replace(seed=2**31 + seed) for member in group.members]  # all play the same episodes
    judge = dj.make_program(replace(group.experiment, eval_episodes=EPISODES), judges)
    returns = np.nan_to_num(judge.evaluate(tick.state, tick.iteration)[0].mean(axis=1), nan=-np.inf)
    last = np.array([np.nan_to_num(result_of(row), nan=-np.inf) for row in rows])
    best = int(last.argmax())
    return {
        "arm": arm,
        "seed": seed,
        "returns": returns.tolist(),
        "best": float(returns[best]),
        "median": float(np.median(returns)),
        "best_last_evaluation": float(last[best]),
        "values": {name: rows[best][name] for name in ranges},
        "replacements": len(tick.journal.lineage or []),
        "diverged": sum(row["diverged_step"] != "" for row in rows),
        "seconds": round(seconds, 1),
    }


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compares the arms within repetitions: mean differences with their 95 % bootstrap intervals."""
    table = {arm: {row["seed"]: row for row in rows if row["arm"] == arm} for arm in ARMS}
    result: dict[str, Any] = {}
    for arm in ("copy", "keep"):
        seeds = sorted(set(table[arm]) & set(table["none"]))
        for what, own, other in (
            ("best_minus_best_of_none", "best", "best"),
            ("best_minus_median_of_none", "best", "median"),
            ("median_minus_median_of_none", "median", "median"),
        ):
            gain = np.array([table[arm][seed][own] - table["none"][seed][other] for seed in seeds])
            drawn = np.random.default_rng(0).choice(gain, (10_000, len(gain))).mean(axis=1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            wins = int((gain > 0).sum())
            result[f"{arm}: {what}"] = {"mean": gain.mean(), "interval": [low, high], "wins": wins, "of": len(gain)}
    return result


def table(result: dict[str, Any]) -> list[str]:
    """Tabulates means over the repetitions, for `benchmarks/README.md`."""
    repetitions = len({row["seed"] for row in result["rows"]})
    lines = [
        f"## Populations on {result['fields']['env']}: {result['members']} members, {result['fields']['steps']:,} steps each\n",
        f"All rows have the same random points and seeds. Returns are means of {repetitions} repetitions, over "
        f"{result['episodes']} episodes a member. The last column",
        "is the mean gain of the best member over that of the random search in the same repetition, with its 95 % interval.",
        "",
        "| | best member | median member | worst member | best, beside that of a random search |",
        "|---|---|---|---|---|",
    ]
    names = {"none": "random search", "copy": "population, replay=copy", "keep": "population, replay=keep"}
    for arm, name in names.items():
        own = [row for row in result["rows"] if row["arm"] == arm]
        worst = np.mean([min(-np.inf if x is None else x for x in row["returns"]) for row in own])
        cells = [f"{np.mean([row[what] for row in own]):.1f}" for what in ("best", "median")]
        gain = result["comparison"].get(f"{arm}: best_minus_best_of_none")
        beside = f"{gain['mean']:+.1f} [{gain['interval'][0]:+.1f}, {gain['interval'][1]:+.1f}]" if gain else ""
        lines.append(f"| {name} | {' | '.join([*cells, f'{worst:.1f}', beside])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--task", choices=("pendulum", "mountain_car"), default="pendulum")
    options = parser.parse_args()
    name, words = "population", ""
    if options.task != "pendulum":
        name, words = f"population_{options.task}", f" --task {options.task} --repetitions {options.repetitions}"
    fields, ranges = TASKS[name]

    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json
    from ddpg_jax.running.hardware import use_all_cores

    use_all_cores()
    about = {"command": f"python -m benchmarks.population{words}", "members": MEMBERS, "episodes": EPISODES, "ranges": ranges}
    about, file = json.loads(json.dumps({**about, "fields": fields})), RESULTS / f"{name}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    rows: list[dict[str, Any]] = before["rows"] if before.items() >= about.items() else []
    where = {name: before[name] if rows else here for name, here in machine().items()}
    for repetition in range(len(rows) // len(ARMS), options.repetitions):
        for arm in ARMS:
            rows.append(train(arm, 1_000 * repetition, fields, ranges=ranges))
            row = rows[-1]
            print(
                f"{repetition}  {arm:5s} best {row['best']:8.1f}  median {row['median']:8.1f}  "
                f"worst {min(row['returns']):8.1f}  {row['replacements']:3d} replaced  {row['seconds']:5.1f} s",
                flush=True,
            )
        file.write_text(as_json({**about, "comparison": compare(rows), "rows": rows, **where}))
    for what, found in compare(rows).items():
        low, high = found["interval"]
        print(f"{what}: {found['mean']:+.1f} [{low:+.1f}, {high:+.1f}], above 0 in {found['wins']} of {found['of']}")


if __name__ == "__main__":
    main()
