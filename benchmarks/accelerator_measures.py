"""What the stages of `benchmarks.accelerator` measure with: rates of training, limits of the device, profiles.

Everything here runs on the default device, whatever it is.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ddpg_jax as dj
from benchmarks.compiled import FREE, count, instructions
from ddpg_jax.experiment.validate import updates_of
from ddpg_jax.running.clock import warmup_iterations
from ddpg_jax.running.program import Program

BYTES_AN_UPDATE = 8e6
"""Bytes that an update of 256-256 networks moves at least: weights, targets and moments of Adam are read and written, and the
weights read for every product."""


class Size(NamedTuple):
    """How much is measured; a rehearsal measures the same on little."""

    fields: dict[str, Any]
    """Fields of every program."""
    members: tuple[int, ...]
    """Members of sweeps."""
    seconds: float
    """Seconds of one repetition, about."""
    repetitions: int
    seeds: int
    steps: int
    """Vector steps of what must learn."""
    elements: int
    """Numbers in the arrays that bandwidth is measured with."""
    width: int
    """Rows and columns of the matrices that products are measured with."""
    rehearsal: bool = False


FULL = Size({}, (1, 16, 64, 256, 1_024, 4_096), 0.4, 5, 10, 10_000, 2**28, 8_192)
SMALL = Size(
    fields={"hidden": (8, 8), "warmup_steps": 64, "replay_capacity": 1_000, "placement": "vmap", "eval_episodes": 2},
    members=(1, 4),
    seconds=0.01,
    repetitions=2,
    seeds=2,
    steps=200,
    elements=2**16,
    width=64,
    rehearsal=True,
)


class Running(NamedTuple):
    """A program past its warm-up."""

    program: Program
    state: Any
    step: int
    compile_seconds: float


def make(fields: dict[str, Any], members: int, size: Size) -> Program:
    """A program of Pendulum-v1, unless the fields name another environment; nothing is compiled."""
    experiment, hyper = dj.configure({"env": "Pendulum-v1", "steps": 10**9, **size.fields, **fields})
    return dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(members)])


def start(program: Program) -> Running:
    """Compiles a program and takes it to the end of its warm-up."""
    warmup, active = warmup_iterations(program.experiment), np.ones(len(program.members), bool)
    state, _, _ = program.advance(program.start(), 0, warmup, active=active)
    since = time.perf_counter()
    state, _, seconds = program.advance(state, warmup, warmup + 1, active=active)
    return Running(program, state, warmup + 1, time.perf_counter() - since - seconds)


def advance(running: Running, steps: int) -> tuple[Running, float]:
    """Takes vector steps; returns the program after them, and the seconds that they took."""
    active = np.ones(len(running.program.members), bool)
    state, _, seconds = running.program.advance(running.state, running.step, running.step + steps, active=active)
    return running._replace(state=state, step=running.step + steps), seconds


def started(fields: dict[str, Any], members: int, size: Size) -> Running:
    """What `start` gives of what `make` makes."""
    return start(make(fields, members, size))


def rate(running: Running, size: Size) -> dict[str, Any]:
    """Rates of a program in repetitions of about `size.seconds`, its memory and its compilation; its state is consumed."""
    program, members = running.program, len(running.program.members)
    updates, interval = updates_of(program.experiment)
    steps, seconds = 4 * interval, 0.0
    while seconds < size.seconds / 4:
        steps *= 4 if seconds else 1
        running, seconds = advance(running, steps)
    steps = max(interval, round(steps * size.seconds / seconds))
    times = []
    for _ in range(size.repetitions):
        running, seconds = advance(running, steps)
        times.append(seconds)
    environments = members * program.experiment.num_envs
    return {
        "members": members,
        "vector_steps_a_repetition": steps,
        "updates_per_second": [members * steps * updates / interval / seconds for seconds in times],
        "env_steps_per_second": [environments * steps / seconds for seconds in times],
        "compile_seconds": running.compile_seconds,
        **about_program(running),
    }


def about_program(running: Running) -> dict[str, Any]:
    """Kernels a step, copies of the replay in a step, and bytes, by the account of the compiler."""
    program = running.program
    learn = program._functions.phase("learn")  # by now it is compiled; `functions_of` may have let go of it
    launches = program.placement.devices[0].platform != "tpu"
    return count(learn, running.state[0], len(program.members), launches=launches)


def median(values: Any) -> float:
    return float(statistics.median(values))


def timed(run: Callable[[Any], Any], start: Any, size: Size, times: int) -> float:
    """Seconds of one call of `run`, which takes what it gave, from so many calls in a row: the median of repetitions."""
    state, found = jax.block_until_ready(run(start)), []
    for _ in range(size.repetitions):
        since = time.perf_counter()
        for _ in range(times):
            state = run(state)
        jax.block_until_ready(state)
        found.append((time.perf_counter() - since) / times)
    return median(found)


def bandwidth(size: Size) -> dict[str, Any]:
    """Bytes a second that adding 1 to a large array in place reads and writes."""
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    seconds = timed(add, jnp.zeros(size.elements), size, 10)
    return {"bytes_per_second": 8.0 * size.elements / seconds}


def launches(size: Size) -> dict[str, Any]:
    """Microseconds a kernel in a compiled loop whose kernels have next to nothing to do: what a launch costs.

    The kernels are products of 16 x 16 matrices, each of which needs the one before.
    """
    turns = 20 if size.rehearsal else 2_000

    def body(_: Any, x: jax.Array) -> jax.Array:
        for _ in range(32):
            x = jnp.dot(x, x, precision=jax.lax.Precision.HIGHEST)
        return x

    loop = jax.jit(lambda x: jax.lax.fori_loop(0, turns, body, x))
    start = jnp.eye(16)
    text = loop.lower(start).compile().as_text() or ""
    kernels = sum(operation not in FREE for depth, operation, _ in instructions(text) if depth)
    return {"kernels_a_turn": kernels, "us_a_kernel": timed(loop, start, size, 1) / turns / max(1, kernels) * 1e6}


def products(size: Size) -> dict[str, Any]:
    """FLOPs a second of products of large square matrices, by the precision of their factors."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (size.width, size.width)) / size.width**0.5
    found = {}
    for name, precision, dtype in (
        ("float32", jax.lax.Precision.HIGHEST, jnp.float32),
        ("tf32", jax.lax.Precision.DEFAULT, jnp.float32),
        ("bfloat16", jax.lax.Precision.DEFAULT, jnp.bfloat16),
    ):
        factor = x.astype(dtype)
        multiply = jax.jit(functools.partial(jnp.dot, precision=precision))
        # The factor is an argument: as a constant, it would be a quarter of a gigabyte of the program.
        seconds = timed(lambda y, multiply=multiply, factor=factor: multiply(y, factor), factor, size, 4)
        found[f"{name}_flops_per_second"] = 2.0 * size.width**3 / seconds
    return found


