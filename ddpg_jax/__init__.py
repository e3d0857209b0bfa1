"""DDPG in JAX: pure functions, one compiled program, whole sweeps at once."""

from ddpg_jax import diagnostics, envs, exploration, hindsight, losses, normalization, optimization, replay, schedules
from ddpg_jax.agent import make_agent
from ddpg_jax.api import Run, make_program, sweep, train
from ddpg_jax.building import build
from ddpg_jax.driving import drive
from ddpg_jax.experiment import Experiment, configure
from ddpg_jax.losses import actor_loss, critic_loss, n_step_return, soft_update, td_target
from ddpg_jax.networks import Actor, Critic, Critics, init_actor, init_critic
from ddpg_jax.policy import Policy, load_policy
from ddpg_jax.presets import PRESETS, Preset
from ddpg_jax.program import Member
from ddpg_jax.sweeping import Sweep, random_points
from ddpg_jax.training import make_training, train_step
from ddpg_jax.types import (
    Agent,
    ConfigError,
    Env,
    EnvironmentFailure,
    EnvSpec,
    Explorer,
    Goal,
    Hyperparams,
    Nets,
    Replay,
    ReplayState,
    TrainState,
    Transition,
)

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Actor",
    "Agent",
    "ConfigError",
    "Critic",
    "Critics",
    "Env",
    "EnvSpec",
    "EnvironmentFailure",
    "Experiment",
    "Explorer",
    "Goal",
    "Hyperparams",
    "Member",
    "Nets",
    "Policy",
    "Preset",
    "Replay",
    "ReplayState",
    "Run",
    "Sweep",
    "TrainState",
    "Transition",
    "actor_loss",
    "build",
    "configure",
    "critic_loss",
    "diagnostics",
    "drive",
    "envs",
    "exploration",
    "hindsight",
    "init_actor",
    "init_critic",
    "load_policy",
    "losses",
    "make_agent",
    "make_program",
    "make_training",
    "n_step_return",
    "normalization",
    "optimization",
    "random_points",
    "replay",
    "schedules",
    "soft_update",
    "sweep",
    "td_target",
    "train",
    "train_step",
]
