"""Hindsight against a slow oracle, the strategies, the environment with goals, and what is refused.

Positions are numbered by lane and step, so that the goal of a sample tells of which step it is.
"""

import functools
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ddpg_jax as dj
from ddpg_jax.envs.native.point_reach import RADIUS
from ddpg_jax.replay.hindsight import STRATEGIES

EXAMPLES = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = [(5, 1), (11, 3), (2, 2)]  # capacity and lanes: 5 rows, 3 lanes of 3 with 2 to spare, and lanes of a single row
GAMMA = 0.5
T = jnp.int32(0)
OWN = -7.0  # the goal that all episodes had
ALWAYS = dj.Hyperparams(gamma=GAMMA, hindsight_k=2.0**24, priority_alpha=0.0)
NEVER = ALWAYS._replace(hindsight_k=0.0)


def outcome(achieved: Any, desired: Any) -> tuple[Any, Any]:
    """Reward 1 where the goal is reached, which terminates, and the distance elsewhere: exact in float32."""
    distance = abs(achieved - desired)[..., 0]
    hit = distance == 0
    return jnp.where(hit, 1.0, -distance), jnp.where(hit, 0.0, 1.0)


GOAL = dj.Goal(1, outcome)


class Step(NamedTuple):
    """What the oracle keeps of a transition; its observations are `[x, x, OWN]` and `[y, y, OWN]`."""

    x: float
    y: float
    last: bool
    terminated: bool
    episode: int


class Oracle:
    """Lists of all steps of each lane, in order."""

    def __init__(self, capacity: int, num_envs: int) -> None:
        self.length, self.lanes = capacity // num_envs, [list[Step]() for _ in range(num_envs)]
        self.episodes = [0] * num_envs

    def add(self, n: int, x: float, ending: str) -> None:
        last = ending != ""
        self.lanes[n].append(Step(x, x + 1, last, ending == "terminated", self.episodes[n]))
        self.episodes[n] += last

    def rows(self) -> dict[int, tuple[int, int]]:
        """Row of the buffer -> lane and place in it."""
        first = [max(0, len(lane) - self.length) for lane in self.lanes]
        return {
            place % self.length * len(self.lanes) + n: (n, place)
            for n, lane in enumerate(self.lanes)
            for place in range(first[n], len(lane))
        }

    def goals(self, n: int, place: int, strategy: str) -> set[float]:
        """What can have been achieved in place of the goal: of the same episode, and still stored."""
        lane, stored = self.lanes[n], max(0, len(self.lanes[n]) - self.length)
        same = [k for k in range(stored, len(lane)) if lane[k].episode == lane[place].episode]
        chosen = {"future": [k for k in same if k >= place], "final": same[-1:], "episode": same}[strategy]
        return {lane[k].y for k in chosen}

    def window(self, n: int, place: int, n_step: int, goal: float | None) -> dj.Transition:
        """The n-step transition with this goal, or with its own where it is None."""
        total, discount, k = 0.0, 1.0, place
        for k in range(place, min(place + n_step, len(self.lanes[n]))):
            step = self.lanes[n][k]
            hit = step.terminated if goal is None else step.y == goal
            reward = step.x if goal is None else 1.0 if hit else -abs(step.y - goal)
            total, discount = total + discount * reward, discount * GAMMA
            if hit or step.last:
                break
        wish, first, end = (OWN if goal is None else goal), self.lanes[n][place], self.lanes[n][k]
        over = end.terminated or (goal is not None and end.y == goal)  # OWN is never achieved: what terminated had fallen
        obs, next_obs = (np.array([at, at, wish], np.float32) for at in (first.x, end.y))
        fields: list[Any] = [obs, np.array([first.x], np.float32), total, 0.0 if over else discount, end.last or over, next_obs]
        return dj.Transition(*fields)