def profile(running: Running, steps: int = 20) -> dict[str, Any]:
    """What the device did in some vector steps, by the profiler: kernels a step, their time, and the copies of memory.

    Seconds are those of ten times as many steps without the profiler, which slows what it watches.
    """
    running, _ = advance(running, 10 * steps)
    running, seconds = advance(running, 10 * steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            running, _ = advance(running, steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    kernels: dict[str, list[float]] = {}
    for plane in data.planes:
        if plane.name.startswith("/device:"):
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    for event in line.events:
                        kernels.setdefault(event.name, []).append(event.duration_ns / 1e3)
    longest = sorted(kernels.items(), key=lambda pair: -sum(pair[1]))[:12]
    copied = [us for name, own in kernels.items() if "memcpy" in name.lower() for us in own]
    return {
        "members": len(running.program.members),
        "us_a_step": seconds / (10 * steps) * 1e6,
        "events_a_step": sum(map(len, kernels.values())) / steps,
        "busy_us_a_step": sum(sum(own) for own in kernels.values()) / steps,
        "copies_a_step": len(copied) / steps,
        "us_of_copies_a_step": sum(copied) / steps,
        "longest": {name: {"a_step": len(own) / steps, "us_a_step": sum(own) / steps} for name, own in longest},
    }
