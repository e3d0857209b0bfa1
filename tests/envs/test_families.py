"""gymnax, brax and MuJoCo Playground on the device: their steps are the libraries' own, their resets are not."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.app.list_envs import about, overview
from ddpg_jax.envs.extras import EXTRAS, command_for, installed
from ddpg_jax.envs.registry import FAMILIES, Family, make_device, make_of
from ddpg_jax.flatten import make_flatten
from ddpg_jax.types import EnvOptions
from tests.families import ALL_PHYSICS, GYMNAX, PHYSICS, family_env
from tests.runs import run

STEPS = 200
ACTIONS = jax.random.uniform(jax.random.key(5), (STEPS, 8), minval=-1.0, maxval=1.0)


def original(name: str) -> Any:
    """The environment as its library makes it; gymnax's with its parameters."""
    family, _, own = name.partition("/")
    if family == "gymnax":
        import gymnax

        return gymnax.make(own)
    if family == "brax":
        from brax import envs

        own, _, backend = own.partition("@")
        return envs.get_environment(own, backend=backend)
    from mujoco_playground import registry

    return registry.load(own, config_overrides={"impl": "jax"})


@pytest.mark.parametrize("name", ALL_PHYSICS)
def test_physics_steps_as_its_library_does_and_starts_anew_after_every_episode(name: str) -> None:
    """Over 200 random actions. At an end, the library is reset by hand with the key that the step has for that."""
    with family_env(name) as env:
        theirs = original(name)
        step, their_step, their_reset = jax.jit(env.step), jax.jit(theirs.step), jax.jit(theirs.reset)
        env_state, obs = jax.jit(env.reset)(jax.random.key(1))
        state = their_reset(jax.random.key_data(jax.random.key(1)))
        starts = [np.asarray(obs)]
        for t in range(STEPS):
            key, action = jax.random.fold_in(jax.random.key(2), t), ACTIONS[t, : env.spec.action_dim]
            np.testing.assert_allclose(obs, state.obs, atol=1e-4)
            env_state, obs, transition = step(key, env_state, obs, action)
            state = their_step(state, action)
            np.testing.assert_allclose(transition.next_obs, state.obs, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(transition.reward, state.reward, rtol=1e-3, atol=1e-4)
            assert transition.last == (transition.discount == 0.0) == (state.done > 0)
            if transition.last:
                state = their_reset(jax.random.key_data(jax.random.split(key)[0]))
                starts.append(np.asarray(obs))
        assert len(np.unique(starts, axis=0)) == len(starts)
        assert len(starts) > 3 or name == PHYSICS[1]  # the pole falls; the other task has no termination


@pytest.mark.parametrize("name", GYMNAX)
def test_gymnax_steps_as_gymnax_does(name: str) -> None:
    with family_env(name) as env:
        theirs, params = original(name)
        step, their_step = jax.jit(env.step), jax.jit(theirs.step_env)
        env_state, obs = env.reset(jax.random.key(1))
        low, high = np.asarray(env.spec.action_low), np.asarray(env.spec.action_high)
        for t in range(STEPS):
            key, action = jax.random.fold_in(jax.random.key(2), t), ACTIONS[t, : env.spec.action_dim]
            before = env_state[0][0]
            env_state, obs, transition = step(key, env_state, obs, action)
            native = np.asarray(low + (action + 1.0) / 2.0 * (high - low), np.float32)
            expected_obs, _, reward, _, _ = their_step(jax.random.split(key)[1], before, native, params)
            np.testing.assert_allclose(transition.next_obs, expected_obs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(transition.reward, reward, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GYMNAX)
def test_the_limit_of_gymnax_truncates_and_its_goal_terminates(name: str) -> None:
    """With both interfaces: the older one reports the limit as the end of everything."""
    with family_env(name) as env:
        limit = env.spec.max_steps
        assert limit is not None

        def body(carry: Any, t: jax.Array) -> Any:
            env_state, obs = carry
            action = jnp.ones(env.spec.action_dim) * jnp.sign(obs[1])  # rocks the car up the mountain
            env_state, obs, transition = env.step(jax.random.fold_in(jax.random.key(1), t), env_state, obs, action)
            return (env_state, obs), transition

        _, transition = jax.jit(lambda: jax.lax.scan(body, env.reset(jax.random.key(0)), jnp.arange(2 * limit)))()
        ends = np.flatnonzero(transition.last)
        discount = np.asarray(transition.discount)
        if "MountainCar" in name:
            assert ends[0] < limit - 1
            assert (discount[ends] == 0.0).all()
            assert np.asarray(transition.next_obs)[ends[0], 0] >= 0.45
        else:
            assert ends.tolist() == [limit - 1, 2 * limit - 1]
            assert (discount == 1.0).all()


@pytest.mark.parametrize("prefix", FAMILIES)
def test_the_names_of_a_family_are_complete_names_that_can_be_made(prefix: str) -> None:
    family = FAMILIES[prefix]
    if not installed(EXTRAS[family.extra]):
        pytest.skip(f"the extra {family.extra} is not installed")
    names = family.names()
    assert all(name.startswith(f"{prefix}/") for name in names)
    with family_env(names[0]) as env:
        assert env.spec.name == names[0]


@pytest.mark.parametrize("name", ["gymnax/Pendulum-v1", "brax/ant", "playground/CheetahRun"])
def test_a_library_that_is_not_there_is_named_with_the_command_that_adds_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], command_line: None
) -> None:
    extra = name.partition("/")[0]
    monkeypatch.setitem(sys.modules, EXTRAS[extra], None)
    make_of.cache_clear()
    assert run("train", name, "--out", str(tmp_path / "run")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].endswith(
        f"env={name} needs the extra {extra}, which is not installed; install it with {command_for(extra)}"
    )
    assert not (tmp_path / "run").exists()


