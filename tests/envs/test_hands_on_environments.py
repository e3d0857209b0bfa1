"""Environments as other people write them: what a checkpoint may do to them, and what is refused before a run begins."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import ddpg_jax as dj
from ddpg_jax.running import hardware
from ddpg_jax.running.groups import Group, fit_to_memory
from tests.hosts import Vector

SHORT: dict[str, Any] = {
    "steps": 24,
    "warmup_steps": 12,
    "batch_size": 4,
    "hidden": (4,),
    "eval_every": 12,
    "eval_episodes": 1,
    "replay_capacity": 100,
}


class Point(gymnasium.Env[Any, Any]):
    """Moves a point; each class below changes one thing."""

    observation_space: Any = Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 2)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.x = self.x + 0.1 * float(action[0])
        return self.observe(), self.reward(), *self.ends(), {}

    def observe(self) -> Any:
        return self.x.astype(np.float32)

    def reward(self) -> Any:
        return -float(np.abs(self.x).sum())

    def ends(self) -> tuple[Any, Any]:
        return False, False


def limited(make: Any) -> Any:
    return lambda: gymnasium.wrappers.TimeLimit(make(), 5)


# What a checkpoint may do.

WORLDS: dict[int, np.ndarray] = {}
"""What a C library would hold."""
NUMBERS = itertools.count()


class Client:
    """Owns a world outside of Python, which ends when the client is collected."""

    def __init__(self) -> None:
        self.number = next(NUMBERS)
        WORLDS[self.number] = np.zeros(2)

    def __del__(self) -> None:
        WORLDS.pop(self.number, None)


class Simulated(Point):
    """Its world is behind a client."""

    def __init__(self) -> None:
        self.client = Client()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, info = super().reset(seed=seed)
        WORLDS[self.client.number] = self.x
        return obs, info

    def step(self, action: Any) -> Any:
        self.x = WORLDS[self.client.number]
        told = super().step(action)
        WORLDS[self.client.number] = self.x
        return told


class Numbered(Point):
    """Its world is behind a number."""

    def __init__(self) -> None:
        self.world = next(NUMBERS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        gymnasium.Env.reset(self, seed=seed)
        WORLDS[self.world] = self.np_random.uniform(-1, 1, 2)
        return WORLDS[self.world].astype(np.float32), {}

    def step(self, action: Any) -> Any:
        WORLDS[self.world] += 0.1 * float(action[0])
        return WORLDS[self.world].astype(np.float32), 0.0, False, False, {}


class OfTheProcess(Point):
    """Draws from NumPy's global generator."""

    def reward(self) -> float:
        return float(np.random.uniform())  # noqa: NPY002


class Threaded(Point):
    """Holds an object of the standard library that pickles and is lost."""

    def __init__(self) -> None:
        import weakref

        self.finalizer = weakref.finalize(self, print)


class Finalized(Point):
    """Owns an object whose collection is waited for, which its copy is not."""

    def __init__(self) -> None:
        import weakref

        self.client = Plain()
        weakref.finalize(self.client, print)


class Plain:
    """Has no methods of its own."""


class Slotted(Point):
    """Keeps a part of its state in a slot."""

    __slots__ = ("late",)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.late = 0.0
        return super().reset(seed=seed)


class Drawn(Point):
    """Draws from NumPy's global generator at resets alone."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        told = super().reset(seed=seed)
        self.x = np.random.uniform(-1, 1, 2)  # noqa: NPY002
        return told


class Counting(Point):
    """Counts its steps in its class, as many as any other copy that has done the same."""

    count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        Counting.count = 0
        return super().reset(seed=seed)

    def reward(self) -> float:
        Counting.count += 1
        return float(Counting.count)


MAPS: list[float] = []


class Mapped(Point):
    """Holds a number of a table to which every reset adds, and which only this process has."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        told = super().reset(seed=seed)
        MAPS.append(self.np_random.uniform())
        self.map = len(MAPS) - 1
        return told

    def reward(self) -> float:
        return MAPS[self.map]


def enclosed() -> Any:
    """Makes an environment whose state is in a closure, and shows late."""
    steps = [0]

    class Enclosed(Point):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            steps[0] = 0
            return super().reset(seed=seed)

        def reward(self) -> float:
            steps[0] += 1
            return float(steps[0] > 40)

    return Enclosed()


def test_a_checkpoint_does_not_end_a_live_simulator() -> None:
    """A copy that is unpickled beside it would end the world of both when it is collected."""
    env = Vector(Simulated)
    env.reset()
    assert env.snapshot() is None
    env.play(3, seed=0)


