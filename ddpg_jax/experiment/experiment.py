"""Declares `Experiment`, a whole run as plain data, and checks it before anything is compiled.

It does not import JAX, because the command line reads it first.
"""

# Annotations are evaluated here, because they contain the declarations.

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment import values
from ddpg_jax.experiment.presets import PRESETS
from ddpg_jax.experiment.validate import updates_of as updates_of
from ddpg_jax.experiment.validate import validate
from ddpg_jax.fields import Field, declared
from ddpg_jax.hyperparams import Hyperparams, collects, noisy, shares_sizes

SCHEDULES = "schedules:SCHEDULES"
SIZES = tuple[int, ...]
WORDS = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Holds the structure of a run; it is hashable and converts to and from JSON. `Hyperparams` holds its numbers.

    A STEP, here and everywhere, is one step of one environment: with 8 environments, a vector step counts as 8. Values in
    steps are rounded up to a multiple of `num_envs`.
    """

    env: Annotated[str, Field("A Gymnasium id, or the name of an environment written in JAX.")] = "Pendulum-v1"
    imports: Annotated[
        WORDS,
        Field(
            "Modules that register environments, networks or other parts, joined by commas. They are imported first, and may "
            "be in the current folder.",
            read=values.names,
            repeated=True,
        ),
    ] = ()
    env_kwargs: Annotated[
        str,
        Field(
            "Keyword arguments of the environment, name=value joined by commas, or JSON; `max_episode_steps` sets the time "
            "limit. If the environment on the device does not accept them, backend=auto uses the host.",
            read=values.keywords,
            repeated=True,
        ),
    ] = "{}"
    wrappers: Annotated[
        WORDS,
        Field(
            "Wrappers of `gymnasium.wrappers`, or module:Wrapper, joined by commas, the innermost first, with keyword "
            "arguments as in 'FrameStackObservation(stack_size=4)'. With any, backend=auto uses the host.",
            read=values.names,
            repeated=True,
        ),
    ] = ()
    backend: Annotated[
        str,
        Field(
            "Where the environment runs: device, host, or auto, which is the device if the environment is written in JAX.",
            choices=("auto", "device", "host"),
        ),
    ] = "auto"
    host_order: Annotated[
        str,
        Field(
            "Order of operations with environments on the host: textbook, or overlapped, which updates while the environment "
            "steps, from the transitions before that step. This is faster if a step takes a millisecond or more. The device "
            "backend always uses the textbook order.",
            choices=("textbook", "overlapped"),
        ),
    ] = "textbook"
    preset: Annotated[
        str,
        Field(
            "Named settings that all other fields start from; on the command line, it may also be a JSON file of fields.",
            table="experiment.presets:PRESETS",
        ),
    ] = "default"
    steps: Annotated[
        int,
        Field(
            "Length of the run, including the warm-up; 0, with `updates`, learns from demonstrations only.",
            also=("total_timesteps", "max_timesteps"),
        ),
    ] = 20_000
    updates: Annotated[
        int, Field("Length of a run with steps=0, in gradient steps, which count as its steps in all results.")
    ] = 0
    demonstrations: Annotated[
        str,
        Field(
            "Transitions to learn from besides the replay: a Minari id or folder, a .npz file, or a run folder.",
            read=values.text,
        ),
    ] = ""
    pretrain_updates: Annotated[int, Field("Gradient steps on the demonstrations before the first step.")] = 0
    q_filter: Annotated[bool, Field("Clone only those demonstrated actions that the critic values more than the actor's.")] = (
        False
    )
    seed: Annotated[int, Field("Seed of every random draw.")] = 0
    num_envs: Annotated[int, Field("Environments stepped side by side.", low=1, also=("n_envs",))] = 1
    updates_per_step: Annotated[
        float,
        Field(
            "Gradient steps per step; a fraction with many environments, or to update every few steps (0.5: every second "
            "step).",
            high=10_000.0,
            read_by=collects,
            also=("gradient_steps", "train_freq"),
        ),
    ] = 1.0
    warmup_steps: Annotated[
        int,
        Field(
            "Steps at the start, with uniform random actions and without learning.",
            low=1,
            read_by=collects,
            also=("learning_starts", "start_steps", "start_timesteps"),
        ),
    ] = 1_000
    batch_size: Annotated[int, Field("Transitions per gradient step.", low=1)] = 64
    replay: Annotated[
        str,
        Field(
            "How transitions are sampled: uniform, prioritized, or a name that a module adds.", table="replay.samplers:REPLAYS"
        ),
    ] = "uniform"
    hindsight: Annotated[
        str,
        Field(
            "Goals that replace the desired ones in some replayed transitions: those that the episode achieved at a later "
            "step (future), at its last step (final) or at any step (episode), or none. It needs an environment with goals.",
            choices=("none",),
            table="replay.hindsight:STRATEGIES",
        ),
    ] = "none"
    replay_capacity: Annotated[
        int,
        Field(
            "Number of transitions that are stored, of all environments together.",
            low=1,
            read_by=collects,
            also=("buffer_size", "replay_size"),
        ),
    ] = 100_000
    n_step: Annotated[int, Field("Number of rewards that are summed before the bootstrap.", low=1, high=100)] = 1
    exploration: Annotated[
        str,
        Field(
            "Noise while collecting: ou, gaussian or pink on the actions, parameter on the actor's parameters, none, or a "
            "name that a module adds.",
            table="exploration:EXPLORERS",
            read_by=collects,
            also=("action_noise",),
        ),
    ] = "ou"
    noise_schedule: Annotated[
        str,
        Field(
            "How the scale of the noise changes: constant, or linear, exponential or cosine to `noise_sigma_final`.",
            table=SCHEDULES,
            read_by=noisy,
        ),
    ] = "constant"
    network: Annotated[
        str,
        Field(
            "Actor and critic: mlp, residual (blocks with LayerNorm), crossq (batch renormalization), two_branch (a critic "
            "with layers for each input), or a name that a module adds.",
            table="agent.networks:NETWORKS",
        ),
    ] = "mlp"
    hidden: Annotated[
        SIZES,
        Field(
            "Sizes of the hidden layers of actor and critic.",
            read=values.sizes,
            read_by=shares_sizes,
            also=("net_arch", "hidden_sizes"),
        ),
    ] = (256, 256)
    actor_hidden: Annotated[
        SIZES, Field("Sizes of the actor's hidden layers, if they differ from `hidden`.", read=values.sizes_if_any)
    ] = ()
    critic_hidden: Annotated[
        SIZES, Field("Sizes of the critic's hidden layers, if they differ from `hidden`.", read=values.sizes_if_any)
    ] = ()
    activation: Annotated[
        str,
        Field(
            "Function between the layers: relu, tanh, elu, gelu, silu, or a name that a module adds.",
            table="agent.layers:ACTIVATIONS",
        ),
    ] = "relu"
    layer_norm: Annotated[bool, Field("Apply LayerNorm to every hidden layer before its activation.")] = False
    batch_norm: Annotated[
        bool,
        Field("Apply BatchNorm to observations, the actor's hidden layers, and the critic's before the action joins."),
    ] = False
    precision: Annotated[
        str,
        Field(
            "Precision of the products in the hidden layers: float32 or bfloat16. Parameters and the last layers are always "
            "float32.",
            table="agent.layers:PRECISIONS",
        ),
    ] = "float32"
    normalize_obs: Annotated[
        bool, Field("Standardize observations by their running mean and deviation, and clip them to +-10.")
    ] = False
    normalize_reward: Annotated[
        bool,
        Field(
            "Divide rewards by their running root mean square, and clip them to +-10 (other implementations divide by the "
            "deviation of returns)."
        ),
    ] = False
    action_layer: Annotated[int, Field("The layer of the critic whose input the action joins; 0 is the first.")] = 0
    critic: Annotated[
        str,
        Field(
            "What the critic predicts: the mean of the return (scalar), or its distribution (categorical, quantile, or a name "
            "that a module adds).",
            choices=("scalar",),
            table="agent.heads:HEADS",
        ),
    ] = "scalar"
    num_atoms: Annotated[
        int,
        Field(
            "Atoms or quantiles of a distributional critic.",
            low=2,
            high=10_000,
            read_by=lambda x: x.critic != "scalar",
            also=("n_atoms", "n_quantiles"),
        ),
    ] = 51
    td_loss: Annotated[
        str,
        Field(
            "The critic's loss of a TD error: squared, huber, or a name that a module adds. If `huber_delta` is set, squared "
            "means huber.",
            table="agent.losses:TD_LOSSES",
        ),
    ] = "squared"
    targets: Annotated[
        str,
        Field(
            "Where the values of next states come from: slow (target networks), or joint (the same forward pass as those of "
            "states, without target networks, as in CrossQ).",
            table="agent.targets:TARGETS",
        ),
    ] = "slow"
    num_critics: Annotated[
        int, Field("Number of critics; the target uses the smallest of their values.", low=1, high=100, also=("n_critics",))
    ] = 1
    policy_delay: Annotated[
        int,
        Field("Updates of the critic for each update of the actor.", low=1, also=("policy_freq", "policy_frequency")),
    ] = 1
    init: Annotated[
        str,
        Field(
            "Uniform initialization: +-1/sqrt(fan-in) in all layers (fan_in), or +-3e-3 in the last ones (paper).",
            table="agent.layers:INITS",
        ),
    ] = "paper"
    lr_schedule: Annotated[
        str,
        Field(
            "How the learning rates change: constant, or linear, exponential or cosine to the fraction `lr_final`.",
            table=SCHEDULES,
        ),
    ] = "constant"
    placement: Annotated[
        str,
        Field(
            "How the members of a sweep share a device: map (one after the other), vmap, or auto (map on a CPU, else vmap).",
            choices=("auto", "map", "vmap"),
        ),
    ] = "auto"
    eval_every: Annotated[
        int,
        Field(
            "Steps between evaluations; there is always an evaluation at the end.", low=1, also=("eval_freq", "log_interval")
        ),
    ] = 1_000
    eval_episodes: Annotated[
        int,
        Field(
            "Episodes of one evaluation, without noise; 0 for none: the returns of training are then the result.",
            low=0,
            high=100_000,
        ),
    ] = 10
    eval_env: Annotated[
        str,
        Field(
            "Environments of evaluations: own, or shared, if only one copy may exist. Evaluation episodes are then played in "
            "the training environment, one after the other; its running episode is cut off first, as at a time limit.",
            choices=("own", "shared"),
        ),
    ] = "own"
    diagnostics: Annotated[
        bool,
        Field(
            "Also report gradient norms, the share of saturated actions, quantiles of the absolute TD errors and the mean age "
            "of the replayed transitions, as columns of metrics.csv."
        ),
    ] = False
    parts: WORDS = ()
    """The optional parts in use, named after their fields in `Hyperparams`. They follow from the values: see `Field.off`."""


FIELDS: dict[str, Field] = {**declared(Experiment), **declared(Hyperparams)}
"""Maps the names of all fields to their declarations."""
STRUCTURE = {field.name: field.default for field in dataclasses.fields(Experiment) if field.name in FIELDS}
"""Maps the fields of `Experiment` to their defaults."""
NUMBERS: dict[str, float] = Hyperparams()._asdict()
"""Maps the fields of `Hyperparams` to their defaults."""
SWITCHES: dict[str, float] = {name: field.off for name, field in FIELDS.items() if field.off is not None}
"""Maps the fields of `Hyperparams` that switch a part on to the values at which the part does nothing."""


def reads(experiment: Experiment, name: str) -> bool:
    """Returns True if an experiment reads a field. A sweep over a field that it does not read would have equal members."""
    return FIELDS[name].is_read(experiment)


def configure(fields: Mapping[str, Any]) -> tuple[Experiment, Hyperparams]:
    """Makes the experiment that these fields describe, starting from the preset that they name, and checks it.

    Args:
        fields: maps fields of `Experiment` and `Hyperparams` to values of their types or as text.

    Raises:
        ConfigError: a field is not known, or its value or a combination of values is not allowed.

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


