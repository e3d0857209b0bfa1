"""Prioritized replay: the sum tree against an array and `searchsorted`, chances, weights, and what a step costs."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ddpg_jax as dj
from ddpg_jax.replay import sum_tree

EXAMPLES = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
T = jnp.int32(0)
set_leaves, find = jax.jit(sum_tree.set_leaves), jax.jit(sum_tree.find)


@pytest.mark.parametrize("capacity", [1, 4, 5, 16, 70])
@hypothesis.given(data=st.data())
@EXAMPLES
def test_tree_equals_an_array(capacity: int, data: st.DataObject) -> None:
    """After any changes, with indices twice in a batch, every node is the sum of its leaves and every number between 0 and the
    sum, itself included, finds what `searchsorted` finds among the leaves that are not 0.

    Leaves are whole numbers, so that sums are exact.
    """
    tree, leaves = sum_tree.zeros(capacity), np.zeros(capacity)
    row = st.integers(0, capacity - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        values = data.draw(st.lists(st.integers(0, 9), min_size=10, max_size=10))
        index = np.array(data.draw(st.lists(row, min_size=8, max_size=8)))
        value = np.array(values, float)[index % 10]  # what is there twice has one value
        leaves[index] = value
        tree = set_leaves(tree, index, value.astype(np.float32))
    for below, level in enumerate(tree):
        span = sum_tree.FAN_OUT**below
        whole = np.pad(leaves, (0, level.size * span - capacity))
        np.testing.assert_array_equal(level, whole.reshape(-1, span).sum(axis=1))
    assert float(sum_tree.total(tree)) == leaves.sum()
    if leaves.any():
        u = np.linspace(0, leaves.sum(), 41, dtype=np.float32)
        expected = np.searchsorted(leaves.cumsum(), u, side="right")
        expected[-1] = np.flatnonzero(leaves)[-1]  # the sum itself is behind the last
        np.testing.assert_array_equal(find(tree, u), expected)


def test_sums_do_not_drift_and_zeros_are_never_found() -> None:
    """1,000 changes between 1e-6 and 1e6: had sums been corrected by differences, the small ones would be lost. Nothing that is
    0 is found, although in float32 the running sums of the levels differ in their last bits.
    """
    rng, leaves, tree = np.random.default_rng(0), np.zeros(50, np.float32), sum_tree.zeros(50)
    for _ in range(1_000):
        index = rng.integers(0, 40, 8)
        value = np.where(index % 3 == 0, 0.0, 10.0 ** rng.uniform(-6, 6, 50)[index]).astype(np.float32)
        leaves[index] = value
        tree = set_leaves(tree, index, value)
    small = np.where(leaves > 0, np.float32(1e-6), 0)
    tree = set_leaves(tree, np.arange(50), small)
    np.testing.assert_allclose(float(sum_tree.total(tree)), small.sum(dtype=float), rtol=1e-6)
    u = np.float32(sum_tree.total(tree)) * np.linspace(0, 1.0001, 4_001, dtype=np.float32)
    assert np.all(small[np.asarray(find(tree, u))] > 0)


def filled(steps: int = 16, batch_size: int = 64, capacity: int = 16, num_envs: int = 2) -> tuple[Any, Any]:
    """A prioritized replay and its state after so many vector steps, numbered in the reward."""
    replay = dj.replay.prioritized(1, 1, capacity, batch_size=batch_size, num_envs=num_envs)
    state = replay.init()
    for k in range(steps):
        state = replay.add(state, numbered(k, num_envs), jnp.ones(num_envs, bool))
    return replay, state


def numbered(k: int, num_envs: int = 2) -> dj.Transition:
    column, ones = jnp.full((num_envs, 1), float(k)), jnp.ones(num_envs)
    return dj.Transition(column, column, k * ones, ones, ones < 0, column)


TD = np.array([0.0, -0.1, 0.1, 0.5, -1.0, 1.0, 2.0, 3.0] * 2, np.float32)
HYPER = dj.Hyperparams(priority_alpha=0.7, priority_beta=0.5, priority_epsilon=0.05)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_rows_are_drawn_in_proportion_to_their_priorities(alpha: float) -> None:
    """(|td| + epsilon)^alpha, whatever the sign of the error (chi-square over 200 batches); alpha 0 is uniform.

    The draws are stratified: the counts scatter less than chi-square allows for, never more.
    """
    replay, state = filled()
    hyper = HYPER._replace(priority_alpha=alpha)
    state = replay.feedback(state, np.arange(16), TD, hyper)
    sample = jax.jit(jax.vmap(lambda key: replay.sample(key, state, hyper, T)[2]))
    counts = np.bincount(np.asarray(sample(jax.random.split(jax.random.key(0), 200))).ravel(), minlength=16)
    p = (np.abs(TD.astype(float)) + 0.05) ** alpha
    assert scipy.stats.chisquare(counts, counts.sum() * p / p.sum()).pvalue > 1e-3


def test_each_stratum_gives_one_draw() -> None:
    """With equal priorities and as many draws as rows, every row is drawn once: that is what stratified means."""
    replay, state = filled(batch_size=16)
    assert np.array_equal(replay.sample(jax.random.key(3), state, HYPER, T)[2], np.arange(16))


@pytest.mark.parametrize(("t", "beta"), [(0, 0.4), (25, 0.55), (100, 1.0), (10**6, 1.0)])
def test_weights_are_those_of_the_paper(t: int, beta: float) -> None:
    """(C P(i))^-beta over the largest in the batch, with beta on its way from 0.4 to 1 in 100 updates."""
    replay, state = filled()
    hyper = HYPER._replace(priority_beta=0.4, priority_beta_updates=100.0)
    state = replay.feedback(state, np.arange(16), TD, hyper)
    _, weight, index = replay.sample(jax.random.key(0), state, hyper, jnp.int32(t))
    p = (np.abs(TD.astype(float)) + 0.05) ** 0.7
    expected = (16 * p / p.sum())[np.asarray(index)] ** -beta
    np.testing.assert_allclose(weight, expected / expected.max(), rtol=1e-5)


def test_what_is_new_has_the_largest_priority_so_far() -> None:
    """1 at first, then that of the largest error ever seen, also after it was overwritten; an invalid step changes nothing."""
    replay, state = filled(steps=1)
    assert np.array_equal(state.tree[0][:3], [1.0, 1.0, 0.0])
    hyper = HYPER._replace(priority_alpha=1.0, priority_epsilon=0.0)
    state = replay.feedback(state, np.array([0, 1]), np.array([5.0, 0.5]), hyper)
    state = replay.feedback(state, np.array([0]), np.array([0.25]), hyper)
    state = replay.add(state, numbered(1), np.array([True, False]))
    assert np.array_equal(state.tree[0][:5], [0.25, 0.5, 5.0, 0.0, 0.0])
    for k in range(8):
        state = replay.add(state, numbered(k), np.array([True, False]))
    assert np.array_equal(state.tree[0], [5.0, 0.5] + [5.0, 0.0] * 7)


def test_an_interrupted_run_keeps_its_priorities() -> None:
    """`end_open_episodes` marks the newest rows of the ring inside."""
    _, state = filled(steps=3)
    after = dj.replay.end_open_episodes(state)
    assert np.flatnonzero(after.ring.rows[:, -1]).tolist() == [4, 5]
    jax.tree.map(np.testing.assert_array_equal, after.tree, state.tree)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_step_copies_neither_the_ring_nor_the_tree(num_envs: int) -> None:
    """Add, sample and feedback in a loop, in place: the scratch of the program is smaller than the leaves."""
    capacity = 2**17
    replay = dj.replay.prioritized(1, 1, capacity, batch_size=8, num_envs=num_envs)

    def steps(state: Any, keys: Any) -> Any:
        def body(state: Any, key: Any) -> Any:
            state = replay.add(state, numbered(0, num_envs), jnp.ones(num_envs, bool))
            batch, weight, index = replay.sample(key, state, HYPER, T)
            return replay.feedback(state, index, batch.reward + weight, HYPER), index

        return jax.lax.scan(body, state, keys)

    shapes = jax.eval_shape(replay.init), jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 10))
    compiled: Any = jax.jit(steps, donate_argnums=0).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * capacity / 4


def test_members_side_by_side_draw_and_learn_as_alone() -> None:
    """Under `vmap`, which accelerators use, to the bit."""
    replay, state = filled()
    hypers = [HYPER, HYPER._replace(priority_alpha=0.2, priority_beta=1.0)]

    def step(key: Any, hyper: dj.Hyperparams) -> Any:
        changed = replay.feedback(state, np.arange(16), TD, hyper)
        return replay.sample(key, changed, hyper, T)[1:], changed

    keys, stacked = jax.random.split(jax.random.key(0)), jax.tree.map(lambda *x: jnp.stack(x), *hypers)
    together = jax.jit(jax.vmap(step))(keys, stacked)
    for m, hyper in enumerate(hypers):
        alone = jax.jit(step)(keys[m], jax.tree.map(jnp.float32, hyper))
        jax.tree.map(lambda x, one, m=m: np.testing.assert_array_equal(x[m], one), together, alone)


def test_prioritized_members_of_a_sweep_are_the_runs_alone() -> None:
    """All numbers of the part can be swept in one program; an alpha of 0 and one of 1 learn something else."""
    fields: dict[str, Any] = {
        "placement": "map",
        "replay": "prioritized",
        "steps": 300,
        "warmup_steps": 100,
        "hidden": (8,),
        "batch_size": 16,
        "replay_capacity": 60,
        "eval_every": 300,
        "eval_episodes": 1,
        "n_step": 2,
    }
    points: list[dict[str, Any]] = [
        {"priority_alpha": 0.0, "priority_beta": 0.4},
        {"priority_alpha": 1.0, "priority_beta": 0.0},
    ]
    swept = dj.sweep("Pendulum-v1", points=points, **fields)
    alone = [dj.train("Pendulum-v1", **fields, **point).policy.params for point in points]
    for policy, params in zip(swept.policies, alone, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), policy.params, params)
    assert not np.array_equal(*(jax.tree.leaves(params)[0] for params in alone))
