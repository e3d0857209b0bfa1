"""Modules, keyword arguments and wrappers of an environment that is made by its name, and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.app.list_envs import about, device_rows, overview
from ddpg_jax.app.plot import legend
from ddpg_jax.envs.choosing import device_env
from ddpg_jax.envs.extras import command_for, installed
from ddpg_jax.envs.host import make_host
from ddpg_jax.envs.host.make import maker
from ddpg_jax.experiment.grid import grid_points, parse_grid
from ddpg_jax.running.groups import make_groups
from ddpg_jax.types import EnvOptions
from tests.runs import TINY, manifest, run

pytestmark = pytest.mark.usefixtures("command_line")

MODULE = """
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

gymnasium.register("Mine-v0", PendulumEnv, max_episode_steps=9)


class Doubled(gymnasium.Wrapper):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, 2 * reward, *rest


Number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A folder, the current one, with a module that registers Mine-v0; gives a function that forgets the module."""
    (tmp_path / "mine_options.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)

    def forget() -> None:
        sys.modules.pop("mine_options", None)
        gymnasium.registry.pop("Mine-v0", None)

    yield forget
    forget()


def test_a_folder_alone_knows_how_to_make_its_environment(mine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Module, keyword arguments and wrappers are in the manifest: neither eval nor --resume is told of them again."""
    tiny = ["train", "Mine-v0", *TINY, "--out", "out", "--checkpoint-seconds", "0"]
    options = ["--import", "mine_options", "--wrappers", "TimeAwareObservation,mine_options:Doubled"]
    assert run(*tiny, *options, "--env-kwargs", "max_episode_steps=7", "g=1.5") == 0
    experiment = manifest(Path("out"))["experiment"]
    assert experiment["imports"] == ["mine_options"]
    assert experiment["env_kwargs"] == '{"g": 1.5, "max_episode_steps": 7}'
    assert experiment["wrappers"] == ["TimeAwareObservation", "mine_options:Doubled"]
    policy = dj.load_policy("out")
    assert (policy.spec.obs_shape, policy.spec.max_steps) == ((4,), 7)

    mine()
    capfd.readouterr()
    assert run("eval", "out", "--episodes", "2") == 0
    assert "length 7.0" in capfd.readouterr().out
    mine()
    assert run(*tiny, *options, "--env-kwargs", '{"g": 1.5, "max_episode_steps": 7}', "--resume", "--steps", "800") == 0
    assert manifest(Path("out"))["experiment"]["steps"] == 800
    capfd.readouterr()
    assert run(*tiny, *options, "--env-kwargs", "g=2.5", "--resume") == 2
    assert 'env_kwargs={"g": 2.5} (the run has {"g": 1.5, "max_episode_steps": 7})' in capfd.readouterr().err


def test_keyword_arguments_and_wrappers_reach_the_environment_in_their_order(mine: Any) -> None:
    wrappers = ("FlattenObservation", "mine_options:Doubled")
    options = EnvOptions(("mine_options",), '{"g": 1.5, "max_episode_steps": 7}', wrappers)
    env: Any = maker("Mine-v0", options)()
    assert (env.unwrapped.g, env.spec.max_episode_steps) == (1.5, 7)
    assert [type(layer).__name__ for layer in (env, env.env)] == ["Doubled", "FlattenObservation"]
    plain = maker("Mine-v0", options._replace(wrappers=()))()
    env.reset(seed=0)
    plain.reset(seed=0)
    action = np.ones(1, np.float32)
    assert env.step(action)[1] == 2 * plain.step(action)[1]
    assert make_host("Mine-v0", options).spec.max_steps == 7
    assert make_host("Mine-v0", EnvOptions(("mine_options",))).spec.max_steps == 9


