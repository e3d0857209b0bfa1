"""Turns the names in an `Experiment` into functions, once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from ddpg_jax import exploration
from ddpg_jax.agent import diagnostics, heads, imitation, layers, losses
from ddpg_jax.agent.ddpg import SCALAR, Imitation, every_period, every_update, make_agent, smoothed, unsmoothed
from ddpg_jax.agent.networks import NETWORK_FIELDS, NETWORKS, action_dim_of, make_nets, takes_field
from ddpg_jax.agent.normalization import normalize_observations, normalize_rewards
from ddpg_jax.agent.optimizers import Optimizer, adam, adamw, with_clipping
from ddpg_jax.agent.targets import TARGETS
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import STRUCTURE, Experiment, updates_of
from ddpg_jax.experiment.own_parts import check_explorer, check_function, check_head, check_replay, is_own, make_part
from ddpg_jax.experiment.values import plain
from ddpg_jax.replay import hindsight, samplers
from ddpg_jax.replay.ring import MakeRing, make_ring
from ddpg_jax.schedules import SCHEDULES
from ddpg_jax.types import Agent, EnvOptions, EnvSpec, Explorer, Goal, Hyperparams, Nets, Replay, Scalar


class Parts(NamedTuple):
    """Holds the functions that the names in an `Experiment` stand for."""

    agent: Agent
    replay: Replay
    explorer: Explorer
    warmup: Explorer
    """The explorer of the warm-up."""
    updates: int
    """The number of gradient steps at a time."""
    update_interval: int
    """The number of vector steps from one time to the next."""
    demonstrations: Replay | None = None
    """Samples from a store of demonstrations, which is its state; None without."""


def build(experiment: Experiment, spec: EnvSpec) -> Parts:
    """Makes the functions that an experiment names, for an environment with this spec.

    Raises:
        ConfigError: a user-defined part is not valid, or hindsight is used without goals.

    >>> import ddpg_jax as dj
    >>> env = dj.envs.make_device("Pendulum-v1")
    >>> dj.build(dj.Experiment(), env.spec).updates
    1
    """
    agent = agent_of(experiment, spec)
    explorer = explorer_of(experiment, spec, agent)
    replay = replay_of(experiment, spec)
    shown = demonstrations_of(experiment, spec) if experiment.demonstrations else None
    return Parts(agent, replay, explorer, exploration.uniform(spec.action_dim), *updates_of(experiment), shown)


def agent_of(experiment: Experiment, spec: EnvSpec) -> Agent:
    """Makes the algorithm.

    Raises:
        ConfigError: a field is set that the network does not read, or a user-defined part is not valid.
    """
    x = experiment
    head = SCALAR if x.critic == "scalar" else make_part("critic", x.critic, heads.HEADS, heads.Head, num_atoms=x.num_atoms)
    td_loss = losses.huber if "huber_delta" in x.parts and x.td_loss == "squared" else losses.TD_LOSSES[x.td_loss]
    if x.critic in heads.HEADS and is_own(heads.HEADS[x.critic]):
        check_head(f"critic={x.critic}", head, num_critics=x.num_critics, batch_size=x.batch_size)
    if is_own(td_loss):
        check_function(f"td_loss={x.td_loss}", td_loss, jnp.zeros(x.batch_size), Hyperparams())
    if is_own(layers.ACTIVATIONS[x.activation]):
        check_function(f"activation={x.activation}", layers.ACTIVATIONS[x.activation], jnp.zeros((2, 3)))
    for name, value in network_fields(x).items():
        if value != STRUCTURE[name] and not takes_field(x.network, name):
            raise ConfigError(
                f"{name}={plain(value)} is not allowed with network={x.network}, which does not read it; it must be "
                f"{plain(STRUCTURE[name])}"
            )
    nets = make_nets(x.network, spec.action_dim, network_fields(x), outputs=head.outputs)
    try:
        action_dim_of(*nets, spec.obs_dim, wanted=spec.action_dim, outputs=head.outputs)
    except ConfigError as error:
        raise ConfigError(f"network={x.network}: {error}") from error
    agent = make_agent(
        *nets,
        obs_dim=spec.obs_dim,
        num_critics=x.num_critics,
        policy_delay=x.policy_delay,
        head=head,
        td_loss=td_loss,
        target_action=smoothed if "target_noise" in x.parts else unsmoothed,
        critic_penalties=tuple(penalty for name, penalty in losses.CRITIC_PENALTIES.items() if name in x.parts),
        value_scale=imitation.inverse_magnitude if "bc_alpha" in x.parts else None,
        imitation=imitation_of(x),
        actor_penalties=tuple(penalty for name, penalty in losses.ACTOR_PENALTIES.items() if name in x.parts),
        optimizers=Nets(make_optimizer("actor", x), make_optimizer("critic", x)),
        targets=TARGETS[x.targets],
        target_rate=every_period if "sync_period" in x.parts else every_update,
        diagnose=diagnostics.ON if x.diagnostics else diagnostics.OFF,
    )
    agent = normalize_observations(agent, spec.obs_dim) if x.normalize_obs else agent
    return normalize_rewards(agent, x.n_step) if x.normalize_reward else agent


def replay_of(experiment: Experiment, spec: EnvSpec) -> Replay:
    """Makes the replay.

    Raises:
        ConfigError: a user-defined replay is not valid, or hindsight is used without goals.
    """
    x, obs_dim, action_dim = experiment, spec.obs_dim, spec.action_dim
    replay = make_part(
        "replay",
        x.replay,
        samplers.REPLAYS,
        Replay,
        obs_dim=obs_dim,
        action_dim=action_dim,
        capacity=x.replay_capacity,
        batch_size=x.batch_size,
        num_envs=x.num_envs,
        n_step=x.n_step,
        ring=ring_of(x, spec),
    )
    if is_own(samplers.REPLAYS[x.replay]):
        sizes = {"num_envs": x.num_envs, "batch_size": x.batch_size, "obs_dim": obs_dim, "action_dim": action_dim}
        check_replay(f"replay={x.replay}", replay, **sizes)
    replay = samplers.with_reward_scale(replay) if "reward_scale" in x.parts else replay
    return samplers.with_age(replay) if x.diagnostics else replay


def ring_of(experiment: Experiment, spec: EnvSpec) -> MakeRing:
    """Returns the kind of ring that stores transitions.

    Raises:
        ConfigError: hindsight is used without goals.
    """
    x = experiment
    return make_ring if x.hindsight == "none" else hindsight.hindsight(goal_of(x, spec), hindsight.STRATEGIES[x.hindsight])


def demonstrations_of(experiment: Experiment, spec: EnvSpec) -> Replay:
    """Makes what samples from a store of demonstrations, uniformly, in batches like those of the replay."""
    x = experiment
    # The capacity only counts where a ring is made, and the store is one already; n steps is the least that is allowed.
    sizes = {"capacity": x.n_step, "batch_size": x.batch_size, "n_step": x.n_step}
    shown = samplers.uniform(spec.obs_dim, spec.action_dim, **sizes, ring=ring_of(x, spec))
    shown = samplers.with_reward_scale(shown) if "reward_scale" in x.parts else shown
    return samplers.with_age(shown) if x.diagnostics else shown


def imitation_of(experiment: Experiment) -> Imitation | None:
    """Returns the term of the actor's loss that clones demonstrations, or None if there is none."""
    if "bc_weight" not in experiment.parts:
        return None
    return imitation.filtered_cloning if experiment.q_filter else imitation.cloning


