"""Where one step goes: its parts, each alone in a compiled loop, beside the whole; and the replay beside others.

    pip install flashbax                 # left out where it is not installed
    python -m benchmarks.budget

One member, Pendulum-v1, 256-256 networks, on a CPU one thread. The parts are those of the device backend; a step of the host
backend is measured, too. Every loop gets something new at every turn and carries what it made, so that the compiler can neither
hoist nor drop the work. Repetitions of all loops take turns. The parts should add up to the whole within 10 %: the difference
is what the compiler gains or loses by seeing them together.

The replay is measured as it is used: add one transition, draw a batch, hand the batch on. flashbax's item buffer and its
prioritized buffer do that in JAX; the NumPy ring samples on the host and transfers the batch. Writes
`benchmarks/results/budget.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import ddpg_jax as dj
from ddpg_jax.envs.host import make_host
from ddpg_jax.envs.host.calls import python_call
from ddpg_jax.running.hardware import use_one_core
from ddpg_jax.running.placement import make_placement
from ddpg_jax.training.step import RunState, stream

RESULTS = Path(__file__).parent / "results"
CAPACITY = 100_000


def looped(body: Callable[[Any, jax.Array], Any], start: Any, turns: int) -> Callable[[], float]:
    """A function that runs `carry = body(carry, i)` so many times in one compiled loop, and gives microseconds a turn."""
    clock = jnp.arange(turns, dtype=jnp.int32)

    def loop(carry: Any, clock: jax.Array) -> Any:
        return jax.lax.scan(lambda c, i: (body(c, i), None), carry, clock)[0]

    run = jax.jit(loop, donate_argnums=0, compiler_options=make_placement(1).compiler_options)
    held = [run(jax.tree.map(jnp.array, start), clock)]

    def measure() -> float:
        jax.block_until_ready(held)
        since = time.perf_counter()
        held[0] = jax.block_until_ready(run(held[0], clock))
        return (time.perf_counter() - since) / turns * 1e6

    return measure


def total(tree: Any) -> jax.Array:
    """One number that depends on all of a tree."""
    return sum((jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)), jnp.float32(0))


def parts(batch_size: int, turns: int) -> dict[str, Callable[[], float]]:
    """The whole step, and its parts."""
    experiment, hyper = dj.configure({"batch_size": batch_size, "replay_capacity": CAPACITY, "steps": 10**9})
    env = dj.envs.make_device("Pendulum-v1")
    agent, replay, explorer, warmup, updates, *_ = dj.build(experiment, env.spec)
    training = dj.make_training(env, agent, replay, explorer=explorer, warmup=warmup, updates=updates)
    key, hyper = jax.random.key(0), jax.tree.map(jnp.float32, hyper)
    state = jax.jit(training.init)(key, hyper)
    state, _ = jax.jit(training.fill)(key, state, hyper, 0, 5_000)
    batches = [replay.sample(stream(key, "sample", i), state.replay, hyper, jnp.int32(i)) for i in range(8)]
    batch, weight = (jax.tree.map(lambda *x: jnp.stack(x), *[one[k] for one in batches]) for k in (0, 1))
    one = jax.tree.map(lambda x: x[:1, 0], batch)

    def whole(state: RunState, i: jax.Array) -> RunState:
        return training.learn(key, state, hyper, i, i + 1)[0]

    def act(carry: Any, i: jax.Array) -> Any:
        obs, noise = carry
        action, noise = explorer.explore(stream(key, "explore", i), noise, agent.act, state.train.params.actor, obs, hyper, i)
        return obs + 1e-6 * action, noise

    def step(carry: Any, i: jax.Array) -> Any:
        env_state, obs = carry
        keys = jax.random.split(stream(key, "env", i), 1)
        env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, jnp.cos(obs[:, :1]))
        return env_state, obs + 1e-9 * total(transition)

    def add(carry: Any, i: jax.Array) -> Any:
        return replay.add(carry, one._replace(reward=i[None].astype(jnp.float32)), jnp.ones(1, bool))

    def sample(carry: Any, i: jax.Array) -> Any:
        drawn = replay.sample(stream(key, "sample", i), state.replay, hyper, i)
        return carry + 1e-9 * total(drawn)

    def update(carry: Any, i: jax.Array) -> Any:
        now, importance = jax.tree.map(lambda x: x[i % 8], (batch, weight))
        return agent.update(stream(key, "update", i), carry, now, importance, hyper, i)[0]

    return {
        "whole": looped(whole, state, turns),
        "act": looped(act, (state.obs, state.noise), turns),
        "environment": looped(step, (state.env, state.obs), turns),
        "replay.add": looped(add, state.replay, turns),
        "replay.sample": looped(sample, jnp.float32(0), turns),
        "update": looped(update, state.train, turns),
    }


def on_host(batch_size: int, turns: int) -> dict[str, Callable[[], float]]:
    """The whole step with Gymnasium's environment, and what it has that the other has not."""
    experiment, hyper = dj.configure({"batch_size": batch_size, "replay_capacity": CAPACITY, "steps": 10**9})
    env = make_host("Pendulum-v1")
    agent, replay, explorer, warmup, updates, *_ = dj.build(experiment, env.spec)
    training = dj.make_training(env, agent, replay, explorer=explorer, warmup=warmup, updates=updates)
    key, hyper = jax.random.key(0), jax.tree.map(jnp.float32, hyper)
    state = jax.jit(training.init)(key, hyper)
    state, _ = jax.jit(training.fill)(key, state, hyper, 0, 5_000)
    own = jax.jit(jax.vmap(env.reset))(jax.random.split(key, 1))

    def whole(state: RunState, i: jax.Array) -> RunState:
        return training.learn(key, state, hyper, i, i + 1)[0]

    def step(carry: Any, i: jax.Array) -> Any:
        env_state, obs = carry
        keys = jax.random.split(key, 1)
        env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, jnp.cos(obs[:, :1] + i))
        return env_state, obs + 1e-9 * total(transition)

    def call(carry: jax.Array, i: jax.Array) -> jax.Array:
        return 1e-3 * EMPTY(jax.ShapeDtypeStruct((1, 10), jnp.float32), i[None], carry)

    gym = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    gym.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-2.0, 2.0, (turns, 1)).astype(np.float32)

    def alone() -> float:
        since = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = gym.step(action)
            if terminated or truncated:
                gym.reset()
        return (time.perf_counter() - since) / turns * 1e6

    return {
        "whole, host": looped(whole, state, turns),
        "an empty call": looped(call, jnp.zeros((1, 10)), turns),
        "Gymnasium's environment by itself": alone,
        "environment, host": looped(step, own, turns),
    }


