"""Computes from Tianshou's curves what its tables do not say: final returns over seeds, and returns after fewer steps.

    git clone https://github.com/thu-ml/tianshou && python -m benchmarks.published tianshou

Writes `benchmarks/results/published_tianshou.json`. The curves are those of its benchmark of 2021, at a commit that is still in
its history: ten seeds each, evaluated every 5,000 steps over 10 episodes without noise.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.running.intervals import interval, iqm

RESULT = Path(__file__).parent / "results" / "published_tianshou.json"
COMMIT = "39acf2094d96268d92ebb54dcbfc3de76d702567"
ENVS = ("Ant", "HalfCheetah", "Hopper", "InvertedDoublePendulum", "Reacher", "Swimmer", "Walker2d")
VERSIONS = {"InvertedDoublePendulum": "v2", "Reacher": "v2"}
"""Of those that are not v3."""
UNCOUNTED = 25_000
"""Environment steps of random actions before `env_step` begins to count, by the script of the benchmark."""


class Curve(NamedTuple):
    """What others have measured of one algorithm on one environment."""

    steps: np.ndarray
    """`[evaluations]`, environment steps."""
    iqm: np.ndarray
    """`[evaluations]`, of the return over seeds."""
    low: np.ndarray
    """`[evaluations]`, of its 95 % interval."""
    high: np.ndarray
    """`[evaluations]`"""
    mean: np.ndarray
    """`[evaluations]`, of the return over seeds."""

    def within(self, steps: int) -> Curve:
        """Its beginning, up to so many steps."""
        return Curve(*(column[self.steps <= steps] for column in self))


def curve(results: Path, name: str) -> Curve:
    """The curve `ENV/ALGORITHM`, with all environment steps counted."""
    found = json.loads((results / RESULT.name).read_text())["curves"][name]
    read = Curve(*(np.array(found[field]) for field in Curve._fields))
    return read._replace(steps=read.steps + UNCOUNTED)


def measure(clone: Path, name: str) -> dict[str, Any]:
    """Statistics over the seeds of a curve."""
    path = f"{COMMIT}:examples/mujoco/benchmark/{name}/test_rew_10seeds.csv"
    done = subprocess.run(["git", "-C", str(clone), "show", path], capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    seeds = [column for column in rows[0] if column.startswith("rew:seed")]
    returns = np.array([[float(row[seed]) for seed in seeds] for row in rows])
    low, high = interval(returns)
    numbers = {"iqm": iqm(returns), "low": low, "high": high, "mean": returns.mean(axis=1)}
    return {
        "seeds": len(seeds),
        "steps": [int(row["env_step"]) for row in rows],
        **{key: np.round(values, 2).tolist() for key, values in numbers.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    clone = parser.parse_args().clone
    names = [f"{env}-{VERSIONS.get(env, 'v3')}/{algorithm}" for env in ENVS for algorithm in ("ddpg", "td3")]
    about = {
        "source": "https://github.com/thu-ml/tianshou",
        "commit": COMMIT,
        "command": "python -m benchmarks.published tianshou",
    }
    RESULT.write_text(json.dumps({**about, "curves": {name: measure(clone, name) for name in names}}) + "\n")


if __name__ == "__main__":
    main()
