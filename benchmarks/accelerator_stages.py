"""The stages of `benchmarks.accelerator`, each job of which is a process of this module.

    python -m benchmarks.accelerator_stages JOB [--rehearse]

A job is a list of tasks, which `benchmarks.accelerator_tasks` carries out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import ddpg_jax as dj
from benchmarks import parts
from benchmarks.accelerator_measures import (
    BYTES_AN_UPDATE,
    FULL,
    SMALL,
    Running,
    Size,
    advance,
    bandwidth,
    launches,
    make,
    median,
    products,
    profile,
    rate,
    start,
    started,
)
from benchmarks.accelerator_tasks import SIDE_BY_SIDE, Task, Tasks, check_device, end_with_who_asked, say, work
from ddpg_jax.agent import layers
from ddpg_jax.flatten import make_pack
from ddpg_jax.running import placement
from ddpg_jax.running.compiled import functions_of
from ddpg_jax.running.intervals import iqm
from ddpg_jax.running.program import Program
from ddpg_jax.training.loop import PLAIN, Layout

RESULTS = Path(__file__).parent / "results"
LEARNERS = ("defaults", "TD3", "prioritized", "n-step 3")
"""Rows of `results/parts_parts.json`, which are of a CPU."""
TESTED = (
    "tests/oracles/test_update_oracle.py",
    "tests/oracles/test_part_values.py",
    "tests/replay/test_ring.py",
    "tests/replay/test_prioritized.py",
    "tests/agent/test_losses.py",
)
REJAX = {
    "env": "brax/hopper@positional",
    "hidden": (64, 64),
    "activation": "tanh",
    "num_envs": 128,
    "batch_size": 512,
    "warmup_steps": 2_048,
    "eval_episodes": 0,
}
"""rejax's published protocol of DDPG: 1,000,000 steps, 128 updates a vector step of 128 environments."""
LEANRL = {"env": "HalfCheetah-v5", "backend": "host", "preset": "td3", "warmup_steps": 1_000, "eval_episodes": 0}
"""LeanRL's TD3: batch 256, one environment, simulated on the host."""


ALONE, TOGETHER = placement.PACKED
LAYOUTS = {
    "every array apart": (PLAIN, PLAIN),
    "2 steps a turn": (ALONE._replace(unroll=2), TOGETHER._replace(unroll=2)),
    "the other pack": (TOGETHER, ALONE),
    "biases packed, too": (Layout(functools.partial(make_pack, largest=512)),) * 2,
    "4 steps a turn": (ALONE._replace(unroll=4), TOGETHER._replace(unroll=4)),
}
"""Layouts of the loop over steps, of one member and of vmapped ones. With more steps a turn, compiling takes longer."""
PATIENCE = 60.0
"""Seconds after which what has not been solved is given up."""


def rated(name: str, fields: dict[str, Any], members: int, size: Size, **about: Any) -> Task:
    """The rate of a program, with what is said about it."""
    return Task(name, lambda running: {**about, **rate(running, size)}, lambda: started(fields, members, size))


def evaluated(fields: dict[str, Any], members: int, size: Size) -> Running:
    """A program past its warm-up and an evaluation, so that what trains the like has nothing left to compile."""
    running = started(fields, members, size)
    running.program.evaluate(running.state, running.step)
    return running


def fields_of(name: str, size: Size) -> dict[str, Any]:
    """Fields of what must learn."""
    fields = {"eval_episodes": 20, **size.fields, **parts.PARTS[name]}
    return {**fields, "steps": size.steps, "eval_every": size.steps // 5}


def learns(name: str, size: Size) -> dict[str, Any]:
    """Final returns of seeds beside those of as many on a CPU, and a 99 % bootstrap interval of the difference of IQMs."""

    def returns(**more: Any) -> np.ndarray:
        return dj.sweep("Pendulum-v1", seeds=size.seeds, **{**fields_of(name, size), **more}).final[0]

    since = time.perf_counter()
    here = returns()
    seconds = time.perf_counter() - since
    if size.rehearsal:
        there = returns(placement="map")
    else:
        there = np.array(json.loads((RESULTS / "parts_parts.json").read_text())["rows"][name]["seeds"])
    draws = [np.random.default_rng(k).choice(values, (2_000, len(values))) for k, values in enumerate((here, there))]
    low, high = np.percentile(iqm(draws[0]) - iqm(draws[1]), [0.5, 99.5])
    return {
        "returns": here.tolist(),
        "returns_on_a_cpu": there.tolist(),
        "difference": float(iqm(here) - iqm(there)),
        "interval": [float(low), float(high)],
        "agrees": bool(low <= 0.0 <= high),
        "seconds": seconds,
    }


def resumes(running: Running, size: Size) -> dict[str, Any]:
    """Whether a run is the same to the bit when it is repeated, taken in two calls, and continued from what was saved."""
    steps, members = min(200, size.steps), len(running.program.members)

    def bits(state: Any, running: Any) -> list[bytes]:
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(running.program.save(state)[0])]

    whole = advance(running, 2 * steps)[0]
    again = advance(started({}, members, size), 2 * steps)[0]
    half = advance(started({}, members, size), steps)[0]
    saved = half.program.save(half.state)[0]
    split = advance(half, steps)[0]
    resumed = advance(half._replace(state=half.program.load(saved, None, half.step)), steps)[0]
    expected = bits(whole.state, whole)
    same = {"repeated": again, "in_two_calls": split, "resumed": resumed}
    return {"members": members, **{name: bits(one.state, one) == expected for name, one in same.items()}}


