"""`Experiment`: a whole run as plain data, checked before anything is compiled."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ddpg_jax import exploration
from ddpg_jax.agent import networks
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment import values
from ddpg_jax.experiment.presets import PRESETS
from ddpg_jax.replay import hindsight, samplers
from ddpg_jax.schedules import SCHEDULES
from ddpg_jax.types import EnvOptions, Hyperparams

BACKENDS = ("auto", "device", "host")
PLACEMENTS = ("auto", "map", "vmap")
ORDERS = ("textbook", "overlapped")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The structure of a run: plain, hashable, JSON both ways. The numbers that one sweeps are in `Hyperparams`.

    A STEP, here and everywhere, is one step of one environment: with 8 environments a vector step counts as 8. Settings in
    steps that are not a multiple of `num_envs` are rounded up to one.
    """

    env: str = "Pendulum-v1"
    """A Gymnasium id, or the name of an environment written in JAX."""
    imports: tuple[str, ...] = ()
    """Modules that register environments, joined by commas; they are imported first, from the current folder too."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment, name=value joined by commas, or JSON; `max_episode_steps` sets the time limit.
    Where the twin on the device does not take them, backend=auto takes the host."""
    wrappers: tuple[str, ...] = ()
    """Wrappers of `gymnasium.wrappers`, or module:Wrapper, joined by commas, the innermost first; called with the environment
    alone. With any, backend=auto takes the host."""
    backend: str = "auto"
    """Where the environment runs: device, host, or auto, which takes the device where the environment is written in JAX."""
    host_order: str = "textbook"
    """Environments on the host: textbook, or overlapped, which updates while the environment steps, from the transitions before
    that step; it pays where a step takes a millisecond or more. The device backend is always in the order of the textbook."""
    preset: str = "default"
    """The named values that all other fields start from; on the command line also a JSON file of them."""
    steps: int = 20_000
    """Length of the run, the warm-up included."""
    seed: int = 0
    """Of every random draw."""
    num_envs: int = 1
    """Environments stepped side by side."""
    updates_per_step: float = 1.0
    """Gradient steps for each step; with many environments a fraction, as long as a vector step has a whole number."""
    warmup_steps: int = 1_000
    """First steps, with uniform random actions and without learning."""
    batch_size: int = 64
    """Transitions of one gradient step."""
    replay: str = "uniform"
    """How transitions are drawn: uniform or prioritized."""
    hindsight: str = "none"
    """Goals that transitions are learned from again with: what their episode achieved at a later step (future), at the last one
    (final) or at any (episode), or none. For environments with goals."""
    replay_capacity: int = 100_000
    """Transitions that are kept, over all environments."""
    n_step: int = 1
    """Rewards summed before the bootstrap."""
    exploration: str = "ou"
    """Noise while collecting: ou or gaussian on the actions, parameter on the parameters of the actor, or none."""
    noise_schedule: str = "constant"
    """How the scale of the noise changes: constant, linear, exponential or cosine, to `noise_sigma_final`."""
    hidden: tuple[int, ...] = (256, 256)
    """Sizes of the hidden layers of actor and critic."""
    activation: str = "relu"
    """Between the layers."""
    layer_norm: bool = False
    """Normalize every hidden layer before its activation."""
    batch_norm: bool = False
    """Normalize by the batch: observations, hidden layers of the actor and those of the critic before the action joins."""
    precision: str = "float32"
    """Of the products in the hidden layers: float32 or bfloat16. What is kept, and what the last layer gives, is float32."""
    normalize_obs: bool = False
    """Observations less their running mean and divided by their running deviation."""
    normalize_reward: bool = False
    """Rewards divided by the running root mean square of single ones (others divide by the deviation of returns)."""
    action_layer: int = 0
    """The layer of the critic at whose input the action joins; 0 is the first."""
    num_critics: int = 1
    """Critics; the target takes the smallest of their values."""
    policy_delay: int = 1
    """Updates of the critic for each update of the actor."""
    init: str = "paper"
    """How the networks start: all layers in +-1/sqrt(fan-in), but the last in +-3e-3 (paper), or it too (fan_in)."""
    lr_schedule: str = "constant"
    """How the learning rates change: constant, linear, exponential or cosine, to `lr_final` times themselves."""
    placement: str = "auto"
    """How the members of a sweep share a device: map, one after the other, vmap, or auto: map on a CPU, vmap elsewhere."""
    eval_every: int = 1_000
    """Steps between evaluations; there is always one at the end."""
    eval_episodes: int = 10
    """Episodes of one evaluation, without noise."""
    diagnostics: bool = False
    """Also report gradient norms, the share of saturated actions, quantiles of the TD errors and the mean age of what is
    learned from, as columns of metrics.csv."""
    parts: tuple[str, ...] = ()
    """The optional parts in use, named after their number in `Hyperparams`. Not set but found: see `SWITCHES`."""