@pytest.mark.parametrize(
    "make", [Simulated, Numbered, OfTheProcess, Threaded, Finalized, Slotted, Drawn, Counting, Mapped, enclosed]
)
def test_what_does_not_come_back_is_found_out_before_the_run(make: Any) -> None:
    env = Vector(make, 2)
    assert not env.outside.goes_on_after_restore()
    env.reset()
    env.play(3, seed=0)


def test_what_comes_back_is_shown_without_touching_what_runs() -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(Point())
        made[-1].client = Plain()
        return made[-1]

    env = Vector(limited(make), 2)
    own = [one.client for one in made]
    assert env.outside.goes_on_after_restore()
    assert all(one.client is client for one, client in zip(made, own, strict=True))
    other = Vector(Point)
    other.reset()
    assert not other.outside.goes_on_after_restore(), "nothing is restored while an environment is in use"
    assert Vector(Point).outside.goes_on_after_restore(), "one copy, which is restored in place"
    assert not Vector(Numbered).outside.goes_on_after_restore()


def test_programs_made_in_python_keep_their_environments() -> None:
    """Whether they can is shown only before they are in use, which a caller need not know."""
    experiment, hyper = dj.configure({"env": "Point", **SHORT, "eval_episodes": 0})
    program = dj.make_program(experiment, [dj.Member(0, hyper)], limited(Point))
    _, text = program.save(program.start())
    program.close()
    assert text


