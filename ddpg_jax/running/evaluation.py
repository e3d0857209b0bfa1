"""Plays episodes of a policy after its training."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from ddpg_jax.errors import EnvironmentFailure
from ddpg_jax.training.rollout import rollout
from ddpg_jax.training.step import stream
from ddpg_jax.types import Array, Env, Episodes, Params


def play(
    env: Env,
    act: Callable[[Params, Array], Array],
    actor_params: Params,
    *,
    episodes: int,
    seed: int,
    shared: bool = False,
) -> Episodes:
    """Plays whole episodes without noise, and closes the environment.

    Args:
        env: the environment.
        act: `(actor_params, obs [..., O]) -> action [..., A]` in [-1, 1].
        actor_params: the parameters of the actor.
        episodes: their number.
        seed: of the initial states.
        shared: if only one copy of the environment may exist.

    Raises:
        EnvironmentFailure: the environment raised, or returned a number that is not finite.
    """
    run = jax.jit(lambda key, params: rollout(env, act, key, actor_params=params, episodes=episodes, shared=shared))
    key = stream(jax.random.key(seed), "eval")  # the evaluations of a run have other clocks, never 0
    outside = env.outside
    if outside is None:
        found = run(key, actor_params)
    else:
        try:
            outside.seed(seed)
            found = outside.run(lambda: jax.block_until_ready(run(key, actor_params)))
            error = outside.failure(())
        finally:
            outside.close(())
        if isinstance(error, KeyboardInterrupt):
            raise error
        if error is not None:
            raise EnvironmentFailure(f"env={env.spec.name} {error}") from error
    found = Episodes(*map(np.asarray, found))
    if not np.isfinite(found.returns).all():
        raise EnvironmentFailure(f"env={env.spec.name} gave a number that is not finite with this policy")
    return found
