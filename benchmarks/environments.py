"""Which side limits a run, the environment or the learning? Steps of the environment a second, alone and with learning.

    pip install -e ".[mujoco,box2d,gymnax,brax,playground]"      # what is not installed is left out, and said so
    python -m benchmarks.environments
    python -m benchmarks.environments --quick --only playground

For 1, 8 and 64 environments side by side, with random actions, and with the defaults of this package: batch 64, 256-256
networks and one update for each vector step, so that with 64 environments 64 steps share an update. Both take turns. Each
environment has a process, as what one has compiled slows the next one down. Where both rates are alike, the environment takes
all the time; where the second is far below the first, the updates do. A reset is part of a step. Writes
`benchmarks/results/environments_PLATFORM.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ddpg_jax as dj

RESULTS = Path(__file__).parent / "results"
COUNTS = (1, 8, 64)
ENVIRONMENTS: tuple[tuple[str, str], ...] = (
    ("device", "Pendulum-v1"),
    ("device", "point-reach"),
    ("device", "gymnax/Pendulum-v1"),
    ("device", "gymnax/MountainCarContinuous-v0"),
    ("device", "brax/inverted_pendulum"),
    ("device", "brax/inverted_pendulum@spring"),
    ("device", "brax/halfcheetah"),
    ("device", "brax/halfcheetah@spring"),
    ("device", "playground/CartpoleBalance"),
    ("device", "playground/CheetahRun"),
    ("host", "Pendulum-v1"),
    ("host", "MountainCarContinuous-v0"),
    ("host", "LunarLanderContinuous-v3"),
    ("host", "BipedalWalker-v3"),
    ("host", "InvertedPendulum-v5"),
    ("host", "Hopper-v5"),
    ("host", "HalfCheetah-v5"),
    ("host", "Ant-v5"),
    ("host", "Humanoid-v5"),
)
"""(backend, name)"""


def rate(env: dj.Env, count: int, steps: int) -> Callable[[], float]:
    """A function that steps `count` environments so many times in one compiled loop, and gives steps a second."""

    def step(carry: Any, t: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), t)
        action = jax.random.uniform(key, (count, env.spec.action_dim), minval=-1.0, maxval=1.0)
        env_state, obs = carry
        env_state, obs, transition = jax.vmap(env.step)(jax.random.split(key, count), env_state, obs, action)
        return (env_state, obs), transition.reward.sum()

    run = jax.jit(lambda carry, clock: jax.lax.scan(step, carry, clock))
    held = [jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), count)), 0]

    def measure() -> float:
        since = time.perf_counter()
        held[0], _ = jax.block_until_ready(run(held[0], held[1] + jnp.arange(steps)))
        held[1] += steps
        return count * steps / (time.perf_counter() - since)

    measure()
    return measure


def measure(backend: str, name: str, quick: bool) -> list[dict[str, Any]]:
    """A row for each of `COUNTS`."""
    from ddpg_jax.app.bench import make_training_rate
    from ddpg_jax.envs.host import make_host

    rows = []
    for count in COUNTS:
        steps, repetitions = (max(20, 200 // count), 3) if quick else (max(100, 2_000 // count), 5)
        alone = rate(dj.envs.make_device(name) if backend == "device" else make_host(name), count, steps)
        fields = {"env": name, "backend": backend, "num_envs": count, "updates_per_step": 1 / count, "steps": 10**9}
        experiment, hyper = dj.configure(fields)
        updates = make_training_rate(experiment, [dj.Member(0, hyper)], steps)
        pairs = [(alone(), count * updates()) for _ in range(repetitions)]
        rows.append(
            {
                "env": name,
                "backend": backend,
                "num_envs": count,
                "vector_steps_per_repetition": steps,
                "alone_steps_per_second": [pair[0] for pair in pairs],
                "learning_steps_per_second": [pair[1] for pair in pairs],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("BACKEND", "NAME"), help="measure one environment, as JSON, in this process")
    parser.add_argument("--only", default="", help="those with this in their name or backend; writes nothing")
    parser.add_argument("--quick", action="store_true", help="short loops, for a look; writes nothing")
    options = parser.parse_args()
    if options.one:
        backend, name = options.one
        print(json.dumps(measure(backend, name, options.quick)))
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    about, rows = machine(), []
    for backend, name in ENVIRONMENTS:
        if options.only not in f"{backend} {name}":
            continue
        words = [sys.executable, "-m", "benchmarks.environments", "--one", backend, name, *["--quick"] * options.quick]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:32s} {backend:7s} left out: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        rows += json.loads(done.stdout.splitlines()[-1])
        for row in rows[-len(COUNTS) :]:
            alone, learning = (np.median(row[f"{kind}_steps_per_second"]) for kind in ("alone", "learning"))
            print(
                f"{name:32s} {backend:7s} {row['num_envs']:3d}  {alone:11,.0f} alone  {learning:10,.0f} with learning",
                flush=True,
            )
        if not (options.quick or options.only):  # after each, since some take minutes
            path = RESULTS / f"environments_{about['platform']}.json"
            path.write_text(as_json({"command": "python -m benchmarks.environments", "rows": rows, **about}))


if __name__ == "__main__":
    main()
