"""The ring buffer against a slow oracle that keeps Python lists.

Every transition that is offered carries a number of its own, so that a row that was mixed up, torn or invented shows. Rewards
and discounts are such that n-step sums are exact in float32, and everything is compared to the bit.
"""

import functools
from collections import deque
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ddpg_jax as dj

OBS, ACTION = 2, 1
GAMMA = 0.5
HYPER = dj.Hyperparams(gamma=GAMMA)
T = jnp.int32(0)
EXAMPLES = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = [(5, 1), (11, 3)]  # capacity and lanes: 5 rows, and 3 lanes of 3 rows with 2 rows to spare


class Functions(NamedTuple):
    """A replay whose parts are compiled, once for all examples."""

    init: Any
    add: Any
    sample: Any


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_every_environment_needs_a_row(kind: str) -> None:
    with pytest.raises(dj.ConfigError, match="capacity=1 is not allowed with num_envs=2"):
        dj.replay.REPLAYS[kind](OBS, ACTION, 1, batch_size=2, num_envs=2)


@functools.cache
def compiled(capacity: int, num_envs: int, n_step: int = 1, batch_size: int = 256, kind: str = "uniform") -> Functions:
    replay = dj.replay.REPLAYS[kind](OBS, ACTION, capacity, batch_size=batch_size, num_envs=num_envs, n_step=n_step)
    return Functions(replay.init, jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample))


class Oracle:
    """N lists that forget their oldest entries, and the row of the buffer at which each entry lies."""

    def __init__(self, capacity: int, num_envs: int) -> None:
        self.length, self.num_envs = capacity // num_envs, num_envs
        self.lanes: list[deque[dj.Transition]] = [deque(maxlen=self.length) for _ in range(num_envs)]
        self.written = [0] * num_envs

    def add(self, transition: dj.Transition, valid: np.ndarray) -> None:
        for n in np.flatnonzero(valid):
            self.lanes[n].append(jax.tree.map(lambda x, n=n: x[n], transition))
            self.written[n] += 1

    def rows(self) -> dict[int, tuple[int, int]]:
        """Row of the buffer -> lane and place in it, the oldest being 0."""
        return {
            (self.written[n] - len(lane) + place) % self.length * self.num_envs + n: (n, place)
            for n, lane in enumerate(self.lanes)
            for place in range(len(lane))
        }

    def window(self, n: int, place: int, n_step: int) -> dj.Transition:
        """What a sample that starts there has to be: on to the end of the episode, of the lane or of the window."""
        steps = list(self.lanes[n])[place : place + n_step]
        inside = []
        for step in steps:
            inside.append(step)
            if step.last:
                break
        reward: Any = sum(GAMMA**k * step.reward for k, step in enumerate(inside))
        discount: Any = 0.0 if inside[-1].discount == 0 else GAMMA ** len(inside)
        first, end = inside[0], inside[-1]
        return dj.Transition(first.obs, first.action, reward, discount, end.last, end.next_obs)


def offered(k: int, ending: list[str], valid: np.ndarray) -> dj.Transition:
    """Step `k` of N environments [N], numbered throughout; NaN where it is not valid, so that any trace of it shows."""
    n = len(ending)
    number = 100.0 * k + np.arange(n)
    number = np.where(valid, number, np.nan).astype(np.float32)
    terminated, truncated = np.array(ending) == "terminated", np.array(ending) == "truncated"
    fields: dict[str, Any] = {
        "obs": number[:, None] + np.array([0.25, 0.5], np.float32),
        "action": -number[:, None],
        "reward": number + 1,
        "discount": np.where(terminated, 0.0, 1.0).astype(np.float32),
        "last": terminated | truncated,
        "next_obs": -number[:, None] - np.array([0.25, 0.5], np.float32),
    }
    return dj.Transition(**fields)


@st.composite
def histories(draw: st.DrawFn, num_envs: int) -> list[tuple[list[str], np.ndarray]]:
    """Up to 12 vector steps: how each environment's step ended, and whether it is valid. The first ones all are."""
    endings = st.lists(st.sampled_from(["", "", "terminated", "truncated"]), min_size=num_envs, max_size=num_envs)
    masks = st.lists(st.sampled_from([True, True, False]), min_size=num_envs, max_size=num_envs)
    steps = draw(st.lists(st.tuples(endings, masks), min_size=1, max_size=12))
    return [(ending, np.array(mask) | (k == 0)) for k, (ending, mask) in enumerate(steps)]


