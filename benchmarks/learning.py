"""Does it learn? Many seeds of one experiment, with the raw results kept.

    python -m benchmarks.learning                                  # Pendulum, 10 seeds, defaults, 20,000 steps
    python -m benchmarks.learning --env Pendulum-v1 --seeds 10 --set backend=host steps=10000
    python -m benchmarks.learning --env MountainCarContinuous-v0 --seeds 10 --name learning_mountain_car \
        --set noise_sigma=0.5 layer_norm=true steps=20000 eval_every=2000

The commands of the other results are in their JSON files.

Writes `benchmarks/results/NAME.csv`, one row per seed and evaluation, `NAME.json`, the summary with hardware, versions and
command, and the figure `NAME.png`. All seeds train in one compiled program.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np

import ddpg_jax as dj
from ddpg_jax.app import report
from ddpg_jax.app.figures import learning_curves
from ddpg_jax.app.machine import machine
from ddpg_jax.app.manifest import new_manifest
from ddpg_jax.running.groups import make_groups
from ddpg_jax.running.hardware import use_all_cores
from ddpg_jax.running.intervals import interval, iqm

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--name", default="learning_pendulum")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    fields = {"eval_episodes": 20, **dict(text.split("=", 1) for text in options.set)}
    ((experiment, members),) = make_groups([{}], options.seeds, {"env": options.env, **fields})
    use_all_cores()
    program = dj.make_program(experiment, members)
    rows, begin = [], time.perf_counter()
    for tick in dj.run_blocks(program, experiment, program.start()):
        rows += tick.rows
        if tick.rows:
            mean = np.mean([row["eval_return_mean"] for row in tick.rows])
            print(f"step {tick.step:>8,}  mean return {mean:9.2f}", file=sys.stderr, flush=True)
    program.close()
    thresholds = {member.number: program.spec.reward_threshold for member in members}
    summary = report.summarize(rows, thresholds, time.perf_counter() - begin)
    with open(RESULTS / f"{options.name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    about = {
        "experiment": experiment.__dict__,
        "hyperparams": members[0].hyper._asdict(),
        "command": " ".join(["python", "-m", "benchmarks.learning", *sys.argv[1:]]),
        **machine(),
    }
    (RESULTS / f"{options.name}.json").write_text(report.as_json({**about, **summary}))
    settings = report.settings(new_manifest(experiment, members))
    curves = report.labelled(rows, report.described(settings, settings))
    learning_curves({options.env: curves}, RESULTS / f"{options.name}.png")
    final = np.array([row["eval_return_mean"] for row in rows if row["step"] == rows[-1]["step"]])
    low, high = interval(final)
    print(f"{options.env}: IQM {iqm(final):.1f} [{low:.1f}, {high:.1f}] over {len(final)} seeds; worst {final.min():.1f}")
    print("final returns:", " ".join(f"{value:.1f}" for value in final))


if __name__ == "__main__":
    main()
