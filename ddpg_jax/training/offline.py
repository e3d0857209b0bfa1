"""Adds demonstrations to a training, which mixes them into its batches or learns from them alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from ddpg_jax.replay.demonstrations import all_transitions, mixed, only
from ddpg_jax.types import Agent, EnvSpec, Hyperparams, Replay, TrainState, Transition


class Offline(NamedTuple):
    """Holds what a member learns from demonstrations."""

    replay: Replay
    """Samples nothing but demonstrations."""
    transitions: Transition
    """All of them, `[D]`, for the running statistics of agents."""
    iterations: int
    """The gradient steps on demonstrations before the first vector step, each of which is an iteration."""
    alone: bool
    """True if there are no vector steps after them."""


def with_store(
    replay: Replay, demonstrations: Replay, store: Any, *, spec: EnvSpec, iterations: int, alone: bool
) -> tuple[Replay, Offline]:
    """Returns the replay of a training with demonstrations, and what it learns from them before its first step.

    Args:
        replay: of what is collected.
        demonstrations: samples from a store.
        store: from `replay.demonstrations.make_store`; it may be traced.
        spec: of the environment.
        iterations: gradient steps on demonstrations before the first vector step.
        alone: True for a training without vector steps, whose replay then stores nothing.
    """
    shown = only(demonstrations, store)
    offline = Offline(shown, all_transitions(store, spec.obs_dim, spec.action_dim), iterations, alone)
    return shown if alone else mixed(replay, demonstrations, store), offline


def observe_demonstrations(agent: Agent, train: TrainState, hyper: Hyperparams, offline: Offline) -> TrainState:
    """Updates the running statistics of an agent with all demonstrations, unless a member never learns from them."""
    always = offline.iterations > 0 or offline.alone
    used = jnp.full(len(offline.transitions.reward), True if always else jnp.asarray(hyper.demo_fraction) > 0)
    return agent.observe(train, offline.transitions, used)
