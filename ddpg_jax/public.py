"""Collects the public names; `import ddpg_jax` loads it when the first of them is asked for."""

from ddpg_jax import envs, exploration, replay, schedules
from ddpg_jax.agent import diagnostics, heads, losses, normalization, optimizers
from ddpg_jax.agent.ddpg import make_agent
from ddpg_jax.agent.heads import HEADS, Head
from ddpg_jax.agent.layers import ACTIVATIONS
from ddpg_jax.agent.losses import TD_LOSSES, actor_loss, critic_loss, soft_update, td_target
from ddpg_jax.agent.networks import NETWORKS, Actor, Critic, Critics, init_actor, init_critic, mlp
from ddpg_jax.agent.policy import Policy, load_policy
from ddpg_jax.api import Run, evaluate, make_program, sweep, train
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.build import build
from ddpg_jax.experiment.experiment import Experiment, configure
from ddpg_jax.experiment.grid import random_points
from ddpg_jax.experiment.presets import PRESETS, Preset
from ddpg_jax.exploration import EXPLORERS
from ddpg_jax.export import export_policy
from ddpg_jax.replay import hindsight
from ddpg_jax.replay.ring import n_step_return
from ddpg_jax.replay.samplers import REPLAYS
from ddpg_jax.running.blocks import run_blocks
from ddpg_jax.running.population import Exploit
from ddpg_jax.running.program import Member
from ddpg_jax.running.results import Sweep
from ddpg_jax.training.loop import make_training
from ddpg_jax.training.step import train_step
from ddpg_jax.types import (
    Agent,
    Env,
    EnvSpec,
    Episodes,
    Explorer,
    Goal,
    Hyperparams,
    Nets,
    Replay,
    ReplayState,
    TrainState,
    Transition,
)

__all__ = [
    "ACTIVATIONS",
    "EXPLORERS",
    "HEADS",
    "NETWORKS",
    "PRESETS",
    "REPLAYS",
    "TD_LOSSES",
    "Actor",
    "Agent",
    "ConfigError",
    "Critic",
    "Critics",
    "Env",
    "EnvSpec",
    "EnvironmentFailure",
    "Episodes",
    "Experiment",
    "Exploit",
    "Explorer",
    "Goal",
    "Head",
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
    "envs",
    "evaluate",
    "exploration",
    "export_policy",
    "heads",
    "hindsight",
    "init_actor",
    "init_critic",
    "load_policy",
    "losses",
    "make_agent",
    "make_program",
    "make_training",
    "mlp",
    "n_step_return",
    "normalization",
    "optimizers",
    "random_points",
    "replay",
    "run_blocks",
    "schedules",
    "soft_update",
    "sweep",
    "td_target",
    "train",
    "train_step",
]