STRUCTURE = {field.name: field.default for field in dataclasses.fields(Experiment) if field.name != "parts"}
NUMBERS: dict[str, float] = Hyperparams()._asdict()

SWITCHES: dict[str, float] = {
    "epsilon_uniform": 0.0,
    "action_smoothing": 0.0,
    "target_noise": 0.0,
    "sync_period": 1.0,
    "huber_delta": 0.0,
    "critic_l2": 0.0,
    "q_l2": 0.0,
    "action_penalty": 0.0,
    "actor_clip": 0.0,
    "critic_clip": 0.0,
    "actor_decay": 0.0,
    "critic_decay": 0.0,
    "reward_scale": 1.0,
}
"""Number -> its value at which the part that it belongs to does nothing. The part is then left out of the program altogether:
it costs nothing, and a sweep over both that value and others makes two programs."""

READ_BY: dict[str, Callable[[Experiment], bool]] = {
    "noise_sigma": lambda x: x.exploration != "none",
    "noise_sigma_final": lambda x: x.exploration != "none" and x.noise_schedule != "constant",
    "noise_decay_steps": lambda x: x.exploration != "none" and x.noise_schedule != "constant",
    "ou_theta": lambda x: x.exploration == "ou",
    "ou_dt": lambda x: x.exploration == "ou",
    "target_noise_clip": lambda x: "target_noise" in x.parts,
    "lr_final": lambda x: x.lr_schedule != "constant",
    "lr_decay_updates": lambda x: x.lr_schedule != "constant",
    "priority_alpha": lambda x: x.replay == "prioritized",
    "priority_beta": lambda x: x.replay == "prioritized",
    "priority_beta_final": lambda x: x.replay == "prioritized",
    "priority_beta_updates": lambda x: x.replay == "prioritized",
    "priority_epsilon": lambda x: x.replay == "prioritized",
    "hindsight_k": lambda x: x.hindsight != "none",
}
"""Number -> whether an experiment reads it at all. To sweep over one that none does makes equal members, and is refused."""