def correctness(size: Size) -> Tasks:
    """Learning beside a CPU's, resuming to the bit, and the replay in place."""
    counts = size.members[1:2] if size.rehearsal else (1, 64)
    for count in counts:
        yield Task(f"resumes, {count}", lambda running: resumes(running, size), lambda m=count: started({}, m, size))
    for name in LEARNERS[: 1 if size.rehearsal else None]:
        prepare = functools.partial(evaluated, fields_of(name, size), size.seeds, size)
        yield Task(f"learns, {name}", lambda _, name=name: learns(name, size), prepare)
    for capacity in (1_000,) if size.rehearsal else (10_000, 1_000_000):
        for count in counts:
            about = {"replay_capacity": capacity}
            yield rated(f"replay of {capacity:,}, {count}", about, count, size, **about)
    for count in counts:  # the profiler slows what comes after it
        yield Task(f"profile, {count}", lambda _, m=count: profile(started({}, m, size)))


def tests(size: Size) -> Tasks:
    """Tests of numbers, on the device."""
    for path in TESTED[-1:] if size.rehearsal else TESTED:
        yield Task(path, lambda _, path=path: tested(path))


def tested(path: str) -> dict[str, Any]:
    """Counts the outcomes of a file of tests, and names what has failed."""
    import pytest

    found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    class Record:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                found[report.outcome].append(report.nodeid)

    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", str(Path(__file__).parent.parent / path)], [Record()])
    return {"passed": len(found["passed"]), "skipped": len(found["skipped"]), "failures": found["failed"]}


def members(size: Size) -> Tasks:
    """The defaults for 1 .. 4,096 members, beside what bandwidth and launches allow; these are measured first."""
    limits: dict[str, float] = {}

    def limit(measure: Callable[[Size], dict[str, Any]]) -> dict[str, Any]:
        found = measure(size)
        limits.update(found)
        return found

    def sweep(running: Running, count: int) -> dict[str, Any]:
        row = rate(running, size)
        if "bytes_per_second" in limits:
            row["limit_by_bytes"] = limits["bytes_per_second"] / BYTES_AN_UPDATE
        if limits.get("us_a_kernel") and row["kernels_a_step"]:
            row["limit_by_launches"] = count * 1e6 / (row["kernels_a_step"] * limits["us_a_kernel"])
        return row

    yield Task("bandwidth", lambda _: limit(bandwidth))
    yield Task("launches", lambda _: limit(launches))
    for m in size.members:
        yield Task(f"{m:,} members", lambda running, m=m: sweep(running, m), lambda m=m: started({}, m, size))
    yield Task("products", lambda _: products(size))


def protocols(size: Size) -> Tasks:
    """What others have published, by their protocol; only as long as a rate takes, from which the whole is reckoned."""
    small = {"num_envs": 4, "batch_size": 16, "warmup_steps": 64, "hidden": (8, 8)} if size.rehearsal else {}
    hopper = {**REJAX, **({"env": "Pendulum-v1"} if size.rehearsal else {}), **small}

    def million(running: Running, agents: int) -> dict[str, Any]:
        row = rate(running, size)
        return {**row, "seconds_for_a_million_steps_each": 1e6 / (median(row["env_steps_per_second"]) / agents)}

    for name, agents in (("rejax, 1 agent", 1), ("rejax, 300 agents", size.members[-1] if size.rehearsal else 300)):
        yield Task(name, lambda running, m=agents: million(running, m), lambda m=agents: started(hopper, m, size))
    cheetah = {**LEANRL, **({"env": "Pendulum-v1", "batch_size": 16, **small} if size.rehearsal else {}), "num_envs": 1}
    yield Task("LeanRL, TD3", lambda _: rate(started(cheetah, 1, size), size))