@functools.cache
def compiled(kind: str, strategy: str, capacity: int, num_envs: int, n_step: int = 1, batch_size: int = 256) -> Any:
    ring = dj.hindsight.hindsight(GOAL, STRATEGIES[strategy])
    replay = dj.replay.REPLAYS[kind](3, 1, capacity, batch_size=batch_size, num_envs=num_envs, n_step=n_step, ring=ring)
    return replay.init, jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample)


@st.composite
def histories(draw: st.DrawFn, num_envs: int) -> list[tuple[list[str], np.ndarray]]:
    """Up to 14 vector steps: how each environment's step ended, and whether it is valid. The first ones all are."""
    endings = st.lists(st.sampled_from(["", "", "", "terminated", "truncated"]), min_size=num_envs, max_size=num_envs)
    masks = st.lists(st.sampled_from([True, True, True, False]), min_size=num_envs, max_size=num_envs)
    steps = draw(st.lists(st.tuples(endings, masks), min_size=1, max_size=14))
    return [(ending, np.array(mask) | (k == 0)) for k, (ending, mask) in enumerate(steps)]


def play(init: Any, add: Any, capacity: int, num_envs: int, history: list[tuple[list[str], np.ndarray]]) -> Any:
    state, oracle = init(), Oracle(capacity, num_envs)
    for k, (ending, valid) in enumerate(history):
        x = np.where(valid, 64.0 * np.arange(num_envs) + k, np.nan).astype(np.float32)
        terminated, last = np.array(ending) == "terminated", np.array(ending) != ""
        own = np.full_like(x, OWN)
        obs, next_obs = np.stack([x, x, own], axis=-1), np.stack([x + 1, x + 1, own], axis=-1)
        fields: list[Any] = [obs, x[:, None], x, (~terminated).astype(np.float32), last, next_obs]
        state = add(state, dj.Transition(*fields), valid)
        for n in np.flatnonzero(valid):
            oracle.add(int(n), float(x[n]), ending[n])
    return state, oracle


@pytest.mark.parametrize("kind", dj.replay.REPLAYS)
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("capacity", "num_envs"), SHAPES)
@hypothesis.given(data=st.data())
@EXAMPLES
def test_relabelled_samples_equal_the_oracle(
    kind: str, n_step: int, strategy: str, capacity: int, num_envs: int, data: st.DataObject
) -> None:
    """Every row gets each goal that its strategy allows and no other, across wrap-arounds, at the head, in episodes that still
    run and in ones that are longer than the ring; observations, rewards and discounts of the whole window follow from the goal.
    """
    init, add, sample = compiled(kind, strategy, capacity, num_envs, n_step)
    state, oracle = play(init, add, capacity, num_envs, data.draw(histories(num_envs)))
    rows = oracle.rows()
    seen: dict[int, set[float]] = {row: set() for row in rows}
    for seed in range(2):
        batch, _, index = jax.tree.map(np.asarray, sample(jax.random.key(seed), state, ALWAYS, T))
        goals = batch.next_obs[:, -1].tolist()
        expected = [oracle.window(*rows[row], n_step, goal) for row, goal in zip(index.tolist(), goals, strict=True)]
        jax.tree.map(np.testing.assert_array_equal, batch, jax.tree.map(lambda *x: np.stack(x), *expected))
        for row, goal in zip(index.tolist(), goals, strict=True):
            seen[row].add(goal)
    assert seen == {row: oracle.goals(n, place, strategy) for row, (n, place) in rows.items()}


@hypothesis.given(data=st.data())
@EXAMPLES
def test_without_another_goal_nothing_is_changed(data: st.DataObject) -> None:
    """k = 0 is the replay inside, to the bit, terminations by its own goals included."""
    init, add, sample = compiled("uniform", "future", 11, 3, 3)
    state, oracle = play(init, add, 11, 3, data.draw(histories(3)))
    batch, _, index = jax.tree.map(np.asarray, sample(jax.random.key(0), state, NEVER, T))
    expected = [oracle.window(*oracle.rows()[row], 3, None) for row in index.tolist()]
    jax.tree.map(np.testing.assert_array_equal, batch, jax.tree.map(lambda *x: np.stack(x), *expected))


