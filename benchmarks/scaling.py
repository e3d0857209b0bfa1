"""How time, memory and compilation grow with members, devices, batch, network width and replay.

    python -m benchmarks.scaling

Each point has a process of its own, since JAX fixes its devices when it starts. The environment is Pendulum-v1; unless stated
otherwise, there are one member, batch 64, 256-256 networks and 100,000 transitions. Memory is counted by the compiler. The time
of an update is compared with the limit that its matrix products set on the same devices, measured in turns with it. On an
accelerator, members go to 4,096. On a CPU, small products stay on one thread, as in a run of the command line. Writes
`benchmarks/results/scaling_PLATFORM.json` and a figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
USUAL = {"members": 1, "devices": 1, "batch_size": 64, "hidden": 256, "replay_capacity": 100_000}
AXES: dict[str, list[int]] = {
    "members": [1, 4, 16, 64],
    "devices": [1, 2],
    "batch_size": [32, 64, 128, 256, 512, 1024, 4096],
    "hidden": [64, 128, 256, 512, 1024],
    "replay_capacity": [10_000, 100_000, 1_000_000],
}
MEMBERS_WITH_DEVICES = 16
"""Members of the points of the axis `devices`; their work is divided."""


def measure(point: dict[str, int], work: float, repetitions: int) -> dict[str, Any]:
    """One point: rates of training and of the products, memory, seconds to compile."""
    import ddpg_jax as dj
    from ddpg_jax.app.bench import make_limit
    from ddpg_jax.running.hardware import use_one_core

    use_one_core(point["batch_size"], (point["hidden"],))
    fields = {"batch_size": point["batch_size"], "hidden": (point["hidden"],) * 2, "replay_capacity": point["replay_capacity"]}
    warmup = max(1_000, point["batch_size"])
    experiment, hyper = dj.configure({"env": "Pendulum-v1", "warmup_steps": warmup, "steps": 10**9, **fields})
    members = point["members"]
    flops = 22.0 * point["batch_size"] * point["hidden"] ** 2 * members
    updates = int(np.clip(work / flops, 20, 2_000))
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(members)])
    since = time.perf_counter()
    memory = program.memory()
    compiled = time.perf_counter() - since
    active = np.ones(members, bool)
    state, _, _ = program.advance(program.start(), 0, warmup, active=active)
    state, _, _ = program.advance(state, warmup, warmup + updates, active=active)
    devices = list(program.placement.devices)
    limit = make_limit(3, 1, fields["hidden"], batch_size=point["batch_size"], updates=updates, devices=devices)
    rates, limits = [], []
    for i in range(1, repetitions + 1):
        state, _, seconds = program.advance(state, warmup + i * updates, warmup + (i + 1) * updates, active=active)
        rates.append(members * updates / seconds)
        limits.append(limit())
    return {
        **point,
        "used_devices": len(devices),
        "updates_per_repetition": updates,
        "updates_per_second": rates,
        "limit_updates_per_second": limits,
        "compile_seconds": compiled,
        "bytes_a_member": memory * len(devices) / program.placement.slots,
    }


def points(most_members: int, devices: int) -> list[tuple[str, dict[str, int]]]:
    """(axis, point) for all axes."""
    found = []
    for axis, values in AXES.items():
        values = [16**k for k in range(4) if 16**k <= most_members] if axis == "members" and most_members > 64 else values
        for value in values:
            point = {**USUAL, axis: value}
            if axis == "devices":
                point["members"] = MEMBERS_WITH_DEVICES
            if axis != "devices" or value <= devices:
                found.append((axis, point))
    return found


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Microseconds an update against each axis, with the limit; both axes logarithmic, the vertical one at least a decade."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

    plot, axes = plt.subplots(1, len(AXES), figsize=(3.2 * len(AXES), 3.0), layout="constrained")
    for axis, name in zip(axes, AXES, strict=True):
        own = [row for row in rows if row["axis"] == name]
        x = [row[name] for row in own]
        for column, label in (("updates_per_second", "training"), ("limit_updates_per_second", "products alone")):
            axis.plot(x, [1e6 / np.median(row[column]) for row in own], marker="o", label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        spare = max(1.0, (10.0 * low / high) ** 0.5)
        axis.set_ylim(low / spare, high * spare)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(x, [f"{value:,}" for value in x], fontsize=8, rotation=30 if len(x) > 4 else 0)
        axis.set_xlabel(name.replace("_", " "))
    axes[0].set_ylabel("us / update, all members")
    axes[0].legend(fontsize=8)
    plot.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help="measure one point, as JSON, in this process")
    parser.add_argument("--work", type=float, default=4e10, help="floating point operations of a repetition, about")
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    import jax

    if options.one:
        point = json.loads(options.one)
        if point["devices"] > 1:
            jax.config.update("jax_num_cpu_devices", point["devices"])
        print(json.dumps(measure(point, options.work, options.repetitions)))
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    about = machine()
    accelerator = about["platform"] != "cpu"
    rows = []
    for axis, point in points(4_096 if accelerator else 64, jax.device_count() if accelerator else about["cores"]):
        words = ["--one", json.dumps(point), "--work", str(options.work * (100 if accelerator else 1))]
        command = [sys.executable, "-m", "benchmarks.scaling", *words, "--repetitions", str(options.repetitions)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        row = {"axis": axis, **json.loads(done.stdout.splitlines()[-1])}
        rows.append(row)
        rate, limit = np.array(row["updates_per_second"]), np.array(row["limit_updates_per_second"])
        print(
            f"{axis:16s} {row[axis]:>9,d}  {1e6 / np.median(rate):10.1f} us an update  {np.median(rate / limit):5.0%} of the "
            f"limit  {row['bytes_a_member'] / 2**20:8.1f} MiB a member  compile {row['compile_seconds']:5.1f} s",
            flush=True,
        )
    name = f"scaling_{about['platform']}"
    (RESULTS / f"{name}.json").write_text(as_json({"command": "python -m benchmarks.scaling", "rows": rows, **about}))
    figure(rows, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
