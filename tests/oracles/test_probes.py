"""The ladder: each probe isolates one fault of a learner and has values known in closed form; training must find them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ddpg_jax as dj
from ddpg_jax.api import make_policy
from ddpg_jax.envs.native.probes import ACTION_GOAL
from ddpg_jax.replay.ring import unpack
from ddpg_jax.training.step import RunState

FAST = {
    "hidden": (64,),
    "activation": "tanh",
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "gamma": 0.9,
    "tau": 0.05,
    "warmup_steps": 500,  # and blocks of 1000: lengths that differ would be compiled one by one
    "eval_episodes": 1,
}
GAMMA = 0.9
ACTIONS = np.array([-0.6, 0.0, 0.6], np.float32)


class Trained(NamedTuple):
    agent: dj.Agent
    policy: dj.Policy
    state: RunState

    def q(self, obs: list[float]) -> np.ndarray:
        """Q of one-dimensional observations `[K]` at each of `ACTIONS`: `[K, 3]`."""
        table = jnp.repeat(jnp.array(obs), len(ACTIONS))[:, None]
        action = jnp.tile(ACTIONS, len(obs))[:, None]
        return np.asarray(self.agent.q_values(self.state.train.params.critic, table, action))[0].reshape(len(obs), -1)


def trained(name: str, steps: int, seed: int = 0) -> Trained:
    experiment, hyper = dj.configure({**FAST, "env": name, "steps": steps, "eval_every": steps, "seed": seed})
    program = dj.make_program(experiment, [dj.Member(seed, hyper)])
    state = program.start()
    for tick in dj.run_blocks(program, experiment, state):
        state = tick.state
    policy = make_policy(experiment, program.spec, program.actor(state, 0))
    return Trained(dj.build(experiment, program.spec).agent, policy, program.save(state)[0])


def test_constant_reward_is_the_value_of_the_only_step() -> None:
    np.testing.assert_allclose(trained("probe/constant-reward", 2_500).q([0.0]), 1.0, atol=0.02)


def test_a_reward_one_step_away_is_discounted_once() -> None:
    values = trained("probe/discount", 2_500).q([0.0, 1.0])
    np.testing.assert_allclose(values[0], GAMMA, atol=0.03)
    np.testing.assert_allclose(values[1], 1.0, atol=0.03)


def test_truncation_bootstraps() -> None:
    np.testing.assert_allclose(trained("probe/truncation", 2_500).q([0.0]), 1.0 / (1.0 - GAMMA), rtol=0.03)


def test_termination_does_not_bootstrap() -> None:
    values = trained("probe/termination", 6_500).q([0.8, 0.6, 0.4, 0.2, 0.0])
    ladder = np.cumsum(GAMMA ** np.arange(5))  # 1, 1 + gamma, ...
    np.testing.assert_allclose(values, np.broadcast_to(ladder[:, None], values.shape), rtol=0.05)


def test_the_policy_answers_in_the_units_of_the_environment() -> None:
    run = trained("probe/action-units", 6_500)
    low, high = np.array(run.policy.spec.action_low), np.array(run.policy.spec.action_high)
    goal = ACTION_GOAL
    assert (np.abs(run.policy(np.zeros(1)) - goal) < 0.05 * (high - low)).all()


def test_the_policy_sees_the_observation() -> None:
    obs = np.linspace(-0.7, 0.7, 15)[:, None]
    np.testing.assert_allclose(trained("probe/observation", 6_500).policy(obs), obs, atol=0.06)


def test_ornstein_uhlenbeck_noise_is_correlated_in_time_and_gaussian_noise_is_not() -> None:
    """With a frozen actor: an update that changes nothing is compiled faster than a learning rate of 0."""

    def update(key: Any, state: Any, batch: dj.Transition, weight: Any, hyper: Any, t: Any) -> tuple[Any, ...]:
        nothing = jnp.zeros(())
        return state, jnp.zeros_like(batch.reward), {"critic_loss": nothing, "actor_loss": nothing, "q_mean": nothing}

    env, key, hyper = dj.envs.make_device("probe/echo"), jax.random.key(0), dj.Hyperparams()
    correlation = {}
    for exploration in ("ou", "gaussian"):
        parts = dj.build(dj.Experiment(exploration=exploration, hidden=(8,), replay_capacity=2_000), env.spec)
        agent = parts.agent._replace(update=update)
        training = dj.make_training(env, agent, parts.replay, explorer=parts.explorer, warmup=parts.warmup)
        run = jax.jit(lambda training=training: training.learn(key, training.init(key, hyper), hyper, 0, 2_000)[0])
        stored = jax.tree.map(np.asarray, unpack(run().replay.rows, 1, 1))
        before, after = stored.action[:-1][~stored.last[:-1], 0], stored.action[1:][~stored.last[:-1], 0]
        np.testing.assert_allclose(stored.obs[1:][~stored.last[:-1], 0], before, atol=1e-6)  # the probe does what it says
        correlation[exploration] = np.corrcoef(before, after)[0, 1]
    assert correlation["ou"] > 0.7  # 1 - theta = .85, less what clipping to [-1, 1] takes
    assert abs(correlation["gaussian"]) < 0.1
