"""Checks combinations of fields, before anything is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.values import FLOAT32_MAX, plain
from ddpg_jax.fields import declared
from ddpg_jax.hyperparams import Hyperparams, collects

if TYPE_CHECKING:
    from ddpg_jax.experiment.experiment import Experiment

MOST_UPDATES = 2**31 - 1
"""Upper bound on the number of updates of a run."""
FLOAT32_STEPS = 2**20
"""Equal steps into which float32 can divide a range as long as its larger end's distance from 0, with some bits to spare."""
_NUMBERS = declared(Hyperparams)


def updates_of(experiment: Experiment) -> tuple[int, int]:
    """Returns the number of updates at a time, and the number of vector steps between those times; one of them is 1.

    >>> from ddpg_jax.experiment.experiment import Experiment
    >>> updates_of(Experiment(updates_per_step=0.5)), updates_of(Experiment(updates_per_step=0.5, num_envs=8))
    ((1, 2), (4, 1))
    """
    updates = experiment.num_envs * experiment.updates_per_step
    return (round(updates), 1) if updates >= 1 else (1, round(1 / max(updates, 1e-9)))


def layer_sizes(experiment: Experiment) -> tuple[int, ...]:
    """Returns the sizes of the hidden layers of actor or critic, whichever has the larger sum."""
    x = experiment
    return max(x.actor_hidden or x.hidden, x.critic_hidden or x.hidden, key=sum)


def validate(experiment: Experiment, hyper: Hyperparams) -> None:
    """Checks combinations of fields; the fields themselves were checked by `coerce`.

    Raises:
        ConfigError: the combination cannot be trained.
    """
    _check_length(experiment)
    _check_counts(experiment)
    _check_networks(experiment, hyper)
    if experiment.q_filter and "bc_weight" not in experiment.parts:
        raise ConfigError("q_filter=true is not allowed with bc_weight=0, which clones nothing; set bc_weight above 0")
    _check_numbers(experiment, hyper)


def is_offline(experiment: Experiment) -> bool:
    """Returns True for a run without steps, which learns from demonstrations only."""
    return not collects(experiment)


def check_demonstrations(x: Experiment) -> None:
    """Checks that demonstrations are given if anything needs them. Presets may leave them open, so `validate` does not ask.

    Raises:
        ConfigError: they are missing.
    """
    needed = {
        "steps=0": is_offline(x),
        f"pretrain_updates={x.pretrain_updates}": x.pretrain_updates > 0,
        "bc_weight": "bc_weight" in x.parts,
    }
    asked = next((name for name, needs in needed.items() if needs), None)
    if asked and not x.demonstrations:
        raise ConfigError(f"{asked} needs demonstrations; give a Minari id or folder, a .npz file, or a run folder")


def _check_length(x: Experiment) -> None:
    if is_offline(x) != (x.updates > 0):
        raise ConfigError(f"updates={x.updates} is not allowed with steps={x.steps}; exactly one of them must be above 0")
    if not is_offline(x):
        return
    for name, default in (("num_envs", 1), ("pretrain_updates", 0), ("replay", "uniform")):
        if getattr(x, name) != default:
            raise ConfigError(
                f"{name}={getattr(x, name)} is not allowed with steps=0, which learns from demonstrations only; it must be "
                f"{default}"
            )