EMPTY = python_call("ddpg_jax_benchmark_empty", lambda numbers, rows, result: None)


def evaluation(turns: int) -> Callable[[], float]:
    """Ten episodes of 200 steps, in microseconds."""
    experiment, hyper = dj.configure({"steps": 10**9})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    state = program.start()
    program.evaluate(state, 0)

    def measure() -> float:
        since = time.perf_counter()
        for i in range(max(1, turns // 1_000)):
            program.evaluate(state, i)
        return (time.perf_counter() - since) / max(1, turns // 1_000) * 1e6

    return measure


def replays(batch_size: int, turns: int) -> dict[str, Callable[[], float]]:
    """Add one, draw a batch: ours, flashbax's, and a ring in NumPy."""
    found: dict[str, Callable[[], float]] = {}
    obs, number = jnp.ones((1, 3)), jnp.ones(1)
    one = dj.Transition(obs, number[:, None], number, number, number < 0, obs)
    key, hyper, valid = jax.random.key(0), dj.Hyperparams(), jnp.ones(1, bool)
    for name in ("uniform", "prioritized"):
        experiment, _ = dj.configure({"replay": name, "batch_size": batch_size, "replay_capacity": CAPACITY})
        replay = dj.build(experiment, dj.envs.make_device("Pendulum-v1").spec).replay

        def ours(carry: Any, i: jax.Array, replay: dj.Replay = replay) -> Any:
            state, last = carry
            state = replay.add(state, one._replace(reward=last[None]), valid)
            batch, weight, index = replay.sample(stream(key, "sample", i), state, hyper, i)
            state = replay.feedback(state, index, batch.reward, hyper)
            return state, 1e-3 * (total(batch) + total(weight))

        found[f"{name}"] = looped(ours, (replay.init(), jnp.float32(0)), turns)

    if importlib.util.find_spec("flashbax"):
        import flashbax

        plain = one._replace(last=jnp.zeros(1))
        single = jax.tree.map(lambda x: x[0], plain)
        item = flashbax.make_item_buffer(
            max_length=CAPACITY, min_length=1, sample_batch_size=batch_size, add_sequences=False, add_batches=False
        )

        def theirs(carry: Any, i: jax.Array) -> Any:
            state, last = carry
            state = item.add(state, single._replace(reward=last))
            batch = item.sample(state, stream(key, "sample", i)).experience
            return state, 1e-3 * total(batch)

        found["flashbax item"] = looped(theirs, (item.init(single), jnp.float32(0)), turns)
        flat = flashbax.make_prioritised_flat_buffer(
            max_length=CAPACITY, min_length=2, sample_batch_size=batch_size, add_sequences=False, add_batch_size=None
        )
        start = flat.add(flat.add(flat.init(single), single), single)

        def ranked(carry: Any, i: jax.Array) -> Any:
            state, last = carry
            state = flat.add(state, single._replace(reward=last))
            sample = flat.sample(state, stream(key, "sample", i))
            state = flat.set_priorities(state, sample.indices, jnp.abs(sample.experience.first.reward) + 1.0)
            return state, 1e-3 * (total(sample.experience) + total(sample.probabilities))

        found["flashbax prioritized"] = looped(ranked, (start, jnp.float32(0)), turns)

    rows, rng = np.zeros((CAPACITY, 10), np.float32), np.random.default_rng(0)
    use = jax.jit(total)

    last = use(rows[:batch_size])

    def ring() -> float:
        nonlocal last
        since = time.perf_counter()
        for i in range(turns):
            rows[i % CAPACITY] = 1.0
            last = use(rows[rng.integers(CAPACITY, size=batch_size)])
        jax.block_until_ready(last)
        return (time.perf_counter() - since) / turns * 1e6

    ring()
    return {**found, "NumPy and transfer": ring}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    use_one_core(64, dj.Experiment().hidden)
    result: dict[str, Any] = {"command": "python -m benchmarks.budget", "step": {}, "replay": {}}
    for batch_size in (64, 256):
        for kind, loops in (("step", parts(batch_size, options.turns)), ("replay", replays(batch_size, options.turns))):
            if kind == "step" and batch_size == 64:
                loops["10 episodes of evaluation"] = evaluation(options.turns)
            if kind == "step":
                loops |= on_host(batch_size, options.turns)
            table = {name: [] for name in loops}
            for _ in range(options.repetitions):
                for name, measure in loops.items():
                    table[name].append(measure())
            result[kind][str(batch_size)] = table
            for name, values in table.items():
                print(f"batch {batch_size:4d}  {kind:6s} {name:26s} {np.median(values):10.1f} us")
            if kind == "step":
                medians = {name: float(np.median(values)) for name, values in table.items()}
                added = sum(medians[name] for name in ("act", "environment", "replay.add", "replay.sample", "update"))
                print(f"            the parts add up to {added / medians['whole']:.0%} of the whole")
    (RESULTS / "budget.json").write_text(as_json({**result, **machine()}))


if __name__ == "__main__":
    main()
