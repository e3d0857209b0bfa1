"""The host backend beside Stable-Baselines3 and SBX: the same environment, network sizes and batch, one update a step.

    pip install -e ".[bench]"
    python -m benchmarks.peers                  # Pendulum-v1 at batch 64

Every measurement is a process of its own with all cores, evaluation off, and they take turns: ours, sbx, sb3, ours ... The
rate is that of the steps behind the warm-up and behind the first 500 updates, in which the peers compile. Ratios are taken
within a round. Writes `benchmarks/results/peers_ENV_BATCH.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
SYSTEMS = ("ours", "sbx", "sb3")
WARMUP, LEAD = 1_000, 500


def ours(env: str, batch_size: int, steps: int) -> float:
    """Steps per second of the host backend."""
    import ddpg_jax as dj

    experiment, hyper = dj.configure({"env": env, "backend": "host", "batch_size": batch_size, "steps": 10**6})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    alive = np.ones(1, bool)
    state, _, _ = program.advance(program.start(), 0, WARMUP, alive)
    state, _, _ = program.advance(state, WARMUP, WARMUP + LEAD, alive)
    since = time.perf_counter()
    program.advance(state, WARMUP + LEAD, WARMUP + LEAD + steps, alive)
    return steps / (time.perf_counter() - since)


def peer(system: str, env: str, batch_size: int, steps: int) -> float:
    """Steps per second of Stable-Baselines3's or SBX's DDPG."""
    from stable_baselines3.common.callbacks import BaseCallback

    if system == "sb3":
        from stable_baselines3 import DDPG
    else:
        from sbx import DDPG

    class Clock(BaseCallback):
        begin = 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps == WARMUP + LEAD:
                self.begin = time.perf_counter()
            return True

    clock = Clock()
    model = DDPG(
        "MlpPolicy",
        env,
        batch_size=batch_size,
        learning_starts=WARMUP,
        train_freq=1,
        gradient_steps=1,
        buffer_size=100_000,
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
    )
    model.learn(WARMUP + LEAD + steps, callback=clock)
    return steps / (time.perf_counter() - clock.begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", choices=SYSTEMS, help="measure one system in this process")
    options = parser.parse_args()
    if options.one:
        measure = ours if options.one == "ours" else lambda *rest: peer(options.one, *rest)
        print(json.dumps(measure(options.env, options.batch_size, options.steps)))
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    own = ["--env", options.env, "--batch-size", str(options.batch_size), "--steps", str(options.steps)]
    rates: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    for _ in range(options.rounds):
        for system in SYSTEMS:
            command = [sys.executable, "-m", "benchmarks.peers", "--one", system, *own]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rates[system].append(float(done.stdout.split()[-1]))
    mine = np.array(rates["ours"])
    for system in SYSTEMS:
        ratio = mine / np.array(rates[system])
        spread = f"ours / {system}: {np.median(ratio):.2f} ({ratio.min():.2f} .. {ratio.max():.2f})"
        print(f"{system:5s} {np.median(rates[system]):8,.0f} steps/s   {spread}")
    about = {"command": " ".join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]), "env": options.env}
    result = {**about, "batch_size": options.batch_size, "steps_per_second": rates, **machine()}
    name = f"peers_{options.env}_{options.batch_size}.json"
    (RESULTS / name).write_text(as_json(result))


if __name__ == "__main__":
    main()