def play(
    capacity: int, num_envs: int, history: list[tuple[list[str], np.ndarray]], kind: str = "uniform"
) -> tuple[Any, Oracle]:
    """The state of the replay and the oracle after the same history."""
    functions, oracle = compiled(capacity, num_envs, kind=kind), Oracle(capacity, num_envs)
    state = functions.init()
    for k, (ending, valid) in enumerate(history):
        transition = offered(k, ending, valid)
        state = functions.add(state, transition, valid)
        oracle.add(transition, valid)
    return state, oracle


@pytest.mark.parametrize("kind", dj.replay.REPLAYS)
@pytest.mark.parametrize(("capacity", "num_envs"), SHAPES)
@hypothesis.given(data=st.data())
@EXAMPLES
def test_ring_holds_the_newest_valid_transitions(kind: str, capacity: int, num_envs: int, data: st.DataObject) -> None:
    """Lane by lane and row by row, across wrap-arounds; what is not valid leaves no trace, not even of NaN."""
    state, oracle = play(capacity, num_envs, data.draw(histories(num_envs)), kind)
    state = dj.replay.ring_state(state)
    assert state.rows.shape[0] == capacity // num_envs * num_envs
    assert np.asarray(state.size).tolist() == [len(lane) for lane in oracle.lanes]
    stored = dj.replay.unpack(state.rows, OBS, ACTION)
    rows = oracle.rows()
    for row in range(len(state.rows)):
        actual = jax.tree.map(lambda x, row=row: np.asarray(x[row]), stored)
        if row in rows:
            n, place = rows[row]
            jax.tree.map(np.testing.assert_array_equal, actual, oracle.lanes[n][place])
        else:
            assert not any(np.any(x) for x in jax.tree.leaves(actual)), "a row was written that nobody stored"


@pytest.mark.parametrize("kind", dj.replay.REPLAYS)
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("capacity", "num_envs"), SHAPES)
@hypothesis.given(data=st.data())
@EXAMPLES
def test_samples_equal_the_oracle_at_every_row(
    kind: str, n_step: int, capacity: int, num_envs: int, data: st.DataObject
) -> None:
    """Only what is stored is drawn, all of it is, and every window ends where it has to: at the end of an episode, before
    the row that is written next, and across the wrap-around not at all; 0 is the discount of a termination, gamma**m of
    anything else. Priorities are all the same as long as nothing has been learned.
    """
    state, oracle = play(capacity, num_envs, data.draw(histories(num_envs)), kind)
    batch, weight, index = compiled(capacity, num_envs, n_step, kind=kind).sample(jax.random.key(7), state, HYPER, T)
    batch, index, rows = jax.tree.map(np.asarray, batch), np.asarray(index), oracle.rows()
    assert set(index.tolist()) == set(rows), "of 256 draws from at most 9 rows, each row has its share"
    assert np.all(np.asarray(weight) == 1.0)
    windows = {row: oracle.window(n, place, n_step) for row, (n, place) in rows.items()}
    expected = jax.tree.map(lambda *x: np.stack(x), *[windows[row] for row in index.tolist()])
    jax.tree.map(np.testing.assert_array_equal, batch, expected)


@pytest.mark.parametrize("steps", [5, 8, 29], ids=["partly filled", "just full", "wrapped"])
def test_sampling_is_uniform_over_all_ages(steps: int) -> None:
    """The newest row is as likely as the oldest, and one lane as another (chi-square over lane and age together)."""
    functions, draws = compiled(16, 2, batch_size=8_192), 8_192
    state = functions.init()
    for k in range(steps):
        state = functions.add(state, offered(k, [""] * 2, np.ones(2, bool)), np.ones(2, bool))
    _, _, index = functions.sample(jax.random.key(steps), state, HYPER, T)
    counts = np.bincount(np.asarray(index), minlength=16)
    stored = min(steps, 8) * 2
    assert np.count_nonzero(counts) == stored
    assert counts.sum() == draws
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-3


def test_draws_of_one_batch_are_independent() -> None:
    """With replacement: a draw says nothing about the one after it (chi-square of pairs)."""
    functions = compiled(16, 2, batch_size=8_192)
    state = functions.init()
    for k in range(2):
        state = functions.add(state, offered(k, [""] * 2, np.ones(2, bool)), np.ones(2, bool))
    _, _, index = functions.sample(jax.random.key(0), state, HYPER, T)
    pairs = np.asarray(index).reshape(-1, 2)
    assert scipy.stats.chisquare(np.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16)).pvalue > 1e-3


