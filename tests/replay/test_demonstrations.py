"""Batches of demonstrations and of the replay together, against slow NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.replay import sum_tree
from ddpg_jax.replay.demonstrations import all_transitions, make_store, mixed, only, spread
from ddpg_jax.replay.hindsight import hindsight

GAMMA, B = 0.5, 32
GOAL = dj.Goal(1, lambda achieved, desired: (-jnp.abs(achieved - desired)[..., 0], jnp.ones(achieved.shape[:-1])))
HYPER = dj.Hyperparams(gamma=GAMMA, demo_fraction=0.25)


def episodes(lengths: list[int], terminated: list[bool], base: float = 0.0) -> dj.Transition:
    """Steps `[D]` whose first observation is their number, from `base` on; each is worth that number."""
    count = sum(lengths)
    number = base + np.arange(count, dtype=np.float32)
    last = np.isin(np.arange(count), np.cumsum(lengths) - 1)
    ended = np.repeat(terminated, lengths) & last
    obs = np.stack([number, 0 * number, 0 * number], axis=-1)
    fields = {
        "obs": obs,
        "action": number[:, None] / 1_000,
        "reward": number,
        "next_obs": obs + np.array([0.5, 0, 0], np.float32),
    }
    return dj.Transition(**fields, discount=1.0 - ended.astype(np.float32), last=last)  # pyright: ignore[reportArgumentType]


def window(steps: dj.Transition, first: int, n: int) -> tuple[float, float, float]:
    """Reward, discount and successor of the n-step window from a step on, one step after the other."""
    total, discount, k = 0.0, 1.0, first
    while True:
        total += discount * float(steps.reward[k])
        discount *= GAMMA
        if bool(steps.last[k]) or k + 1 - first == n:
            return total, discount * float(steps.discount[k]), float(steps.next_obs[k, 0])
        k += 1


def collected(replay: dj.Replay, count: int) -> Any:
    """A replay with an endless episode whose steps have the numbers from -count to -1."""
    state, steps = replay.init(), episodes([count], [False], base=-float(count))
    for t in range(count):
        one: Any = jax.tree.map(lambda x, t=t: jnp.asarray(x[t : t + 1]), steps._replace(last=np.zeros(count, bool)))
        state = replay.add(state, one, jnp.ones(1, bool))
    return state


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_batches_against_slow_numpy(kind: str, n_step: int) -> None:
    """The share, which rows, the ends of windows, terminations apart from truncations, and the weights."""
    own = dj.REPLAYS[kind](3, 1, 8, batch_size=B, n_step=n_step)
    steps = episodes([4, 1, 3, 2], [True, False, False, True])
    replay = mixed(own, dj.replay.uniform(3, 1, 1, batch_size=B, n_step=n_step), make_store(steps))
    state = own.feedback(collected(replay, 8), jnp.arange(8), jnp.arange(1.0, 9.0), HYPER)
    seen = np.zeros(len(steps.reward), int)
    sample = jax.jit(lambda key: (replay.sample(key, state, HYPER, jnp.int32(0)), own.sample(key, state, HYPER, jnp.int32(0))))
    for k in range(40):
        (batch, weight, index), (alone, own_weight, rows) = sample(jax.random.key(k))
        shown = np.asarray(batch.demonstration)
        assert shown.sum() == B // 4
        np.testing.assert_array_equal(index.row, rows)
        np.testing.assert_array_equal(weight, np.where(shown, 1.0, own_weight))
        for got, other in zip(batch[:6], alone[:6], strict=True):
            np.testing.assert_array_equal(np.asarray(got)[~shown], np.asarray(other)[~shown])
        assert (np.asarray(batch.obs)[~shown, 0] < 0).all()
        for i in np.flatnonzero(shown):
            first = int(batch.obs[i, 0])
            seen[first] += 1
            found = float(batch.reward[i]), float(batch.discount[i]), float(batch.next_obs[i, 0])
            assert found == pytest.approx(window(steps, first, n_step))
            assert float(batch.action[i, 0]) == pytest.approx(first / 1_000)
    assert seen.min() > 0.3 * seen.mean(), "each demonstration must be drawn as often as any other"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 7, 64, 300]), st.floats(0, 1, width=32), st.integers(0, 2**31 - 1))
def test_a_share_is_exact_and_spread_evenly(size: int, share: float, seed: int) -> None:
    chosen = np.asarray(spread(jax.random.key(seed), size, jnp.float32(share)))
    for part in range(1, size + 1, max(1, size // 7)):
        assert abs(chosen[:part].sum() - share * part) < 1 + 1e-3
    assert chosen.any() or share * size < 1
    assert not chosen.all() or share * size > size - 1
    assert chosen.all() or share < 1


def test_each_place_has_the_same_chance() -> None:
    """Else prioritized replay would never learn from some of its strata."""
    keys = jax.random.split(jax.random.key(0), 4_000)
    chance = np.asarray(jax.vmap(lambda key: spread(key, 10, 0.13))(keys)).mean(axis=0)
    np.testing.assert_allclose(chance, 0.13, atol=5 * np.sqrt(0.13 * 0.87 / 4_000))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 99))
def test_what_is_reported_of_demonstrations_changes_no_priority(mask: list[bool], seed: int) -> None:
    own = dj.replay.prioritized(3, 1, 8, batch_size=4)
    replay = mixed(own, dj.replay.uniform(3, 1, 1, batch_size=4), make_store(episodes([2], [True])))
    state = collected(replay, 8)
    if all(mask):
        return
    rows = jnp.asarray(np.random.default_rng(seed).permutation(8)[:4])
    td = jnp.array([2.0, 3.0, 4.0, 5.0])
    drawn: Any = replay.sample(jax.random.key(0), state, HYPER, jnp.int32(0))[2]
    after = replay.feedback(state, drawn._replace(row=rows, demonstration=jnp.asarray(mask)), td, HYPER)
    keep = ~np.array(mask)
    wanted = own.feedback(state, rows[keep], td[keep], HYPER)
    for got, other in zip(after.tree, wanted.tree, strict=True):
        np.testing.assert_array_equal(got, other)
    assert float(sum_tree.total(after.tree)) == pytest.approx(float(after.tree[0].sum()))


@pytest.mark.parametrize("tells_ends", [True, False])
def test_a_store_is_a_ring_that_was_filled(tells_ends: bool) -> None:
    """With its episodes for hindsight, as if each step had been added; so all that is known of rings holds for it."""
    steps = episodes([4, 1, 3, 2], [True, False, False, True])
    goal = GOAL._replace(tells_ends=tells_ends)
    for make, given_goal in ((dj.replay.make_ring, None), (hindsight(goal), goal)):
        ring = make(3, 1, 10)
        state = ring.init()
        for t in range(10):
            state = ring.add(state, jax.tree.map(lambda x, t=t: jnp.asarray(x[t : t + 1]), steps), jnp.ones(1, bool))
        store = make_store(steps, given_goal)
        assert jax.tree.structure(store) == jax.tree.structure(state)
        for got, other in zip(jax.tree.leaves(store), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(got, other)
            assert got.dtype == other.dtype
    back = all_transitions(make_store(steps), 3, 1)
    for got, other in zip(back[:6], steps[:6], strict=True):
        np.testing.assert_array_equal(got, other)


def test_goals_of_demonstrations_are_relabelled_within_their_episodes() -> None:
    """With `final`, the goal is what the episode achieved last, and nothing from the episode after it."""
    steps = episodes([3, 2], [False, False])
    steps = steps._replace(next_obs=np.stack([steps.obs[:, 0], 10 + steps.obs[:, 0], 0 * steps.obs[:, 0]], axis=-1))
    from ddpg_jax.replay.hindsight import final

    shown = dj.replay.uniform(3, 1, 1, batch_size=B, ring=hindsight(GOAL, final))
    replay = only(shown, make_store(steps, GOAL))
    batch, _, _ = replay.sample(jax.random.key(0), (), HYPER._replace(hindsight_k=1e9), jnp.int32(0))
    number = np.asarray(batch.obs[:, 0])
    np.testing.assert_array_equal(batch.obs[:, 2], np.where(number < 3, 12.0, 14.0))
    np.testing.assert_allclose(batch.reward, -np.abs(10 + number - np.where(number < 3, 12.0, 14.0)))
    assert np.asarray(batch.demonstration).all()
    assert replay.init() == () == replay.feedback((), jnp.zeros(B, int), batch.reward, HYPER)
