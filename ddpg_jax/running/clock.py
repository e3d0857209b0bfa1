"""Converts between iterations, the clock of a program, and steps, which users see.

The first iterations of a run are updates on demonstrations, if there are any; all others are vector steps. In a run that has
nothing but updates, these count as its steps.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.experiment.validate import is_offline, updates_of


def offline_iterations(experiment: Experiment) -> int:
    """Returns the updates on demonstrations at the beginning, each of which is an iteration."""
    return experiment.updates if is_offline(experiment) else experiment.pretrain_updates


def warmup_iterations(experiment: Experiment) -> int:
    """Returns the iterations before learning from the replay begins: those on demonstrations, and the warm-up."""
    warmup = 0 if is_offline(experiment) else experiment.warmup_steps
    return offline_iterations(experiment) + -(-warmup // experiment.num_envs)


def total_iterations(experiment: Experiment) -> int:
    """Returns the iterations of the whole run."""
    return offline_iterations(experiment) + -(-experiment.steps // experiment.num_envs)


def phase_at(experiment: Experiment, iteration: int) -> str:
    """Returns what an iteration does: `offline`, `fill` or `learn`, the name of a function of `Training`.

    >>> x = Experiment(pretrain_updates=5, warmup_steps=10)
    >>> phase_at(x, 4), phase_at(x, 14), phase_at(x, 15)
    ('offline', 'fill', 'learn')
    """
    if iteration < offline_iterations(experiment):
        return "offline"
    return "fill" if iteration < warmup_iterations(experiment) else "learn"


def learns(experiment: Experiment) -> bool:
    """Returns True unless a run ends before its first update, as in its warm-up.

    >>> [learns(Experiment(steps=steps, updates_per_step=0.01)) for steps in (900, 1_099, 1_100)]
    [False, False, True]
    """
    if offline_iterations(experiment) > 0:
        return True
    _, interval = updates_of(experiment)
    return total_iterations(experiment) // interval > warmup_iterations(experiment) // interval


def origin(experiment: Experiment) -> int:
    """Returns the iteration at which steps are counted from 0."""
    return 0 if is_offline(experiment) else experiment.pretrain_updates


def step_at(experiment: Experiment, iteration: int) -> int:
    """Returns the steps of each member after so many iterations.

    >>> step_at(Experiment(num_envs=4, pretrain_updates=100), 103), step_at(Experiment(steps=0, updates=5), 3)
    (12, 3)
    """
    return max(iteration - origin(experiment), 0) * experiment.num_envs


def evaluation_interval(experiment: Experiment) -> int:
    """Returns the vector steps between two evaluations."""
    return -(-experiment.eval_every // experiment.num_envs)


def evaluation_steps(experiment: Experiment) -> int:
    """Returns the steps between two evaluations, `eval_every` rounded up to whole vector steps."""
    return evaluation_interval(experiment) * experiment.num_envs


def is_regular(experiment: Experiment, iteration: int) -> bool:
    """Returns True if an evaluation after so many iterations is due in longer runs, too, and not only where this one ends."""
    return (iteration - origin(experiment)) % evaluation_interval(experiment) == 0


def learning_step(experiment: Experiment) -> int:
    """Returns the step at which learning from the replay begins; 0 if there is nothing but updates."""
    return 0 if is_offline(experiment) else step_at(experiment, warmup_iterations(experiment))


def length(experiment: Experiment) -> int:
    """Returns the length of a run as its user gave it: its steps, or its updates if it has no steps."""
    return experiment.updates if is_offline(experiment) else experiment.steps


def endless(experiment: Experiment) -> Experiment:
    """Returns the same run with as many steps as there can be."""
    return replace(experiment, **{"updates" if is_offline(experiment) else "steps": sys.maxsize})
