"""Sweeps: members, devices and compile time, beside the limit of the matrix products over the same devices.

    python -m benchmarks.sweeps

Each batch size and number of devices has a process of its own, since JAX fixes its devices when it starts. All keep running,
and in a round each sweep and each limit has a turn, so other work on the machine affects all of them; ratios are taken within a
round. A turn of a sweep lasts as long as a piece of a run (see `running.blocks`), and at least a second. Pendulum-v1, 256-256
networks, one update a step. Writes `benchmarks/results/sweeps.json`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Process, advancing, take_turns

RESULTS = Path(__file__).parent / "results"
CONFIGURATIONS = ((64, 1, (1, 16)), (64, 2, (2, 4, 16, 64)), (256, 2, (2, 16)))
"""Batch size, devices, and how many members the sweeps on them have."""

LIMIT = "limit"
WARMUP = 1_000
TRIAL = 100
"""Steps of the turn that tells how many take a second."""


def be(batch_size: int, devices: int, members: Sequence[int]) -> None:
    """What the process of a configuration does: trains each of its sweeps, or does the products alone, in turns."""
    import jax

    import ddpg_jax as dj
    from ddpg_jax.app.bench import make_limit
    from ddpg_jax.running.blocks import piece_seconds
    from ddpg_jax.running.hardware import use_one_core

    jax.config.update("jax_num_cpu_devices", devices)
    experiment, hyper = dj.configure({"env": "Pendulum-v1", "batch_size": batch_size, "steps": 10**9})
    use_one_core(batch_size, experiment.hidden)

    def sweep(count: int, hyper: dj.Hyperparams) -> tuple[dict[str, float], Callable[[], float]]:
        """How long a sweep took to begin and what it holds, and its turns, which give updates per second."""
        begin = time.perf_counter()
        program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(count)])
        memory, active = program.memory(), np.ones(count, bool)
        compiled = time.perf_counter() - begin
        state, _, _ = program.advance(program.start(), 0, WARMUP, active=active)
        warm = time.perf_counter() - begin
        state, _, _ = program.advance(state, WARMUP, WARMUP + TRIAL, active=active)
        state, _, seconds = program.advance(state, WARMUP + TRIAL, WARMUP + 2 * TRIAL, active=active)
        steps = max(1, round(TRIAL * max(piece_seconds(program), 1.0) / seconds))
        go_on = advancing(program, state, WARMUP + 2 * TRIAL)
        return {"compile_seconds": compiled, "seconds_until_warm": warm, "bytes_a_device": memory}, lambda: go_on(steps)

    sweeps = {str(count): sweep(count, hyper) for count in members}
    again, _ = sweep(members[-1], hyper._replace(critic_lr=3e-4, tau=0.01))
    trial = make_limit(3, 1, experiment.hidden, batch_size=batch_size, updates=TRIAL, devices=jax.local_devices())
    limit = make_limit(
        3, 1, experiment.hidden, batch_size=batch_size, updates=round(trial() / devices), devices=jax.local_devices()
    )
    ready = {"members": {count: about for count, (about, _) in sweeps.items()}, "second_sweep": again}
    take_turns(ready, {**{count: turn for count, (_, turn) in sweeps.items()}, LIMIT: limit})


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row for each configuration, with the rates of all rounds."""
    processes, rows = [], []
    try:
        for batch_size, devices, members in CONFIGURATIONS:
            words = ["--devices", devices, "--batch-size", batch_size, "--members", *members]
            processes.append(Process("benchmarks.sweeps", *words))
            rows.append({"devices": devices, "batch_size": batch_size, **processes[-1].answer()})

        def turn(process: Process, name: str) -> float:
            process.begin(name)
            return process.answer()

        for _ in range(rounds):
            for process, row in zip(processes, rows, strict=True):
                for count, about in row["members"].items():
                    about.setdefault("updates_per_second", []).append(turn(process, count))
                row.setdefault("limit_updates_per_second", []).append(turn(process, LIMIT))
    finally:
        for process in processes:
            process.end()
    return rows


def ratios(rows: list[dict[str, Any]]) -> list[tuple[str, int, np.ndarray]]:
    """`(what, batch size, ratio of each round)`: what two devices gain over one, and what more members cost."""
    rates = {
        (row["batch_size"], row["devices"], int(count)): np.array(about["updates_per_second"])
        for row in rows
        for count, about in row["members"].items()
    }
    pairs = [
        ("16 members, 2 cores / 1 core", 64, (2, 16), (1, 16)),
        ("2 cores, 64 members / 16 members", 64, (2, 64), (2, 16)),
    ]
    return [
        (what, batch, rates[batch, *one] / rates[batch, *other])
        for what, batch, one, other in pairs
        if {(batch, *one), (batch, *other)} <= rates.keys()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--devices", type=int, help="be the process with so many devices, which takes its turns")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--members", type=int, nargs="+")
    options = parser.parse_args()
    if options.devices:
        be(options.batch_size, options.devices, options.members)
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    rows = measure(options.rounds)
    for row in rows:
        limit = np.array(row["limit_updates_per_second"])
        for count, about in row["members"].items():
            rate = np.array(about["updates_per_second"])
            print(
                f"batch {row['batch_size']:4d}  {row['devices']} devices  {count:>3s} members  "
                f"{np.median(rate):8,.0f} updates/s  {np.median(rate / limit):5.0%} of the limit  "
                f"compile {about['compile_seconds']:4.1f} s  {about['bytes_a_device'] / 2**20:7.1f} MiB a device"
            )
        print(f"    a second sweep is through its warm-up after {row['second_sweep']['seconds_until_warm']:.2f} s")
    for what, batch_size, ratio in ratios(rows):
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        print(f"{what}, batch {batch_size}: {middle:.2f} (quartiles {low:.2f} .. {high:.2f})")
    result = {"command": "python -m benchmarks.sweeps", "rows": rows, **machine()}
    (RESULTS / "sweeps.json").write_text(as_json(result))


if __name__ == "__main__":
    main()