CHOICES: dict[str, Collection[str]] = {
    "backend": BACKENDS,
    "host_order": ORDERS,
    "preset": PRESETS.keys(),  # as it is when it is asked: users add to it
    "placement": PLACEMENTS,
    "replay": tuple(samplers.REPLAYS),
    "hindsight": ("none", *hindsight.STRATEGIES),
    "exploration": tuple(exploration.EXPLORERS),
    "init": tuple(networks.INITS),
    "noise_schedule": tuple(SCHEDULES),
    "lr_schedule": tuple(SCHEDULES),
    "activation": tuple(networks.ACTIVATIONS),
    "precision": tuple(networks.PRECISIONS),
}
AT_LEAST = {
    "steps": 1,
    "seed": 0,
    "num_envs": 1,
    "warmup_steps": 1,
    "batch_size": 1,
    "replay_capacity": 1,
    "n_step": 1,
    "action_layer": 0,
    "num_critics": 1,
    "policy_delay": 1,
    "eval_every": 1,
    "eval_episodes": 1,
}
RANGES: dict[str, tuple[float, float]] = {
    "updates_per_step": (0.0, 10_000.0),
    "actor_lr": (0.0, math.inf),
    "critic_lr": (0.0, math.inf),
    "gamma": (0.0, 1.0),
    "tau": (0.0, 1.0),
    "noise_sigma": (0.0, math.inf),
    "noise_sigma_final": (0.0, math.inf),
    "noise_decay_steps": (1.0, math.inf),
    "ou_theta": (0.0, math.inf),
    "ou_dt": (1e-6, math.inf),
    "epsilon_uniform": (0.0, 1.0),
    "action_smoothing": (0.0, 0.999),
    "lr_final": (0.0, 1.0),
    "lr_decay_updates": (1.0, math.inf),
    "priority_alpha": (0.0, 1.0),
    "priority_beta": (0.0, 1.0),
    "priority_beta_final": (0.0, 1.0),
    "priority_beta_updates": (1.0, math.inf),
    "priority_epsilon": (1e-12, math.inf),
    "hindsight_k": (0.0, 2**24),
    "reward_scale": (1e-12, math.inf),
}
AT_MOST = {"n_step": 100, "num_critics": 100, "eval_episodes": 100_000}
"""Of what is compiled, or made, so many times over: more is a slip of the keyboard that would never end."""
WHOLE: dict[str, tuple[int, int]] = {"sync_period": (1, 2**24)}
"""Ranges of numbers that are traced like all others, and must be whole."""
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "lr": ("actor_lr", "critic_lr"),
    "learning_rate": ("actor_lr", "critic_lr"),
    "pi_lr": ("actor_lr",),
    "policy_lr": ("actor_lr",),
    "q_lr": ("critic_lr",),
    "polyak": ("tau",),  # it is 1 - polyak in some
    "discount": ("gamma",),
    "buffer_size": ("replay_capacity",),
    "replay_size": ("replay_capacity",),
    "learning_starts": ("warmup_steps",),
    "start_steps": ("warmup_steps",),
    "start_timesteps": ("warmup_steps",),
    "total_timesteps": ("steps",),
    "max_timesteps": ("steps",),
    "eval_freq": ("eval_every",),
    "n_envs": ("num_envs",),
    "gradient_steps": ("updates_per_step",),
    "net_arch": ("hidden",),
    "hidden_sizes": ("hidden",),
    "policy_freq": ("policy_delay",),
    "policy_frequency": ("policy_delay",),
    "expl_noise": ("noise_sigma",),
    "exploration_noise": ("noise_sigma",),
    "act_noise": ("noise_sigma",),
    "action_noise": ("exploration", "noise_sigma"),
    "log_interval": ("eval_every",),
}
"""What other systems call a field -> what it is called here."""
TEXTS: dict[str, Callable[[str, Any], Any]] = {
    "imports": values.names,
    "env_kwargs": values.keywords,
    "wrappers": values.names,
}
"""Fields that are not of a number's or a choice's form -> what reads them."""


def configure(fields: Mapping[str, Any]) -> tuple[Experiment, Hyperparams]:
    """The experiment that these fields describe, over the preset that they name, checked.

    Args:
        fields: names of `Experiment` and `Hyperparams`; values of their types, or as text.

    Raises:
        ConfigError: an unknown field, or a value that is not allowed.

    >>> import ddpg_jax as dj
    >>> experiment, hyper = dj.configure({"batch_size": "32", "tau": 0.01})
    >>> experiment.batch_size, hyper.tau
    (32, 0.01)
    """
    given = {name: coerce(name, value) for name, value in fields.items()}
    preset = PRESETS[given.get("preset", "default")]
    values = {**{name: coerce(name, value) for name, value in preset.values.items()}, **given}
    hyper = Hyperparams(**{name: value for name, value in values.items() if name in NUMBERS})
    parts = tuple(name for name, off in SWITCHES.items() if getattr(hyper, name) != off)
    experiment = Experiment(**{name: value for name, value in values.items() if name in STRUCTURE}, parts=parts)
    validate(experiment, hyper)
    return experiment, hyper


def near(word: str) -> Sequence[str]:
    """The fields that a word which names none may stand for: what it means elsewhere, or those that are spelled alike.

    >>> near("buffer_size"), near("warmup")
    (('replay_capacity',), ['warmup_steps'])
    """
    return ELSEWHERE.get(word) or difflib.get_close_matches(word, [*STRUCTURE, *NUMBERS], n=3, cutoff=0.5)


