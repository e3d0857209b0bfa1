"""Sweeps: members, devices and compile time, beside the limit of the matrix products over the same devices.

    python -m benchmarks.sweeps

One process for each number of devices, since JAX fixes it when it starts; within a process the repetitions of all member
counts and of the limit take turns. Pendulum-v1, 256-256 networks, one update a step. Writes `benchmarks/results/sweeps.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"


def measure(members: list[int], batch_size: int, updates: int, repetitions: int) -> dict[str, Any]:
    """Updates per second, summed over members, with the devices of this process; and the limit on each of them together."""
    import ddpg_jax as dj
    from ddpg_jax.app.bench import make_limit
    from ddpg_jax.driving import look_seconds

    def program(count: int, hyper: dj.Hyperparams) -> Any:
        return dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(count)])

    experiment, hyper = dj.configure({"env": "Pendulum-v1", "batch_size": batch_size, "steps": 10**9})
    runs: dict[int, list[Any]] = {}
    results: dict[str, Any] = {"devices": jax.local_device_count(), "batch_size": batch_size, "members": {}}
    for count in members:
        one, alive = program(count, hyper), np.ones(count, bool)
        begin = time.perf_counter()
        memory = one.memory()
        compiled = time.perf_counter() - begin
        state, _, _ = one.advance(one.start(), 0, 1_000, alive)
        state, _, seconds = one.advance(state, 1_000, 1_000 + updates, alive)
        runs[count] = [one, state, 1_000 + updates, max(1, min(updates, int(updates * look_seconds(one) / seconds)))]
        results["members"][count] = {"compile_seconds": compiled, "bytes_a_device": memory, "updates_per_second": []}
    limit = make_limit(3, 1, (256, 256), batch_size, updates, devices=jax.local_devices())
    results["limit_updates_per_second"] = []
    for _ in range(repetitions):
        for count, held in runs.items():
            begin, end = time.perf_counter(), held[2] + updates
            while held[2] < end:  # a run is looked at now and then, which all wait for
                until = min(held[2] + held[3], end)
                held[1], _, _ = held[0].advance(held[1], held[2], until, np.ones(count, bool))
                held[2] = until
            results["members"][count]["updates_per_second"].append(count * updates / (time.perf_counter() - begin))
        results["limit_updates_per_second"].append(limit())
    other = hyper._replace(critic_lr=3e-4, tau=0.01)
    begin = time.perf_counter()
    again = program(members[-1], other)
    again.advance(again.start(), 0, 1_000, np.ones(members[-1], bool))
    results["second_sweep_seconds_until_warm"] = time.perf_counter() - begin
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, help="measure with so many devices in this process")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
        print(json.dumps(measure(options.members, options.batch_size, options.updates, options.repetitions)))
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    rows = []
    for batch_size, devices, members in ((64, 1, [1, 16]), (64, 2, [2, 4, 16, 64]), (256, 2, [2, 16])):
        words = ["--devices", devices, "--batch-size", batch_size, "--members", *members, "--updates", options.updates]
        command = [sys.executable, "-m", "benchmarks.sweeps", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        limit = np.array(rows[-1]["limit_updates_per_second"])
        for count, result in rows[-1]["members"].items():
            rate = np.array(result["updates_per_second"])
            print(
                f"batch {batch_size:4d}  {devices} devices  {count:>3s} members  {np.median(rate):8,.0f} updates/s  "
                f"{np.median(rate / limit):5.0%} of the limit  compile {result['compile_seconds']:4.1f} s  "
                f"{result['bytes_a_device'] / 2**20:7.1f} MiB a device"
            )
        print(f"    a second sweep is through its warm-up after {rows[-1]['second_sweep_seconds_until_warm']:.2f} s")
    (RESULTS / "sweeps.json").write_text(as_json({"command": "python -m benchmarks.sweeps", "rows": rows, **machine()}))


if __name__ == "__main__":
    main()