FORMS = [
    {"wind": True, "g": 9.0, "map": [[1, 0]], "file": "a.xml"},
    '{"wind": true, "g": 9.0, "map": [[1, 0]], "file": "a.xml"}',
    "g=9.0,wind=True,map=[[1,0]],file=a.xml",
    "g=9.0, wind=true, map=[[1, 0]], file=a.xml",
    ["g=9.0,wind=true", "map=[[1, 0]]", '{"file": "a.xml"}'],
    {"g": np.float64(9.0), "map": np.array([[1, 0]]), "wind": np.True_, "file": "a.xml"},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_way_to_write_keyword_arguments_is_one_experiment(form: Any) -> None:
    """Equal, hashable, and the same after the manifest: or a resumed run would be told that it is another."""
    experiment, _ = dj.configure({"env_kwargs": form, "imports": "a,b.c", "wrappers": ["A", "m:B"]})
    assert experiment.env_kwargs == '{"file": "a.xml", "g": 9.0, "map": [[1, 0]], "wind": true}'
    assert (experiment.imports, experiment.wrappers) == (("a", "b.c"), ("A", "m:B"))
    about = json.loads(json.dumps(dataclasses.asdict(experiment)))
    del about["parts"]
    again, _ = dj.configure(about)
    assert (again, hash(again)) == (experiment, hash(experiment))


def test_keyword_arguments_can_be_swept() -> None:
    """A program for each; their values stand in tables so that they can be read back."""
    groups = make_groups(grid_points(parse_grid(["env_kwargs=g=9.0,g=10.0"])), 2, {"wrappers": "A,B"})
    assert [group.experiment.env_kwargs for group in groups] == ['{"g": 9.0}', '{"g": 10.0}']
    (name, value), *_ = groups[0].members[0].swept
    assert dj.configure({name: value})[0].env_kwargs == '{"g": 9.0}'


def test_a_legend_names_options_only_where_they_differ() -> None:
    one, other = (
        {**json.loads(json.dumps(dataclasses.asdict(dj.configure(fields)[0]))), "tau": 0.005}
        for fields in ({}, {"env_kwargs": "g=9.0", "wrappers": "FlattenObservation"})
    )
    assert legend([one, other]) == ["default", 'default, env_kwargs={"g": 9.0}, wrappers=FlattenObservation']


def test_the_twin_is_left_where_it_does_not_take_the_options() -> None:
    """backend=auto goes to the host, which does; one that exists on the device alone, or is asked for there, refuses."""
    gravity = EnvOptions(env_kwargs='{"g": 9.0}')
    goal = EnvOptions(env_kwargs='{"goal_velocity": 0.1, "max_episode_steps": 50}')
    assert device_env("auto", "Pendulum-v1") is not None
    assert device_env("auto", "Pendulum-v1", gravity) is None
    assert device_env("auto", "Pendulum-v1", EnvOptions(wrappers=("FlattenObservation",))) is None
    twin = device_env("auto", "MountainCarContinuous-v0", goal)
    assert twin is not None
    assert twin.spec.max_steps == 50
    assert twin is device_env("device", "MountainCarContinuous-v0", goal)  # its programs are found again
    for backend, name in (("device", "Pendulum-v1"), ("auto", "point-reach")):
        with pytest.raises(dj.ConfigError, match=f'env_kwargs={{"g": 9.0}} is not allowed with env={name} on the device'):
            device_env(backend, name, gravity)


class Image(gymnasium.Env[Any, Any]):
    """Is looked at."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))


class Picky(Image):
    """Cannot be made."""

    def __init__(self, height: float = 1.0, **more: Any):
        if more:
            raise TypeError(f"what is {', '.join(more)}?")
        raise RuntimeError("no\nluck")


for name, kind in (("tests/Image-v0", Image), ("tests/Picky-v0", Picky)):
    if name not in gymnasium.registry:
        gymnasium.register(name, kind)  # pyright: ignore[reportArgumentType]

TWIN = "MountainCarContinuous-v0"
BAD = [
    # words after `train`, what the one line must say
    (["tests/Image-v0"], ["env=tests/Image-v0 has image observations", "it must have vector observations"]),
    (["FrozenLake-v1"], ["env=FrozenLake-v1 has Discrete actions", "Box"]),
    (["CartPole-v1"], ["env=CartPole-v1 has Discrete actions", "Box"]),
    (["tests/Picky-v0"], ["env=tests/Picky-v0 cannot be made: RuntimeError: no luck"]),
    (
        ["tests/Picky-v0", "--env-kwargs", "x=1"],
        ['env_kwargs={"x": 1} is not allowed', "what is x?", "it may contain only height"],
    ),
    (["Pendulum-v1", "--env-kwargs", "gg=1"], ['{"gg": 1} is not', "render_mode, g, max_episode_steps", "did you mean g?"]),
    (["Pendulum-v1", "--env-kwargs", "g=1", "--backend", "device"], ['env_kwargs={"g": 1} is not allowed', "must be empty"]),
    ([TWIN, "--env-kwargs", "goal_velocity=high"], ['env_kwargs={"goal_velocity": "high"} is not allowed']),
    ([TWIN, "--env-kwargs", "x=1", "--backend", "device"], ["it may contain only goal_velocity, max_episode_steps"]),
    ([TWIN, "--env-kwargs", "max_episode_steps=2.5"], ["max_episode_steps=2.5 is not allowed"]),
    (["Pendulum-v1", "--env-kwargs", "max_episode_steps=0"], ["max_episode_steps=0 is not", "whole number of at least 1"]),
    (["Pendulum-v1", "--env-kwargs", "g"], ["env_kwargs=g is not allowed", "name=value"]),
    (["Pendulum-v1", "--env-kwargs", "{g: 1}"], ["env_kwargs={g: 1} is not allowed", "JSON"]),
    (["Pendulum-v1", "--env-kwargs", "g=NaN"], ["env_kwargs=g=NaN is not allowed"]),
    (["Pendulum-v1", "--import", "no_such_module"], ["imports=no_such_module needs the module", "cannot be imported"]),
    (["Pendulum-v1", "--wrappers", "FlatenObservation"], ["FlatenObservation is not in", "nearest are FlattenObservation"]),
    (["Pendulum-v1", "--wrappers", "json:dumps"], ["wrappers=json:dumps cannot be applied to env=Pendulum-v1"]),
    (["Pendulum-v1", "--wrappers", "builtins:id"], ["wrappers=builtins:id returns int instead of", "gymnasium.Env"]),
    (["Pendulum-v1", "--wrappers", "no_such:W"], ["wrappers=no_such:W needs the module no_such"]),
    (["Pendulum-v1", "--wrappers", "RescaleObservation"], ["wrappers=RescaleObservation cannot", "it needs min_obs, max_obs"]),
    (["Pendulum-v1", "--wrappers", "NormalizeObservation"], ["NormalizeObservation is not allowed", "normalize_obs=true"]),
    (["point-reach", "--backend", "host"], ["backend=host is not allowed with env=point-reach", "device or auto"]),
    (["point-reach", "--wrappers", "ClipAction"], ["wrappers=ClipAction is not allowed with env=point-reach"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_what_is_wrong_is_one_line_before_anything_is_written(
    arguments: list[str], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *arguments, *TINY, "--out", str(tmp_path / "out")) == 2
    said = capfd.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("ddpg-jax: ")
    assert [word for word in words if word not in said.err] == []
    assert not (tmp_path / "out").exists()


def test_a_module_that_raises_is_one_line(mine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    Path("broken_options.py").write_text("1 / 0")
    assert run("train", "Mine-v0", "--import", "broken_options") == 2
    assert (
        "broken_options, which cannot be imported: ZeroDivisionError: division by zero (broken_options.py, line 1)\n"
        in capfd.readouterr().err
    )


def test_an_environment_given_as_an_object_takes_no_options() -> None:
    """They would be without effect, and nobody would notice."""
    values: dict[str, Any] = {"env_kwargs": {"g": 9.0}, "wrappers": "FlattenObservation", "imports": "json"}
    for field, value in values.items():
        with pytest.raises(dj.ConfigError, match=f"{field}=.* is not allowed with an environment that is given as an object"):
            dj.train(lambda: gymnasium.make("Pendulum-v1"), **{field: value})


HIDDEN = """
import sys
for name in ("mujoco", "Box2D", "gymnasium_robotics"):
    sys.modules[name] = None
from ddpg_jax.app.cli import main
for env in ("HalfCheetah-v5", "BipedalWalker-v3", "PointMaze_UMaze-v3"):
    assert main(["train", env, "--out", "out"]) == 2
assert main(["envs"]) == 0
assert main(["envs", "HalfCheetah-v5"]) == 2
"""


def _script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=os.environ, check=False)


def test_a_module_that_ends_the_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "goes_home.py").write_text("raise SystemExit(3)\n")
    assert run("train", "Pendulum-v1", "--import", "goes_home") == 2
    assert "imports=goes_home needs the module goes_home, which cannot be imported: SystemExit: 3" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        (None, '"ddpg-jax[brax]"'),  # from an index
        ({"url": "file://HERE/my%20clone", "dir_info": {}}, '"HERE/my clone[brax]"'),
        ({"url": "file://HERE/my%20clone", "dir_info": {"editable": True}}, '-e "HERE/my clone[brax]"'),
        ({"url": "file://HERE/gone", "dir_info": {}}, '"ddpg-jax[brax]"'),
        ({"url": "https://host/ddpg.whl", "archive_info": {}}, '"ddpg-jax[brax]"'),
    ],
)
def test_the_command_for_an_extra_installs_from_where_the_package_came(
    origin: Any, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return origin and json.dumps(origin).replace("HERE", str(tmp_path))

    (tmp_path / "my clone").mkdir()
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    assert command_for("brax") == f"pip install {what}".replace("HERE", str(tmp_path))


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path) -> None:
    """In a process to which the packages are hidden, whether they are installed or not."""
    done = _script(HIDDEN, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    asked = {"HalfCheetah-v5": "mujoco", "BipedalWalker-v3": "box2d", "PointMaze_UMaze-v3": "goals"}
    assert len(lines) == 4
    assert lines[3] == lines[0]
    for line, (env, extra) in zip(lines, asked.items(), strict=False):
        needs = f"env={env} needs the extra {extra}, which is not installed; install it with {command_for(extra)}"
        assert line == f"ddpg-jax: {needs}"
    for extra in asked.values():
        assert command_for(extra) in done.stdout
    assert "HalfCheetah-v5 " in done.stdout.split("extra mujoco adds ")[1]
    assert not any(line.startswith(("HalfCheetah", "Bipedal", "PointMaze")) for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


ROBOTICS = """
from ddpg_jax.app.cli import main
assert main(["envs", "PointMaze_UMaze-v3"]) == 0
assert main(["envs"]) == 0
assert main(["train", "PointMaze_UMase-v3", "--out", "run"]) == 2
"""


def test_names_of_gymnasium_robotics_are_known_without_being_imported(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    done = _script(ROBOTICS, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PointMaze_UMaze-v3\n  runs on        host\n  observations   (8,); observation, achieved goal" in done.stdout
    assert "PointMaze        " in done.stdout
    assert "nearest are PointMaze_UMaze-v3" in done.stderr


def test_envs_lists_what_is_installed_with_spaces_limits_and_thresholds() -> None:
    lines = {line.split()[0]: " ".join(line.split()) for line in overview(EnvOptions()).splitlines() if line}
    assert lines["Pendulum-v1"] == "Pendulum-v1 device, host (3,) (1,) -2 to 2 200"
    assert lines["MountainCarContinuous-v0"] == "MountainCarContinuous-v0 device, host (2,) (1,) -1 to 1 999 90"
    assert lines["probe/action-units"] == "probe/action-units device (1,) (2,) (-1, 0) to (3, 10) 10"
    assert "CartPole-v1" not in lines  # discrete
    assert ("HalfCheetah-v5" in lines) == installed("mujoco")
    assert "HalfCheetah-v4" not in lines  # there is a higher version


def test_envs_tells_all_about_one(mine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """With options too: what they make of it can be seen before it is trained on."""
    words = ("--import", "mine_options", "--wrappers", "TimeAwareObservation", "--env-kwargs", "max_episode_steps=5")
    assert run("envs", "Mine-v0", *words) == 0
    shown = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert shown[:5] == ["Mine-v0", "runs on host", "observations (4,)", "actions (1,), from -2 to 2", "time limit 5 steps"]
    assert "env_kwargs render_mode=None, g=10.0, max_episode_steps=9" in shown
    assert run("envs", "--import", "mine_options") == 0
    assert "\nMine-v0 " in capfd.readouterr().out


def test_envs_takes_the_beginning_of_names() -> None:
    assert [line.split()[0] for line in "".join(about("probe/t", EnvOptions())).splitlines()] == [
        "name",
        "probe/truncation",
        "probe/termination",
    ]
    assert "device kwargs  goal_velocity, max_episode_steps" in "".join(about("MountainCarContinuous-v0", EnvOptions()))
    with pytest.raises(dj.ConfigError, match=r"env=Pendulam-v1 is not known; the nearest are Pendulum-v1"):
        "".join(about("Pendulam-v1", EnvOptions()))


class Sized(gymnasium.Env):
    """Has as many observations as it is told."""

    def __init__(self, size: int = 2):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (size,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def test_a_name_that_is_registered_anew_is_another_environment() -> None:
    """As in a notebook, where a cell that registers an environment is run again."""
    found = []
    for size, limit in ((2, 10), (2, 10), (3, 20)):
        if size == 3:
            del gymnasium.registry["tests/Sized-v0"]
        if "tests/Sized-v0" not in gymnasium.registry:
            gymnasium.register("tests/Sized-v0", f"{__name__}:Sized", max_episode_steps=limit, kwargs={"size": size})
        found.append(make_host("tests/Sized-v0"))
    del gymnasium.registry["tests/Sized-v0"]
    assert found[0] is found[1], "programs that were compiled with it are used again"
    assert [(env.spec.obs_shape, env.spec.max_steps) for env in found[1:]] == [((2,), 10), ((3,), 20)]


def test_an_environment_in_jax_may_need_keyword_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dj.Env:
        raise RuntimeError("no such file")

    def sized(size: int) -> dj.Env:
        spec = dj.EnvSpec("sized", (size,), (1,), action_low=(-1.0,), action_high=(1.0,), max_steps=5)
        return dj.envs.make_env(
            spec, lambda key: jnp.zeros(size), lambda key, x, action: (x, action[0], False), observe=lambda x: x
        )

    monkeypatch.setitem(dj.envs.DEVICE, "sized", sized)
    monkeypatch.setitem(dj.envs.DEVICE, "broken", broken)
    env = device_env("auto", "sized", EnvOptions(env_kwargs='{"size": 3}'))
    assert env is not None
    assert env.spec.obs_shape == (3,)
    with pytest.raises(dj.ConfigError, match=r"env_kwargs={} is not allowed with env=sized: .*missing 1 required"):
        device_env("auto", "sized")
    with pytest.raises(dj.ConfigError, match=r"env=broken cannot be made: .*no such file"):
        device_env("auto", "broken")
    assert "sized" not in [row.name for row in device_rows(dj.envs.DEVICE)], "the list shows those that can be made"