@pytest.mark.parametrize("strategy", ["future", "episode"])
def test_goals_are_uniform_over_what_the_strategy_allows(strategy: str) -> None:
    """As the paper draws them (chi-square), of an episode of 8 steps that has 3 more behind the sampled one."""
    init, add, sample = compiled("uniform", strategy, 16, 1, batch_size=8_192)
    history = [("", 3), ("truncated", 1), ("", 7), ("truncated", 1), ("", 2)]
    steps = [([ending], np.ones(1, bool)) for ending, count in history for _ in range(count)]
    state, oracle = play(init, add, 16, 1, steps)
    batch, _, index = sample(jax.random.key(0), state, ALWAYS, T)
    row = 8  # the fifth step of the second episode
    goals = np.asarray(batch.obs)[np.asarray(index) == row, -1]
    found, counts = np.unique(goals, return_counts=True)
    assert set(found) == oracle.goals(0, row, strategy)
    assert len(found) == {"future": 4, "episode": 8}[strategy]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_an_episode_that_its_own_goal_ended_goes_on_for_another_goal() -> None:
    """Of two terminated steps the first had reached its goal, 5, and the second had fallen; neither reaches the other goal."""
    obs = jnp.array([[4.0, 4.0, 5.0], [4.0, 4.0, 9.0]])
    step = dj.Transition(obs, obs[:, :1], jnp.ones(2), jnp.zeros(2), jnp.ones(2, bool), obs + jnp.array([[1.0, 1.0, 0.0]]))
    for wished, discounts in ((7.0, [1.0, 0.0]), (5.0, [0.0, 0.0])):
        [again] = dj.hindsight.relabel([step], jnp.ones(2, bool), jnp.full((2, 1), wished), goal=GOAL)
        assert again.discount.tolist() == discounts


@pytest.mark.parametrize("k", [1.0, 4.0])
def test_k_of_k_plus_1_samples_have_another_goal(k: float) -> None:
    """k is traced: it can be swept (binomial test)."""
    init, add, sample = compiled("uniform", "future", 16, 1, batch_size=8_192)
    state, _ = play(init, add, 16, 1, [([""], np.ones(1, bool))] * 5)
    batch, _, _ = sample(jax.random.key(0), state, ALWAYS._replace(hindsight_k=k), T)
    changed = int((np.asarray(batch.obs)[:, -1] != OWN).sum())
    assert scipy.stats.binomtest(changed, 8_192, k / (k + 1)).pvalue > 1e-3


def test_an_interruption_ends_the_episode() -> None:
    """What is written after `end_open_episodes` is another episode, and nothing of it is a goal of the one before."""
    init, add, sample = compiled("uniform", "future", 5, 1)
    state, _ = play(init, add, 5, 1, [([""], np.ones(1, bool))] * 2)
    state = dj.replay.end_open_episodes(state)
    one = jnp.array([[20.0, 20.0, OWN]])
    state = add(state, dj.Transition(one, one[:, :1], one[:, 0], one[:, 0], one[:, 0] > 99, one), np.ones(1, bool))
    batch, _, index = jax.tree.map(np.asarray, sample(jax.random.key(0), state, ALWAYS, T))
    assert {(row, goal) for row, goal in zip(index, batch.obs[:, -1], strict=True)} == {(0, 1), (0, 2), (1, 2), (2, 20)}


