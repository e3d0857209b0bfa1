"""The checker names the fault of every broken environment, and finds none in a sound one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj

SPEC = dj.EnvSpec("Walk", (2,), (1,), (-2.0,), (2.0,), max_steps=10)


def start(key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def advance(key: jax.Array, x: jax.Array, action: jax.Array) -> Any:
    """Far from where it starts after a step, so that a start can be told from the rest."""
    return x + 5.0 + action, -jnp.sum(x**2), jnp.any(x > 25.0)


def walk(spec: dj.EnvSpec = SPEC, start: Any = start, advance: Any = advance, observe: Any = lambda x: x) -> dj.Env:
    return dj.envs.make_env(spec, start, advance, observe=observe)


def stepping(change: Callable[..., Any], env: dj.Env | None = None) -> dj.Env:
    """The walk, or another, with what its step gives changed: `(given, given back) -> given back`."""
    before = env or walk()
    return before._replace(step=lambda *given: change(given, before.step(*given)))


def transition(**fields: Callable[[dj.Transition], Any]) -> Callable[..., Any]:
    """A change of some fields of the transition."""

    def change(given: Any, back: Any) -> Any:
        return *back[:2], back[2]._replace(**{name: make(back[2]) for name, make in fields.items()})

    return change


def forgets_to_reset(given: Any, back: Any) -> Any:
    (x, elapsed), obs, t = back
    return (jnp.where(t.last, t.next_obs, x), elapsed), jnp.where(t.last, t.next_obs, obs), t


def same_start(given: Any, back: Any) -> Any:
    (x, elapsed), obs, t = back
    cached = start(jax.random.key(7))
    return (jnp.where(t.last, cached, x), elapsed), jnp.where(t.last, cached, obs), t


def steadily(key: jax.Array, x: jax.Array, action: jax.Array) -> Any:
    """The same, without termination."""
    return x + 5.0 + action, -jnp.sum(x**2), False


def endless() -> dj.Env:
    env = walk(SPEC._replace(max_steps=100), advance=lambda key, x, action: (x + action, 0.0, False))
    return env._replace(spec=SPEC)


def impure(key: jax.Array) -> jax.Array:
    return start(key) + np.random.default_rng().uniform()


def branching(key: jax.Array, x: jax.Array, action: jax.Array) -> Any:
    return (x if x[0] > 0 else x + 1.0), 0.0, False


def neighbourly(x: jax.Array) -> jax.Array:
    """Under vmap it sees the mean of all lanes."""
    seen = jax.custom_batching.custom_vmap(lambda x: x)
    seen.def_vmap(lambda size, batched, x: (x * 0.0 + x.mean(axis=0, keepdims=True), True))
    return seen(x)


def silent(*given: Any) -> Any:
    raise RuntimeError


def breaks_off(key: jax.Array, x: jax.Array, action: jax.Array) -> Any:
    """It can be compiled, and fails when it runs."""
    return x + jax.pure_callback(silent, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="sequential"), 0.0, False


def with_spec(**fields: Any) -> dj.Env:
    return walk()._replace(spec=SPEC._replace(**fields))


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "not-an-env": (lambda: walk().step, "must be an Env"),
    "no-spec": (lambda: walk()._replace(spec=None), r"env=Env\(.*\) has spec=None; it must be an EnvSpec"),
    "a-shape-that-is-none": (lambda: with_spec(obs_shape=2), "has obs_shape=2; it must be a tuple of whole"),
    "no-actions": (lambda: with_spec(action_shape=(0,)), r"has action_shape=\(0,\); it must be a tuple of whole"),
    "no-bounds": (lambda: with_spec(action_low=None), "has action_low=None; it must be a tuple of numbers"),
    "bounds-in-words": (lambda: with_spec(action_low=("a",)), r"has action_low=\('a',\); it must be a tuple of numbers"),
    "half-a-step": (lambda: with_spec(max_steps=9.5), "has max_steps=9.5; it must be a whole number"),
    "reset-without-state": (
        lambda: walk()._replace(reset=lambda k: walk().reset(k)[1]),
        "returns a .* from reset; it must return a pair",
    ),
    "obs-in-a-dict": (
        lambda: walk()._replace(reset=lambda k: (walk().reset(k)[0], {"x": jnp.zeros(2)})),
        "returns obs from reset as dict; it must be an array",
    ),
    "no-reward": (lambda: stepping(transition(reward=lambda t: None)), "returns transition.reward as NoneType"),
    "says-nothing": (
        lambda: walk(advance=silent),
        "because step raises RuntimeError: without a message; it must run under jax.jit",
    ),
    "fails-when-it-runs": (lambda: walk(advance=breaks_off), "fails when it is run"),
    "bounds-of-another-length": (
        lambda: walk()._replace(spec=SPEC._replace(action_low=(-2.0, -2.0))),
        "action_low of 2 numbers",
    ),
    "no-limit": (lambda: walk()._replace(spec=SPEC._replace(max_steps=None)), "max_steps=None"),
    "obs-of-another-shape": (
        lambda: walk()._replace(reset=lambda k: (walk().reset(k)[0], jnp.zeros(3))),
        r"obs from reset of shape \(3,\)",
    ),
    "obs-of-another-type": (
        lambda: walk()._replace(reset=lambda k: (walk().reset(k)[0], jnp.zeros(2, int))),
        "type int32; .* float32",
    ),
    "reward-of-a-shape": (
        lambda: walk(advance=lambda k, x, a: (x, jnp.zeros(1), False)),
        r"a reward of shape \(1,\) from advance",
    ),
    "state-of-another-structure": (lambda: stepping(lambda given, back: ((*back[0], 1), *back[1:])), "a different structure"),
    "state-of-another-shape": (
        lambda: stepping(lambda given, back: ((back[0][0][None], *back[0][1:]), *back[1:])),
        r"env_state.* from step of shape \(1, 2\)",
    ),
    "no-transition": (lambda: stepping(lambda given, back: (*back[:2], 0.0)), "return a triple .env_state, obs, Transition."),
    "a-branch-in-python": (
        lambda: walk(advance=branching),
        "cannot be compiled, because step raises TracerBoolConversionError",
    ),
    "impure": (lambda: walk(start=impure), "different results when called again with the same key"),
    "lanes-touch": (lambda: walk(observe=neighbourly), "different results under vmap"),
    "not-finite": (lambda: walk(advance=lambda k, x, a: (x + 5, jnp.log(a[0]), False)), "nan as reward"),
    "another-obs": (lambda: stepping(transition(obs=lambda t: t.next_obs)), "a transition.obs that differs"),
    "action-in-native-units": (
        lambda: stepping(transition(action=lambda t: 2.0 * t.action)),
        "a transition.action that differs",
    ),
    "another-obs-to-act-on": (
        lambda: stepping(transition(next_obs=lambda t: t.obs)),
        "an obs that differs from transition.next_obs",
    ),
    "discount-gamma": (lambda: stepping(transition(discount=lambda t: 0.99 * t.discount)), "discount=0.99; it must be 0 where"),
    "terminated-and-not-last": (
        lambda: stepping(transition(last=lambda t: t.last & (t.discount == 1))),
        "discount=0 where last is",
    ),
    "no-end": (endless, "continues after max_steps=10"),
    "cut-before-the-limit": (
        lambda: walk(advance=steadily)._replace(spec=SPEC._replace(max_steps=12)),
        "truncated after 10 steps",
    ),
    "truncation-as-termination": (
        lambda: stepping(transition(discount=lambda t: 1.0 - t.last), walk(advance=steadily)),
        "discount=0 whenever .* max_steps=10",
    ),
    "no-reset": (lambda: stepping(forgets_to_reset), "not a start after the end"),
    "lost-successor": (
        lambda: stepping(lambda given, back: transition(next_obs=lambda t: back[1])(given, back)),
        "obs after the reset as",
    ),
    "one-start-for-ever": (lambda: stepping(same_start), "repeats the start of an earlier episode"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_is_refused_in_one_sentence_that_names_the_fault(name: str) -> None:
    make, fault = BROKEN[name]
    env = make()
    with pytest.raises(dj.ConfigError, match=fault) as refusal:
        dj.envs.check(env)
    sentence = str(refusal.value)
    assert sentence.startswith("env=")
    assert "\n" not in sentence
    assert "; it must " in sentence


class Object:
    """The protocol without its class."""

    spec = SPEC

    def reset(self, key: jax.Array) -> Any:
        return walk().reset(key)

    def step(self, *given: Any) -> Any:
        return walk().step(*given)


def test_a_sound_environment_passes() -> None:
    dj.envs.check(walk())
    dj.envs.check(Object())  # pyright: ignore[reportArgumentType]
    small: dict[str, Any] = {"steps": 60, "warmup_steps": 30, "batch_size": 8, "hidden": (8,), "eval_every": 60}
    one, other = (dj.train(env, **small).returns for env in (walk(), Object()))
    assert one.tolist() == other.tolist()