def explorer_of(experiment: Experiment, spec: EnvSpec, agent: Agent) -> Explorer:
    """Makes the explorer.

    Raises:
        ConfigError: a user-defined explorer is not valid.
    """
    x, action_dim = experiment, spec.action_dim
    table = exploration.EXPLORERS
    schedule = SCHEDULES[x.noise_schedule]
    explorer = make_part("exploration", x.exploration, table, Explorer, action_dim=action_dim, schedule=schedule)
    explorer = exploration.with_spread(explorer) if "noise_spread" in x.parts else explorer
    if is_own(table[x.exploration]):
        sizes = {"num_envs": x.num_envs, "obs_dim": spec.obs_dim, "action_dim": action_dim}
        check_explorer(f"exploration={x.exploration}", explorer, agent, **sizes)
        explorer = exploration.clipped(explorer)
    explorer = exploration.with_uniform(explorer) if "epsilon_uniform" in x.parts else explorer
    return exploration.with_smoothing(explorer, action_dim) if "action_smoothing" in x.parts else explorer


def named_parts(experiment: Experiment) -> tuple[Any, ...]:
    """Returns the registered parts that an experiment names, since the same names may stand for other parts later."""
    x = experiment
    return (
        NETWORKS[x.network],
        layers.ACTIVATIONS[x.activation],
        losses.TD_LOSSES[x.td_loss],
        *((heads.HEADS[x.critic],) if x.critic != "scalar" else ()),
        samplers.REPLAYS[x.replay],
        exploration.EXPLORERS[x.exploration],
    )


ENV_FIELDS = ("env", "backend", "eval_env", "host_order", *EnvOptions._fields)
"""The fields of an experiment that say what its environment is."""


def env_options(experiment: Experiment) -> EnvOptions:
    """Returns the options of the environment that an experiment names."""
    return EnvOptions(experiment.imports, experiment.env_kwargs, experiment.wrappers)


def network_fields(experiment: Experiment) -> dict[str, Any]:
    """Returns the fields that networks may read. A policy stores them to make its actor again."""
    return {name: getattr(experiment, name) for name in NETWORK_FIELDS}


def reported(experiment: Experiment) -> tuple[str, ...]:
    """Returns the names of the scalars that the updates of an experiment report."""
    return diagnostics.REPORT + (diagnostics.COLUMNS if experiment.diagnostics else ())


def goal_of(experiment: Experiment, spec: EnvSpec) -> Goal:
    """Returns the description of the goals of an environment.

    Raises:
        ConfigError: the environment has no goals, or their rewards cannot be computed in batches.
    """
    if spec.goal is None:
        raise ConfigError(
            f"hindsight={experiment.hindsight} is not allowed with env={spec.name}, which has no goals, or no "
            "compute_reward that takes batches of goals; it must be none, or the environment must have both, as point-reach has"
        )
    return spec.goal


def make_optimizer(net: str, experiment: Experiment) -> Optimizer:
    """Makes the optimizer of a network, `actor` or `critic`."""

    def reader(name: str) -> Callable[[Hyperparams], Scalar]:
        return operator.attrgetter(f"{net}_{name}")

    schedule, parts = SCHEDULES[experiment.lr_schedule], experiment.parts
    chosen = adam(reader("lr"), schedule)
    if f"{net}_decay" in parts:
        chosen = adamw(reader("lr"), reader("decay"), schedule)
    return with_clipping(chosen, reader("clip")) if f"{net}_clip" in parts else chosen
