"""Declares `Experiment`, a whole run as plain data, and checks it before anything is compiled.

It imports nothing heavy, as the command line reads it before anything else.
"""

# Annotations are evaluated here, as they hold the declarations.

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment import values
from ddpg_jax.experiment.presets import PRESETS
from ddpg_jax.fields import Field, declared
from ddpg_jax.hyperparams import Hyperparams

SCHEDULES = "schedules:SCHEDULES"
SIZES = tuple[int, ...]
WORDS = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Holds the structure of a run: plain, hashable, JSON both ways. The numbers to sweep over are in `Hyperparams`.

    A STEP, here and everywhere, is one step of one environment: with 8 environments a vector step counts as 8. Settings in
    steps that are not a multiple of `num_envs` are rounded up to one.
    """

    env: Annotated[str, Field("A Gymnasium id, or the name of an environment written in JAX.")] = "Pendulum-v1"
    imports: Annotated[
        WORDS,
        Field(
            "Modules that register environments, networks or other parts, joined by commas. They are imported first, from the "
            "current folder too.",
            read=values.names,
            repeated=True,
        ),
    ] = ()
    env_kwargs: Annotated[
        str,
        Field(
            "Keyword arguments of the environment, name=value joined by commas, or JSON; `max_episode_steps` sets the time "
            "limit. Where the twin on the device does not take them, backend=auto takes the host.",
            read=values.keywords,
            repeated=True,
        ),
    ] = "{}"
    wrappers: Annotated[
        WORDS,
        Field(
            "Wrappers of `gymnasium.wrappers`, or module:Wrapper, joined by commas, the innermost first, with keyword "
            "arguments as in 'FrameStackObservation(stack_size=4)'. With any, backend=auto takes the host.",
            read=values.names,
            repeated=True,
        ),
    ] = ()
    backend: Annotated[
        str,
        Field(
            "Where the environment runs: device, host, or auto, which takes the device if the environment is written in JAX.",
            choices=("auto", "device", "host"),
        ),
    ] = "auto"
    host_order: Annotated[
        str,
        Field(
            "Order of operations with environments on the host: textbook, or overlapped, which updates while the environment "
            "steps, from the transitions before that step. It pays where a step takes a millisecond or more. The device "
            "backend always keeps the order of the textbook.",
            choices=("textbook", "overlapped"),
        ),
    ] = "textbook"
    preset: Annotated[
        str,
        Field(
            "Name of the values that all other fields start from; on the command line also a JSON file of them.",
            table="experiment.presets:PRESETS",
        ),
    ] = "default"
    steps: Annotated[
        int, Field("Length of the run, including the warm-up.", low=1, also=("total_timesteps", "max_timesteps"))
    ] = 20_000
    seed: Annotated[int, Field("Seed of every random draw.")] = 0
    num_envs: Annotated[int, Field("Environments stepped side by side.", low=1, also=("n_envs",))] = 1
    updates_per_step: Annotated[
        float,
        Field(
            "Gradient steps for each step; a fraction with many environments, or to update every few steps (0.5: every other).",
            high=10_000.0,
            also=("gradient_steps", "train_freq"),
        ),
    ] = 1.0
    warmup_steps: Annotated[
        int,
        Field(
            "First steps, with uniform random actions and without learning.",
            low=1,
            also=("learning_starts", "start_steps", "start_timesteps"),
        ),
    ] = 1_000
    batch_size: Annotated[int, Field("Transitions of one gradient step.", low=1)] = 64
    replay: Annotated[
        str,
        Field(
            "How transitions are drawn: uniform, prioritized, or a name that a module adds.", table="replay.samplers:REPLAYS"
        ),
    ] = "uniform"
    hindsight: Annotated[
        str,
        Field(
            "Goals to learn again from transitions with: those that their episode achieved at a later step (future), at the "
            "last one (final) or at any (episode), or none. For environments with goals.",
            choices=("none",),
            table="replay.hindsight:STRATEGIES",
        ),
    ] = "none"
    replay_capacity: Annotated[
        int, Field("Transitions that are kept, over all environments.", low=1, also=("buffer_size", "replay_size"))
    ] = 100_000
    n_step: Annotated[int, Field("Rewards summed before the bootstrap.", low=1, high=100)] = 1
    exploration: Annotated[
        str,
        Field(
            "Noise while collecting: ou or gaussian on the actions, parameter on the parameters of the actor, none, or a name "
            "that a module adds.",
            table="exploration:EXPLORERS",
            also=("action_noise",),
        ),
    ] = "ou"
    noise_schedule: Annotated[
        str,
        Field(
            "How the scale of the noise changes: constant, or linear, exponential or cosine to `noise_sigma_final`.",
            table=SCHEDULES,
        ),
    ] = "constant"
    network: Annotated[
        str,
        Field(
            "Actor and critic: mlp, two_branch (the critic begins with layers for each input), or a name that a module adds.",
            table="agent.networks:NETWORKS",
        ),
    ] = "mlp"
    hidden: Annotated[
        SIZES, Field("Sizes of the hidden layers of actor and critic.", read=values.sizes, also=("net_arch", "hidden_sizes"))
    ] = (256, 256)
    activation: Annotated[
        str,
        Field(
            "Function between the layers: relu, tanh, elu, gelu, silu, or a name that a module adds.",
            table="agent.layers:ACTIVATIONS",
        ),
    ] = "relu"
    layer_norm: Annotated[bool, Field("Normalize every hidden layer before its activation.")] = False
    batch_norm: Annotated[
        bool,
        Field("Normalize by the batch: observations, the actor's hidden layers and the critic's before the action joins."),
    ] = False
    precision: Annotated[
        str,
        Field(
            "Precision of the products in the hidden layers: float32 or bfloat16. What is kept, and what the last layer gives, "
            "is float32.",
            table="agent.layers:PRECISIONS",
        ),
    ] = "float32"
    normalize_obs: Annotated[
        bool, Field("Subtract the running mean of the observations and divide by their running deviation.")
    ] = False
    normalize_reward: Annotated[
        bool,
        Field("Divide rewards by the running root mean square of single ones (others divide by the deviation of returns)."),
    ] = False
    action_layer: Annotated[int, Field("The layer of the critic whose input the action joins; 0 is the first.")] = 0
    td_loss: Annotated[
        str,
        Field(
            "The critic's loss of a TD error: squared, huber, or a name that a module adds. With a `huber_delta`, squared is "
            "huber.",
            table="agent.losses:TD_LOSSES",
        ),
    ] = "squared"
    num_critics: Annotated[
        int, Field("Critics; the target takes the smallest of their values.", low=1, high=100, also=("n_critics",))
    ] = 1
    policy_delay: Annotated[
        int,
        Field("Updates of the critic for each update of the actor.", low=1, also=("policy_freq", "policy_frequency")),
    ] = 1
    init: Annotated[
        str,
        Field(
            "How the networks start: all layers in +-1/sqrt(fan-in), except the last in +-3e-3 (paper), or all (fan_in).",
            table="agent.layers:INITS",
        ),
    ] = "paper"
    lr_schedule: Annotated[
        str,
        Field(
            "How the learning rates change: constant, or linear, exponential or cosine to `lr_final` times themselves.",
            table=SCHEDULES,
        ),
    ] = "constant"
    placement: Annotated[
        str,
        Field(
            "How the members of a sweep share a device: map, one after the other, vmap, or auto: map on a CPU, vmap elsewhere.",
            choices=("auto", "map", "vmap"),
        ),
    ] = "auto"
    eval_every: Annotated[
        int,
        Field("Steps between evaluations; there is always one at the end.", low=1, also=("eval_freq", "log_interval")),
    ] = 1_000
    eval_episodes: Annotated[
        int,
        Field(
            "Episodes of one evaluation, without noise; 0 for none, and the returns of training are the result.",
            low=0,
            high=100_000,
        ),
    ] = 10
    eval_env: Annotated[
        str,
        Field(
            "Environments of evaluations: own, or shared, if only one copy may exist. They are then played in the training "
            "environment, one after the other, whose running episode is cut off before, as at a time limit.",
            choices=("own", "shared"),
        ),
    ] = "own"
    diagnostics: Annotated[
        bool,
        Field(
            "Also report gradient norms, the share of saturated actions, quantiles of the TD errors and the mean age of the "
            "replayed transitions, as columns of metrics.csv."
        ),
    ] = False
    parts: WORDS = ()
    """The optional parts in use, named after their number in `Hyperparams`. They are found, not set: see `Field.off`."""


FIELDS: dict[str, Field] = {**declared(Experiment), **declared(Hyperparams)}
"""All declarations, by name."""
STRUCTURE = {field.name: field.default for field in dataclasses.fields(Experiment) if field.name in FIELDS}
"""The defaults of the fields of `Experiment`."""
NUMBERS: dict[str, float] = Hyperparams()._asdict()
"""The defaults of the fields of `Hyperparams`."""
SWITCHES: dict[str, float] = {name: field.off for name, field in FIELDS.items() if field.off is not None}
"""Maps the numbers that switch a part on to their values at which it does nothing."""


def reads(experiment: Experiment, name: str) -> bool:
    """Returns whether an experiment reads a field. To sweep over one that it does not read would make equal members."""
    read_by = FIELDS[name].read_by
    return read_by is None or read_by(experiment)


def configure(fields: Mapping[str, Any]) -> tuple[Experiment, Hyperparams]:
    """Returns the experiment that these fields describe, on top of the preset that they name, checked.

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
    chosen = {**{name: coerce(name, value) for name, value in preset.values.items()}, **given}
    hyper = Hyperparams(**{name: value for name, value in chosen.items() if name in NUMBERS})
    parts = tuple(name for name, off in SWITCHES.items() if getattr(hyper, name) != off)
    experiment = Experiment(**{name: value for name, value in chosen.items() if name in STRUCTURE}, parts=parts)
    validate(experiment, hyper)
    return experiment, hyper


