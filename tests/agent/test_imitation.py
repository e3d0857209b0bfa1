"""The actor's loss with demonstrations, against equations in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.agent.ddpg import ActorTerms, make_actor_objective
from ddpg_jax.agent.heads import scalar
from ddpg_jax.agent.imitation import cloning, filtered_cloning, inverse_magnitude
from ddpg_jax.agent.targets import SLOW

B, OBS, ACTION = 12, 3, 2
NETS = dj.mlp(action_dim=ACTION, hidden=(8,), init="fan_in")
HYPER = dj.Hyperparams(bc_weight=0.7, bc_alpha=2.5)


def batch_of(seed: int, share: float) -> dj.Transition:
    rng = np.random.default_rng(seed)
    obs, action = rng.normal(size=(B, OBS)), rng.uniform(-1, 1, (B, ACTION))
    fields = (obs, action, rng.normal(size=B), np.ones(B), np.zeros(B, bool), obs, rng.random(B) < share)
    return dj.Transition(*(jnp.asarray(x, jnp.float32 if x.dtype == float else x.dtype) for x in fields))


AGENT = dj.make_agent(*NETS, obs_dim=OBS)


def by_hand(params: dj.Nets, batch: dj.Transition, *, filtered: bool, scaled: bool) -> tuple[float, float]:
    """The actor's loss, and the share of demonstrations that are cloned, one row after the other."""
    mu = np.asarray(AGENT.act(params.actor, batch.obs))
    values, own = (np.asarray(AGENT.q_values(params.critic, batch.obs, jnp.asarray(x))[0]) for x in (mu, batch.action))
    distances, better = [], []
    for i in np.flatnonzero(batch.demonstration):
        distances.append(np.square(mu[i] - np.asarray(batch.action[i])).mean())
        better.append(own[i] > values[i] or not filtered)
    lam = 2.5 / np.mean(np.abs(values)) if scaled else 1.0
    cloned = sum(d for d, keep in zip(distances, better, strict=True) if keep) / len(distances) if distances else 0.0
    return float(-lam * values.mean() + 0.7 * cloned), float(np.mean(better)) if better else 0.0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_actors_loss_against_numpy(filtered: bool, scaled: bool, share: float) -> None:
    """TD3+BC is `scaled`, not filtered, with a share of 1; Nair et al. filter and do not scale."""
    params, batch = AGENT.init(jax.random.key(1), HYPER).params, batch_of(2, share)
    objective = make_actor_objective(
        *NETS,
        ActorTerms((), inverse_magnitude if scaled else None, filtered_cloning if filtered else cloning),
        head=scalar(),
        judge=SLOW.judge,
    )
    wanted, cloned = by_hand(params, batch, filtered=filtered, scaled=scaled)
    assert float(objective(params.actor, params.critic, batch, HYPER)) == pytest.approx(wanted, rel=1e-5)
    if filtered and share == 1:
        assert 0 < cloned < 1, "a filter that keeps all or none shows nothing"


def test_the_factor_has_no_gradient() -> None:
    """Fujimoto and Gu detach it: it only balances the two terms."""
    gradient = jax.grad(lambda q: inverse_magnitude(q, HYPER) * q.sum())(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(gradient, 2.5 / 2.5)


def test_batches_that_mark_nothing_are_not_cloned() -> None:
    batch = batch_of(0, 1.0)._replace(demonstration=None)
    assert cloning(batch.action + 1.0, batch, lambda action: action[:, 0], HYPER) == 0.0
