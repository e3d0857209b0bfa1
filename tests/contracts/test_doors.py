"""Wrong shapes at public doors: the message names the function and the argument."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj


class World(NamedTuple):
    """What a user holds who steps and trains by hand."""

    env: dj.Env
    parts: Any
    training: Any
    hyper: dj.Hyperparams
    state: Any
    program: Any


KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def world() -> World:
    experiment, hyper = dj.configure({"env": "probe/lqr", "hidden": (4,), "replay_capacity": 64})
    env = dj.envs.make_device("probe/lqr")
    parts = dj.build(experiment, env.spec)
    training = dj.make_training(env, parts.agent, parts.replay, explorer=parts.explorer, warmup=parts.warmup)
    numbers: Any = jax.tree.map(jnp.float32, hyper)
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    return World(env, parts, training, numbers, training.init(KEY, numbers), program)


ONE = np.ones(1, bool)
WRONG: dict[str, tuple[Callable[[World], Any], str]] = {
    "action": (lambda w: w.env.step(KEY, *w.env.reset(KEY), jnp.float32(0.0)), r"Env\.step: action must be \[A\]"),
    "obs": (lambda w: w.env.step(KEY, w.env.reset(KEY)[0], jnp.zeros((3, 2)), jnp.zeros(1)), r"Env\.step: obs must be \[O\]"),
    "act": (
        lambda w: w.parts.agent.act(w.state.train.params.actor, jnp.zeros((4, 5))),
        r"agent\.act: obs must be",
    ),
    "q": (
        lambda w: w.parts.agent.q_values(w.state.train.params.critic, jnp.zeros((4, 2)), jnp.zeros(4)),
        r"agent\.q_values: action must be \[\.\.\., A\]",
    ),
    "leaf": (lambda w: dj.soft_update({"w": jnp.ones(3)}, {"w": jnp.ones(2)}, 0.1), "soft_update: params and target"),
    "tau": (lambda w: dj.soft_update({"w": jnp.ones(3)}, {"w": jnp.ones(3)}, jnp.ones(3)), r"soft_update: tau must be \[\]"),
    "update": (
        lambda w: dj.train_step(w.parts.agent, w.parts.replay, KEY, w.state.train, w.state.replay, w.hyper, jnp.zeros(1)),
        r"train_step: t_update must be \[\]",
    ),
    "begin": (
        lambda w: w.training.learn(KEY, w.state, w.hyper, jnp.zeros(1), jnp.array(5)),
        "Training: begin and end",
    ),
    "i": (lambda w: w.training.evaluate(KEY, w.state, jnp.zeros(1)), r"Training\.evaluate: i must be \[\]"),
    "active": (lambda w: w.program.advance([0], 0, 5, active=np.ones(2, bool)), r"Program\.advance: active must be \[M\]"),
    "begins": (lambda w: w.program.advance([0], [0, 0], 5, active=ONE), r"Program\.advance: begin must be \[\] or \[M\]"),
    "state": (lambda w: w.program.advance(w.state, 0, 5, active=ONE), "state must be the list that start, load or advance"),
}


@pytest.mark.parametrize(("call", "says"), WRONG.values(), ids=list(WRONG))
def test_the_function_and_the_argument_are_named(world: World, call: Callable[[World], Any], says: str) -> None:
    with pytest.raises((AssertionError, TypeError), match=says):
        call(world)