def near(word: str) -> Sequence[str]:
    """Returns the fields that an unknown word may stand for: by what other systems call them, or else by their spelling.

    >>> near("buffer_size"), near("warmup")
    (['replay_capacity'], ['warmup_steps'])
    """
    return [name for name, field in FIELDS.items() if word in field.also] or difflib.get_close_matches(
        word, FIELDS, n=3, cutoff=0.5
    )


def coerce(name: str, value: Any) -> Any:
    """Returns a field's value, which may be given as text, in the field's type and range.

    Raises:
        ConfigError: an unknown field, or a value that is not allowed.

    >>> from ddpg_jax.experiment.experiment import coerce
    >>> coerce("hidden", "400-300"), coerce("layer_norm", "true"), coerce("steps", "2e4")
    ((400, 300), True, 20000)
    """
    if name not in FIELDS:
        close = near(str(name))
        raise ConfigError(f"{name} is no field; {'nearest are' if close else 'fields are'} {', '.join(close or FIELDS)}")
    field, default = FIELDS[name], {**STRUCTURE, **NUMBERS}[name]
    if field.read is not None:
        return field.read(name, value)
    if field.choices or field.table:
        return values.choice(name, value, field.allowed())
    if isinstance(default, bool):
        return values.boolean(name, value)
    if isinstance(default, int) or field.whole:
        high = values.LONGEST if field.high == math.inf else int(field.high)
        return type(default)(values.integer(name, value, low=int(field.low), high=high))
    if isinstance(default, float):
        return values.number(name, value, low=field.low, high=field.high)
    return values.word(name, value)


def updates_of(experiment: Experiment) -> tuple[int, int]:
    """Returns how many updates are made at a time, and after how many vector steps each time; one of the two is 1.

    >>> updates_of(Experiment(updates_per_step=0.5)), updates_of(Experiment(updates_per_step=0.5, num_envs=8))
    ((1, 2), (4, 1))
    """
    updates = experiment.num_envs * experiment.updates_per_step
    return (round(updates), 1) if updates >= 1 else (1, round(1 / max(updates, 1e-9)))


def validate(experiment: Experiment, hyper: Hyperparams) -> None:
    """Checks combinations of fields; the fields themselves were checked by `coerce`.

    Raises:
        ConfigError: a combination that cannot be trained.
    """
    x = experiment
    vector_warmup = -(-x.warmup_steps // x.num_envs) * x.num_envs
    updates = x.num_envs * x.updates_per_step
    found = updates_of(x)
    if abs(updates - found[0] / found[1]) > 1e-6 * updates or not updates:
        raise ConfigError(
            f"updates_per_step={x.updates_per_step} with num_envs={x.num_envs} makes {updates:g} updates per vector step; it "
            "must be a whole number, or 1 divided by one"
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
