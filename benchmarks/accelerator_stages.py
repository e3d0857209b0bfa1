"""The stages of `benchmarks.accelerator`, each job of which is a process of this module.

    python -m benchmarks.accelerator_stages JOB [--rehearse]

A job is a list of tasks; what a task has measured is said at once, as a line of JSON, and a task that fails says why and does
not keep the next from being tried. The process ends when its standard input is closed, so that nothing outlives who asked for
it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
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
    Size,
    advance,
    bandwidth,
    launches,
    median,
    products,
    profile,
    rate,
    start,
)
from benchmarks.turns import ANSWER
from ddpg_jax.agent import layers
from ddpg_jax.errors import one_line
from ddpg_jax.flatten import make_pack
from ddpg_jax.running import placement
from ddpg_jax.running.compiled import functions_of
from ddpg_jax.running.intervals import iqm
from ddpg_jax.training.loop import PLAIN, Layout

RESULTS = Path(__file__).parent / "results"
Tasks = Iterator[tuple[str, Callable[[], dict[str, Any]]]]
"""Pairs of a name and a function that measures it."""
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
    "4 steps a turn": (ALONE._replace(unroll=4), TOGETHER._replace(unroll=4)),
    "biases packed, too": (Layout(functools.partial(make_pack, largest=512)),) * 2,
    "8 steps a turn": (ALONE._replace(unroll=8), TOGETHER._replace(unroll=8)),
}
"""Layouts of the loop over steps, of one member and of vmapped ones."""
PATIENCE = 60.0
"""Seconds after which what has not been solved is given up."""


def learns(name: str, size: Size) -> dict[str, Any]:
    """Final returns of seeds beside those of as many on a CPU, and a 99 % bootstrap interval of the difference of IQMs."""
    fields = {**size.fields, **parts.PARTS[name], "steps": size.steps, "eval_every": size.steps // 5}

    def returns(**more: Any) -> np.ndarray:
        return dj.sweep("Pendulum-v1", seeds=size.seeds, **{"eval_episodes": 20, **fields, **more}).final[0]

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


def resumes(members: int, size: Size) -> dict[str, Any]:
    """Whether a run is the same to the bit when it is repeated, taken in two calls, and continued from what was saved."""
    steps = min(200, size.steps)

    def bits(state: Any, running: Any) -> list[bytes]:
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(running.program.save(state)[0])]

    whole = advance(start({}, members, size), 2 * steps)[0]
    again = advance(start({}, members, size), 2 * steps)[0]
    half = advance(start({}, members, size), steps)[0]
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
        yield f"resumes, {count}", lambda count=count: resumes(count, size)
    for capacity in (1_000,) if size.rehearsal else (10_000, 1_000_000):
        for count in counts:
            about = {"replay_capacity": capacity}
            yield f"replay of {capacity:,}, {count}", lambda m=count, about=about: {**about, **rate(about, m, size)}
    for name in LEARNERS[: 1 if size.rehearsal else None]:
        yield f"learns, {name}", lambda name=name: learns(name, size)
    for count in counts:
        yield f"profile, {count}", lambda count=count: profile({}, count, size)


def tests(size: Size) -> Tasks:
    """Tests of numbers, on the device."""
    for path in TESTED[-1:] if size.rehearsal else TESTED:
        yield path, lambda path=path: tested(path)


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

    def sweep(count: int) -> dict[str, Any]:
        row = rate({}, count, size)
        if "bytes_per_second" in limits:
            row["limit_by_bytes"] = limits["bytes_per_second"] / BYTES_AN_UPDATE
        if limits.get("us_a_kernel") and row["kernels_a_step"]:
            row["limit_by_launches"] = count * 1e6 / (row["kernels_a_step"] * limits["us_a_kernel"])
        return row

    yield "bandwidth", lambda: limit(bandwidth)
    yield "launches", lambda: limit(launches)
    yield "products", lambda: products(size)
    for count in size.members:
        yield f"{count:,} members", lambda count=count: sweep(count)


def protocols(size: Size) -> Tasks:
    """What others have published, by their protocol; only as long as a rate takes, from which the whole is reckoned."""
    small = {"num_envs": 4, "batch_size": 16, "warmup_steps": 64, "hidden": (8, 8)} if size.rehearsal else {}
    hopper = {**REJAX, **({"env": "Pendulum-v1"} if size.rehearsal else {}), **small}

    def million(agents: int) -> dict[str, Any]:
        row = rate(hopper, agents, size)
        return {**row, "seconds_for_a_million_steps_each": 1e6 / (median(row["env_steps_per_second"]) / agents)}

    yield "rejax, 1 agent", lambda: million(1)
    yield "rejax, 300 agents", lambda: million(size.members[-1] if size.rehearsal else 300)
    cheetah = {**LEANRL, **({"env": "Pendulum-v1", "batch_size": 16, **small} if size.rehearsal else {})}
    yield "LeanRL, TD3", lambda: rate(cheetah | {"num_envs": 1}, 1, size)


def rates_of_two(name: str, fields: dict[str, Any], size: Size) -> Tasks:
    """Rates of one member and of 64."""
    for count in size.members[1:] if size.rehearsal else (1, 64):
        yield f"{name}, {count}", lambda count=count: rate(fields, count, size)


def switches(size: Size) -> Tasks:
    """One member and 64 with the flags of XLA that the process was given."""
    yield from rates_of_two("with these flags", {}, size)


def variants(size: Size) -> Tasks:
    """One member and 64 with other precisions of products, and with other layouts of the loop over steps."""
    yield from rates_of_two("as it is", {}, size)
    layers.PRECISIONS["tf32"] = lambda x, w: jnp.dot(x, w, precision=jax.lax.Precision.DEFAULT)
    for precision in ("tf32",) if size.rehearsal else ("tf32", "bfloat16"):
        yield from rates_of_two(precision, {"precision": precision}, size)
    for name in ("2 steps a turn",) if size.rehearsal else LAYOUTS:
        with mock.patch.dict(placement.LAYOUTS, {jax.default_backend(): LAYOUTS[name]}):
            yield from rates_of_two(name, {}, size)


def parallel(size: Size) -> Tasks:
    """The preset for thousands of environments: its rate, and the time it takes to solve."""
    if "parallel" not in dj.PRESETS:
        return
    small = {"num_envs": 4, "batch_size": 16, "warmup_steps": 64, "hidden": (8, 8)} if size.rehearsal else {}
    for env in (
        ("Pendulum-v1",) if size.rehearsal else ("Pendulum-v1", "brax/inverted_pendulum@positional", "brax/ant@positional")
    ):
        fields = {"preset": "parallel", "env": env, **small}
        yield f"rate, {env}", lambda fields=fields: rate({**fields, "eval_episodes": 0}, 1, size)
    for env, solved in (("Pendulum-v1", -200.0), ("brax/inverted_pendulum@positional", 950.0))[: 1 if size.rehearsal else None]:
        yield f"solves, {env}", lambda env=env, solved=solved: solves({"preset": "parallel", **small}, env, solved, size)


def solves(fields: dict[str, Any], env: str, solved: float, size: Size) -> dict[str, Any]:
    """Seconds, compilation included, until the mean return of an evaluation is at the level that counts as solved."""
    since, curve = time.perf_counter(), []

    def watch(member: int, step: int, row: dict[str, Any], policy: Any) -> bool:
        del member, policy
        curve.append([time.perf_counter() - since, step, row["eval_return_mean"]])
        return row["eval_return_mean"] < solved and curve[-1][0] < PATIENCE

    limit = {"steps": 2 * size.steps} if size.rehearsal else {}
    dj.train(env, on_evaluation=watch, **{**size.fields, **fields, **limit})
    return {"solved": solved, "seconds_steps_return": curve, "is_solved": curve[-1][2] >= solved}


def crossover(size: Size) -> Tasks:
    """One member with batches of 64 .. 8,192 and with networks of 64 .. 1,024: where an accelerator begins to pay."""
    batches, widths = ((16, 32), (8,)) if size.rehearsal else ((64, 256, 1_024, 4_096, 8_192), (64, 512, 1_024))
    for batch_size in batches:
        fields = {"batch_size": batch_size, "warmup_steps": max(1_000, batch_size)}
        yield f"batch {batch_size:,}", lambda fields=fields: {"axis": "batch_size", **fields, **rate(fields, 1, size)}
    for width in widths:
        fields = {"hidden": (width, width)}
        yield f"hidden {width:,}", lambda f=fields, width=width: {"axis": "hidden", "hidden": width, **rate(f, 1, size)}


JOBS: dict[str, Callable[[Size], Tasks]] = {
    job.__name__: job for job in (correctness, tests, members, protocols, switches, variants, parallel, crossover)
}


def say(**what: Any) -> None:
    print(ANSWER, json.dumps(what), flush=True)


def work(job: Callable[[Size], Tasks], size: Size) -> None:
    """Does the tasks of a job, and says of each what came of it. Programs of earlier tasks are let go of."""
    for name, measure in job(size):
        since = time.perf_counter()
        try:
            row = measure()
        except Exception as error:
            row = {"failed": one_line(error)}
        functions_of.cache_clear()
        say(row={"name": name, "task_seconds": time.perf_counter() - since, **row})


def end_with_who_asked() -> None:
    """Ends this process when its standard input is closed."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    end_with_who_asked()
    from ddpg_jax.app.machine import machine

    say(about=machine())
    work(JOBS[options.job], SMALL if options.rehearse else FULL)


if __name__ == "__main__":
    main()
