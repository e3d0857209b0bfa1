"""Mixed precision: which products are in bfloat16, that nothing else is, and that a saved policy knows."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

import ddpg_jax as dj
from ddpg_jax.agent.layers import PRECISIONS, rounded_product
from tests.agents import mlp_agent
from tests.contracts.test_parts import distance

OBS, ACTION, BATCH, HIDDEN = 3, 2, 8, (16, 12)
KEY, HYPER = jax.random.key(0), dj.Hyperparams()


def batch() -> dj.Transition:
    rng = np.random.default_rng(0)
    shapes = ((BATCH, OBS), (BATCH, ACTION), (BATCH,), (BATCH, OBS))
    obs, action, reward, next_obs = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return dj.Transition(obs, action, reward, jnp.ones(BATCH), jnp.zeros(BATCH, bool), next_obs)


def update(agent: dj.Agent, state: Any) -> Any:
    return agent.update(KEY, state, batch(), jnp.ones(BATCH), HYPER, jnp.int32(0))


def products(jaxpr: Any) -> list[tuple[str, bool]]:
    """Of each product of a program, those of its inner programs too: what enters it, and whether it is a last layer's."""
    found, rounded = [], set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "reduce_precision":
            assert equation.params == {"exponent_bits": 8, "mantissa_bits": 7}
            rounded.update(map(str, equation.outvars))
        if equation.primitive.name == "dot_general":
            inputs = [variable.aval for variable in equation.invars]
            short = [str(x) in rounded or x.aval.dtype == jnp.bfloat16 for x in equation.invars]
            full = equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 and not any(short)
            kind = "all digits" if full else "bfloat16" if all(short) else "neither"
            found.append((kind, bool({length for x in inputs for length in x.shape} & {1, ACTION})))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += products(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"batch_norm": True}, {"action_layer": 2}])
def test_hidden_layers_alone_are_rounded_forward_and_backward(options: dict[str, Any]) -> None:
    """As many products as with float32, of which those of the last layers (whose width is A or 1) have all digits."""
    counts = {}
    for precision in PRECISIONS:
        agent = mlp_agent(OBS, ACTION, HIDDEN, precision=precision, init="fan_in", **options)
        jaxpr = jax.make_jaxpr(functools.partial(update, agent))(agent.init(KEY, HYPER)).jaxpr
        needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # without gradients by observations
        counts[precision] = Counter(products(needed))
    full, mixed = counts["float32"], counts["bfloat16"]
    assert set(full) == {("all digits", False), ("all digits", True)}
    assert mixed == {("bfloat16", False): full["all digits", False], ("all digits", True): full["all digits", True]}


def test_learners_that_share_a_batch() -> None:
    """XLA refuses some products in bfloat16, and which ones depends on what is vmapped."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, precision="bfloat16")
    states = jax.vmap(agent.init, (0, None))(jax.random.split(KEY, 2), HYPER)
    together, *_ = jax.jit(jax.vmap(functools.partial(update, agent)))(states)
    alone, *_ = jax.jit(functools.partial(update, agent))(jax.tree.map(lambda x: x[1], states))
    assert distance(jax.tree.map(lambda x: x[1], together.params), alone.params) < 1e-4


@pytest.mark.parametrize("rows", [(), (5,), (2, 5)])
def test_rounded_products_and_their_gradients_are_sums_of_rounded_factors(rows: tuple[int, ...]) -> None:
    """In float64, of the same rounded factors, they differ by the digits that float32 has."""
    rng = np.random.default_rng(0)
    shapes = ((*rows, 300), (300, 7), (*rows, 7))
    x, w, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    given, back = jax.vjp(rounded_product, x, w)
    x64, w64, g64 = (np.asarray(y.astype(jnp.bfloat16), np.float64) for y in (x, w, g))
    expected = (x64 @ w64, g64 @ w64.T, x64.reshape(-1, 300).T @ g64.reshape(-1, 7))
    for one, other in zip((given, *back(g)), expected, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert not np.allclose(given, np.asarray(x, np.float64) @ np.asarray(w, np.float64), atol=1e-3), "nothing was rounded"


def test_float32_is_float32_on_every_backend() -> None:
    """Without being told, a GPU takes 10 bits of what enters a product of float32, and a TPU 8."""
    agent = mlp_agent(OBS, ACTION, HIDDEN)
    text = str(jax.make_jaxpr(functools.partial(update, agent))(agent.init(KEY, HYPER)))
    assert text.count("dot_general[") == text.count("Precision.HIGHEST, Precision.HIGHEST") > 20


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"batch_norm": True}])
def test_what_is_kept_and_what_is_given_is_float32(options: dict[str, Any]) -> None:
    """Starts are the same to the bit, and an update goes where that of float32 goes, but for rounding."""
    plain, mixed = (mlp_agent(OBS, ACTION, HIDDEN, init="fan_in", precision=name, **options) for name in PRECISIONS)
    start = plain.init(KEY, HYPER)
    assert distance(start, mixed.init(KEY, HYPER)) == 0.0
    (_, expected, _), (after, td, info) = update(plain, start), update(mixed, start)
    assert {str(x.dtype) for x in jax.tree.leaves((after, td, info))} <= {"float32", "int32"}
    assert mixed.act(start.params.actor, batch().obs).dtype == jnp.float32
    np.testing.assert_allclose(td, expected, atol=0.03)
    assert not np.allclose(td, expected, atol=1e-5), "nothing was rounded"
    moment, other = (np.asarray(x.opt.critic[0].mu["critic_0"]["hidden_1"]["kernel"]) for x in (update(plain, start)[0], after))
    assert np.linalg.norm(moment - other) < 0.05 * np.linalg.norm(moment), "the gradient is another one"


def test_large_values_are_not_rounded() -> None:
    """A last layer that gives bfloat16 would tell values around 200 apart in steps of 1, and TD errors with them."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, precision="bfloat16")
    critic = agent.init(KEY, HYPER).params.critic
    critic["critic_0"]["value"]["bias"] += 200.0
    q = np.asarray(agent.q_values(critic, batch().obs, batch().action))
    assert len(np.unique(q)) == BATCH
    assert np.ptp(q) < 0.1


def test_a_saved_policy_acts_in_its_own_precision(tmp_path: Path) -> None:
    """To the bit; and one that was written without the field is float32."""
    fields = {"hidden": (8,), "steps": 40, "warmup_steps": 20, "batch_size": 8, "eval_every": 40, "eval_episodes": 1}
    run = dj.train("probe/lqr", precision="bfloat16", init="fan_in", **fields)
    run.policy.save(tmp_path)
    obs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert np.array_equal(dj.load_policy(tmp_path)(obs), run.policy(obs))

    about = json.loads((tmp_path / "policy.json").read_text())
    assert about.pop("precision") == "bfloat16"
    del about["own_sha256"]  # as of an older version
    (tmp_path / "policy.json").write_text(json.dumps(about))
    assert "precision" not in dj.load_policy(tmp_path).fields
    assert not np.array_equal(dj.load_policy(tmp_path)(obs), run.policy(obs))


def test_other_precisions_are_refused() -> None:
    with pytest.raises(dj.ConfigError, match="precision=float16 is not allowed; allowed are float32, bfloat16"):
        dj.configure({"precision": "float16"})
