"""Networks, exploration, replay, activations, losses and environments of the user's own, by name, wherever a name is taken."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from tests.runs import manifest, rows, run

MODULE = """
import flax.linen as nn, jax.numpy as jnp, ddpg_jax as dj

class Actor(nn.Module):
    action_dim: int
    width: int
    activation: object

    @nn.compact
    def __call__(self, obs):
        x = self.activation(nn.Dense(self.width)(obs))
        return jnp.tanh(nn.Dense(self.action_dim)(x))

class Critic(nn.Module):
    width: int

    @nn.compact
    def __call__(self, obs, action):
        x = nn.gelu(nn.Dense(self.width)(obs)) + nn.Dense(self.width)(action)
        return nn.Dense(1)(nn.relu(x))[..., 0]

def make(*, action_dim, hidden, activation):
    return dj.Nets(Actor(action_dim, hidden[0], activation), Critic(hidden[-1]))

def constant_push(action_dim, schedule):
    quiet = dj.exploration.none(action_dim, schedule)
    def explore(key, noise, act, params, obs, hyper, t):
        return act(params, obs) + hyper.noise_sigma, noise
    return quiet._replace(explore=explore)

def newest(capacity, **sizes):
    return dj.replay.uniform(capacity=capacity // 2, **sizes)

dj.NETWORKS["mine"] = make
dj.EXPLORERS["push"] = constant_push
dj.REPLAYS["newest"] = newest
dj.ACTIVATIONS["softplus"] = nn.softplus
dj.TD_LOSSES["absolute"] = lambda error, numbers: jnp.abs(error)
dj.envs.DEVICE["twin"] = lambda: dj.envs.make_device("probe/lqr")
"""
TABLES = (dj.NETWORKS, dj.EXPLORERS, dj.REPLAYS, dj.ACTIVATIONS, dj.TD_LOSSES, dj.PRESETS, dj.HEADS, dj.envs.DEVICE)
PARTS = {"network": "mine", "exploration": "push", "replay": "newest", "activation": "softplus", "td_loss": "absolute"}
SHORT: dict[str, Any] = {
    **{"steps": 200, "warmup_steps": 60, "batch_size": 8, "hidden": (8, 12)},
    **{"eval_every": 100, "eval_episodes": 1, "replay_capacity": 300},
}
WORDS = [
    word for name, value in {**SHORT, "hidden": "8-12", **PARTS}.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(autouse=True)
def _tables_as_they_were() -> Any:
    before = [dict(table) for table in TABLES]
    yield
    for table, parts in zip(TABLES, before, strict=True):
        for name in set(table) - set(parts):
            del table[name]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the module into the current folder, and forgets it afterwards."""
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_parts"
    sys.modules.pop("my_parts", None)


@pytest.mark.usefixtures("command_line")
def test_own_parts_go_through_the_whole_command_line(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From training to evaluation, in processes that have not seen the module before they are told of it."""
    command = [sys.executable, "-m", "ddpg_jax"]

    def fresh(*words: str, status: int = 0) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stderr

    train = ("train", "twin", "--import", module, *WORDS, "--out", "run")
    fresh(*train)
    about = manifest(Path("run"))
    assert {name: about["experiment"][name] for name in PARTS} == PARTS
    longer = tuple("300" if word == "200" else word for word in train)
    fresh(*longer, "--resume")
    assert [row["step"] for row in rows(Path("run"))] == ["100", "200", "300"]
    fresh("eval", "run", "--episodes", "2")  # the manifest names the module
    fresh("plot", "run", "--out", "curve.png")
    fresh("cite", "run")
    with pytest.raises(
        dj.ConfigError, match=r"activation=softplus is not known; it must be one of relu.*, or a module that adds it"
    ):
        dj.load_policy("run")
    __import__(module)
    assert dj.load_policy("run")(np.zeros((5, 2))).shape == (5, 1)

    assert run("sweep", "twin", "--import", module, *WORDS, "--grid", "network=mlp,mine", "--out", "both") == 0
    assert {row["network"] for row in rows(Path("both"))} == {"mlp", "mine"}
    (Path("my_parts.py")).unlink()
    line = fresh(*longer, "--resume", status=2)
    assert "my_parts" in line
    assert len(line.splitlines()) == 1
    capsys.readouterr()


def test_a_preset_file_imports_what_it_names(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `best.json` of a study does."""
    Path("best.json").write_text(json.dumps({"imports": module, "activation": "softplus", "tau": 0.01}))
    seen: list[Any] = []
    monkeypatch.setattr("ddpg_jax.app.job.train", lambda groups, *_: seen.append(groups[0].experiment.activation))
    assert run("train", "probe/lqr", "--preset", "best.json") == 0
    assert seen == ["softplus"]


@pytest.mark.parametrize("backend", ["device", "host"])
def test_own_parts_train_in_python(module: str, backend: str) -> None:
    __import__(module)
    done = dj.train("Pendulum-v1", backend=backend, **{**SHORT, **PARTS})
    assert np.isfinite(done.returns).all()
    assert done.policy.params["Dense_0"]["kernel"].shape == (3, 8)


def test_actions_of_an_own_explorer_are_stored_as_they_are_executed(module: str) -> None:
    """The policy's action is at most 1, and the explorer adds to it."""
    __import__(module)
    env = dj.envs.make_device("Pendulum-v1")
    experiment, hyper = dj.configure({"env": "Pendulum-v1", **SHORT, **PARTS, "noise_sigma": 2.5})
    parts, key = dj.build(experiment, env.spec), jax.random.key(0)
    params = parts.agent.init(key, hyper).params.actor
    action, _ = parts.explorer.explore(key, (), parts.agent.act, params, jnp.ones((1, 3)), hyper, jnp.int32(0))
    assert action.tolist() == [[1.0]]


def test_a_name_that_exists_is_refused(module: str) -> None:
    __import__(module)
    own = dj.NETWORKS["mine"]
    dj.NETWORKS["mine"] = own  # the same definition again, as in a notebook
    for table in TABLES:
        name = next(iter(table))
        with pytest.raises(dj.ConfigError, match=f"has {name} already"):
            table[name] = lambda: None  # pyright: ignore


class Net(nn.Module):
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, obs: Any, *action: Any) -> Any:
        x = nn.Dense(1)(obs)[..., 0]
        return jnp.broadcast_to(x.reshape(x.shape + (1,) * len(self.shape)), x.shape + self.shape).astype(self.dtype)


def noisy(explore: Any) -> Any:
    return lambda action_dim, schedule: dj.exploration.none(action_dim, schedule)._replace(explore=explore)


def head(**functions: Any) -> Any:
    """The categorical head with other functions."""
    return lambda num_atoms: dj.heads.categorical(num_atoms)._replace(**functions)


WRONG = {
    "network: wide actor": (
        "NETWORKS",
        lambda *, action_dim: dj.Nets(Net((7,)), Net()),
        r"network=own: the actor returns \(2, 7\)",
    ),
    "network: column critic": ("NETWORKS", lambda: dj.Nets(Net((1,)), Net((1,))), r"network=own: the critic returns \(2, 1\)"),
    "network: whole numbers": ("NETWORKS", lambda: dj.Nets(Net((1,)), Net((), jnp.int32)), "the critic returns int32"),
    "network: no pair": ("NETWORKS", lambda: 3, "network=own cannot be made"),
    "network: no module": ("NETWORKS", lambda: dj.Nets(len, Net()), "returns a builtin_function_or_method as actor"),
    "network: other arguments": ("NETWORKS", lambda depth: None, "network=own cannot be made.*depth"),
    "network: raises": ("NETWORKS", lambda: 1 // 0, r"ZeroDivisionError.*test_own_parts.py, line \d+"),
    "exploration: other arguments": ("EXPLORERS", lambda: None, "exploration=own cannot be made.*action_dim, schedule"),
    "exploration: nothing": (
        "EXPLORERS",
        lambda action_dim, schedule: None,
        "returns a NoneType; it must return a dj.Explorer",
    ),
    "exploration: wide": (
        "EXPLORERS",
        noisy(lambda key, noise, act, params, obs, hyper, t: (jnp.tile(act(params, obs), 2), noise)),
        r"exploration=own: explore returns action as float32\[1, 2\]; it must be float32\[1, 1\]",
    ),
    "exploration: other noise": (
        "EXPLORERS",
        noisy(lambda key, noise, act, params, obs, hyper, t: (act(params, obs), obs)),
        "exploration=own: explore returns noise",
    ),
    "replay: raises": ("REPLAYS", lambda **sizes: [][0], "replay=own cannot be made: IndexError"),
    "activation: sums": ("ACTIVATIONS", jnp.sum, r"activation=own returns a value as float32\[\]"),
    "critic: other arguments": ("HEADS", lambda atoms: None, "critic=own cannot be made.*num_atoms"),
    "critic: nothing": ("HEADS", lambda num_atoms: None, "critic=own returns a NoneType; it must return a dj.Head"),
    "critic: no outputs": ("HEADS", head(outputs=0), "critic=own: outputs is 0; it must be None or a whole number"),
    "critic: no support": (
        "HEADS",
        head(init=lambda hyper: hyper.value_min),
        "critic=own: init returns .*; it must return a dict",
    ),
    "critic: mean of all": (
        "HEADS",
        head(mean=lambda support, logits: logits.mean()),
        r"critic=own: mean returns q as float32\[\]; it must be float32\[1, 8\]",
    ),
    "critic: target of each critic": (
        "HEADS",
        head(target=lambda support, reward, discount, outputs, hyper: outputs),
        r"critic=own: target returns \(1, 8, 51\); it must return \[B, ...\], here \(8, ...\)",
    ),
    "critic: loss of each transition": (
        "HEADS",
        head(loss=lambda outputs, of, obs, action, target, weight, **_: (weight, (weight, 0.0))),
        r"critic=own: loss returns \(loss, \(td, q_mean\)\).* as float32\[8\]; it must be float32\[\]",
    ),
    "critic: loss fails": ("HEADS", head(loss=lambda *_, **__: 1 // 0), "critic=own: loss fails: ZeroDivisionError"),
    "td_loss: sums": ("TD_LOSSES", lambda td, hyper: td.sum(), r"td_loss=own returns a value as float32\[\]"),
    "td_loss: other arguments": ("TD_LOSSES", lambda td: td, "td_loss=own fails: TypeError"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_an_own_part_is_one_sentence(what: str) -> None:
    table, part, message = WRONG[what]
    getattr(dj, table)["own"] = part
    with pytest.raises(dj.ConfigError, match=message) as told:
        dj.train("probe/lqr", **{**SHORT, "hidden": (256, 256), what.split(":")[0]: "own"})
    assert "\n" not in str(told.value)


class Counted(NamedTuple):
    """The state of a replay that contains a ring under a name of its own."""

    stored: dj.ReplayState
    number: jax.Array


def counting(batch_size: int, **sizes: Any) -> dj.Replay:
    inner = dj.replay.uniform(batch_size=batch_size, **sizes)
    return dj.Replay(
        lambda: Counted(inner.init(), jnp.int32(0)),
        lambda state, transition, valid: Counted(inner.add(state.stored, transition, valid), state.number + 1),
        lambda key, state, hyper, t_update: inner.sample(key, state.stored, hyper, t_update),
        lambda state, index, td, hyper: state,
    )


def test_an_own_replay_contains_a_ring_wherever_it_likes() -> None:
    """What measures its rows, and what ends open episodes, finds it."""
    dj.REPLAYS["counting"] = counting
    done = dj.train("Pendulum-v1", **SHORT, replay="counting", backend="host", eval_env="shared", diagnostics=True)
    assert done.rows[-1]["replay_age"] > 0
    assert done.returns.tolist() == dj.train("Pendulum-v1", **SHORT, backend="host", eval_env="shared").returns.tolist()
    dj.REPLAYS["bare"] = lambda **sizes: counting(**sizes)._replace(init=lambda: jnp.zeros(3))
    with pytest.raises(dj.ConfigError, match=r"replay=bare: init returns a state without a dj.ReplayState; it must be one"):
        dj.train("Pendulum-v1", **SHORT, replay="bare")


@pytest.mark.parametrize("num_critics", [1, 2])
def test_an_own_head_trains(num_critics: int) -> None:
    """The quantiles of the package under another name learn what they learn under their own."""
    dj.HEADS["mine"] = lambda num_atoms: dj.heads.quantile(num_atoms)
    one, other = (
        dj.train("probe/lqr", **SHORT, critic=name, num_atoms=5, num_critics=num_critics) for name in ("mine", "quantile")
    )
    np.testing.assert_array_equal(one.returns, other.returns)


def test_a_field_that_a_network_does_not_read_is_refused() -> None:
    with pytest.raises(dj.ConfigError, match="layer_norm=True is not allowed with network=two_branch, which does not read it"):
        dj.train("probe/lqr", **SHORT, network="two_branch", layer_norm=True)


def test_an_own_explorer_that_takes_no_spread_is_refused() -> None:
    """Its scale must broadcast to [N, A] as [N, 1]."""
    lane = noisy(lambda key, noise, act, params, obs, hyper, t: (act(params, obs).at[:, 0].add(hyper.noise_sigma), noise))
    dj.EXPLORERS["own"] = lane
    dj.train("probe/lqr", **SHORT, exploration="own", num_envs=2, updates_per_step=0.5)
    with pytest.raises(dj.ConfigError, match="exploration=own: explore fails: ") as told:
        dj.train("probe/lqr", **SHORT, exploration="own", num_envs=2, updates_per_step=0.5, noise_spread=0.5)
    assert "\n" not in str(told.value)


def test_updates_every_few_vector_steps() -> None:
    """With a fraction per vector step, as many updates are made as it says."""
    seen: list[int] = []

    def counted(td: Any, hyper: Any) -> Any:
        import jax

        jax.debug.callback(lambda: seen.append(1))
        return jnp.square(td)

    dj.TD_LOSSES["counted"] = counted
    dj.train("probe/lqr", **{**SHORT, "eval_every": 200}, td_loss="counted", updates_per_step=0.25)
    assert len(seen) == (200 - 60) // 4
    with pytest.raises(dj.ConfigError, match=r"makes 0\.7 updates per vector step"):
        dj.configure({"updates_per_step": 0.7})


@pytest.mark.parametrize("backend", ["device", "host"])
def test_on_evaluation_sees_every_evaluation_and_stops_members(backend: str) -> None:
    """Members that go on are not changed by those that stop."""
    seen: list[tuple[int, int]] = []

    def look(member: int, step: int, row: dict[str, Any], policy: dj.Policy) -> bool:
        assert row["step"] == step
        assert policy(np.zeros(3)).shape == (1,)
        seen.append((member, step))
        return not (member == 1 and step == 100)

    fields = {**SHORT, "steps": 300, "backend": backend}
    plain = dj.sweep("Pendulum-v1", seeds=3, **fields)
    stopped = dj.sweep("Pendulum-v1", seeds=3, on_evaluation=look, **fields)
    assert sorted(seen) == [(0, 100), (0, 200), (0, 300), (1, 100), (2, 100), (2, 200), (2, 300)]
    expected = plain.returns.copy()
    expected[0, 1, 1:] = np.nan
    np.testing.assert_array_equal(stopped.returns, expected)
    run = dj.train("Pendulum-v1", on_evaluation=lambda *_: False, **fields)
    assert run.steps.tolist() == [100]


@pytest.mark.parametrize("answer", [np.False_, np.array(False), jnp.bool_(False)])
def test_a_boolean_of_numpy_or_jax_stops_members_as_well(answer: Any) -> None:
    seen: list[int] = []

    def look(member: int, step: int, row: dict[str, Any], policy: dj.Policy) -> Any:
        seen.append(step)
        return answer

    dj.train("probe/lqr", on_evaluation=look, **{**SHORT, "eval_every": 20})
    assert len(seen) == 1


def test_what_on_evaluation_raises_names_its_line() -> None:
    def fall(*_: Any) -> None:
        raise KeyError("my plot")

    with pytest.raises(KeyError) as told:
        dj.train("probe/lqr", on_evaluation=fall, **SHORT)
    assert told.traceback[-1].path == Path(__file__)
