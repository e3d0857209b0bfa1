"""Beside Stable-Baselines3, SBX, rejax and a single-file loop: same environment, network sizes and batch, one update a step.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python -m benchmarks.peers                     # Pendulum-v1 at batch 64
    python -m benchmarks.peers --batch-size 256
    python -m benchmarks.peers --only td3          # one of the comparisons, instead of all

Three comparisons, evaluation off in all:

- run: one training run on a Gymnasium environment in one process, as each of them comes: the host backend, SBX, SB3, and
  `single_file.py`. The host backend keeps products of up to 64 x 256 x 256 on one core, and SBX is also measured with this
  setting. Beside them are the device backend, on the same environment written in JAX; the matrix products of an update alone, a
  guide to what is out of reach; and the host backend in mixed precision, which the others do not have: this compares what a
  user can choose, not equal work.
- sweep: many seeds on this machine, updates per second summed over them: 16 members of a sweep on the device backend; SBX and
  SB3 in as many processes as there are cores, each kept to one, as their users run seeds.
- td3: 16 seeds of rejax's TD3 in its own vmap, and 16 members of a sweep with the same parts (two critics, delay 2, target
  smoothing).

Every system has a process of its own, or one on every core, that keeps running: it does its warm-up and the first 500 steps,
in which all compile, and then waits for its turns. In a round, each has a turn of a second or so, so other work on the machine
affects all of them; ratios are taken within a round. rejax's runs are programs that cannot be halted, so a turn of it is two
runs, and the time of the shorter one is subtracted from that of the longer. Writes `benchmarks/results/peers_ENV_BATCH.json`;
`python -m benchmarks.tables` draws all such files, `benchmarks/results/peers.png`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.turns import Process, advancing, take_turns

RESULTS = Path(__file__).parent / "results"
Turn: TypeAlias = Callable[[int], float]
"""`(updates) -> updates per second`: goes on for so many."""

WARMUP, LEAD = 1_000, 500
TRIAL = 320
"""Updates of the turn that tells a system's rate, so that turns of all systems take as long."""
MEMBERS, HIDDEN = 16, (256, 256)
CORES = sorted(os.sched_getaffinity(0))  # on Linux, where processes can be kept to one
TD3 = {"num_critics": 2, "policy_delay": 2, "sync_period": 2, "target_noise": 0.2, "exploration": "gaussian"}