def test_a_run_says_that_its_episodes_will_start_again(
    command_line: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from gymnasium.envs.registration import EnvSpec

    from ddpg_jax.app.cli import main

    monkeypatch.setitem(gymnasium.registry, "Numbered-v0", EnvSpec("Numbered-v0", lambda **_: Numbered()))
    words = "--warmup-steps 12 --batch-size 4 --hidden 4 --eval-every 12 --eval-episodes 1 --env-kwargs max_episode_steps=5"
    command = ["train", "Numbered-v0", *words.split(), "--out", str(tmp_path / "run")]
    assert main([*command, "--steps", "18"]) == 0
    assert "env=Numbered-v0 cannot be kept in checkpoints: after a --resume, its episodes start again" in capfd.readouterr().err
    assert main([*command, "--steps", "24", "--resume"]) == 0
    assert "the environments could not be kept: their episodes start again" in capfd.readouterr().err


# What a first reset and a first step show.


class OldStep(Point):
    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


class NoSeed(Point):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset()


class Wide(Point):
    """Has other bounds after its reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.action_space = Box(-2.0, 2.0, (1,), np.float32)
        return super().reset(seed=seed)


def with_(**methods: Any) -> Any:
    return type("Wrong", (Point,), {name: lambda self, value=value: value for name, value in methods.items()})


WRONG: dict[str, tuple[Any, str]] = {
    "no reward": (with_(reward=None), "gave None as reward; it must be a number"),
    "two rewards": (with_(reward=np.zeros(2)), r"gave a reward of shape \(2,\); it must be one number"),
    "NaN reward": (with_(reward=np.nan), "gave nan as reward"),
    "huge reward": (with_(reward=1e40), r"gave 1e\+40 as reward"),
    "text": (with_(reward="1.0"), "gave '1.0' as reward; it must be a number"),
    "complex reward": (with_(reward=1j), "gave 1j as reward; it must be a number"),
    "array": (with_(ends=(np.zeros(2, bool), False)), r"gave terminated of shape \(2,\); it must be one truth value"),
    "no end": (with_(ends=(False, None)), "gave None as truncated; it must be True or False"),
    "number": (with_(observe=np.float32(0)), r"gave an observation of shape \(\); its space says \(2,\)"),
    "complex": (with_(observe=np.zeros(2, complex)), "gave an observation of type complex128; it must be of real numbers"),
    "texts": (with_(observe=np.array(["1", "2"])), "gave an observation of type <U1; it must be of real numbers"),
    "old step": (OldStep, r"gave 4 values from step; it must give .* \(test_hands_on_environments.py, line \d+\)"),
    "old step in a wrapper": (limited(OldStep), r"gave 4 values from step; .* \(test_hands_on_environments.py, line \d+\)"),
    "no seed": (NoSeed, r"does not take the seed of reset; .* \(test_hands_on_environments.py, line \d+\)"),
    "other bounds": (Wide, r"changed the bounds of its actions to Box\(-2.0, 2.0.* in a trial of its first reset"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_first_step_is_taken_before_anything_is_compiled(fault: str) -> None:
    make, sentence = WRONG[fault]
    experiment, hyper = dj.configure(SHORT)
    with pytest.raises((dj.EnvironmentFailure, dj.ConfigError), match=sentence):
        dj.make_program(experiment, [dj.Member(0, hyper)], make)


@pytest.mark.parametrize("which", ["action_space", "observation_space"])
def test_copies_have_the_same_spaces(which: str) -> None:
    highs = itertools.count(1)

    def make() -> Point:
        env = Point()
        setattr(env, which, Box(-1.0, float(next(highs)), getattr(env, which).shape, np.float32))
        return env

    with pytest.raises(dj.ConfigError, match=f"has the {which} .* in another copy; all copies must have the same"):
        dj.train(make, **SHORT)


class Widening(Point):
    """Changes the bounds of its actions at its third reset, in place."""

    def __init__(self) -> None:
        self.action_space, self.resets = Box(-1.0, 1.0, (1,), np.float32), 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.resets += 1
        if self.resets == 3:
            self.action_space.high[:] = 2.0
        return super().reset(seed=seed)


def test_bounds_that_change_later_end_the_run() -> None:
    """Actions would be scaled with the old ones."""
    with pytest.raises(dj.EnvironmentFailure, match=r"changed the bounds of its actions to Box\(-1.0, 2.0.* at step"):
        dj.train(limited(Widening), **SHORT)


def test_a_missing_time_limit_is_told_at_the_start() -> None:
    class Ends(Point):
        def step(self, action: Any) -> Any:
            obs, reward, *_ = super().step(action)
            return obs, reward, bool(self.np_random.uniform() < 0.5), False, {}

    with pytest.warns(UserWarning, match=r"^env=Ends has no time limit that is known, .* max_episode_steps=N in env_kwargs"):
        dj.train(Ends, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = dj.train(limited(Point), **SHORT)
    assert run.policy.spec.max_steps == 5


# Wrappers that learn.


class Normalized(gymnasium.wrappers.NormalizeObservation):
    """Learns, by another name."""


class Holding(gymnasium.Env[Any, Any]):
    """Holds another environment without being a wrapper."""

    def __init__(self) -> None:
        self.inner = Normalized(Point())
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Normalized(Point()), "normalize_obs"),
        (lambda: gymnasium.wrappers.TimeLimit(gymnasium.wrappers.NormalizeReward(Point()), 5), "normalize_reward"),
        (lambda: gymnasium.wrappers.TimeLimit(Holding(), 5), "normalize_obs"),
    ],
)
def test_wrappers_that_learn_are_refused_through_every_door(make: Any, field: str) -> None:
    with pytest.raises(dj.ConfigError, match=f"has the wrapper Normal.*; it must be replaced by {field}=true"):
        dj.train(make, **SHORT)


def test_wrappers_that_learn_are_refused_by_module_and_name() -> None:
    for wrappers in ("gymnasium.wrappers:NormalizeObservation", "tests.envs.test_hands_on_environments:Normalized"):
        with pytest.raises(dj.ConfigError, match="it must be replaced by normalize_obs=true"):
            dj.train("Pendulum-v1", wrappers=wrappers, **SHORT)


def test_statistics_that_are_fixed_are_no_learning() -> None:
    def make() -> Any:
        env = gymnasium.wrappers.NormalizeObservation(Point())
        env.update_running_mean = False
        return gymnasium.wrappers.TimeLimit(env, 5)

    experiment, hyper = dj.configure(SHORT)
    assert dj.make_program(experiment, [dj.Member(0, hyper)], make).spec.max_steps == 5


# An environment of which only one may exist.


class Robot(Point):
    """May be open only once."""

    is_open = False

    def __init__(self) -> None:
        if Robot.is_open:
            raise RuntimeError("the robot is in use")
        Robot.is_open = True

    def close(self) -> None:
        Robot.is_open = False


@pytest.mark.parametrize("fields", [{"eval_env": "shared", "eval_episodes": 2}, {"eval_episodes": 0}])
def test_an_environment_that_may_exist_once_is_trained(fields: dict[str, Any]) -> None:
    """Evaluated in the environment that it trains in, or by the returns of training."""
    run = dj.train(limited(Robot), **{**SHORT, **fields})
    assert not Robot.is_open
    assert np.isfinite(run.returns).all()
    evaluated = [np.isfinite(row["eval_return_mean"]) for row in run.rows]
    assert evaluated == [bool(fields["eval_episodes"])] * 2
    if not fields["eval_episodes"]:
        assert run.returns.tolist() == [row["train_return_mean"] for row in run.rows]


def test_one_copy_is_not_enough_by_default() -> None:
    with pytest.raises(
        dj.ConfigError, match=r"cannot be made: RuntimeError: the robot is in use.* if only one may exist, set eval_env=shared"
    ):
        dj.train(limited(Robot), **SHORT)
    Robot.is_open = False
    with pytest.raises(dj.ConfigError, match="eval_env=shared is not allowed with env=Pendulum-v1 on the device"):
        dj.train("Pendulum-v1", **{**SHORT, "eval_env": "shared"})


# Options, and random numbers.


def test_global_generators_are_seeded_for_a_run_and_put_back() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 # pyright: ignore[reportIndexIssue, reportArgumentType, reportAttributeAccessIssue]
    first, again, other = (dj.train(limited(OfTheProcess), **{**SHORT, "seed": seed}) for seed in (0, 0, 1))
    assert first.rows[-1]["train_return_mean"] == again.rows[-1]["train_return_mean"] != other.rows[-1]["train_return_mean"]
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002 # pyright: ignore[reportIndexIssue, reportArgumentType, reportAttributeAccessIssue]


def test_an_evaluation_during_a_training_leaves_its_random_numbers_alone() -> None:
    make, returns = limited(OfTheProcess), []

    def look(member: int, step: int, row: Any, policy: dj.Policy) -> None:
        returns.append(dj.evaluate(policy, make, episodes=1).returns[0])

    fields = {**SHORT, "eval_every": SHORT["steps"] // 2}
    runs = [dj.train(make, **fields), dj.train(make, **fields, on_evaluation=look)]
    assert len(returns) == 2
    assert [row["train_return_mean"] for row in runs[0].rows] == [row["train_return_mean"] for row in runs[1].rows]


def test_values_may_be_literals_of_python_and_files_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "map.csv").write_text("1")
    (tmp_path / "word").write_text("1")
    monkeypatch.chdir(tmp_path)
    given = dj.configure({"env_kwargs": "range=(0.2, 1.0),path=map.csv,word='a',free=map.txt"})[0].env_kwargs
    assert json.loads(given) == {"range": [0.2, 1.0], "path": str(tmp_path / "map.csv"), "word": "a", "free": "map.txt"}
    given = dj.configure({"env_kwargs": "a=./word,b=word,c=./"})[0].env_kwargs
    assert json.loads(given) == {"a": str(tmp_path / "word"), "b": "word", "c": str(tmp_path)}, "a word is no path"
    with pytest.raises(dj.ConfigError, match="its values must be allowed in JSON"):
        dj.configure({"env_kwargs": "a={1: 2}"})


def test_wrappers_take_keyword_arguments() -> None:
    from ddpg_jax.envs.host import make_host
    from ddpg_jax.experiment.build import env_options

    stacked = "FrameStackObservation(stack_size=4, padding_type='zero')"
    experiment = dj.configure({"wrappers": f"TimeAwareObservation,{stacked}"})[0]
    assert experiment.wrappers == ("TimeAwareObservation", stacked)
    assert make_host("Pendulum-v1", env_options(experiment)).spec.obs_shape == (4, 4)
    for wrong in ("ClipAction(3)", "FrameStackObservation(stack_size=x)", "ClipAction("):
        with pytest.raises(dj.ConfigError, match=r"^wrappers=.* is not allowed; arguments must be name=value with literals"):
            make_host("Pendulum-v1", env_options(experiment)._replace(wrappers=(wrong,)))


class Heavy(Point):
    """Takes 20 MB, from its first reset on."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.ballast = np.ones(20_000_000, np.uint8)
        return super().reset(seed=seed)


def test_environments_count_in_the_memory_that_a_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before all of them are made, and a sweep is divided so that they fit."""
    made: list[Heavy] = []

    def make() -> Any:
        made.append(Heavy())
        return gymnasium.wrappers.TimeLimit(made[-1], 5)

    monkeypatch.setattr(hardware, "free_memory", lambda: 75_000_000)
    experiment, hyper = dj.configure({"env": "Heavy", **SHORT, "eval_episodes": 1, "placement": "vmap"})
    members = [dj.Member(seed, hyper) for seed in range(4)]
    with pytest.raises(dj.ConfigError, match=r"env=Heavy takes (19|2\d) MiB a copy, and only 5 copies fit .* need 8;"):
        dj.make_program(experiment, members, make)
    assert len(made) == 2
    parts = fit_to_memory(Group(experiment, members), lambda x, members: dj.make_program(x, members, make))
    n = -1
    for n, (part, program) in enumerate(parts):
        assert ([member.seed for member in part.members], program.outside_bytes > 40_000_000) == ([2 * n, 2 * n + 1], True)
        program.close()
    assert n == 1
