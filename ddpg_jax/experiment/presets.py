"""Defines presets: the settings that others publish, as data, and how training with them differs from their code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ddpg_jax.errors import ConfigError
from ddpg_jax.registry import Registry


class Preset(NamedTuple):
    """Holds values of fields of `Experiment` and `Hyperparams` that replace the defaults, and their source.

    >>> import ddpg_jax as dj
    >>> dj.PRESETS["calm"] = dj.Preset("Settings for my robot.", {"noise_sigma": 0.05, "hidden": (64, 64)})
    >>> dj.configure({"preset": "calm", "tau": 0.01})[0].hidden
    (64, 64)
    >>> del dj.PRESETS["calm"]
    """

    source: str
    """One line that says where the values come from."""
    values: Mapping[str, Any] = MappingProxyType({})
    """Maps fields to values. Noise is in units of the action range [-1, 1], as everywhere."""
    deviations: tuple[str, ...] = ()
    """Differences from the source that no field can express, with their effect on a comparison."""


WARMUP = "the warm-up takes uniform random actions and is as long as a batch; in the source, {}"
UNITS = (
    "the noise of {} is in units of [-1, 1]; in the source, it is in units of the environment, which is the same if "
    "actions are bounded by 1"
)
ZERO_BIAS = "weights and biases start in +-1/sqrt(fan-in); in the source, weights have {} and biases are 0"
SCALED = (
    "the critic reads actions in units of [-1, 1]; in the source, it reads them in units of the environment, which is the same "
    "if actions are bounded by 1"
)
SECOND = "actor and targets are updated at every second update, but not necessarily at the same ones as in the source"
SHORT_WARMUP = "the warm-up is as long as a batch; in the source, it has 100 steps, and the first batches repeat transitions"

_FUJIMOTO: dict[str, Any] = {
    "exploration": "gaussian",
    "noise_sigma": 0.1,
    "warmup_steps": 25_000,
    "batch_size": 256,
    "replay_capacity": 1_000_000,
    "init": "fan_in",
    "steps": 1_000_000,
    "eval_every": 5_000,
}

_TD3: dict[str, Any] = {
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
    "num_critics": 2,
    "policy_delay": 2,
    "sync_period": 2.0,
    "target_noise": 0.2,
    "target_noise_clip": 0.5,
}

_PRESETS: dict[str, Preset] = {
    "default": Preset(
        "Common defaults: the learning rates of Lillicrap et al. 2015, tau 0.005, 256-256 networks, 1e5 transitions."
    ),
    "mujoco": Preset(
        "This library's own for MuJoCo and Box2D: learning rates 1e-3, batches of 64, normalized observations, noise 0.1.",
        {
            **_FUJIMOTO,
            "actor_lr": 1e-3,
            "critic_lr": 1e-3,
            "batch_size": 64,
            "warmup_steps": 10_000,
            "normalize_obs": True,
        },
    ),
    "lillicrap2015": Preset(
        "Lillicrap et al. 2015, section 7, low-dimensional observations.",
        {
            "tau": 1e-3,
            "critic_l2": 1e-2,
            "hidden": (400, 300),
            "action_layer": 1,
            "batch_norm": True,
            "replay_capacity": 1_000_000,
            "warmup_steps": 64,
            "steps": 1_000_000,
            "eval_every": 10_000,
        },
        (
            "the actor's output has no BatchNorm, and the running statistics move by 0.01 per batch and are used for acting "
            "and in the targets; the paper specifies none of this",
            "critic_l2 multiplies the sum of squared weights; the paper does not say if the sum is halved or includes biases",
            WARMUP.format("no warm-up is mentioned"),
            "a run has 1e6 steps; in the source, up to 2.5e6",
        ),
    ),
    "nexus": Preset(
        "Notes of the Nexus course on DDPG: LayerNorm before every ReLU, batches of 256, OU sigma 0.1, 1e6 transitions.",
        {
            "layer_norm": True,
            "batch_size": 256,
            "noise_sigma": 0.1,
            "replay_capacity": 1_000_000,
            "warmup_steps": 256,
        },
        (
            WARMUP.format("the noisy policy acts from the first step"),
            "noise_sigma 0.1 is in units of [-1, 1]; in the source, it is in units of the environment; on Pendulum-v1, whose "
            "actions are bounded by 2, that is --noise-sigma 0.05",
            SCALED,
            "values bootstrap at time limits; in the source, time limits count as terminations",
            "LayerNorm adds 1e-6 to the variance; in the source, 1e-5, the default of torch",
        ),
    ),
    "keras": Preset(
        "The Keras notebook on DDPG for Pendulum: higher learning rates, OU sigma 0.2 in units of Pendulum, no warm-up.",
        {
            "network": "two_branch",
            "actor_lr": 1e-3,
            "critic_lr": 2e-3,
            "noise_sigma": 0.1,
            "ou_dt": 0.01,
            "warmup_steps": 64,
            "replay_capacity": 50_000,
        },
        (
            "noise_sigma is the 0.2 of the source divided by the bound 2 of Pendulum; for variants without dt, set --ou-dt 1",
            SCALED,
            WARMUP.format("the noisy policy acts and learns from the first step, and the first batches repeat transitions"),
            "the noise starts at 0 in every episode; in the source, it is never reset, and forgets its past in about 700 steps",
            "values do not bootstrap at terminations; in the source, they do, which makes no difference on Pendulum",
            ZERO_BIAS.format("Glorot's uniform distribution"),
            "the last layers of actor and critic start in +-3e-3; in the source, only that of the actor",
            "the epsilon of Adam is 1e-8; in the source, 1e-7",
        ),
    ),
    "spinningup": Preset(
        "OpenAI Spinning Up, PyTorch: learning rates 1e-3, batches of 100, Gaussian noise 0.1, 10,000 random steps.",
        {
            "actor_lr": 1e-3,
            "batch_size": 100,
            "exploration": "gaussian",
            "noise_sigma": 0.1,
            "warmup_steps": 10_000,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
            "steps": 400_000,
            "eval_every": 4_000,
        },
        (
            UNITS.format("0.1"),
            SCALED,
            "learning starts after the random steps; in the source, at step 1,000, while actions are still random",
            "one update follows every step; in the source, 50 updates follow every 50 steps",
        ),
    ),
    "fujimoto-ddpg": Preset(
        "DDPG.py of Fujimoto et al. 2018, run by main.py: 400-300 networks, the action at the second layer, weight decay.",
        {**_FUJIMOTO, "hidden": (400, 300), "action_layer": 1, "critic_l2": 5e-3},
        (
            "critic_l2 5e-3 adds 1e-2 times the weights to the gradient, as a weight decay of 1e-2 does; in the source, "
            "it also applies to biases",
            SCALED,
        ),
    ),
    "fujimoto-ourddpg": Preset(
        "OurDDPG.py beside TD3.py, as of 2021: learning rates 3e-4, batches of 256, Gaussian noise 0.1, 25,000 random steps.",
        {**_FUJIMOTO, "actor_lr": 3e-4, "critic_lr": 3e-4},
        (SCALED,),
    ),
    "cleanrl": Preset(
        "CleanRL, ddpg_continuous_action: learning rates 3e-4, actor and targets at every second update, 25,000 random steps.",
        {**_FUJIMOTO, "actor_lr": 3e-4, "critic_lr": 3e-4, "policy_delay": 2, "sync_period": 2.0},
        (
            SECOND,
            SCALED,
            "weights and biases start in +-1/sqrt(fan-in); in the JAX version of the source, weights have LeCun's normal "
            "distribution, biases are 0, and the target's actions are clipped to [-1, 1] in units of the environment",
            "returns are those of evaluations without noise; in the source, those of training with noise",
        ),
    ),
    "sb3": Preset(
        "Stable-Baselines3: learning rates 1e-3, 400-300 networks, batches of 256, no noise.",
        {
            "actor_lr": 1e-3,
            "hidden": (400, 300),
            "batch_size": 256,
            "exploration": "none",
            "warmup_steps": 256,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
        },
        (SHORT_WARMUP,),
    ),
    "sbx": Preset(
        "Stable-Baselines Jax: learning rates 3e-4 and 1e-3, batches of 256, no noise.",
        {
            "actor_lr": 3e-4,
            "batch_size": 256,
            "exploration": "none",
            "warmup_steps": 256,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
        },
        (
            SHORT_WARMUP,
            ZERO_BIAS.format("LeCun's normal distribution"),
            "the targets are updated after the actor; in the source, before it, so that the actor's target is one update older",
            "the critic's loss is not halved; in the source, it is, which does not change the steps of Adam",
        ),
    ),
    "td3": Preset(
        "TD3.py of Fujimoto et al., as of 2020: two critics, target smoothing, actor and targets at every second update.",
        {
            **_FUJIMOTO,
            **_TD3,
        },
        (SECOND, SCALED),
    ),
    "td3-bc": Preset(
        "TD3+BC of Fujimoto and Gu 2021, offline: TD3 whose actor also clones the data, alpha 2.5, normalized observations.",
        {
            **{name: _FUJIMOTO[name] for name in ("batch_size", "init", "eval_every")},
            **_TD3,
            "normalize_obs": True,
            "bc_weight": 1.0,
            "bc_alpha": 2.5,
            "steps": 0,
            "updates": 1_000_000,
        },
        (
            SECOND,
            SCALED,
            "observations are divided by their deviation and clipped to +-10; in the source, they are divided by it plus 1e-3",
        ),
    ),
    "d4pg": Preset(
        "D4PG of Barth-Maron et al. 2018 for the control suite: categorical critic, 5-step returns, prioritized replay.",
        {
            "critic": "categorical",
            "num_atoms": 51,
            "value_min": -150.0,
            "value_max": 150.0,
            "n_step": 5,
            "replay": "prioritized",
            "actor_lr": 1e-4,
            "critic_lr": 1e-4,
            "hidden": (400, 300),
            "batch_size": 256,
            "exploration": "gaussian",
            "noise_sigma": 0.3,
            "replay_capacity": 1_000_000,
            "tau": 1.0,
            "sync_period": 100.0,
            "warmup_steps": 1_000,
            "steps": 1_000_000,
            "eval_every": 10_000,
        },
        (
            "one learner and num_envs environments take turns; in the source, 32 actors run asynchronously",
            "priorities are the divergence of prediction and target; in the source, they are the cross-entropy",
            "returns must lie between value_min and value_max, which the source chose for rewards from 0 to 1",
            "the action joins at the first layer of the critic; the source does not say at which layer",
        ),
    ),
    "simba": Preset(
        "SimBa of Lee et al. 2024, with DDPG: residual networks, running normalization of observations, AdamW.",
        {
            "network": "residual",
            "actor_hidden": (128,),
            "critic_hidden": (512, 512),
            "normalize_obs": True,
            "actor_lr": 1e-4,
            "critic_lr": 1e-4,
            "actor_decay": 1e-2,
            "critic_decay": 1e-2,
            "batch_size": 256,
            "exploration": "gaussian",
            "noise_sigma": 0.1,
            "warmup_steps": 5_000,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
            "steps": 1_000_000,
            "eval_every": 10_000,
        },
        (
            "the last layers start in +-1/sqrt(fan-in); in the source, they start orthogonal",
            "a step is one environment step with one update; in the source, each action is taken twice, with two updates",
            "gamma is .99; in the source, it depends on the length of an episode",
        ),
    ),
    "crossq-ddpg": Preset(
        "CrossQ of Bhatt et al. 2024, with DDPG: batch renormalization, no target networks, a wide critic.",
        {
            "network": "crossq",
            "targets": "joint",
            "actor_hidden": (256, 256),
            "critic_hidden": (2048, 2048),
            "actor_lr": 1e-3,
            "critic_lr": 1e-3,
            "policy_delay": 3,
            "batch_size": 256,
            "exploration": "gaussian",
            "noise_sigma": 0.1,
            "warmup_steps": 5_000,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
            "steps": 1_000_000,
            "eval_every": 10_000,
        },
        (
            "the algorithm is DDPG with one critic; in the source, it is SAC or TD3 with two",
            "batches are corrected to the running statistics from the first update; in the source, only after 100,000 updates "
            "of BatchNorm",
            "Adam's first moment decays by .9 per update; in the source, by .5",
        ),
    ),
    "parallel": Preset(
        "For accelerators, after FastTD3 (Seo et al. 2025): 1,024 environments, batches of 8,192, two updates a vector step.",
        {
            "num_envs": 1_024,
            "updates_per_step": 2 / 1_024,
            "batch_size": 8_192,
            "warmup_steps": 10_240,
            "replay_capacity": 1_048_576,
            "actor_hidden": (512, 256, 128),
            "critic_hidden": (1_024, 512, 256),
            "precision": "bfloat16",
            "critic": "categorical",
            "num_atoms": 101,
            "num_critics": 2,
            "policy_delay": 2,
            "normalize_obs": True,
            "normalize_reward": True,
            "actor_lr": 3e-4,
            "critic_lr": 3e-4,
            "actor_decay": 0.1,
            "critic_decay": 0.1,
            "tau": 0.1,
            "exploration": "gaussian",
            "noise_sigma": 0.2,
            "noise_spread": 0.99,
            "steps": 10_240_000,
            "eval_every": 204_800,
        },
        (
            "rewards are normalized, so that returns lie between -150 and 150; in the source, the range is set for each task",
            "the batch is 8,192; in the source, 32,768",
            "an environment keeps its noise scale; in the source, it is drawn for each episode",
            "the target's action has no noise; in the source, it has noise of 0.001",
            "the last layers of both networks start in +-3e-3; in the source, only the actor's starts small",
        ),
    ),
}

PRESETS: Registry[Preset] = Registry("dj.PRESETS", _PRESETS)
"""Maps names to presets. A preset is data; the field `preset` can name an entry of your own."""


def read_preset(path: str | Path) -> dict[str, Any]:
    """Reads fields from a JSON file, `{"field": value, ...}`. It does not check their names or values.

    Raises:
        ConfigError: the file cannot be read, or is not a JSON object.
    """
    try:
        fields = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"preset={path} cannot be read: {error.strerror}; it must be a name or a JSON file") from error
    except ValueError as error:
        raise ConfigError(f"preset={path} is not valid JSON: {error}; it must contain an object of fields") from error
    if not isinstance(fields, dict):
        raise ConfigError(f'preset={path} is not allowed; it must contain an object of fields, such as {{"tau": 0.01}}')
    return fields
