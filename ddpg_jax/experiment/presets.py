"""Named settings: what others train with, as data, and where this library differs from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ddpg_jax.errors import ConfigError
from ddpg_jax.registry import Registry


class Preset(NamedTuple):
    """Fields of `Experiment` and `Hyperparams` in which it differs from the defaults, and what they stand for.

    >>> import ddpg_jax as dj
    >>> dj.PRESETS["calm"] = dj.Preset("What works on my robot.", {"noise_sigma": 0.05, "hidden": (64, 64)})
    >>> dj.configure({"preset": "calm", "tau": 0.01})[0].hidden
    (64, 64)
    >>> del dj.PRESETS["calm"]
    """

    source: str
    """One line: whose values they are."""
    values: Mapping[str, Any] = MappingProxyType({})
    """Noise in units of the action range [-1, 1], as everywhere."""
    deviations: tuple[str, ...] = ()
    """What of the source cannot be said here, and what it means for the comparison."""


WARMUP = "the warm-up is uniform random and as long as a batch; there {}"
UNITS = "its noise of {} is in the environment's own units, here in those of [-1, 1]: the same where actions are bounded by 1"
ZERO_BIAS = "weights start in +-1/sqrt(fan-in) and biases too; there {} and biases of 0"
SCALED = "its critic reads actions in the environment's own units, here scaled to [-1, 1]: the same where they are bounded by 1"
SECOND = "the actor and the targets follow every second update, which of the two is not fixed"

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

_PRESETS: dict[str, Preset] = {
    "default": Preset(
        "The table of most introductions: the rates of Lillicrap et al. 2015, tau .005, 256-256 networks, 1e5 transitions."
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
            "the paper does not say whether the actor's output is a layer with BatchNorm, here not, nor how fast the running "
            "statistics move, here by .01, nor where they are used, here when acting and in the targets",
            "critic_l2 is a factor on the sum of squared weights; the paper does not say whether it halves it or counts biases",
            WARMUP.format("no warm-up is mentioned"),
            "the paper trains for up to 2.5e6 steps",
        ),
    ),
    "nexus": Preset(
        "The Nexus course's notes on DDPG: LayerNorm before every ReLU, batches of 256, OU sigma .1, 1e6 transitions.",
        {
            "layer_norm": True,
            "batch_size": 256,
            "noise_sigma": 0.1,
            "replay_capacity": 1_000_000,
            "warmup_steps": 256,
        },
        (
            WARMUP.format("the noisy policy acts from the first step"),
            "its noise of .1 is in the environment's own units: on Pendulum-v1, bounded by 2, that is --noise-sigma 0.05",
            SCALED,
            "time limits bootstrap; there they count as terminations",
            "LayerNorm adds 1e-6 to the variance; there, as torch does, 1e-5",
        ),
    ),
    "keras": Preset(
        "The Keras notebook on DDPG for Pendulum: both rates higher, OU sigma .2 in Pendulum's units, no warm-up.",
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
            "noise_sigma .1 is its .2 over Pendulum's bound of 2; where the notebook is retold without its step dt: --ou-dt 1",
            SCALED,
            WARMUP.format("the noisy policy acts and learns from the first step, from batches with repetitions"),
            "the noise starts anew with every episode; there it never does, and it forgets within some 700 steps",
            "terminations do not bootstrap; there everything does, which is the same on Pendulum",
            ZERO_BIAS.format("Glorot's uniform"),
            "the last layer of the critic starts in +-3e-3 as that of the actor; there only the actor's does",
            "the epsilon of Adam is 1e-8; there 1e-7",
        ),
    ),
    "spinningup": Preset(
        "OpenAI Spinning Up, PyTorch: both rates 1e-3, batches of 100, Gaussian noise .1, 10,000 random steps.",
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
            UNITS.format(".1"),
            SCALED,
            "learning starts behind the random steps; there at step 1,000, still with random actions",
            "an update follows each step; there 50 updates follow each 50 steps",
        ),
    ),
    "fujimoto-ddpg": Preset(
        "DDPG.py of Fujimoto et al. 2018, as main.py runs it: 400-300 networks, the action at the second layer, weight decay.",
        {**_FUJIMOTO, "hidden": (400, 300), "action_layer": 1, "critic_l2": 5e-3},
        (
            "critic_l2 5e-3 adds 1e-2 times the weight to the gradient, as its weight decay of 1e-2 does; there biases too",
            SCALED,
        ),
    ),
    "fujimoto-ourddpg": Preset(
        "OurDDPG.py of Fujimoto et al. 2018: both rates 3e-4, batches of 256, Gaussian noise .1, 25,000 random steps.",
        {**_FUJIMOTO, "actor_lr": 3e-4, "critic_lr": 3e-4},
        (SCALED,),
    ),
    "cleanrl": Preset(
        "CleanRL, ddpg_continuous_action: both rates 3e-4, actor and targets at every second update, 25,000 random steps.",
        {**_FUJIMOTO, "actor_lr": 3e-4, "critic_lr": 3e-4, "policy_delay": 2, "sync_period": 2.0},
        (
            SECOND,
            SCALED,
            "its JAX version starts with LeCun's normal and biases of 0, and clips the target's actions to [-1, 1] in the "
            "environment's own units",
            "its returns are of training, with noise; here evaluations are without",
        ),
    ),
    "sb3": Preset(
        "Stable-Baselines3: both rates 1e-3, 400-300 networks, batches of 256, no noise.",
        {
            "actor_lr": 1e-3,
            "hidden": (400, 300),
            "batch_size": 256,
            "exploration": "none",
            "warmup_steps": 256,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
        },
        ("the warm-up is as long as a batch; there 100 steps, and batches with repetitions",),
    ),
    "sbx": Preset(
        "Stable-Baselines Jax: rates 3e-4 and 1e-3, batches of 256, no noise.",
        {
            "actor_lr": 3e-4,
            "batch_size": 256,
            "exploration": "none",
            "warmup_steps": 256,
            "replay_capacity": 1_000_000,
            "init": "fan_in",
        },
        (
            "the warm-up is as long as a batch; there 100 steps, and batches with repetitions",
            ZERO_BIAS.format("LeCun's normal"),
            "the targets follow behind the actor's step; there ahead of it, so that the actor's target is one update older",
            "the loss of the critic is halved there, which Adam does not notice",
        ),
    ),
    "td3": Preset(
        "TD3.py of Fujimoto et al. 2018: two critics, smoothed target actions, actor and targets at every second update.",
        {
            **_FUJIMOTO,
            "actor_lr": 3e-4,
            "critic_lr": 3e-4,
            "num_critics": 2,
            "policy_delay": 2,
            "sync_period": 2.0,
            "target_noise": 0.2,
            "target_noise_clip": 0.5,
        },
        (SECOND, SCALED),
    ),
}

PRESETS: Registry[Preset] = Registry("dj.PRESETS", _PRESETS)
"""Maps names to presets. A preset is data; the field `preset` can name an entry of your own."""


def read_preset(path: str | Path) -> dict[str, Any]:
    """The fields in a JSON file, `{"field": value, ...}`; unknown fields are found by whoever checks their values.

    Raises:
        ConfigError: no such file, or no JSON object.
    """
    try:
        fields = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"preset={path} cannot be read: {error.strerror}; it must be a name or a JSON file") from error
    except ValueError as error:
        raise ConfigError(f"preset={path} is no JSON: {error}; it must hold an object of fields") from error
    if not isinstance(fields, dict):
        raise ConfigError(f'preset={path} is not allowed; it must hold an object of fields, such as {{"tau": 0.01}}')
    return fields