def coerce(name: str, value: Any) -> Any:
    """A field's value, from text where it is text, in the field's type and range.

    Raises:
        ConfigError: an unknown field, or a value that is not allowed.

    >>> from ddpg_jax.experiment.experiment import coerce
    >>> coerce("hidden", "400-300"), coerce("layer_norm", "true"), coerce("steps", "2e4")
    ((400, 300), True, 20000)
    """
    fields = {**STRUCTURE, **NUMBERS}
    if name not in fields:
        close = near(str(name))
        raise ConfigError(f"{name} is no field; {'nearest are' if close else 'fields are'} {', '.join(close or fields)}")
    default = fields[name]
    if name in TEXTS:
        return TEXTS[name](name, value)
    if name in CHOICES:
        return values.choice(name, value, CHOICES[name])
    if isinstance(default, bool):
        return values.boolean(name, value)
    if isinstance(default, tuple):
        return values.sizes(name, value)
    if isinstance(default, int):
        return values.integer(name, value, AT_LEAST[name], AT_MOST.get(name, values.LONGEST))
    if name in WHOLE:
        return float(values.integer(name, value, *WHOLE[name]))
    if isinstance(default, float):
        return values.number(name, value, *RANGES.get(name, (0.0, math.inf)))
    return values.word(name, value)


def env_options(experiment: Experiment) -> EnvOptions:
    """What an experiment does to the environment that it names."""
    return EnvOptions(experiment.imports, experiment.env_kwargs, experiment.wrappers)


def validate(experiment: Experiment, hyper: Hyperparams) -> None:
    """Checks what concerns more than one field; the fields themselves were checked by `coerce`.

    Raises:
        ConfigError: a combination that cannot be trained.
    """
    x = experiment
    vector_warmup = -(-x.warmup_steps // x.num_envs) * x.num_envs
    updates = x.num_envs * x.updates_per_step
    if abs(updates - round(updates)) > 1e-6 or round(updates) < 1:
        raise ConfigError(
            f"updates_per_step={x.updates_per_step} with num_envs={x.num_envs} makes {updates} updates a vector step; it "
            "must be a whole number of at least 1"
        )
    if x.batch_size > vector_warmup:
        raise ConfigError(
            f"batch_size={x.batch_size} is more than the warm-up collects; it must be at most warmup_steps={x.warmup_steps}"
        )
    if x.replay_capacity // x.num_envs < x.n_step:
        raise ConfigError(
            f"replay_capacity={x.replay_capacity} is smaller than the n-step window; it must be at least n_step * num_envs = "
            f"{x.n_step * x.num_envs}"
        )
    if x.replay_capacity < x.batch_size:
        raise ConfigError(
            f"replay_capacity={x.replay_capacity} is smaller than a batch; it must be at least batch_size={x.batch_size}"
        )
    if x.action_layer > len(x.hidden):
        raise ConfigError(
            f"action_layer={x.action_layer} is not allowed; with hidden={'-'.join(map(str, x.hidden))} it must be at most "
            f"{len(x.hidden)}"
        )
    if x.batch_norm and x.layer_norm:
        raise ConfigError("batch_norm=true is not allowed with layer_norm=true; one of them must be false")
    if x.batch_norm and x.batch_size < 2:
        raise ConfigError(f"batch_size={x.batch_size} is not allowed with batch_norm=true; it must be at least 2")
    if x.noise_schedule == "exponential" and not (hyper.noise_sigma > 0 and hyper.noise_sigma_final > 0):
        raise ConfigError(
            f"noise_sigma_final={hyper.noise_sigma_final:g} is not allowed; with noise_schedule=exponential noise_sigma and "
            "noise_sigma_final must be above 0"
        )
    for name, clock, used in (
        ("noise_decay_steps", x.warmup_steps, x.noise_schedule != "constant"),
        ("lr_decay_updates", x.warmup_steps * x.updates_per_step, x.lr_schedule != "constant"),
        ("priority_beta_updates", x.warmup_steps * x.updates_per_step, x.replay == "prioritized"),
    ):
        if used and getattr(hyper, name) <= clock:
            raise ConfigError(
                f"{name}={getattr(hyper, name):g} is not allowed; it counts from the start of the run, and must be more than "
                f"the {clock:g} of the warm-up"
            )
    for name in ("lr_final", "actor_lr", "critic_lr"):
        value = getattr(hyper, name)
        if x.lr_schedule == "exponential" and not value > 0:
            raise ConfigError(f"{name}={value:g} is not allowed; with lr_schedule=exponential it must be above 0")
    if x.exploration == "ou" and hyper.ou_theta * hyper.ou_dt >= 2:
        raise ConfigError(
            f"ou_theta={hyper.ou_theta:g} is not allowed with ou_dt={hyper.ou_dt:g}; their product must be below 2, or else "
            "the noise grows without end"
        )
