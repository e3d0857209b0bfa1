"""Environments that are unlike those of the libraries, through the whole command line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box

import ddpg_jax as dj
from ddpg_jax.flatten import storable
from ddpg_jax.running import blocks
from tests.runs import manifest, rows, run

pytestmark = pytest.mark.usefixtures("command_line")

TINY = ["--steps", "120", "--warmup-steps", "40", "--hidden", "8", "--batch-size", "8", "--eval-every", "40"]
FEW = [*TINY, "--eval-episodes", "2", "--replay-capacity", "200"]


class Drift(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point that is pushed; nothing about it is unusual."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2).astype(np.float32)
        return self.x, {}

    def step(self, action: np.ndarray) -> Any:
        self.x = (0.9 * self.x + 0.1 * action[0]).astype(np.float32)
        return self.x, self.reward(), False, False, {}

    def reward(self) -> Any:
        return -float(self.x @ self.x)


class Moves(Drift):
    """Changes the current folder, as simulators do that look for their files."""

    def __init__(self) -> None:
        os.chdir("/")


class MainThread(Drift):
    """Wants all steps in the thread in which it was made, as renderers do."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()

    def step(self, action: np.ndarray) -> Any:
        assert threading.current_thread() is self.thread
        return super().step(action)


class OnlyOne(Drift):
    """A robot, of which there is one."""

    in_use = 0

    def __init__(self) -> None:
        assert OnlyOne.in_use == 0, "the robot is in use"
        OnlyOne.in_use += 1

    def close(self) -> None:
        OnlyOne.in_use -= 1


class Vectors(Drift):
    """Gives rewards as arrays of one number."""

    def reward(self) -> Any:
        return np.array([super().reward()])


class Immense(Drift):
    """Gives rewards whose sum is beyond float32."""

    def reward(self) -> Any:
        return -3e38


class SmallSeeds(Drift):
    """Takes seeds of 31 bits only."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        np.int32(seed or 0)
        return super().reset(seed=seed)


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made = [Drift, Moves, MainThread, OnlyOne, Vectors, Immense, SmallSeeds]
    for kind in made:
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=10, reward_threshold=np.inf)
    monkeypatch.chdir(tmp_path)
    yield
    for kind in made:
        del gymnasium.registry[f"{kind.__name__}-v0"]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Drift", []),
        ("Moves", []),
        ("MainThread", ["--host-order", "overlapped"]),
        ("OnlyOne", ["--eval-env", "shared"]),
        ("Vectors", []),
    ],
)
def test_all_commands_take_it(name: str, more: list[str], tmp_path: Path) -> None:
    """Paths are those of the folder in which the commands were given; a threshold that nobody reaches is none."""
    assert run("train", f"{name}-v0", *FEW, *more, "--out", "a") == 0
    os.chdir(tmp_path)
    assert run("eval", "a", "--episodes", "2") == 0
    os.chdir(tmp_path)
    assert run("record", "a", "--episodes", "2", "--out", "a.npz") == 0
    os.chdir(tmp_path)
    assert np.load("a.npz")["rewards"].shape == (20,)
    assert run("export", "a", "--to", "npz", "--out", "policy.npz", "--card") == 0
    assert json.loads((tmp_path / "a" / "policy" / "policy.json").read_text())["env"]["reward_threshold"] is None
    if name == "Moves":
        assert run("train", "Moves-v0", *FEW, "--demonstrations", "a.npz", "--out", "b") == 0
        os.chdir(tmp_path)
        assert run("sweep", "Moves-v0", *FEW, "--seeds", "2", "--out", "c") == 0
        os.chdir(tmp_path)
        assert run("eval", "c", "--episodes", "1") == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Immense", "gave a number that is not finite in the evaluation at step 40"),
        ("SmallSeeds", "reset must take seeds of 32 bits, such as 4294901760"),
    ],
)
def test_what_it_does_wrong_is_one_sentence(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", f"{name}-v0", *FEW, "--out", "a") == 2
    assert said in capsys.readouterr().err


def test_a_start_that_fails_leaves_nothing_open(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "OnlyOne-v0", *FEW, "--out", "a") == 2
    assert "if only one may exist, set eval_env=shared" in capsys.readouterr().err
    assert OnlyOne.in_use == 0


def test_an_export_says_where_its_policy_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped has a policy that was never evaluated, and one that is killed may have an earlier one."""
    monkeypatch.setattr(blocks, "FIRST_PIECE", 16)  # it is stopped before the first evaluation

    def exported() -> tuple[dict[str, Any], str]:
        assert run("export", "a", "--to", "npz", "--out", "p.npz", "--card") == 0
        return json.loads(str(np.load("p.npz")["about"]))["run"], (tmp_path / "p.md").read_text()

    assert run("train", "Drift-v0", *FEW, "--hours", "0", "--out", "a") == 0
    stopped = manifest(tmp_path / "a")["policy_steps"]["0"]
    about, card = exported()
    assert (about["step"], about["evaluation"]) == (stopped, "none")
    assert f"no evaluation; the policy in the file is from step {stopped}" in card

    assert run("train", "Drift-v0", *FEW, "--out", "a", "--resume") == 0
    for step, evaluation, said in ((120, "last", "last evaluation"), (80, "earlier", "step 80"), (90, "none", "not evaluated")):
        changed = {**manifest(tmp_path / "a"), "policy_steps": {"0": step}}
        (tmp_path / "a" / "manifest.json").write_text(json.dumps(changed))
        about, card = exported()
        assert (about["step"], about["evaluation"], "eval_return_mean" in about) == (step, evaluation, step != 90)
        assert said in card.partition("The policy in the file is")[2].partition("\n")[0]