def test_a_library_that_cannot_be_imported_is_one_sentence_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*name: str) -> Any:
        raise ImportError("cannot import name X\nfrom jax")

    monkeypatch.setitem(FAMILIES, "brax", Family(old, old, "brax"))
    monkeypatch.setitem(EXTRAS, "brax", "json")  # there is one of that name
    with pytest.raises(
        dj.ConfigError, match=r"^env=brax/ant cannot be made: ImportError: cannot import name X from jax \(test_"
    ):
        dj.train("brax/ant")
    (line,) = [line for line in overview(EnvOptions()).splitlines() if line.startswith("brax/")]
    assert line.startswith(f"{'brax/':16s} cannot be imported: ImportError: cannot import name X from jax (test_")


def test_a_family_is_listed_with_what_its_environments_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an environment that cannot be made the line says why, and the others follow."""

    def make(name: str) -> dj.Env:
        return make_device("Pendulum-v1") if name == "brax/b" else dj.envs.make_env(dj.EnvSpec("a", (1,), (1,), (), (), None))  # pyright: ignore

    monkeypatch.setitem(FAMILIES, "brax", Family(lambda: ["brax/a", "brax/b"], make, "brax"))
    monkeypatch.setitem(EXTRAS, "brax", "json")
    header, first, second = about("brax/", EnvOptions())
    assert header.split()[:2] == ["name", "runs"]
    assert first.startswith("env=brax/a cannot be made")
    assert " ".join(second.split()) == "brax/b device (3,) (1,) -2 to 2 200"


REFUSED = {
    "brax/ants": r"env=brax/ants is not known; the nearest are brax/ant,",
    "brax/ant@bullet": r"env=brax/ant@bullet is not known; it must end in @generalized, @.*, @mjx or be brax/ant$",
    "brax/swimmer@spring": r"env=brax/swimmer@spring cannot be made: Unsupported backend: spring",
    "playground/CheetahRunn": r"env=playground/CheetahRunn is not known; the nearest are playground/CheetahRun",
    "playground/Go1JoystickFlatTerrain": r"is not in the dm_control suite; it must be, because other tasks download assets",
    "gymnax/Pendulum": r"env=gymnax/Pendulum is not known; the nearest are gymnax/Pendulum-v1",
    "gymnax/CartPole-v1": r"env=gymnax/CartPole-v1 has Discrete actions; it must have Box actions",
    "gymnax/Breakout-MinAtar": r"env=gymnax/Breakout-MinAtar has Discrete actions; it must have Box actions",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_is_refused_in_one_sentence(name: str) -> None:
    prefix = name.partition("/")[0]
    if not installed(EXTRAS[prefix]):
        pytest.skip(f"{prefix} is not installed")
    with pytest.raises(dj.ConfigError, match=REFUSED[name]) as refusal:
        dj.train(name, steps=10)
    assert "\n" not in str(refusal.value)


def test_a_family_does_not_run_on_the_host() -> None:
    with pytest.raises(dj.ConfigError, match="backend=host is not allowed with env=brax/ant; it must be device or auto"):
        dj.train("brax/ant", backend="host")


@pytest.mark.parametrize("members", [(), (5,)])
def test_flattening_keeps_every_number_and_the_empty_arrays(members: tuple[int, ...]) -> None:
    one = {
        "_": jnp.ones(3),
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": (jnp.zeros((0, 4)), jnp.uint32(2**32 - 1)),
        "c": jnp.array([True, False]),
    }
    tree = jax.tree.map(lambda x: jnp.broadcast_to(x, (*members, *x.shape)), one)
    flatten, unflatten = make_flatten(one)
    vectors = flatten(tree)
    assert set(vectors) == {"float32", "uint32", "bool"}
    assert all(vector.shape[:-1] == members and vector.size for vector in vectors.values())
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(unflatten(vectors)), strict=True):
        np.testing.assert_array_equal(before, after)
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


def test_a_physics_run_goes_on_from_its_checkpoint(tmp_path: Path, command_line: None) -> None:
    """Its state has empty arrays, which no checkpoint holds, and keys of the old type."""
    name = PHYSICS[0]
    with family_env(name):
        small = "--warmup-steps 20 --batch-size 8 --hidden 8 --eval-every 40 --eval-episodes 1 --replay-capacity 200".split()
        whole, halves = tmp_path / "whole", tmp_path / "halves"
        assert run("train", name, "--steps", "80", "--out", str(whole), *small) == 0
        assert run("train", name, "--steps", "40", "--out", str(halves), *small) == 0
        assert run("train", name, "--steps", "80", "--out", str(halves), *small, "--resume") == 0
        returns = [[line.split(",")[3:7] for line in (f / "metrics.csv").read_text().splitlines()] for f in (whole, halves)]
        assert returns[0] == returns[1]


def walk(renew: Any) -> dj.Env:
    """Ends at times of its own; its state has keys and numbers of several types."""
    spec = dj.EnvSpec("Walk", (2,), (1,), (-1.0,), (1.0,), max_steps=9)

    def start(key: jax.Array) -> Any:
        return key, jax.random.normal(key, (2,)), jnp.int32(0)

    def advance(key: jax.Array, state: Any, action: jax.Array) -> Any:
        kept, x, count = state
        return (kept, x + action + jax.random.normal(key, (2,)), count + 1), 0.0, jnp.abs(x[0]) > 2.0

    return dj.envs.make_env(spec, start, advance, observe=lambda state: state[1], renew=renew)


def course(env: dj.Env, shape: tuple[int, ...]) -> Any:
    """20 steps of environments under as many vmaps as `shape` has numbers; returns also the state, keys as numbers."""

    def many(f: Any) -> Any:
        return functools.reduce(lambda g, _: jax.vmap(g), shape, f)

    @jax.jit
    def whole() -> Any:
        def step(carry: Any, t: jax.Array) -> Any:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(4), t), shape)
            env_state, obs, transition = many(env.step)(keys, *carry, jnp.zeros((*shape, 1)))
            return (env_state, obs), (transition, obs)

        ((state, elapsed), _), seen = jax.lax.scan(
            step, many(env.reset)(jax.random.split(jax.random.key(3), shape)), jnp.arange(20)
        )
        return (jax.random.key_data(state[0]), *state[1:], elapsed), seen

    return jax.tree.map(np.asarray, whole())


@pytest.mark.parametrize("shape", [(), (1,), (20,), (3, 20), (2, 1, 5)])
def test_starts_drawn_at_ends_only_are_those_drawn_at_every_step(shape: tuple[int, ...]) -> None:
    always, at_ends = course(walk(dj.envs.renew_always), shape), course(walk(dj.envs.renew_at_ends), shape)
    assert at_ends[1][0].last.any()
    for one, other in zip(jax.tree.leaves(always), jax.tree.leaves(at_ends), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_step_in_which_no_episode_ends_draws_no_start() -> None:
    """Whatever is mapped over: a start must be behind a branch in the compiled program, not beside it."""
    drawn = []

    def start(key: jax.Array) -> jax.Array:
        x = jax.random.normal(key, (2,))
        jax.debug.callback(lambda x: drawn.append(x), x)
        return x

    spec = dj.EnvSpec("Still", (2,), (1,), (-1.0,), (1.0,), max_steps=3)
    env = dj.envs.make_env(
        spec, start, lambda k, x, a: (x, jnp.zeros(()), False), observe=lambda x: x, renew=dj.envs.renew_at_ends
    )
    keys = jax.random.split(jax.random.key(0), (2, 3))
    carry = jax.jit(jax.vmap(jax.vmap(env.reset)))(keys)
    step = jax.jit(jax.vmap(jax.vmap(env.step)))
    counts = []
    for _ in range(3):
        drawn.clear()
        carry = step(keys, *carry, jnp.zeros((2, 3, 1)))[:2]
        jax.effects_barrier()
        counts.append(len(drawn) > 0)
    assert counts == [False, False, True]


SHARDED = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
import ddpg_jax as dj
from ddpg_jax.envs import make_device
from ddpg_jax.envs.extras import EXTRAS, installed
from ddpg_jax.running.placement import over_members, make_placement
from tests.envs.test_native import compiled_roll
from tests.envs.test_families import GYMNAX, PHYSICS, walk

others = [name for name in (GYMNAX[0], *PHYSICS) if installed(EXTRAS[name.partition("/")[0]])]
envs = [walk(dj.envs.renew_at_ends), *map(make_device, ["Pendulum-v1", "point-reach", *others])]
for env in envs:
    keys = jax.random.split(jax.random.key(0), (4, 3))
    roll = compiled_roll(env, 30)
    alone = jax.jit(jax.vmap(roll))(keys)
    for kind in ("map", "vmap"):
        placement = make_placement(4, kind).per_call
        many = placement.slots
        shared = jax.jit(over_members(roll, placement))(placement.put(keys[:many]))
        assert len(shared[0].sharding.device_set) == 2
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(shared)):
            np.testing.assert_allclose(one[:many], other, rtol=1e-3, atol=1e-3)
print(len(envs))
"""


def test_two_devices_give_what_one_gives() -> None:
    """However the members of a sweep share a device; 30 steps, in which episodes of the walk end."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SHARDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
