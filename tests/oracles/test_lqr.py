"""Training finds a known optimum: the discounted linear-quadratic regulator, whose best policy solves a Riccati equation."""

from typing import Any

import jax
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

import ddpg_jax as dj
from ddpg_jax.envs.native.probes import LQR_A, LQR_B, LQR_Q, LQR_R

A, B, Q, R = (np.array(matrix) for matrix in (LQR_A, LQR_B, LQR_Q, LQR_R))
SEEDS = (0, 1, 2)
GAMMA = 0.9
HORIZON = 400  # GAMMA ** 400 is 5e-19

FIELDS = {
    "env": "probe/lqr",
    "steps": 13_500,
    "eval_every": 13_500,
    "eval_episodes": 1,
    "gamma": GAMMA,
    "hidden": (64, 64),
    "activation": "tanh",
    "layer_norm": True,
    "actor_lr": 3e-4,
    "critic_lr": 5e-4,
    "lr_schedule": "linear",  # as gradients vanish, Adam would sometimes throw the weights off and take 100 updates to recover
    "lr_final": 0.1,
    "lr_decay_updates": 8_500,
    "tau": 0.05,
    "batch_size": 128,
    "exploration": "gaussian",
    "warmup_steps": 500,
    "replay_capacity": 5_000,  # small, to forget the far states where early policies drive the mass
}


CRITICS: dict[str, dict[str, Any]] = {
    "scalar": {},
    "categorical": {"value_min": -20.0, "value_max": 0.0, "num_atoms": 31, "steps": 9_000, "eval_every": 9_000},
    "quantile": {"num_atoms": 9, "steps": 9_000, "eval_every": 9_000},
}


@pytest.mark.parametrize("head", CRITICS)
def test_seeds_find_the_optimal_regulator(head: str) -> None:
    """Three of them with the scalar critic, and two, in fewer steps and so to a wider bound, with the others."""
    experiment, hyper = dj.configure({**FIELDS, **CRITICS[head], "critic": head})
    seeds, bound = (SEEDS, 0.05) if head == "scalar" else (SEEDS[:2], 0.07)
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in seeds])
    state = program.start()
    for tick in dj.run_blocks(program, experiment, state):
        state = tick.state
    agent = dj.build(experiment, program.spec).agent
    act, q_values = jax.jit(agent.act), jax.jit(agent.q_values)

    # The discount is a property of the problem with A and B scaled by its root; costs are x' P x.
    cost_to_go = solve_discrete_are(A * GAMMA**0.5, B * GAMMA**0.5, Q, R)
    starts = np.random.default_rng(0).uniform(-1.0, 1.0, (500, 2))
    best = np.einsum("ni,ij,nj->n", starts, cost_to_go, starts)

    critics = program.save(state)[0].train.params.critic
    for m, seed in enumerate(seeds):
        actor = program.actor(state, m)
        critic = jax.tree.map(lambda leaf, m=m: leaf[m], critics)

        def force(x: np.ndarray, actor: Any = actor) -> np.ndarray:
            return program.spec.action_high[0] * np.asarray(act(actor, x.astype(np.float32)), np.float64)

        excess = discounted_cost(force, starts).mean() / best.mean() - 1.0
        assert -1e-9 <= excess < 0.02, f"seed {seed}: the policy costs {excess:.2%} more than the best"

        obs = starts.astype(np.float32)
        value = np.asarray(q_values(critic, obs, act(actor, obs)))[0]
        error = np.abs(value + best).mean() / best.mean()  # relative to the mean value: values near the origin are near 0
        assert error < bound, f"seed {seed}: the critic is off by {error:.2%}"


def test_the_optimum_is_the_optimum() -> None:
    """The yardstick itself: in simulation the Riccati gain costs x' P x, and gains beside it cost more."""
    a, b = A * GAMMA**0.5, B * GAMMA**0.5
    cost_to_go = solve_discrete_are(a, b, Q, R)
    gain = np.linalg.solve(R + b.T @ cost_to_go @ b, b.T @ cost_to_go @ a)
    starts = np.random.default_rng(1).uniform(-1.0, 1.0, (50, 2))
    best = np.einsum("ni,ij,nj->n", starts, cost_to_go, starts)
    np.testing.assert_allclose(discounted_cost(lambda x: -x @ gain.T, starts), best, rtol=1e-6)
    for factor in (0.8, 1.2):
        assert discounted_cost(lambda x, factor=factor: -x @ (factor * gain).T, starts).mean() > 1.002 * best.mean()
    spec = dj.envs.make_device("probe/lqr").spec
    assert np.abs(starts @ gain.T).max() < min(spec.action_high[0], -spec.action_low[0])  # the bounds do not bind


def discounted_cost(force: Any, x: np.ndarray) -> np.ndarray:
    """Cost of a policy `force(x [K, 2]) -> [K, 1]` from each start, without the environment's bounds on the length."""
    total = np.zeros(len(x))
    for t in range(HORIZON):
        u = force(x)
        total += GAMMA**t * (np.einsum("ni,ij,nj->n", x, Q, x) + np.einsum("ni,ij,nj->n", u, R, u))
        x = x @ A.T + u @ B.T
    return total