def nearest_fields(word: str) -> Sequence[str]:
    """Returns the fields that an unknown word may stand for, by their names in other systems or else by their spelling.

    >>> nearest_fields("buffer_size"), nearest_fields("warmup")
    (['replay_capacity'], ['warmup_steps'])
    """
    return [name for name, field in FIELDS.items() if word in field.also] or difflib.get_close_matches(
        word, FIELDS, n=3, cutoff=0.5
    )


def coerce(name: str, value: Any) -> Any:
    """Converts a value, which may be text, to the type of a field, and checks its range.

    Raises:
        ConfigError: the field is not known, or the value is not allowed.

    >>> from ddpg_jax.experiment.experiment import coerce
    >>> coerce("hidden", "400-300"), coerce("layer_norm", "true"), coerce("steps", "2e4")
    ((400, 300), True, 20000)
    """
    if name not in FIELDS:
        close = nearest_fields(str(name))
        raise ConfigError(
            f"{name} is not a field; {'the nearest are' if close else 'the fields are'} {', '.join(close or FIELDS)}"
        )
    field, default = FIELDS[name], {**STRUCTURE, **NUMBERS}[name]
    if field.read is not None:
        return field.read(name, value)
    if field.choices or field.table:
        return values.choice(name, value, field.allowed())
    if isinstance(default, bool):
        return values.boolean(name, value)
    if isinstance(default, int) or field.whole:
        high = values.INT32_MAX if field.high == math.inf else int(field.high)
        return type(default)(values.integer(name, value, low=int(field.low), high=high))
    if isinstance(default, float):
        return values.number(name, value, low=field.low, high=field.high)
    return values.word(name, value)