@pytest.mark.parametrize("kind", dj.replay.REPLAYS)
def test_a_step_copies_nothing(kind: str) -> None:
    """Add and sample in a loop, in place: the scratch of the program is smaller than what is kept of the episodes."""
    capacity = 2**17
    replay = dj.replay.REPLAYS[kind](3, 1, capacity, batch_size=8, num_envs=2, ring=dj.hindsight.hindsight(GOAL))

    def steps(state: Any, keys: Any) -> Any:
        def body(state: Any, key: Any) -> Any:
            x, ones = jnp.ones((2, 3)), jnp.ones(2)
            state = replay.add(state, dj.Transition(x, x[:, :1], ones, ones, ones < 0, x), ones > 0)
            batch, weight, index = replay.sample(key, state, ALWAYS, T)
            return replay.feedback(state, index, batch.reward + weight, ALWAYS), index

        return jax.lax.scan(body, state, keys)

    shapes = jax.eval_shape(replay.init), jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 10))
    compiled: Any = jax.jit(steps, donate_argnums=0).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * capacity / 4


def test_hindsight_reaches_goals_that_are_not_found_by_chance() -> None:
    """The sparse reward of point-reach: with hindsight nearly every episode ends at its goal, without it hardly any.

    Of both parts at once, prioritized too.
    """
    fields: dict[str, Any] = {
        "steps": 5_000,  # where ten of ten seeds are at -13 or better
        "eval_every": 5_000,
        "eval_episodes": 50,
        "gamma": 0.98,
        "actor_lr": 1e-3,
        "hidden": (64, 64),
        "exploration": "gaussian",
        "epsilon_uniform": 0.2,
    }
    alone = dj.train("point-reach", **fields)
    hindsight = dj.train("point-reach", replay="prioritized", hindsight="future", **fields)
    assert alone.returns[-1] < -40
    assert hindsight.returns[-1] > -20  # the best possible is about -8


def test_point_reach_tells_of_its_goals() -> None:
    """The reward of every step is what `Goal.outcome` says of its successor, 0 or -1; goals stay until the episode ends."""
    env = dj.envs.make_device("point-reach")
    goal = env.spec.goal
    assert goal is not None
    step = jax.jit(env.step)
    state, obs = env.reset(jax.random.key(0))
    wish, transition = obs[4:], dj.Transition(*[obs] * 6)
    for k in range(50):
        toward = jnp.clip((obs[4:] - obs[:2]) / 0.1, -1, 1)
        state, obs, transition = step(jax.random.key(k), state, obs, toward)
        assert np.array_equal(transition.next_obs[4:], wish)
        assert np.array_equal(transition.next_obs[:2], transition.next_obs[2:4])
        reward, discount = goal.outcome(transition.next_obs[2:4], transition.next_obs[4:])
        assert (float(transition.reward), float(transition.discount)) == (float(reward), float(discount))
        assert float(reward) == -float(np.linalg.norm(transition.next_obs[2:4] - wish) > RADIUS)
    assert transition.last
    assert not transition.reward
    assert not np.array_equal(obs[4:], wish)


@pytest.mark.parametrize("backend", ["device", "host"])
def test_hindsight_without_goals_is_refused(backend: str) -> None:
    """In one sentence, when the program is made."""
    experiment, hyper = dj.configure({"env": "Pendulum-v1", "backend": backend, "hindsight": "future"})
    with pytest.raises(dj.ConfigError) as error:
        dj.make_program(experiment, [dj.Member(0, hyper)])
    for words in ("hindsight=future", "env=Pendulum-v1, which has no goals", "it must be none"):
        assert words in str(error.value)


@pytest.mark.parametrize("fields", [{"hindsight": "past"}, {"hindsight_k": -1}])
def test_fields_of_hindsight_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(dj.ConfigError, match=f"{next(iter(fields))}=.* is not allowed"):
        dj.configure(fields)


def test_a_policy_with_goals_is_saved_and_loaded(tmp_path: Any) -> None:
    """The file holds no functions: what is known of the goals is left out."""
    run = dj.train("point-reach", steps=200, warmup_steps=150, hidden=(8,), eval_episodes=1, hindsight="final")
    run.policy.save(tmp_path)
    loaded = dj.load_policy(tmp_path)
    obs = np.ones((3, 6), np.float32)
    assert np.array_equal(loaded(obs), run.policy(obs))
