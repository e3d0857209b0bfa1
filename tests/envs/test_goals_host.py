"""Gymnasium environments with goals: their observations, their reward function in the compiled program, and what is refused."""

import copy
import pickle
import sys
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

import ddpg_jax as dj
from ddpg_jax.envs.host import host_env, make_host
from ddpg_jax.envs.host.make import maker
from ddpg_jax.replay.hindsight import ends_above, hindsight, relabel
from tests.hosts import Vector

FIELDS: dict[str, Any] = {
    "steps": 120,
    "warmup_steps": 60,
    "batch_size": 16,
    "hidden": (8,),
    "eval_every": 120,
    "eval_episodes": 1,
    "hindsight": "future",
}


class Line(gymnasium.Env[Any, Any]):
    """Walks a line to a goal, in steps up to 1; ends there, or is cut after 6 steps. It observes its step and its position."""

    observation_space = Dict(
        {
            "achieved_goal": Box(-np.inf, np.inf, (1,), np.float64),
            "desired_goal": Box(-np.inf, np.inf, (1,), np.float64),
            "observation": Box(-np.inf, np.inf, (2,), np.float64),
        }
    )
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def observe(self) -> dict[str, np.ndarray]:
        at = np.array([self.position])
        return {
            "observation": np.array([self.clock, self.position]),
            "achieved_goal": at,
            "desired_goal": np.array([self.goal]),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.position, self.goal = 0, 0.0, float(self.np_random.uniform(1, 4))
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock, self.position = self.clock + 1, self.position + float(action[0])
        pair = np.array([self.position]), np.array([self.goal])
        return self.observe(), float(self.compute_reward(*pair, {})), self.compute_terminated(*pair, {}), self.clock == 6, {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return -(np.linalg.norm(achieved - desired, axis=-1) > 0.5).astype(float)

    def compute_terminated(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> bool:
        assert achieved.shape == (1,), "one goal after the other"
        return bool(abs(achieved[0] - desired[0]) <= 0.5)


class Silent(Line):
    """Tells nobody how it rewards."""

    compute_reward = None  # pyright: ignore

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observe(), 0.0, False, False, {}


class OneByOne(Line):
    """Rewards one goal at a time."""

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return -float(np.linalg.norm(achieved - desired))


def test_observations_are_put_end_to_end_and_successors_are_true() -> None:
    """[step, position, achieved, desired]; the last step of an episode has its own goal in its successor, and the next episode
    another.
    """
    env = Vector(Line, 2)
    assert env.spec.obs_shape == (4,)
    obs = env.reset()
    ends = 0
    for _ in range(30):
        step = env.step(np.full((2, 1), 0.25))
        for n in range(2):
            clock, position, reached, wish = obs[n]
            assert step.next_obs[n].tolist() == [clock + 1, position + 0.25, reached + 0.25, wish]
            assert step.reward[n] == (0.0 if abs(position + 0.25 - wish) <= 0.5 else -1.0)
            assert (step.obs[n, 0] == 0) == step.last[n]
            ends += int(step.last[n])
        obs = step.obs
    assert ends >= 4


@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
def test_the_compiled_program_asks_the_environment(shape: tuple[int, ...]) -> None:
    """Rewards and terminations of any batch, under `vmap` too, are those of the environment one by one."""
    goal = host_env(Line, "Line").spec.goal
    assert goal is not None
    pairs = np.random.default_rng(0).uniform(-1, 1, (2, *shape, 1)).astype(np.float32)
    env = Line()
    for call, stack in ((goal.outcome, pairs), (jax.vmap(goal.outcome), np.stack([pairs, -2 * pairs], axis=1))):
        reward, discount = jax.jit(call)(*stack)
        pairs_of = list(zip(*stack.reshape(2, -1, 1).astype(float), strict=True))
        assert np.ravel(reward).tolist() == [float(env.compute_reward(a, b, {})) for a, b in pairs_of]
        assert np.ravel(discount).tolist() == [1.0 - env.compute_terminated(a, b, {}) for a, b in pairs_of]


def test_members_of_a_sweep_learn_in_hindsight_as_alone() -> None:
    """Prioritized, in n-step windows, several environments at once; k is swept. No hang, no neighbour, to the bit."""
    fields = {**FIELDS, "replay": "prioritized", "n_step": 2, "num_envs": 2, "updates_per_step": 0.5}
    swept = dj.sweep(Line, seeds=1, grid={"hindsight_k": [0.0, 4.0]}, placement="map", **fields)
    alone = dj.train(Line, hindsight_k=4.0, **fields).policy
    jax.tree.map(np.testing.assert_array_equal, swept.policies[1].params, alone.params)
    assert not np.array_equal(*(jax.tree.leaves(policy.params)[0] for policy in swept.policies))
    obs, _ = Line().reset(seed=0)
    flat = np.concatenate([obs[part] for part in ("observation", "achieved_goal", "desired_goal")])
    assert np.array_equal(alone(obs), alone(flat))  # a policy takes what the environment gives


@pytest.mark.parametrize("make", [Silent, OneByOne])
def test_goals_without_rewards_of_batches_are_refused(make: Any) -> None:
    """In a sentence that says what is missing; without hindsight the environment is one as any other."""
    with pytest.raises(dj.ConfigError, match=r"hindsight=future is not allowed with env=.* compute_reward that takes batches"):
        dj.train(make, **FIELDS)
    assert host_env(make, "Line").spec.obs_shape == (4,)


class Reach(gymnasium.Env[Any, Any]):
    """Ends where its goal is reached, and says so nowhere."""

    observation_space = Dict({part: Box(-2, 2, (2,), np.float32) for part in ("observation", "achieved_goal", "desired_goal")})
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def observe(self) -> dict[str, np.ndarray]:
        return {"observation": self.x.copy(), "achieved_goal": self.x.copy(), "desired_goal": self.goal.copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = np.clip(self.x + 0.1 * action, -2, 2).astype(np.float32)
        reward = float(self.compute_reward(self.x[None], self.goal[None], {})[0])
        return self.observe(), reward, reward == 0.0, False, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -(np.linalg.norm(achieved - desired, axis=-1) > 0.2).astype(np.float32)


class Hundred(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards otherwise, in its step and, written for hindsight, in its function."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return 100.0 * (np.linalg.norm(achieved - desired, axis=-1) <= 0.2).astype(np.float32)

    def step(self, action: Any) -> Any:
        obs, _, *rest = self.env.step(action)
        return obs, float(self.compute_reward(obs["achieved_goal"][None], obs["desired_goal"][None], {})[0]), *rest


class Informed(Reach):
    """Rewards by what it tells besides."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return super().compute_reward(achieved, desired, info) - info.get("effort", 0.0)


class Counted(Reach):
    """Rewards by whether it tells anything besides."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return super().compute_reward(achieved, desired, info) * (2 if info else 1)


class Judged(Reach):
    """Says only in `info` whether it ends."""

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> bool:
        return bool(info["is_success"])


class Broken(Reach):
    """Has a function that cannot be asked."""

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> bool:
        raise NotImplementedError


class Placed(Reach):
    """Rewards by where it is, too."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return super().compute_reward(achieved, desired, info) - float(np.abs(getattr(self, "x", 0.0)).sum())


class Failing(Reach):
    """Can be asked before a run, and not in it."""

    asked = 0

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        self.asked += len(np.atleast_2d(achieved))
        if self.asked > 200:
            raise ValueError("the motor is on fire")
        return super().compute_reward(achieved, desired, info)


def test_a_function_that_fails_in_a_run_ends_it_in_a_sentence() -> None:
    with pytest.raises(dj.EnvironmentFailure, match=r"^env=Failing raised ValueError: the motor is on fire"):
        dj.train(Failing, **FIELDS)


def test_the_outermost_function_of_rewards_is_asked() -> None:
    goal = host_env(lambda: gymnasium.wrappers.TimeLimit(Hundred(Reach()), 20), "Reach").spec.goal
    assert goal is not None
    here, there = jnp.zeros((1, 2)), jnp.ones((1, 2))
    assert [goal.outcome(here, at)[0].item() for at in (here, there)] == [100.0, 0.0]
    assert not goal.tells_ends


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: gymnasium.wrappers.TransformReward(Reach(), lambda r: 5 * float(r) + 1), "its step gives the reward"),
        (Informed, "its compute_reward reads info, which is not kept"),
        (Counted, "its compute_reward reads info, which is not kept"),
        (Judged, "its compute_terminated reads info, which is not kept"),
        (Broken, "its compute_terminated raises NotImplementedError"),
        (Placed, "its compute_reward gives the same goals other rewards later"),
    ],
)
def test_rewards_that_do_not_depend_on_goals_alone_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(dj.ConfigError, match=f"^hindsight=future is not allowed with env=.*: {sentence}"):
        dj.train(make, **FIELDS)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_reaching_a_goal_ends_where_it_has_ended(own: bool, new: bool) -> None:
    """And goes on where it has gone on, or where nothing is known; what ended for another reason still ends."""
    goal = host_env(Reach, "Reach").spec.goal
    assert goal is not None
    assert not goal.tells_ends
    here = jnp.zeros((1, 2))
    desired = here if new else here + 0.9
    obs = jnp.concatenate([here, here, here if own else here + 0.5], axis=1)

    def discount(ended: bool, above: float) -> float:
        reward, end = jnp.array([float(own) - 1.0]), jnp.array([1.0 - ended])
        step = dj.Transition(obs, here, reward, end, jnp.array([ended]), obs)
        return relabel([step], jnp.array([True]), desired, goal=goal, above=jnp.float32(above))[0].discount.item()

    assert discount(ended=own, above=-1.0) == 1.0 - new
    assert discount(ended=not own, above=-1.0) == (0.0 if new or not own else 1.0)
    assert discount(ended=False, above=np.inf) == 1.0
    assert discount(ended=True, above=np.inf) == 0.0


class Near(Reach):
    """Rewards by the distance, and ends near the goal; or falls, far from it."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, reward > -0.3 or reward < -1.7, truncated, info


def test_the_ring_learns_which_rewards_end_an_episode() -> None:
    """From two steps on, of which none went on with more; a single one could be a fall."""
    goal = host_env(Reach, "Reach").spec.goal
    assert goal is not None
    ring, (obs, action) = hindsight(goal)(6, 2, 8), (jnp.zeros((1, 6)), jnp.zeros((1, 2)))
    state, found = ring.init(), []
    for reward, ended in ((-1.0, True), (-1.0, False), (0.0, True), (0.0, True), (-0.5, False), (0.0, False)):
        end = jnp.array([ended])
        step = dj.Transition(obs, action, jnp.array([reward]), 1.0 - end, end, obs)
        state = ring.add(ring.add(state, step, jnp.array([True])), step, jnp.array([False]))
        found.append(ends_above(state.seen).item())
    assert found == [np.inf, np.inf, np.inf, -1.0, -0.5, np.inf]


def test_discounts_are_those_of_the_environment_where_rewards_grow_up_to_the_goal() -> None:
    """Relabelled steps of an environment that ends within a distance of its goal end where it would have ended."""
    env = Vector(lambda: gymnasium.wrappers.TimeLimit(Near(), 30), 8)
    goal = env.spec.goal
    assert goal is not None
    ring = hindsight(goal)(6, 2, 8 * 300, num_envs=8)
    add, state = jax.jit(ring.add), ring.init()
    before = env.reset()
    for step in env.play(300, seed=0):
        told = (step.reward, 1.0 - step.terminated, step.last, step.next_obs)
        transition = dj.Transition(jnp.asarray(before), jnp.zeros((8, 2)), *map(jnp.asarray, told))
        state, before = add(state, transition, jnp.ones(8, bool)), step.obs
    batch = ring.read(jax.random.key(0), state, jnp.arange(8 * 300), dj.Hyperparams(hindsight_k=1e9))
    reached, desired = np.asarray(batch.next_obs)[:, 2:4], np.asarray(batch.obs)[:, 4:]
    reward = Near().compute_reward(reached, desired, {})
    fell = np.asarray(ring.read(jax.random.key(0), state, jnp.arange(8 * 300), dj.Hyperparams(hindsight_k=0.0)).reward) < -1.7
    expected = np.where((reward > -0.3) | fell, 0.0, 1.0)
    assert (expected == 0).mean() > 0.1
    clear = np.abs(reward + 0.3) > 0.02  # what lies closer to the threshold was not seen
    np.testing.assert_array_equal(np.asarray(batch.discount)[clear] > 0, expected[clear] > 0)


def test_what_training_returns_can_be_pickled_and_copied() -> None:
    run = dj.train(lambda: gymnasium.wrappers.TimeLimit(Reach(), 6), **FIELDS)
    swept = dj.sweep(Line, seeds=1, **FIELDS)
    obs, _ = Reach().reset(seed=0)
    for copied in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        np.testing.assert_array_equal(copied.policy(obs), run.policy(obs))
        assert repr(copied.rows) == repr(run.rows)  # NaN is no equal of itself
    for copied in (pickle.loads(pickle.dumps(swept)), copy.deepcopy(swept)):
        np.testing.assert_array_equal(copied.returns, swept.returns)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gymnasium.registry, "PointMaze_UMaze-v3", raising=False)  # if another test has imported the package
    with pytest.raises(dj.ConfigError, match=r"env=PointMaze_UMaze-v3 needs the extra goals, .* pip install .*\[goals\]\"$"):
        make_host("PointMaze_UMaze-v3")


def test_point_maze_rewards_as_its_function_says() -> None:
    """With gymnasium-robotics: its name is enough, and the reward of every step is that of its goals."""
    pytest.importorskip("gymnasium_robotics")
    env = Vector(maker("PointMaze_UMaze-v3"), 2)
    goal = env.spec.goal
    assert goal is not None
    assert (goal.dim, env.spec.obs_dim, env.spec.max_steps) == (2, 8, 300)
    env.reset()
    for _ in range(20):
        step = env.step(np.ones((2, 2)))
        reward, discount = goal.outcome(jnp.asarray(step.next_obs[:, 4:6]), jnp.asarray(step.next_obs[:, 6:]))
        assert np.array_equal(reward, step.reward)
        assert np.array_equal(discount, 1.0 - step.terminated)
    with pytest.raises(dj.ConfigError, match="PointMaze_UMaze-v3"):
        make_host("PointMaze_UMase-v3")
