"""Declares the numbers of a run. It imports nothing heavy, as the command line reads it before anything else."""

# Annotations are evaluated here, as they hold the declarations.

import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from ddpg_jax.fields import Field

if TYPE_CHECKING:
    import jax

    Scalar: TypeAlias = jax.Array | float  # a number, or a traced scalar instead
else:
    Scalar = Any


def collects(x: Any) -> bool:
    """Returns True if an experiment takes steps, and does not learn from demonstrations only."""
    return x.steps > 0


def noisy(x: Any) -> bool:
    """Returns True if an experiment takes steps with noise."""
    return collects(x) and x.exploration != "none"


def shares_sizes(x: Any) -> bool:
    """Returns True if an experiment uses the sizes of layers that are not those of the actor or of the critic alone."""
    apart = x.actor_hidden and x.critic_hidden
    return not apart or x.network not in ("mlp", "residual", "crossq", "two_branch")  # networks of one's own may read them


def _noise_changes(x: Any) -> bool:
    return noisy(x) and x.noise_schedule != "constant"


def _ou(x: Any) -> bool:
    return collects(x) and x.exploration not in ("gaussian", "pink", "parameter", "none")  # parts of one's own may read it


def _rates_change(x: Any) -> bool:
    return x.lr_schedule != "constant"


def _prioritized(x: Any) -> bool:
    return x.replay != "uniform"


def _atoms(x: Any) -> bool:
    return x.critic not in ("scalar", "quantile")


def _mixed(x: Any) -> bool:
    return bool(x.demonstrations) and collects(x)


def _target_networks(x: Any) -> bool:
    return x.targets != "joint"