def counts_of_two(size: Size) -> tuple[int, ...]:
    return size.members[1:] if size.rehearsal else (1, 64)


def switches(size: Size) -> Tasks:
    """One member and 64 with the flags of XLA that the process was given."""
    for count in counts_of_two(size):
        yield rated(f"with these flags, {count}", {}, count, size)


def variants(size: Size) -> Tasks:
    """One member and 64 with other precisions of products, and with other layouts of the loop over steps."""
    layers.PRECISIONS["tf32"] = lambda x, w: jnp.dot(x, w, precision=jax.lax.Precision.DEFAULT)
    precisions = {"as it is": {}, "tf32": {"precision": "tf32"}, "bfloat16": {"precision": "bfloat16"}}
    for name in list(precisions)[: 2 if size.rehearsal else None]:
        for count in counts_of_two(size):
            yield rated(f"{name}, {count}", precisions[name], count, size)
    for name in ("2 steps a turn",) if size.rehearsal else LAYOUTS:
        for count in counts_of_two(size):
            program = make_laid_out(LAYOUTS[name], count, size)
            yield Task(f"{name}, {count}", lambda running: rate(running, size), functools.partial(start, program))


def make_laid_out(layouts: tuple[Layout, Layout], members: int, size: Size) -> Program:
    """A program with these layouts. No other may be made meanwhile, since they are those of the platform."""
    functions_of.cache_clear()
    with mock.patch.dict(placement.LAYOUTS, {jax.local_devices()[0].platform: layouts}):
        program = make({}, members, size)
    functions_of.cache_clear()
    return program


def parallel(size: Size) -> Tasks:
    """The preset for thousands of environments: the time it takes to solve, and its rate."""
    small = {"num_envs": 4, "batch_size": 16, "warmup_steps": 64, "actor_hidden": (), "critic_hidden": ()}
    fields = {"preset": "parallel", **(small if size.rehearsal else {})}
    for env, solved in (("Pendulum-v1", -200.0), ("brax/inverted_pendulum@positional", 950.0))[: 1 if size.rehearsal else None]:
        prepare = functools.partial(evaluated, {**fields, "env": env}, 1, size)
        yield Task(f"solves, {env}", lambda running, e=env, level=solved: solves(running, fields, e, level, size), prepare)
        yield Task(f"rate, {env}", lambda _, env=env: rate(started({**fields, "env": env}, 1, size), size))
    if not size.rehearsal:
        yield rated("rate, brax/ant@positional", {**fields, "env": "brax/ant@positional", "eval_episodes": 0}, 1, size)


def solves(running: Running, fields: dict[str, Any], env: str, solved: float, size: Size) -> dict[str, Any]:
    """Seconds, without compilation, until the mean return of an evaluation is at the level that counts as solved."""
    since, curve = time.perf_counter(), []

    def watch(member: int, step: int, row: dict[str, Any], policy: Any) -> bool:
        del member, policy
        curve.append([time.perf_counter() - since, step, row["eval_return_mean"]])
        return row["eval_return_mean"] < solved and curve[-1][0] < PATIENCE

    limit = {"steps": 2 * size.steps} if size.rehearsal else {}
    dj.train(env, on_evaluation=watch, **{**size.fields, **fields, **limit})
    about = {"solved": solved, "is_solved": curve[-1][2] >= solved, "compile_seconds": running.compile_seconds}
    return {**about, "seconds_steps_return": curve}


def crossover(size: Size) -> Tasks:
    """One member with batches of 64 .. 8,192 and with networks of 64 .. 1,024: where an accelerator begins to pay."""
    batches, widths = ((16, 32), (8,)) if size.rehearsal else ((64, 256, 1_024, 4_096, 8_192), (64, 512, 1_024))
    for batch_size in batches:
        fields = {"batch_size": batch_size, "warmup_steps": max(1_000, batch_size)}
        yield rated(f"batch {batch_size:,}", fields, 1, size, axis="batch_size", batch_size=batch_size)
    for width in widths:
        yield rated(f"hidden {width:,}", {"hidden": (width, width)}, 1, size, axis="hidden", hidden=width)


JOBS: dict[str, Callable[[Size], Tasks]] = {
    job.__name__: job for job in (correctness, tests, members, protocols, switches, variants, parallel, crossover)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--side-by-side", type=int, default=SIDE_BY_SIDE)
    options = parser.parse_args()
    end_with_who_asked()
    from ddpg_jax.app.machine import machine

    check_device("any" if options.rehearse else jax.default_backend())
    say(about=machine())
    work(list(JOBS[options.job](SMALL if options.rehearse else FULL)), options.side_by_side)


if __name__ == "__main__":
    main()
