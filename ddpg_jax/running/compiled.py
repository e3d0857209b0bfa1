"""Makes the functions that a `Program` compiles: the same for all seeds, hyperparameters and lengths."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.experiment.build import Parts, build
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.experiment.validate import is_offline
from ddpg_jax.flatten import storable
from ddpg_jax.running.heirs import Copying, make_copying
from ddpg_jax.running.placement import Placement, max_over_members, over_members
from ddpg_jax.training.loop import Metrics, Training, make_training
from ddpg_jax.training.offline import with_store
from ddpg_jax.types import Array, Env, Hyperparams

Inputs: TypeAlias = tuple[Any, Hyperparams, Array, Array, Metrics]
"""What each member brings to a phase: `(key, hyper, active, begin, so_far)`."""
CACHED_STRUCTURES = 16
"""Structures whose compiled functions are kept. A structure takes 700 .. 1,300 memory maps, of which Linux grants a process
65,530; without any left, XLA ends with a segmentation fault."""


class Functions(NamedTuple):
    """The functions that a `Program` compiles; the same for all seeds, hyperparameters and lengths."""

    init: Any
    """`(keys, hypers, store) -> state`"""
    restart: Any
    """`(keys, state, i) -> state`"""
    phase: Callable[..., Any]
    """`(name, *arguments) -> compiled`: `offline`, `fill`, `learn` or `evaluate`, compiled at the first request."""
    copying: Copying
    """How a member takes over the state of another one."""


@functools.lru_cache(maxsize=CACHED_STRUCTURES)
def functions_of(structure: Experiment, env: Env, placement: Placement, *named: Any) -> Functions:
    """Makes the functions of all programs of a structure, once.

    `named` are the entries of tables that it names, and the shapes of its demonstrations.
    """
    del named
    env, parts = storable(env), build(structure, env.spec)

    def training(store: Any) -> Training:
        return _training(structure, env, placement, parts=parts, store=store)

    def advancing(name: str) -> Any:
        def advance(key: Any, state: Any, *arguments: Any, store: Any) -> Any:
            return getattr(training(store), name)(key, state, *arguments)

        function = over_members(_unless_diverged(advance, placement), placement, shared=2)
        return jax.jit(function, donate_argnums=0, compiler_options=placement.compiler_options)

    alone = training(NOTHING)
    phases = {name: advancing(name) for name in ("offline", "fill", "learn")}
    phases["evaluate"] = jax.jit(over_members(alone.evaluate, placement, shared=1))
    compiled: dict[str, Any] = {}

    def phase(name: str, *arguments: Any) -> Any:
        if name not in compiled:
            compiled[name] = phases[name].lower(*arguments).compile()
        return compiled[name]

    def init(key: Any, hyper: Hyperparams, store: Any) -> Any:
        return training(store).init(key, hyper)

    restart = jax.jit(over_members(alone.restart, placement, shared=1))
    copying = make_copying(placement, outside=env.outside is not None)
    return Functions(jax.jit(over_members(init, placement, shared=1)), restart, phase, copying)


NOTHING: Any = ()
"""The store of a program without demonstrations: a tree without arrays."""


def _training(structure: Experiment, env: Env, placement: Placement, *, parts: Parts, store: Any) -> Training:
    """Makes the training of a member, with demonstrations from a store, which may be traced."""
    replay, offline = parts.replay, None
    if jax.tree.leaves(store):
        assert parts.demonstrations is not None
        replay, offline = with_store(
            replay,
            parts.demonstrations,
            store,
            spec=env.spec,
            iterations=structure.pretrain_updates,
            alone=is_offline(structure),
        )
    return make_training(
        env,
        parts.agent,
        replay,
        explorer=parts.explorer,
        warmup=parts.warmup,
        num_envs=structure.num_envs,
        updates=parts.updates,
        update_interval=parts.update_interval,
        eval_episodes=structure.eval_episodes,
        eval_shared=structure.eval_env == "shared",
        max_over_members=max_over_members(placement),
        layout=placement.layout,
        offline=offline,
    )


def _unless_diverged(advance: Callable[..., Any], placement: Placement) -> Callable[..., Any]:
    """Makes `(state, inputs, clocks, store) -> (state, metrics)`, a phase of training in which only active members learn."""

    def mapped(state: Any, inputs: Inputs, clocks: tuple[Array, Array], store: Any) -> Any:
        key, hyper, active, begin, so_far = inputs
        return advance(key, state, hyper, begin, jnp.where(active, clocks[1], begin), so_far, store=store)

    def vmapped(state: Any, inputs: Inputs, clocks: tuple[Array, Array], store: Any) -> Any:
        # A diverged member still computes, but its new networks and metrics are discarded. The rest of its state (replay,
        # environment, noise) moves on, because selecting it would copy every replay.
        key, hyper, active, _, so_far = inputs
        after, metrics = advance(key, state, hyper, *clocks, so_far, store=store)
        kept = if_active(active, metrics, so_far)._replace(done=metrics.done)
        return replace(after, train=if_active(active, after.train, state.train)), kept

    return vmapped if placement.vmapped else mapped


def structure_of(experiment: Experiment) -> Experiment:
    """Returns the experiment without what most often differs between runs of the same program.

    Two experiments with the same result share what is compiled. A field that stays although it does not affect compilation,
    such as `warmup_steps`, costs a compilation.
    """
    x = experiment
    kind = {"steps": min(x.steps, 1), "updates": min(x.updates, 1), "demonstrations": "given" if x.demonstrations else ""}
    return replace(x, **kind, seed=0, preset="default", eval_every=1, host_order="textbook")


def if_active(active: Array, new: Any, old: Any) -> Any:
    """Selects `new` for an active member, else `old`; `active` is `[]`."""
    return jax.tree.map(lambda x, y: jnp.where(active, x, y), new, old)