def _check_counts(x: Experiment) -> None:
    if is_offline(x):
        return
    vector_warmup = -(-x.warmup_steps // x.num_envs) * x.num_envs
    updates = x.num_envs * x.updates_per_step
    found = updates_of(x)
    if abs(updates - found[0] / found[1]) > 1e-6 * updates or not updates:
        raise ConfigError(
            f"updates_per_step={x.updates_per_step} with num_envs={x.num_envs} makes {updates:g} updates per vector step; it "
            "must be a whole number or the inverse of one"
        )
    if (x.steps + x.num_envs) * x.updates_per_step > MOST_UPDATES:
        raise ConfigError(
            f"updates_per_step={x.updates_per_step} makes {x.steps * x.updates_per_step:.2g} updates in steps={x.steps}; there "
            f"can be at most {MOST_UPDATES:,}, which is as far as int32 counts"
        )
    if x.batch_size > vector_warmup:
        raise ConfigError(
            f"batch_size={x.batch_size} is more than the {vector_warmup} steps that the warm-up takes; lower it, or raise "
            f"warmup_steps={x.warmup_steps}"
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


def _check_networks(x: Experiment, hyper: Hyperparams) -> None:
    name, sizes = ("critic_hidden", x.critic_hidden) if x.critic_hidden else ("hidden", x.hidden)
    if x.action_layer > len(sizes):
        raise ConfigError(
            f"action_layer={x.action_layer} is not allowed; with {name}={plain(sizes)} it must be at most {len(sizes)}"
        )
    if x.critic != "scalar":
        for name, value, default in (("td_loss", x.td_loss, "squared"), ("huber_delta", hyper.huber_delta, 0.0)):
            if value != default:
                raise ConfigError(
                    f"{name}={value} is not allowed with critic={x.critic}, whose loss is its own; it must be {default}"
                )
    defaults = Hyperparams()
    for name in ("tau", "sync_period"):
        if x.targets == "joint" and getattr(hyper, name) != getattr(defaults, name):
            raise ConfigError(
                f"{name}={getattr(hyper, name):g} is not allowed with targets=joint, which has no target networks; it must "
                f"be {getattr(defaults, name):g}"
            )
    if _NUMBERS["value_min"].is_read(x):
        _check_atoms(x, float(hyper.value_min), float(hyper.value_max))
    if x.batch_norm and x.layer_norm:
        raise ConfigError("batch_norm=true is not allowed with layer_norm=true; one of them must be false")
    if x.batch_size < 2 and (x.batch_norm or x.network == "crossq"):  # the deviation of one row is 0
        by = "batch_norm=true" if x.batch_norm else "network=crossq"
        raise ConfigError(f"batch_size={x.batch_size} is not allowed with {by}; it must be at least 2")


def _check_atoms(x: Experiment, low: float, high: float) -> None:
    """Checks that the atoms of a categorical critic differ in float32."""
    if not low < high:
        raise ConfigError(f"value_min={low:g} is not allowed; it must be below value_max={high:g}")
    length, largest = high - low, max(abs(low), abs(high))
    if length > FLOAT32_MAX or length / (x.num_atoms - 1) < largest / FLOAT32_STEPS:
        raise ConfigError(
            f"value_max={high:g} is not allowed with value_min={low:g}, between which float32 does not have num_atoms="
            f"{x.num_atoms} values at equal distances; choose other bounds, or lower num_atoms"
        )


def _check_numbers(x: Experiment, hyper: Hyperparams) -> None:
    changes = _NUMBERS["noise_sigma_final"].is_read(x)
    if changes and x.noise_schedule == "exponential" and not (hyper.noise_sigma > 0 and hyper.noise_sigma_final > 0):
        raise ConfigError(
            f"noise_sigma_final={hyper.noise_sigma_final:g} is not allowed; with noise_schedule=exponential, noise_sigma and "
            "noise_sigma_final must be above 0"
        )
    warmup = 0 if is_offline(x) else x.warmup_steps
    for name, clock, used in (
        ("noise_decay_steps", warmup, changes),
        ("lr_decay_updates", warmup * x.updates_per_step, x.lr_schedule != "constant"),
        ("priority_beta_updates", warmup * x.updates_per_step, x.replay == "prioritized"),
    ):
        if used and getattr(hyper, name) <= clock:
            raise ConfigError(
                f"{name}={getattr(hyper, name):g} is not allowed; it counts from the start of the run, so it must be more than "
                f"the {clock:g} of the warm-up"
            )
    for name in ("lr_final", "actor_lr", "critic_lr"):
        value = getattr(hyper, name)
        if x.lr_schedule == "exponential" and not value > 0:
            raise ConfigError(f"{name}={value:g} is not allowed; with lr_schedule=exponential, it must be above 0")
    if x.exploration == "ou" and hyper.ou_theta * hyper.ou_dt >= 2:
        raise ConfigError(
            f"ou_theta={hyper.ou_theta:g} is not allowed with ou_dt={hyper.ou_dt:g}; their product must be below 2, "
            "or the noise would grow without bound"
        )
