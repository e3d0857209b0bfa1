"""Mistakes that other implementations have made and that no other file here would notice."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.running.placement import make_placement
from ddpg_jax.running.program import Program
from ddpg_jax.training.step import RunState, gradient_steps
from tests.agents import mlp_agent

ROOT = Path(__file__).parents[2]


def test_vmapped_members_do_not_copy_their_replays_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `cond` over the whole state becomes, under vmap, a `select` over all replays: time grows with capacity."""
    texts: list[str] = []

    def keep(compiled: Any) -> int:
        texts.append(compiled.as_text())
        return 0

    monkeypatch.setattr("ddpg_jax.running.program.compiled_bytes", keep)
    capacity, members = 30_000, 3
    fields = {"env": "probe/lqr", "replay_capacity": capacity, "warmup_steps": 16, "batch_size": 8, "hidden": (4,)}
    experiment, hyper = dj.configure({**fields, "policy_delay": 2})
    some = [dj.Member(seed, hyper) for seed in range(members)]
    Program(experiment, dj.envs.make_device("probe/lqr"), some, placement=make_placement(members, "vmap")).memory()
    text, evaluating = texts
    whole = rf"= f32\[{members},{capacity},{2 * 2 + 1 + 3}\]\S* "
    assert re.search(whole + r"(scatter|dynamic-update-slice)\(", text), "the replays are not written as this test thinks"
    entry = text[text.index("\nENTRY ") :]
    assert len(re.findall(whole + r"copy\(", text)) == len(re.findall(whole + r"copy\(", entry)) <= 1
    assert not re.findall(whole + r"select\(", text)
    assert not re.search(whole, evaluating), "an evaluation has no use for replays"


def test_gradient_steps_are_a_loop_and_not_unrolled() -> None:
    """What is traced and compiled does not grow with the number of updates."""
    agent = mlp_agent(1, 1, hidden=(4,))
    replay = dj.replay.uniform(obs_dim=1, action_dim=1, capacity=64, batch_size=5)
    hyper = dj.Hyperparams()
    state = RunState(agent.init(jax.random.key(0), hyper), replay.init(), (), (), jnp.zeros((1, 1)), jnp.zeros(1))  # pyright: ignore

    def size(updates: int) -> int:
        step = functools.partial(gradient_steps, agent, replay, updates=updates, i=jnp.int32(0))
        return len(str(jax.make_jaxpr(step)(jax.random.key(0), state, hyper)))

    assert size(40) < 1.02 * size(2)


@pytest.mark.parametrize("backend", ["device", "host"])
def test_evaluation_is_of_the_actor_and_without_noise(backend: str) -> None:
    """With noise of any kind in the run, returns are the same, from the same start states; those of another actor are not."""
    fields = {"env": "Pendulum-v1", "backend": backend, "hidden": (4,), "warmup_steps": 64, "eval_episodes": 2}
    found = []
    noisy = {"noise_sigma": 5.0, "epsilon_uniform": 0.9, "action_smoothing": 0.5}
    for more in ({"noise_sigma": 0.0}, noisy, {"init": "fan_in"}):
        experiment, hyper = dj.configure({**fields, **more})
        program: Program = dj.make_program(experiment, [dj.Member(3, hyper)])
        state = program.start()  # the same actor, since nothing has been learned
        found.append(program.evaluate(state, 7)[0])
        program.close()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert (np.abs(found[2] / found[0] - 1) > 0.01).all()


def test_numbers_are_not_part_of_what_is_compiled() -> None:
    """An optimizer that closed over a traced rate would be found here as a tracer, or as a number in the structure."""
    experiment, hyper = dj.configure({"lr_schedule": "cosine", "critic_clip": 1.0, "actor_decay": 0.1})
    agent = dj.build(experiment, dj.envs.make_device("Pendulum-v1").spec).agent
    states = [jax.jit(agent.init)(jax.random.key(0), hyper._replace(critic_lr=lr, critic_clip=lr)) for lr in (1e-3, 1.0)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for x, y in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
        assert isinstance(x, jax.Array)
        np.testing.assert_array_equal(x, y)
    assert all(isinstance(value, str | int | float | bool | tuple) for value in dataclasses.asdict(experiment).values())


def test_no_dependency_is_pinned_from_above() -> None:
    """A package that asks for last year's JAX and no newer one cannot be installed next year."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement
    assert re.fullmatch(r">=3\.\d+", project["requires-python"])