def ours(env: str, batch_size: int, backend: str = "host", members: int = 1, **fields: Any) -> Turn:
    """A program of so many members as the command line would run it; updates are summed over them."""
    import ddpg_jax as dj
    from ddpg_jax.running.hardware import use_all_cores, use_one_core

    experiment, hyper = dj.configure({"env": env, "backend": backend, "batch_size": batch_size, "steps": 10**7, **fields})
    if members > 1:
        use_all_cores()
    else:
        use_one_core(batch_size, experiment.hidden)
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(members)])
    active = np.ones(members, bool)
    state, _, _ = program.advance(program.start(), 0, WARMUP, active=active)
    state, _, _ = program.advance(state, WARMUP, WARMUP + LEAD, active=active)
    go_on = advancing(program, state, WARMUP + LEAD)
    return lambda updates: go_on(-(-updates // members))


def timed(go_on: Callable[[int], Any]) -> Turn:
    """The turn of what goes on for exactly so many updates."""

    def turn(updates: int) -> float:
        since = time.perf_counter()
        go_on(updates)
        return updates / (time.perf_counter() - since)

    return turn


def peer(system: str, env: str, batch_size: int, prepare: Callable[[int], None] = lambda batch_size: None) -> Turn:
    """Stable-Baselines3's or SBX's DDPG, after `prepare`."""
    prepare(batch_size)
    if system == "sb3":
        from stable_baselines3 import DDPG
    else:
        from sbx import DDPG
    model = DDPG(
        "MlpPolicy",
        env,
        batch_size=batch_size,
        learning_starts=WARMUP,
        train_freq=1,
        gradient_steps=1,
        buffer_size=100_000,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=0,
    )
    model.learn(WARMUP + LEAD)
    return timed(lambda updates: model.learn(updates, reset_num_timesteps=False))


def as_ours(batch_size: int) -> None:
    """Has XLA use the cores as one run of this library does."""
    from ddpg_jax.running.hardware import use_one_core

    use_one_core(batch_size, HIDDEN)


def single_file(env: str, batch_size: int) -> Turn:
    """The loop in `single_file.py`."""
    from benchmarks.single_file import make_loop

    go_on = make_loop(env, batch_size, WARMUP)
    go_on(WARMUP + LEAD)
    return timed(go_on)


def products(env: str, batch_size: int, devices: int = 1) -> Turn:
    """Nothing but the matrix products of DDPG's update, on so many devices, in a loop of their own."""
    import jax

    from ddpg_jax.app.bench import make_limit
    from ddpg_jax.envs.host import make_host
    from ddpg_jax.running.hardware import use_one_core

    jax.config.update("jax_num_cpu_devices", devices)
    use_one_core(batch_size, HIDDEN)
    spec = make_host(env).spec

    @functools.cache
    def loop(updates: int) -> Callable[[], float]:
        return make_limit(
            spec.obs_dim, spec.action_dim, HIDDEN, batch_size=batch_size, updates=updates, devices=jax.local_devices()
        )

    return lambda updates: loop(-(-updates // devices))()


def rejax(env: str, batch_size: int) -> Turn:
    """TD3 of rejax, critic updates summed over seeds; gymnax has the environments of the same names."""
    import flax.linen
    import jax
    from rejax import TD3 as Algorithm

    network: Any = {"activation": flax.linen.relu, "hidden_layer_sizes": HIDDEN}
    keys = jax.random.split(jax.random.PRNGKey(0), MEMBERS)

    @functools.cache
    def run(length: int) -> Any:
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
        compiled = jax.jit(jax.vmap(algorithm.train)).lower(keys).compile()
        jax.block_until_ready(compiled(keys))
        return compiled

    def seconds(length: int) -> float:
        compiled = run(length)
        since = time.perf_counter()
        jax.block_until_ready(compiled(keys))
        return time.perf_counter() - since

    def turn(updates: int) -> float:
        lead, steps = batch_size + TRIAL // MEMBERS, -(-updates // MEMBERS)
        return MEMBERS * steps / (seconds(lead + steps) - seconds(lead))

    return turn


SYSTEMS: dict[str, Callable[[str, int], Turn]] = {
    "ours_host": ours,
    "ours_device": functools.partial(ours, backend="device"),
    "ours_host_bfloat16": functools.partial(ours, precision="bfloat16"),
    "ours_sweep": functools.partial(ours, backend="device", members=MEMBERS),
    "ours_sweep_bfloat16": functools.partial(ours, backend="device", members=MEMBERS, precision="bfloat16"),
    "ours_sweep_td3": functools.partial(ours, backend="device", members=MEMBERS, **TD3),
    "sbx": functools.partial(peer, "sbx"),
    "sbx_cores_as_ours": functools.partial(peer, "sbx", prepare=as_ours),
    "sb3": functools.partial(peer, "sb3"),
    "single_file": single_file,
    "rejax_td3": rejax,
    "products": products,
    "products_all_cores": functools.partial(products, devices=len(CORES)),
}
RUN = ("ours_host", "ours_device", "ours_host_bfloat16", "sbx", "sbx_cores_as_ours", "sb3", "single_file", "products")
SWEEP = ("ours_sweep", "ours_sweep_bfloat16", "sbx", "sb3", "products_all_cores")
TD3_SWEEP = ("ours_sweep_td3", "rejax_td3")
KINDS = {"run": RUN, "sweep": SWEEP, "td3": TD3_SWEEP}
COLOURS = {"ours": "C0", "products": "C2"}
PROCESSES = ("sbx", "sb3")
"""In a sweep, one on every core."""
AGAINST = {
    "run": [
        ("ours_host", "sbx"),
        ("ours_host", "sbx_cores_as_ours"),
        ("ours_host", "sb3"),
        ("ours_host", "single_file"),
        ("ours_device", "sb3"),
        ("ours_host_bfloat16", "sbx"),
        ("products", "sbx"),
        ("products", "sb3"),
    ],
    "sweep": [
        ("ours_sweep", "sbx"),
        ("ours_sweep", "sb3"),
        ("ours_sweep_bfloat16", "sbx"),
        ("products_all_cores", "sbx"),
        ("products_all_cores", "sb3"),
    ],
    "td3": [("ours_sweep_td3", "rejax_td3")],
}


def ratios(kind: str, rates: dict[str, list[float]]) -> list[tuple[str, str, np.ndarray]]:
    """`(one, other, ratio of each round)` for the pairs of a kind of which there are rates."""
    pairs = [(one, other) for one, other in AGAINST[kind] if {one, other} <= rates.keys()]
    return [(one, other, np.array(rates[one]) / np.array(rates[other])) for one, other in pairs]


class System:
    """A system that is measured: its processes, which wait for their turns."""

    def __init__(self, name: str, kind: str, options: argparse.Namespace):
        cores = CORES if kind == "sweep" and name in PROCESSES else [None]
        words = ["--one", name, "--env", options.env, "--batch-size", options.batch_size, "--seconds", options.seconds]
        self._processes = [Process("benchmarks.peers", *words, *([] if core is None else ["--core", core])) for core in cores]
        for process in self._processes:
            process.answer()

    def turn(self) -> float:
        """Updates per second in one turn; with one process on every core, the sum over them, side by side."""
        for process in self._processes:
            process.begin()
        return sum(process.answer() for process in self._processes)

    def end(self) -> None:
        for process in self._processes:
            process.end()


def be(name: str, env: str, batch_size: int, seconds: float) -> None:
    """What the process of a system does: at each of its turns it goes on for about so long, and says its rate."""
    turn = SYSTEMS[name](env, batch_size)
    updates = round(turn(TRIAL) * seconds)
    turn(updates)  # rejax compiles for this many
    take_turns(None, {"": lambda: turn(updates)})


def measure(kind: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Rates of all systems of a comparison, round by round."""
    systems: dict[str, System] = {}
    try:
        for name in KINDS[kind]:
            systems[name] = System(name, kind, options)
        rounds = [{name: system.turn() for name, system in systems.items()} for _ in range(options.rounds)]
    finally:
        for system in systems.values():
            system.end()
    return {name: [rates[name] for rates in rounds] for name in systems}


def figure(path: Path) -> None:
    """Draws medians and ranges of all comparisons that lie beside it, if there are any."""
    import matplotlib.pyplot as plt

    files = sorted(path.parent.glob("peers_*.json"), key=lambda file: json.loads(file.read_text())["batch_size"])
    tables = [json.loads(file.read_text()) for file in files]
    if not tables:
        return
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
            colours = [COLOURS.get(name.split("_")[0], "C7") for name in names]
            axis.barh([name.replace("_", " ") for name in names], middle, xerr=spread, color=colours)
            axis.invert_yaxis()
            axis.set_title(f"{table['env']}, batch {table['batch_size']}, {kind}", fontsize=10)
            axis.set_xlabel("updates / s" + ("" if kind == "run" else " over all seeds"))
    plot.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=KINDS, help="one of the comparisons, instead of all")
    parser.add_argument("--one", choices=SYSTEMS, help="be one system, which takes its turns")
    parser.add_argument("--core", type=int, help="and keep it to one core")
    options = parser.parse_args()
    if options.one:
        if options.core is not None:
            os.sched_setaffinity(0, {options.core})
            os.environ["OMP_NUM_THREADS"] = "1"
        be(options.one, options.env, options.batch_size, options.seconds)
        return
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    kinds = [options.only] if options.only else list(KINDS)
    rates = {kind: measure(kind, options) for kind in kinds}
    for kind in kinds:
        for name, values in rates[kind].items():
            print(f"{kind:5s} {name:14s} {np.median(values):8,.0f} updates/s ({min(values):,.0f} .. {max(values):,.0f})")
        for one, other, ratio in ratios(kind, rates[kind]):
            low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
            print(f"{kind:5s} {one} / {other}: {middle:.2f} (quartiles {low:.2f} .. {high:.2f})")
    path = RESULTS / f"peers_{options.env}_{options.batch_size}.json"
    fresh = {"commands": {}, "updates_per_second": {}, "env": options.env, "batch_size": options.batch_size, **machine()}
    result = json.loads(path.read_text()) if options.only and path.exists() else fresh
    command = " ".join(["python", "-m", "benchmarks.peers", *sys.argv[1:]])
    result["commands"] |= dict.fromkeys(kinds, command)
    result["updates_per_second"] |= rates
    if any(result[name] != here for name, here in machine().items()):  # the others were measured elsewhere or before
        result["about"] = result.get("about", {}) | dict.fromkeys(kinds, machine())
    path.write_text(as_json(result))


if __name__ == "__main__":
    main()
