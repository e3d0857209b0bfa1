"""Beside Stable-Baselines3, SBX, rejax and a single-file loop: same environment, network sizes and batch, one update a step.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python -m benchmarks.peers                     # Pendulum-v1 at batch 64
    python -m benchmarks.peers --batch-size 256
    python -m benchmarks.peers --only td3          # one of the comparisons, in place of all

Three comparisons, evaluation off in all:

- run: one training run on a Gymnasium environment in one process with all cores: the host backend, SBX, SB3, and
  `single_file.py`. The device backend stands beside them, on the same environment written in JAX.
- sweep: many seeds on this machine, updates per second summed over them: 16 members of a sweep; SBX and SB3 in as many
  processes as there are cores, each kept to one, as their users run seeds.
- td3: 16 seeds of rejax's TD3 in its own vmap, and 16 members of a sweep with the same parts (two critics, delay 2, target
  smoothing).

Every measurement is a process of its own, and they take turns. The rate is that of the steps behind the warm-up and behind the
first 500 updates, in which the peers compile; rejax's, which is one program, behind its first two batches. Ratios are taken
within a round. Writes `benchmarks/results/peers_ENV_BATCH.json` and, of all such files there, `benchmarks/results/peers.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
WARMUP, LEAD = 1_000, 500
MEMBERS = 16
CORES = sorted(os.sched_getaffinity(0))
TD3 = {"num_critics": 2, "policy_delay": 2, "sync_period": 2, "target_noise": 0.2, "exploration": "gaussian"}


def ours(env: str, batch_size: int, steps: int, backend: str = "host", members: int = 1, **fields: Any) -> float:
    """Updates per second, summed over members."""
    import ddpg_jax as dj
    from ddpg_jax.placement import use_all_cores

    if members > 1:
        use_all_cores()
    experiment, hyper = dj.configure({"env": env, "backend": backend, "batch_size": batch_size, "steps": 10**6, **fields})
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(members)])
    alive = np.ones(members, bool)
    state, _, _ = program.advance(program.start(), 0, WARMUP, alive)
    state, _, _ = program.advance(state, WARMUP, WARMUP + LEAD, alive)
    since = time.perf_counter()
    program.advance(state, WARMUP + LEAD, WARMUP + LEAD + steps, alive)
    return members * steps / (time.perf_counter() - since)


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


def single_file(env: str, batch_size: int, steps: int) -> float:
    """Steps per second of the loop in `single_file.py`."""
    from benchmarks.single_file import measure

    return measure(env, batch_size, WARMUP, LEAD, steps)


def rejax(env: str, batch_size: int, steps: int) -> float:
    """Critic updates per second of rejax's TD3, summed over seeds; gymnax has the environments of the same names.

    A run is one compiled program with its warm-up, so the time of a shorter run is taken off that of a longer one.
    """
    import flax.linen
    import jax
    from rejax import TD3 as Algorithm

    network: Any = {"activation": flax.linen.relu, "hidden_layer_sizes": (256, 256)}

    def seconds(length: int) -> float:
        algorithm = Algorithm.create(
            env=env,
            total_timesteps=length,
            eval_freq=length,
            skip_initial_evaluation=True,
            num_envs=1,
            num_epochs=1,
            fill_buffer=batch_size,
            batch_size=batch_size,
            buffer_size=100_000,
            policy_delay=2,
        )
        algorithm = algorithm.replace(
            actor=algorithm.actor.clone(**network),
            critic=algorithm.critic.clone(**network),
            eval_callback=lambda algorithm, state, key: (),
        )
        keys = jax.random.split(jax.random.PRNGKey(0), MEMBERS)
        train = jax.jit(jax.vmap(algorithm.train)).lower(keys).compile()
        jax.block_until_ready(train(keys))
        since = time.perf_counter()
        jax.block_until_ready(train(keys))
        return time.perf_counter() - since

    lead = 2 * batch_size
    return MEMBERS * steps / (seconds(lead + steps) - seconds(lead))


SYSTEMS: dict[str, Callable[[str, int, int], float]] = {
    "ours_host": ours,
    "ours_device": lambda *rest: ours(*rest, backend="device"),
    "ours_sweep": lambda env, batch, steps: ours(env, batch, max(steps // 8, 100), backend="device", members=MEMBERS),
    "ours_sweep_td3": lambda env, batch, steps: ours(
        env, batch, max(steps // 8, 100), backend="device", members=MEMBERS, **TD3
    ),
    "sbx": lambda *rest: peer("sbx", *rest),
    "sb3": lambda *rest: peer("sb3", *rest),
    "single_file": single_file,
    "rejax_td3": lambda env, batch, steps: rejax(env, batch, max(steps // 8, 100)),
}
RUN = ("ours_host", "ours_device", "sbx", "sb3", "single_file")
SWEEP = ("ours_sweep", "sbx", "sb3")
TD3_SWEEP = ("ours_sweep_td3", "rejax_td3")
KINDS = {"run": RUN, "sweep": SWEEP, "td3": TD3_SWEEP}
PROCESSES = ("sbx", "sb3")
"""In a sweep, one on every core."""
AGAINST = {
    "run": [("ours_host", "sbx"), ("ours_host", "sb3"), ("ours_host", "single_file"), ("ours_device", "sb3")],
    "sweep": [("ours_sweep", "sbx"), ("ours_sweep", "sb3")],
    "td3": [("ours_sweep_td3", "rejax_td3")],
}


def ratios(kind: str, rates: dict[str, list[float]]) -> list[tuple[str, str, np.ndarray]]:
    """`(one, other, ratio of each round)` for the pairs of a kind, from the rates of all its systems."""
    return [(one, other, np.array(rates[one]) / np.array(rates[other])) for one, other in AGAINST[kind]]


def start(system: str, options: argparse.Namespace, core: int | None = None) -> subprocess.Popen[str]:
    """A process that measures one system, on one core or on all."""
    words = ["--one", system, "--env", options.env, "--batch-size", str(options.batch_size), "--steps", str(options.steps)]
    pinned = [] if core is None else ["--core", str(core)]
    command = [sys.executable, "-m", "benchmarks.peers", *words, *pinned]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> float:
    """The rate that it prints."""
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(error)
    return float(out.split()[-1])


def measure(kind: str, system: str, options: argparse.Namespace) -> float:
    """One measurement; of a sweep with one process a core, the sum over them, side by side."""
    cores = CORES if kind == "sweep" and system in PROCESSES else [None]
    return sum([finish(process) for process in [start(system, options, core) for core in cores]])


def figure(path: Path) -> None:
    """Medians and ranges of all comparisons that lie in `results`."""
    import matplotlib.pyplot as plt

    files = sorted(path.parent.glob("peers_*.json"), key=lambda file: json.loads(file.read_text())["batch_size"])
    tables = [json.loads(file.read_text()) for file in files]
    plot, axes = plt.subplots(len(tables), len(KINDS), figsize=(13, 2.6 * len(tables)), squeeze=False, layout="constrained")
    for row, table in zip(axes, tables, strict=True):
        for axis, kind in zip(row, KINDS, strict=True):
            names = list(table["updates_per_second"].get(kind, {}))
            if not names:
                axis.set_axis_off()
                continue
            values = [np.array(table["updates_per_second"][kind][name]) for name in names]
            middle = np.array([np.median(value) for value in values])
            spread = [middle - [value.min() for value in values], [value.max() for value in values] - middle]
            colours = ["C0" if name.startswith("ours") else "C7" for name in names]
            axis.barh([name.replace("_", " ") for name in names], middle, xerr=spread, color=colours)
            axis.invert_yaxis()
            axis.set_title(f"{table['env']}, batch {table['batch_size']}, {kind}", fontsize=10)
            axis.set_xlabel("updates / s" + ("" if kind == "run" else " over all seeds"))
    plot.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=KINDS, help="one of the comparisons, in place of all")
    parser.add_argument("--one", choices=SYSTEMS, help="measure one system in this process")
    parser.add_argument("--core", type=int, help="and keep it to one core")
    options = parser.parse_args()
    if options.one:
        if options.core is not None:
            os.sched_setaffinity(0, {options.core})
            os.environ["OMP_NUM_THREADS"] = "1"
        print(json.dumps(SYSTEMS[options.one](options.env, options.batch_size, options.steps)))
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    kinds = [options.only] if options.only else list(KINDS)
    rates: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in KINDS[kind]} for kind in kinds}
    for _ in range(options.rounds):
        for kind, systems in rates.items():
            for system, values in systems.items():
                values.append(measure(kind, system, options))
                print(f"{kind:5s} {system:14s} {values[-1]:8,.0f} updates/s", file=sys.stderr, flush=True)
    for kind in kinds:
        for name, values in rates[kind].items():
            print(f"{kind:5s} {name:14s} {np.median(values):8,.0f} updates/s ({min(values):,.0f} .. {max(values):,.0f})")
        for one, other, ratio in ratios(kind, rates[kind]):
            print(f"{kind:5s} {one} / {other}: {np.median(ratio):.2f} ({ratio.min():.2f} .. {ratio.max():.2f})")
    path = RESULTS / f"peers_{options.env}_{options.batch_size}.json"
    before = json.loads(path.read_text()) if options.only and path.exists() else {"commands": {}, "updates_per_second": {}}
    command = " ".join(["python", "-m", "benchmarks.peers", *sys.argv[1:]])
    result = {
        "commands": {**before["commands"], **dict.fromkeys(kinds, command)},
        "env": options.env,
        "batch_size": options.batch_size,
        "updates_per_second": {**before["updates_per_second"], **rates},
        **machine(),
    }
    path.write_text(as_json(result))
    figure(RESULTS / "peers.png")


if __name__ == "__main__":
    main()