class Hyperparams(NamedTuple):
    """Holds the numbers of a run. They are always traced and always an explicit argument, so a new value never recompiles."""

    actor_lr: Annotated[Scalar, Field("Step size of the actor's Adam.", also=("lr", "learning_rate", "pi_lr", "policy_lr"))] = (
        1e-4
    )
    critic_lr: Annotated[Scalar, Field("Step size of the critic's Adam.", also=("lr", "learning_rate", "q_lr"))] = 1e-3
    gamma: Annotated[Scalar, Field("Discount of one environment step.", high=1.0, also=("discount",))] = 0.99
    tau: Annotated[
        Scalar,
        Field(
            "Rate of the soft update, target <- tau * online + (1 - tau) * target.",
            high=1.0,
            read_by=_target_networks,
            also=("polyak",),
        ),
    ] = 0.005
    noise_sigma: Annotated[
        Scalar,
        Field(
            "Scale of the exploration noise, in units of the action range [-1, 1]. For Ornstein-Uhlenbeck noise it is the "
            "scale of one step; in the long run, that noise has a deviation of sigma / sqrt(theta * (2 - theta * dt)), 0.38 by "
            "default.",
            read_by=noisy,
            also=("expl_noise", "exploration_noise", "act_noise", "action_noise"),
        ),
    ] = 0.2
    noise_sigma_final: Annotated[Scalar, Field("Scale that a `noise_schedule` ends at.", read_by=_noise_changes)] = 0.02
    noise_decay_steps: Annotated[
        Scalar,
        Field(
            "Environment steps, including the warm-up, in which the schedule goes from `noise_sigma` to `noise_sigma_final`.",
            low=1.0,
            read_by=_noise_changes,
        ),
    ] = 20_000.0
    noise_spread: Annotated[
        Scalar,
        Field(
            "Spread of the noise scales over the environments of a run, from 1 - spread to 1 + spread times `noise_sigma`.",
            high=0.999,
            off=0.0,
            read_by=lambda x: noisy(x) and x.num_envs > 1,
        ),
    ] = 0.0
    ou_theta: Annotated[Scalar, Field("Ornstein-Uhlenbeck: rate of return to the mean.", read_by=_ou)] = 0.15
    ou_dt: Annotated[Scalar, Field("Ornstein-Uhlenbeck: length of one step.", low=1e-6, read_by=_ou)] = 1.0
    epsilon_uniform: Annotated[
        Scalar,
        Field("Probability that an action is replaced by a uniform random one.", high=1.0, off=0.0, read_by=collects),
    ] = 0.0
    action_smoothing: Annotated[
        Scalar,
        Field("Weight of the previous action in the action that is taken.", high=0.999, off=0.0, read_by=collects),
    ] = 0.0
    target_noise: Annotated[
        Scalar, Field("Scale of the noise on the target's action: target policy smoothing (Fujimoto et al. 2018).", off=0.0)
    ] = 0.0
    target_noise_clip: Annotated[
        Scalar, Field("Bound of the noise on the target's action.", read_by=lambda x: "target_noise" in x.parts)
    ] = 0.5
    sync_period: Annotated[
        Scalar,
        Field(
            "Number of updates from one update of the targets to the next; with tau=1, the targets are copied.",
            low=1,
            high=2**24,
            whole=True,
            off=1.0,
            read_by=_target_networks,
        ),
    ] = 1.0
    huber_delta: Annotated[
        Scalar, Field("TD error above which the critic's loss grows linearly; 0 squares all errors.", off=0.0)
    ] = 0.0
    critic_l2: Annotated[Scalar, Field("Weight of the critic's squared weights, without biases, in its loss.", off=0.0)] = 0.0
    q_l2: Annotated[Scalar, Field("Weight of the squared values in the critic's loss.", off=0.0)] = 0.0
    action_penalty: Annotated[Scalar, Field("Weight of the squared outputs before the tanh in the actor's loss.", off=0.0)] = (
        0.0
    )
    actor_clip: Annotated[Scalar, Field("Largest norm of the actor's gradient; 0 is no limit.", off=0.0)] = 0.0
    critic_clip: Annotated[Scalar, Field("Largest norm of the critic's gradient; 0 is no limit.", off=0.0)] = 0.0
    actor_decay: Annotated[
        Scalar,
        Field(
            "Decoupled weight decay of the actor (AdamW): a step subtracts learning rate * decay of each parameter, biases "
            "included.",
            off=0.0,
        ),
    ] = 0.0
    critic_decay: Annotated[Scalar, Field("Decoupled weight decay of the critic (AdamW), as `actor_decay`.", off=0.0)] = 0.0
    lr_final: Annotated[
        Scalar, Field("Fraction of the learning rates that an `lr_schedule` ends at.", high=1.0, read_by=_rates_change)
    ] = 0.1
    lr_decay_updates: Annotated[
        Scalar,
        Field("Updates until `lr_final`, counted as if the warm-up had updates, too.", low=1.0, read_by=_rates_change),
    ] = 100_000.0
    reward_scale: Annotated[
        Scalar, Field("Factor on the rewards that the critic learns from.", low=1e-12, high=math.inf, off=1.0)
    ] = 1.0
    priority_alpha: Annotated[
        Scalar,
        Field("Prioritized replay: exponent of the priorities; 0 is uniform.", high=1.0, read_by=_prioritized),
    ] = 0.6
    priority_beta: Annotated[
        Scalar,
        Field("Prioritized replay: exponent of the importance weights at the start.", high=1.0, read_by=_prioritized),
    ] = 0.4
    priority_beta_final: Annotated[
        Scalar,
        Field("Prioritized replay: exponent of the importance weights at the end.", high=1.0, read_by=_prioritized),
    ] = 1.0
    priority_beta_updates: Annotated[
        Scalar,
        Field(
            "Prioritized replay: updates until `priority_beta_final`, counted as if the warm-up had updates, too.",
            low=1.0,
            read_by=_prioritized,
        ),
    ] = 100_000.0
    priority_epsilon: Annotated[
        Scalar,
        Field(
            "Prioritized replay: added to every |TD error|, so that each transition keeps a chance to be drawn.",
            low=1e-12,
            read_by=_prioritized,
        ),
    ] = 1e-6
    hindsight_k: Annotated[
        Scalar,
        Field(
            "Hindsight: relabelled transitions for each that keeps its goal.",
            high=2**24,
            read_by=lambda x: x.hindsight != "none",
        ),
    ] = 4.0
    demo_fraction: Annotated[
        Scalar, Field("Share of each batch that is drawn from the `demonstrations`; 0 for none.", high=1.0, read_by=_mixed)
    ] = 0.5
    bc_weight: Annotated[
        Scalar,
        Field(
            "Behaviour cloning: weight of the mean squared distance to the actions of `demonstrations` in the actor's loss.",
            off=0.0,
        ),
    ] = 0.0
    bc_alpha: Annotated[
        Scalar,
        Field(
            "TD3+BC's alpha: multiplies the values in the actor's loss, after division by the mean of their magnitudes; 0 "
            "leaves them as they are.",
            off=0.0,
            also=("alpha",),
        ),
    ] = 0.0
    value_min: Annotated[
        Scalar, Field("Categorical critic: the smallest return that it can predict.", low=-3e38, high=3e38, read_by=_atoms)
    ] = -150.0
    value_max: Annotated[
        Scalar, Field("Categorical critic: the largest return that it can predict.", low=-3e38, high=3e38, read_by=_atoms)
    ] = 150.0
    atom_sigma: Annotated[
        Scalar,
        Field(
            "Categorical critic: deviation, in distances of atoms, of a Gaussian target around the scalar one (HL-Gauss); 0 "
            "projects the distribution of the next state (C51).",
            high=1_000.0,
            read_by=_atoms,
        ),
    ] = 0.0
