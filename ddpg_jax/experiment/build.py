"""What the names in an `Experiment` stand for: from plain data to functions, once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

from ddpg_jax import exploration
from ddpg_jax.agent import diagnostics, losses
from ddpg_jax.agent.ddpg import always, make_agent, now_and_then, smoothed, unchanged
from ddpg_jax.agent.normalization import normalize_observations, normalize_rewards
from ddpg_jax.agent.optimizers import Optimizer, adam, adamw, clipped
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.replay import hindsight, samplers
from ddpg_jax.replay.ring import make_ring
from ddpg_jax.schedules import SCHEDULES
from ddpg_jax.types import Agent, EnvSpec, Explorer, Goal, Hyperparams, Nets, Replay, Scalar


class Parts(NamedTuple):
    """What the names in an `Experiment` stand for."""

    agent: Agent
    replay: Replay
    explorer: Explorer
    warmup: Explorer
    updates: int
    """Gradient steps for each vector step."""


def build(experiment: Experiment, spec: EnvSpec) -> Parts:
    """The functions that an experiment names, for an environment of these shapes.

    >>> import ddpg_jax as dj
    >>> env = dj.envs.make_device("Pendulum-v1")
    >>> dj.build(dj.Experiment(), env.spec).updates
    1
    """
    x, obs_dim, action_dim = experiment, spec.obs_dim, spec.action_dim
    agent = make_agent(
        obs_dim,
        action_dim,
        x.hidden,
        x.activation,
        x.layer_norm,
        x.action_layer,
        x.num_critics,
        x.policy_delay,
        x.init,
        x.batch_norm,
        x.precision,
        td_loss=losses.huber if "huber_delta" in x.parts else losses.squared,
        target_action=smoothed if "target_noise" in x.parts else unchanged,
        critic_penalties=tuple(part for name, part in losses.CRITIC_PENALTIES.items() if name in x.parts),
        actor_penalties=tuple(part for name, part in losses.ACTOR_PENALTIES.items() if name in x.parts),
        optimizers=Nets(optimizer("actor", x), optimizer("critic", x)),
        sync=now_and_then if "sync_period" in x.parts else always,
        diagnose=diagnostics.ON if x.diagnostics else diagnostics.OFF,
    )
    agent = normalize_observations(agent, obs_dim) if x.normalize_obs else agent
    agent = normalize_rewards(agent, x.n_step) if x.normalize_reward else agent
    ring = make_ring if x.hindsight == "none" else hindsight.hindsight(goal_of(x, spec), hindsight.STRATEGIES[x.hindsight])
    buffer = samplers.REPLAYS[x.replay](
        obs_dim, action_dim, x.replay_capacity, batch_size=x.batch_size, num_envs=x.num_envs, n_step=x.n_step, ring=ring
    )
    buffer = samplers.with_reward_scale(buffer) if "reward_scale" in x.parts else buffer
    buffer = samplers.with_age(buffer) if x.diagnostics else buffer
    explorer = exploration.EXPLORERS[x.exploration](action_dim, SCHEDULES[x.noise_schedule])
    explorer = exploration.with_uniform(explorer) if "epsilon_uniform" in x.parts else explorer
    explorer = exploration.with_smoothing(explorer, action_dim) if "action_smoothing" in x.parts else explorer
    return Parts(agent, buffer, explorer, exploration.uniform(action_dim), round(x.num_envs * x.updates_per_step))


def reported(experiment: Experiment) -> tuple[str, ...]:
    """Names of what the updates of an experiment report."""
    return diagnostics.REPORT + (diagnostics.COLUMNS if experiment.diagnostics else ())


def goal_of(experiment: Experiment, spec: EnvSpec) -> Goal:
    """The goals of an environment, for what needs some.

    Raises:
        ConfigError: it has none, or none whose rewards can be computed.
    """
    if spec.goal is None:
        raise ConfigError(
            f"hindsight={experiment.hindsight} is not allowed with env={spec.name}, which has no goals; it must be none, or "
            "the environment one with achieved and desired goals and a compute_reward of batches of them, such as point-reach"
        )
    return spec.goal


def optimizer(net: str, experiment: Experiment) -> Optimizer:
    """The optimizer of `actor` or `critic`."""

    def number(name: str) -> Callable[[Hyperparams], Scalar]:
        return operator.attrgetter(f"{net}_{name}")

    schedule, parts = SCHEDULES[experiment.lr_schedule], experiment.parts
    chosen = adam(number("lr"), schedule)
    if f"{net}_decay" in parts:
        chosen = adamw(number("lr"), number("decay"), schedule)
    return clipped(chosen, number("clip")) if f"{net}_clip" in parts else chosen
