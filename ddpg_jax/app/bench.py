"""Measures how fast a run is on this machine, compared with the limit set by its matrix products: the command `bench`.

One update of DDPG with hidden layers of width H and a batch of B does ten products of size `[B, H] x [H, H]`, 2 B H^2 FLOPs
each, and thinner ones: one forward in the target actor, the target critic, the critic, the actor and again the critic; and
backward two in the critic (weights, activations), one through the critic to the action, two in the actor. `products` does
these, at the shapes of the update and with its dependencies, and nothing else. Repetitions are interleaved, and each fraction
uses the limit of its own repetition, so that a change in the machine's speed affects both. Each row is measured in a process of
its own, run and limit with as many threads as the command line gives such a run.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.api import make_program
from ddpg_jax.app.machine import machine
from ddpg_jax.app.report import as_json
from ddpg_jax.app.stderr import tell
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import Experiment, configure, updates_of
from ddpg_jax.files import write_text
from ddpg_jax.running.clock import warmup_iterations
from ddpg_jax.running.hardware import use_one_core
from ddpg_jax.running.program import Member
from ddpg_jax.types import Array

BATCHES = (64, 256)
SHAPES = {"Pendulum-v1": (3, 1), "HalfCheetah-v5": (17, 6)}


def products(nets: dict[str, list[Array]], batch: Array, obs_dim: int, *, action_dim: int) -> Any:
    """Computes the matrix products of one update, without biases, activations, losses and optimizers.

    Args:
        nets: weights of each layer of `actor`, `critic`, `target_actor` and `target_critic`.
        batch: `[B, 2 * O + A]`, observations, actions and next observations.
        obs_dim: O.
        action_dim: A.
    """
    obs, action, next_obs = jnp.split(batch, [obs_dim, obs_dim + action_dim], axis=-1)

    def forward(net: list[Array], x: Array) -> list[Array]:
        layers = [x]
        for weights in net:
            layers.append(layers[-1] @ weights)
        return layers

    def backward(net: list[Array], layers: list[Array], g: Array, *, weights: bool, inputs: bool) -> tuple[list[Array], Array]:
        grads = []
        for i in reversed(range(len(net))):
            if weights:
                grads.append(layers[i].T @ g)
            if i or inputs:
                g = g @ net[i].T
        return grads, g

    next_action = forward(nets["target_actor"], next_obs)[-1]
    target = forward(nets["target_critic"], jnp.concatenate([next_obs, next_action], axis=-1))[-1]
    layers = forward(nets["critic"], jnp.concatenate([obs, action], axis=-1))
    critic_grads, _ = backward(nets["critic"], layers, layers[-1] - target, weights=True, inputs=False)
    actor_layers = forward(nets["actor"], obs)
    layers = forward(nets["critic"], jnp.concatenate([obs, actor_layers[-1]], axis=-1))
    _, g = backward(nets["critic"], layers, layers[-1], weights=False, inputs=True)
    actor_grads, _ = backward(nets["actor"], actor_layers, g[:, obs_dim:], weights=True, inputs=False)
    return critic_grads, actor_grads


def make_limit(
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    *,
    batch_size: int,
    updates: int,
    devices: Sequence[Any] | None = None,
) -> Callable[[], float]:
    """Makes a function that does the products of `updates` updates in one compiled loop, and returns updates per second.

    If several `devices` are given, each does as many, at the same time; by default there is one, the first local device.
    """
    keys = iter(jax.random.split(jax.random.key(0), 64))

    def net(sizes: Sequence[int]) -> list[Array]:
        return [jax.random.normal(next(keys), (a, b)) * a**-0.5 for a, b in itertools.pairwise(sizes)]

    actor, critic = [obs_dim, *hidden, action_dim], [obs_dim + action_dim, *hidden, 1]
    nets = {"actor": net(actor), "target_actor": net(actor), "critic": net(critic), "target_critic": net(critic)}
    batches = jax.random.normal(next(keys), (8, batch_size, 2 * obs_dim + action_dim))

    @jax.jit
    def loop(nets: Any, batches: Array) -> Any:
        # With another batch in every iteration and every product in the carry, XLA can hoist or drop nothing.
        def body(carry: Any, i: Array) -> tuple[Any, None]:
            del carry
            return products(nets, batches[i % 8], obs_dim, action_dim=action_dim), None

        shapes = jax.eval_shape(lambda: products(nets, batches[0], obs_dim, action_dim=action_dim))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(body, start, jnp.arange(updates))[0]

    copies = [jax.device_put((nets, batches), device) for device in devices or jax.local_devices()[:1]]

    def measure() -> float:
        since = time.perf_counter()
        jax.block_until_ready([loop(*copy) for copy in copies])
        return len(copies) * updates / (time.perf_counter() - since)

    measure()
    return measure


def make_training_rate(experiment: Experiment, members: list[Member], updates: int) -> Callable[[], float]:
    """Makes a function that does about so many updates and returns updates per second, summed over members."""
    program = make_program(experiment, members)
    state = program.start()
    done, active = warmup_iterations(experiment), np.ones(len(members), bool)
    each = updates_of(experiment)[0] * len(members)
    state, _, _ = program.advance(state, 0, done, active=active)
    steps = max(1, updates // each)
    held = [state, done]

    def measure() -> float:
        held[0], _, seconds = program.advance(held[0], held[1], held[1] + steps, active=active)
        held[1] += steps
        return steps * each / seconds

    measure()
    return measure


def first_update_seconds(fields: dict[str, Any]) -> float:
    """Measures the seconds from the start of compilation to the end of the first update, in this process."""
    experiment, hyper = configure(fields)
    program = make_program(experiment, [Member(0, hyper)])
    warmup, active = warmup_iterations(experiment), np.ones(1, bool)
    since = time.perf_counter()
    state, _, _ = program.advance(program.start(), 0, warmup, active=active)
    program.advance(state, warmup, warmup + 1, active=active)
    seconds = time.perf_counter() - since
    program.close()
    return seconds


def compile_seconds(fields: dict[str, Any]) -> tuple[float, float]:
    """Measures `first_update_seconds` with an empty compilation cache and with a filled one, each in a new process."""
    code = f"from ddpg_jax.app.bench import first_update_seconds; print(first_update_seconds({fields!r}))"
    with tempfile.TemporaryDirectory() as cache:
        own = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        cold, cached = (
            float(
                subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **own}
                ).stdout
            )
            for _ in range(2)
        )
    return cold, cached


def bench(path: Path, quick: bool) -> str:
    """Measures, writes the raw results as JSON to `path`, and returns a table."""
    repetitions, updates = (3, 300) if quick else (9, 1_000)
    configurations = [("device", "Pendulum-v1"), ("host", "Pendulum-v1")]
    missing = importlib.util.find_spec("mujoco") is None
    if not missing:
        configurations.append(("host", "HalfCheetah-v5"))
    rows = []
    for batch_size in BATCHES:
        for backend, env in configurations:
            tell(f"measuring {env} on the {backend}, batch {batch_size}")
            # Each has its own process, since its number of threads depends on the batch, and for its peak memory.
            code = (
                f"from ddpg_jax.app import bench; bench.print_row({env!r}, {backend!r}, {batch_size}, "
                f"repetitions={repetitions}, updates={updates})"
            )
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise ConfigError(f"the process that measured env={env} on the {backend} ended with status {done.returncode}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    write_text(path, as_json({**machine(), "updates_per_repetition": updates, "rows": rows}))
    note = ['host HalfCheetah-v5 is left out: pip install "gymnasium[mujoco]"'] if missing else []
    return "\n".join([_table(rows), *note, f"raw results in {path}"])


def print_row(env: str, backend: str, batch_size: int, *, repetitions: int, updates: int) -> None:
    """Prints one row of the raw results as JSON: a single member, measured in alternation with the limit."""
    fields = {"env": env, "backend": backend, "batch_size": batch_size, "steps": 10**9}
    experiment, hyper = configure(fields)
    use_one_core(batch_size, experiment.hidden)
    cold, cached = compile_seconds(fields)
    limit = make_limit(*SHAPES[env], experiment.hidden, batch_size=batch_size, updates=updates)
    rate = make_training_rate(experiment, [Member(0, hyper)], updates)
    pairs = [(rate(), limit()) for _ in range(repetitions)]
    row = {
        "backend": backend,
        "env": env,
        "batch_size": batch_size,
        "hidden": experiment.hidden,
        "updates_per_second": [pair[0] for pair in pairs],
        "limit_updates_per_second": [pair[1] for pair in pairs],
        "fraction_of_limit": [a / b for a, b in pairs],
        "first_update_seconds_cold": cold,
        "first_update_seconds_cached": cached,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }
    print(json.dumps(row))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["backend env             batch  updates/s  of the limit (min .. max)  first update: cold  cached  peak memory"]
    for row in rows:
        fractions = np.array(row["fraction_of_limit"])
        lines.append(
            f"{row['backend']:7s} {row['env']:15s} {row['batch_size']:5d}  {np.median(row['updates_per_second']):9,.0f}  "
            f"{np.median(fractions):12.0%} ({fractions.min():.0%} .. {fractions.max():.0%})  "
            f"{row['first_update_seconds_cold']:16.1f} s  {row['first_update_seconds_cached']:4.1f} s  "
            f"{row['peak_memory_mib']:7,.0f} MiB"
        )
    return "\n".join(lines)