def test_other_key_other_draws() -> None:
    """The key decides: the same one gives the same batch, another one another."""
    state, _ = play(11, 3, [([""] * 3, np.ones(3, bool))] * 3)
    sample = compiled(11, 3).sample
    first, again, other = (np.asarray(sample(jax.random.key(seed), state, HYPER, T)[2]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_uneven_lanes_are_sampled_evenly() -> None:
    """'Uniform over what is stored' also where one lane holds more, because another's steps were not all valid."""
    functions = compiled(16, 2, batch_size=8_192)
    state = functions.init()
    for k in range(6):
        valid = np.array([True, k == 0])
        state = functions.add(state, offered(k, [""] * 2, valid), valid)
    _, _, index = functions.sample(jax.random.key(0), state, HYPER, T)
    counts = np.bincount(np.asarray(index), minlength=16)
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-3


def test_gamma_is_traced_and_discounts_one_step_samples() -> None:
    """With n = 1 the discount is gamma itself, or 0 after a termination; a new gamma compiles nothing."""
    history = [(["terminated"], np.ones(1, bool)), ([""], np.ones(1, bool)), (["truncated"], np.ones(1, bool))]
    state, _ = play(5, 1, history)
    sample = compiled(5, 1).sample
    sizes = []
    for gamma in (0.25, 0.75):
        batch, _, index = sample(jax.random.key(0), state, dj.Hyperparams(gamma=gamma), T)
        assert np.array_equal(np.asarray(batch.discount), np.array([0.0, gamma, gamma])[np.asarray(index)])
        sizes.append(sample._cache_size())
    assert sizes[0] == sizes[1]


def test_pack_and_unpack_are_inverse() -> None:
    """A packed row gives back every field of its transition."""
    transition = offered(3, ["", "terminated", "truncated"], np.ones(3, bool))
    jax.tree.map(np.testing.assert_array_equal, dj.replay.unpack(dj.replay.pack(transition), OBS, ACTION), transition)


def test_feedback_of_uniform_replay_changes_nothing() -> None:
    """Uniform replay keeps no priorities: TD errors leave it as it is."""
    replay = dj.replay.uniform(OBS, ACTION, capacity=5, batch_size=4)
    state = replay.init()
    after = replay.feedback(state, jnp.arange(4), jnp.full(4, 9.0), HYPER)
    jax.tree.map(np.testing.assert_array_equal, after, state)


STEP: Any = jax.tree.map(jnp.asarray, offered(0, ["", ""], np.ones(2, bool)))
REPLAY = dj.replay.uniform(OBS, ACTION, capacity=8, batch_size=4, num_envs=2)
NOISE, AT_REST, VALID = dj.exploration.ornstein_uhlenbeck(ACTION), jnp.zeros((2, ACTION)), np.ones(2, bool)


def added(valid: Any = VALID, **fields: Any) -> Any:
    return REPLAY.add(REPLAY.init(), STEP._replace(**fields), valid)


def explored(noise: Any = AT_REST, obs: Any = STEP.obs, act: Any = lambda params, obs: obs[:, :ACTION]) -> Any:
    return NOISE.explore(jax.random.key(0), noise, act, (), obs, HYPER, T)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: added(obs=STEP.obs[0]), r"Replay\.add: transition\.obs must be \[N, O\]"),
        (lambda: added(reward=STEP.obs), r"Replay\.add: transition\.reward must be \[N\]"),
        (lambda: added(valid=True), r"Replay\.add: valid must be \[N\]"),
        (lambda: REPLAY.sample(jax.random.key(0), added(), HYPER, jnp.arange(2)), r"Replay\.sample: t_update must be \[\]"),
        (lambda: REPLAY.feedback(added(), jnp.arange(4), jnp.ones(3), HYPER), r"Replay\.feedback: td must be \[B\]"),
        (lambda: explored(noise=jnp.zeros(2)), r"Explorer\.explore: noise must be \[N, A\]"),
        (lambda: explored(obs=STEP.obs[0]), r"Explorer\.explore: obs must be \[N, O\]"),
        (lambda: explored(act=lambda params, obs: obs), r"Explorer\.explore: act must return \[N, A\]"),
        (lambda: dj.n_step_return(jnp.ones((3, 2)), jnp.ones(3), 0.5), r"n_step_return: reward and alive must both"),
    ],
)
def test_a_wrong_shape_is_named(call: Any, named: str) -> None:
    """The message says which argument of which function is wrong, where NumPy would broadcast or fail far from it."""
    with pytest.raises(AssertionError, match=named):
        call()