class Wander:
    """In JAX, as an object; its state has what NumPy and checkpoints have not: a key of its own, and an empty array."""

    def __init__(self, **given: Any):
        spec = dj.EnvSpec("wander", (1,), (1,), action_low=(-1.0,), action_high=(1.0,), max_steps=given.get("limit", 15))

        def advance(key: jax.Array, state: Any, action: jax.Array) -> Any:
            x, own, nothing = state
            own, drawn = jax.random.split(own)
            return (0.9 * x + 0.1 * action + jax.random.normal(drawn, (1,)), own, nothing), -jnp.sum(x**2), False

        made = dj.envs.make_env(spec, lambda key: (jnp.zeros(1), key, jnp.zeros((0, 3))), advance, observe=lambda s: s[0])
        self.spec, self.reset, self.step = made.spec, made.reset, made.step


def test_a_state_may_have_arrays_that_numpy_and_checkpoints_have_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(dj.envs.DEVICE, "wander", Wander)
    words = ["sweep", "wander", *FEW, "--seeds", "3", "--env-kwargs", "limit=7"]
    assert run(*words, "--steps", "80", "--out", "longer") == 0
    assert run(*words, "--out", "longer", "--resume") == 0
    assert run(*words, "--out", "whole") == 0
    assert rows(tmp_path / "longer") == rows(tmp_path / "whole")
    assert rows(tmp_path / "whole")[0]["eval_length_mean"] == "7.0"


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_an_empty_array_alone_is_left_out_of_what_is_stored(shape: tuple[int, ...]) -> None:
    spec = dj.EnvSpec("still", (1,), (1,), action_low=(-1.0,), action_high=(1.0,), max_steps=5)

    def advance(key: jax.Array, state: Any, action: jax.Array) -> Any:
        assert state[1].shape == shape
        return state, 0.0, False

    made = dj.envs.make_env(spec, lambda key: (jnp.ones(1), np.zeros(shape)), advance, observe=lambda state: state[0])
    env = storable(made)
    state, obs = env.reset(jax.random.key(0))
    for _ in range(2):
        assert [x.shape for x in jax.tree.leaves(state)] == [(1,), ()], "the position and the clock"
        before, (state, obs, _) = jax.tree.structure(state), env.step(jax.random.key(1), state, obs, obs)
        assert jax.tree.structure(state) == before


@pytest.mark.parametrize("placement", ["map", "vmap"])
def test_such_a_state_is_seated_anew(placement: str) -> None:
    """As when members are pruned."""
    sizes = {"hidden": (4,), "batch_size": 8, "warmup_steps": 10, "steps": 40, "replay_capacity": 50}
    experiment, hyper = dj.configure({"env": "wander", "placement": placement, **sizes})
    program = dj.make_program(experiment, [dj.Member(seed, hyper, seed) for seed in range(3)], Wander())
    active = np.ones(3, bool)
    state, _, _ = program.advance(program.start(), 0, 20, active=active)
    kept, _ = program.save(state)
    state = program.regroup(state, ~np.array([False, True, True]))
    assert all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (kept, program.save(state)[0])), strict=True))


def test_what_an_entry_makes_must_be_an_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(dj.envs.DEVICE, "wander", lambda: gymnasium.make("Pendulum-v1"))
    assert run("train", "wander", *FEW, "--out", "a") == 2
    assert "env=wander cannot be made: its entry in DEVICE returns a " in capsys.readouterr().err
