"""BatchNorm against NumPy: where it is, whose statistics count where, and what moves them.

The mistakes that others have made with it: acting by the statistics of a batch, so that an action depends on who else is in
it; targets by those of the online networks; statistics that an optimizer decays, or that a checkpoint or a policy loses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ddpg_jax as dj
from ddpg_jax.agent.ddpg import every_period
from ddpg_jax.agent.losses import pre_tanh_l2, weight_l2
from ddpg_jax.agent.networks import apply_by_batch
from ddpg_jax.api import make_policy
from ddpg_jax.experiment.build import make_optimizer
from ddpg_jax.exploration import draw_directions
from ddpg_jax.running.program import Program
from ddpg_jax.types import Nets
from tests.agents import mlp_agent
from tests.runs import assert_same_arrays

OBS, ACTION, HIDDEN, BATCH = 3, 2, (6, 5), 16
KEY = jax.random.key(0)
HYPER = dj.Hyperparams(tau=0.25, actor_lr=1e-2, critic_lr=1e-2)
LAYERS = ("norm_input", "norm_0", "norm_1")
FIELDS: dict[str, Any] = {
    "env": "Pendulum-v1",
    "batch_norm": True,
    "steps": 120,
    "warmup_steps": 40,
    "batch_size": 8,
    "hidden": (8,),
    "action_layer": 1,
    "num_envs": 2,
    "replay_capacity": 400,
    "updates_per_step": 0.5,
    "eval_every": 60,
    "eval_episodes": 2,
}


def normalize(x: np.ndarray, layer: Any, running: Any, by_batch: bool) -> tuple[np.ndarray, Any]:
    """Ioffe and Szegedy 2015, Algorithm 1 and 2, and the statistics of x."""
    seen = {"mean": x.mean(axis=0), "var": np.mean((x - x.mean(axis=0)) ** 2, axis=0)}
    used = seen if by_batch else running
    return layer.get("scale", 1.0) * (x - used["mean"]) / np.sqrt(used["var"] + 1e-5) + layer.get("bias", 0.0), seen


def forward(layers: Any, running: Any, obs: Any, action: Any, action_layer: int, by_batch: bool) -> tuple[np.ndarray, Any]:
    """Of the actor (action None) before its tanh, or of one critic, in float64; and what its BatchNorms have seen."""
    x, seen = normalize(np.asarray(obs, np.float64), {}, running["norm_input"], by_batch)
    found = {"norm_input": seen}
    for i in range(len(HIDDEN)):
        x = np.concatenate([x, action], axis=-1) if action is not None and i == action_layer else x
        x = x @ layers[f"hidden_{i}"]["kernel"] + layers[f"hidden_{i}"].get("bias", 0.0)
        if action is None or i < action_layer:
            x, found[f"norm_{i}"] = normalize(x, layers[f"norm_{i}"], running[f"norm_{i}"], by_batch)
        x = np.maximum(x, 0.0)
    x = np.concatenate([x, action], axis=-1) if action is not None and action_layer == len(HIDDEN) else x
    last = layers["action" if action is None else "value"]
    return x @ last["kernel"] + last["bias"], found


def mu(params: Any, obs: Any, by_batch: bool) -> np.ndarray:
    return np.tanh(forward(params, params["batch_stats"], obs, None, 0, by_batch)[0])


def q(params: Any, obs: Any, action: Any, action_layer: int, by_batch: bool) -> np.ndarray:
    """`[E, B]`"""
    names = sorted(set(params) - {"batch_stats"})
    values = [forward(params[e], params["batch_stats"][e], obs, action, action_layer, by_batch)[0] for e in names]
    return np.stack(values)[..., 0]


def shaken(params: Any, seed: int) -> Any:
    """Parameters far from those of a start, statistics too, such that nothing in them can be left out."""
    rng = np.random.default_rng(seed)

    def shake(path: Any, leaf: Any) -> Any:
        moved = np.asarray(leaf) + 0.4 * rng.normal(size=leaf.shape)
        return jnp.asarray(np.abs(moved) + 0.1 if path[-1].key == "var" else moved, jnp.float32)

    return jax.tree.map_with_path(shake, params)


def shaken_state(agent: dj.Agent) -> Any:
    state: Any = agent.init(KEY, HYPER)
    return state.replace(params=shaken(state.params, 1), target=shaken(state.target, 2))


def transitions() -> dj.Transition:
    """`[B]`, with observations that are not centered."""
    rng = np.random.default_rng(0)
    fields = {
        "obs": 4.0 + 2.0 * rng.normal(size=(BATCH, OBS)),
        "action": rng.uniform(-1, 1, size=(BATCH, ACTION)),
        "reward": rng.normal(size=BATCH),
        "discount": np.full(BATCH, 0.9),
        "last": np.zeros(BATCH),
        "next_obs": 3.0 + rng.normal(size=(BATCH, OBS)),
    }
    return dj.Transition(**{name: jnp.asarray(values, jnp.float32) for name, values in fields.items()})


def float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def assert_close(found: Any, expected: Any) -> None:
    """To what float32 makes of networks of this size."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("action_layer", [0, 1, 2])
def test_values_are_those_of_numpy_by_running_statistics_and_by_the_batch(action_layer: int) -> None:
    """Observations, all layers of the actor, those of the critics before the action joins; acting is by the running ones."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, batch_norm=True, action_layer=action_layer, num_critics=2)
    params, batch = shaken_state(agent).params, transitions()
    assert set(params.actor["batch_stats"]) == set(LAYERS)
    for e in ("critic_0", "critic_1"):
        assert set(params.critic["batch_stats"][e]) == set(LAYERS[: action_layer + 1])
        assert {name for name in params.critic[e] if "norm" in name} == set(LAYERS[1 : action_layer + 1])
        biased = {name for name in params.critic[e] if "hidden" in name and "bias" in params.critic[e][name]}
        assert biased == {"hidden_0", "hidden_1"} - {f"hidden_{i}" for i in range(action_layer)}
    exact = float64(params)
    assert_close(agent.act(params.actor, batch.obs), mu(exact.actor, batch.obs, False))
    values = agent.q_values(params.critic, batch.obs, batch.action)
    assert_close(values, q(exact.critic, batch.obs, batch.action, action_layer, False))

    actor = dj.Actor(ACTION, HIDDEN, batch_norm=True)
    critic = dj.Critics(dj.Critic(HIDDEN, action_layer=action_layer, batch_norm=True), 2)
    found = apply_by_batch(actor, params.actor, batch.obs), apply_by_batch(critic, params.critic, batch.obs, batch.action)
    assert_close(found[0], mu(exact.actor, batch.obs, True))
    assert_close(found[1], q(exact.critic, batch.obs, batch.action, action_layer, True))
    assert np.abs(found[1] - values).max() > 0.05, "the two are so close that agreement says nothing"


def test_an_observation_gets_the_same_action_alone_and_among_others() -> None:
    """The classical mistake."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, batch_norm=True, action_layer=1)
    params, batch = shaken_state(agent).params, transitions()
    many, q_many = agent.act(params.actor, batch.obs), agent.q_values(params.critic, batch.obs, batch.action)
    for b in range(BATCH):
        alone = agent.act(params.actor, batch.obs[b : b + 1])[0]
        assert_close(alone, many[b])
        assert_close(agent.act(params.actor, batch.obs[b]), many[b])
        q_alone = agent.q_values(params.critic, batch.obs[b], batch.action[b])
        assert_close(q_alone, q_many[:, b])


def test_large_offsets_do_not_cost_digits() -> None:
    """The variance of observations around 1,000 is not found as a difference of two numbers of size 1e6."""
    actor = dj.Actor(ACTION, HIDDEN, batch_norm=True, final_bound=None)
    params = dj.init_actor(KEY, actor, OBS)
    near = np.random.default_rng(3).integers(-8, 9, size=(BATCH, OBS)).astype(np.float32) / 64  # exact in float32, shifted too
    one, other = (apply_by_batch(actor, params, jnp.asarray(near + offset)) for offset in (0.0, 1024.0))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


PARTS = {"plain": {}, "decayed": {"actor_decay": 0.5, "critic_decay": 0.5, "actor_clip": 0.1, "critic_clip": 0.1}}


def agent_with(part: str, **options: Any) -> tuple[dj.Agent, dj.Hyperparams]:
    experiment, hyper = dj.configure(PARTS[part])
    chosen = Nets(make_optimizer("actor", experiment), make_optimizer("critic", experiment))
    agent = mlp_agent(OBS, ACTION, HIDDEN, batch_norm=True, action_layer=1, optimizers=chosen, **options)
    return agent, hyper._replace(tau=0.25, actor_lr=1e-2, critic_lr=1e-2)


@pytest.mark.parametrize("part", PARTS)
def test_what_an_update_reports_and_how_it_moves_statistics(part: str) -> None:
    """Online networks by the batch, targets by their running statistics, which then follow softly; no optimizer takes part."""
    agent, hyper = agent_with(part, num_critics=2)
    before, batch = shaken_state(agent), transitions()
    after, found, info = jax.jit(agent.update)(KEY, before, batch, jnp.ones(BATCH), hyper, jnp.int32(0))
    assert "batch_stats" not in str(jax.tree.structure(after.opt)), "an optimizer keeps moments of statistics"
    old, new, target = float64(before.params), float64(after.params), float64(before.target)

    next_q = q(target.critic, batch.next_obs, mu(target.actor, batch.next_obs, False), 1, False).min(axis=0)
    td = np.asarray(batch.reward) + 0.9 * next_q - q(old.critic, batch.obs, batch.action, 1, True)
    np.testing.assert_allclose(found, td[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(info["critic_loss"], np.mean(td**2, axis=1).sum(), rtol=1e-3)
    judged = q(new.critic, batch.obs, mu(old.actor, batch.obs, True), 1, True)[0]
    np.testing.assert_allclose(info["actor_loss"], -judged.mean(), rtol=1e-3)

    seen = {
        "actor": forward(old.actor, old.actor["batch_stats"], batch.obs, None, 0, True)[1],
        **{
            e: forward(old.critic[e], old.critic["batch_stats"][e], batch.obs, np.asarray(batch.action), 1, True)[1]
            for e in ("critic_0", "critic_1")
        },
    }

    def held(params: Any) -> dict[str, Any]:
        return {"actor": params.actor["batch_stats"], **params.critic["batch_stats"]}

    expected = jax.tree.map(lambda running, batch: 0.99 * running + 0.01 * batch, held(old), seen)
    followed = jax.tree.map(lambda online, running: 0.25 * online + 0.75 * running, expected, held(target))
    for found, exact in ((held(new), expected), (held(float64(after.target)), followed)):
        jax.tree.map(assert_close, found, exact)
    for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(held(old)), strict=True):
        assert np.abs(x - y).max() > 1e-3, "they have not moved, so agreement says nothing"


def test_gradients_go_through_the_statistics_of_the_batch() -> None:
    """Along the step that gradient descent takes, losses fall as their finite differences in NumPy say."""
    descent = Nets(*(lambda hyper, t: optax.sgd(1.0),) * 2)
    penalties: Any = {"critic_penalties": (weight_l2,), "actor_penalties": (pre_tanh_l2,)}
    agent = mlp_agent(OBS, ACTION, HIDDEN, batch_norm=True, action_layer=1, optimizers=descent, **penalties)
    hyper = HYPER._replace(critic_l2=0.1, action_penalty=0.1)
    before, batch = shaken_state(agent), transitions()
    after, td, _ = jax.jit(agent.update)(KEY, before, batch, jnp.ones(BATCH), hyper, jnp.int32(0))
    old, new = float64(before.params), float64(after.params)
    y = np.asarray(td, np.float64) + q(old.critic, batch.obs, batch.action, 1, True)[0]

    def critic_loss(params: Any) -> float:
        kernels = [layer["kernel"] for layer in params["critic_0"].values() if "kernel" in layer]
        squares = sum(np.sum(kernel**2) for kernel in kernels)
        return np.mean((y - q(params, batch.obs, batch.action, 1, True)[0]) ** 2) + 0.1 * squares

    def actor_loss(params: Any) -> float:
        pre_tanh = forward(params, params["batch_stats"], batch.obs, None, 0, True)[0]
        return -np.mean(q(new.critic, batch.obs, np.tanh(pre_tanh), 1, True)[0]) + 0.1 * np.mean(pre_tanh**2)

    for loss, start, end in ((critic_loss, old.critic, new.critic), (actor_loss, old.actor, new.actor)):
        step = jax.tree.map(lambda x, y: y - x, start, {**end, "batch_stats": start["batch_stats"]})
        size = sum(np.sum(leaf**2) for leaf in jax.tree.leaves(step))
        up, down = (loss(jax.tree.map(lambda x, d, h=h: x + h * d, start, step)) for h in (1e-4, -1e-4))
        assert (up - down) / 2e-4 == pytest.approx(-size, rel=5e-3)


def test_targets_copy_statistics_where_they_copy_the_rest_and_a_resting_actor_keeps_its_own() -> None:
    agent, hyper = agent_with("plain", target_rate=every_period, policy_delay=2)
    state, batch = shaken_state(agent), transitions()
    update = jax.jit(agent.update)
    states = [state]
    for t in (1, 2):  # the first of them neither copies nor improves the actor
        states.append(
            update(KEY, states[-1], batch, jnp.ones(BATCH), hyper._replace(tau=1.0, sync_period=2.0), jnp.int32(t))[0]
        )
    start, rested, synced = states
    assert_same_arrays(rested.target, start.target)
    assert_same_arrays(rested.params.actor, start.params.actor)
    assert np.all(
        rested.params.critic["batch_stats"]["critic_0"]["norm_0"]["mean"]
        != start.params.critic["batch_stats"]["critic_0"]["norm_0"]["mean"]
    )
    assert np.all(synced.params.actor["batch_stats"]["norm_0"]["var"] != start.params.actor["batch_stats"]["norm_0"]["var"])
    assert_same_arrays(synced.target, synced.params)


def test_noise_on_parameters_leaves_it_alone() -> None:
    """Statistics, scale and shift."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, batch_norm=True)
    drawn = draw_directions(KEY, agent.init(KEY, HYPER).params.actor)
    left_alone = {jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(drawn) if not np.any(leaf)}
    held = {f"['batch_stats']['{layer}']['{name}']" for layer in LAYERS for name in ("mean", "var")}
    learned = {f"['{layer}']['{name}']" for layer in LAYERS[1:] for name in ("scale", "bias")}
    assert left_alone == held | learned


def test_without_it_nothing_of_it_is_there() -> None:
    """The tree and the program of an update are those of networks that have never heard of it."""
    agent, batch = mlp_agent(OBS, ACTION, HIDDEN), transitions()
    state = agent.init(KEY, HYPER)
    assert set(state.params.actor) == {"hidden_0", "hidden_1", "action"}
    program = str(jax.make_jaxpr(agent.update)(KEY, state, batch, jnp.ones(BATCH), HYPER, jnp.int32(0)))
    assert "rsqrt" not in program, "something is divided by a standard deviation"


def statistics(program: Program, state: Any) -> Any:
    train = program.save(state)[0].train
    nets = (*train.params, *train.target)
    return jax.tree.map(np.array, [net["batch_stats"] for net in nets])


@pytest.mark.parametrize("backend", ["device", "host"])
def test_only_learning_moves_statistics_and_a_run_resumes_bit_for_bit(backend: str) -> None:
    """Neither the warm-up nor an evaluation does; they are part of what is saved."""
    experiment, hyper = dj.configure({**FIELDS, "backend": backend})
    everyone, members = np.ones(1, bool), [dj.Member(0, hyper)]
    program = dj.make_program(experiment, members)
    state = program.start()
    fresh = statistics(program, state)
    state = program.advance(state, 0, 20, active=everyone)[0]
    returns = program.evaluate(state, 20)[0]
    assert_same_arrays(statistics(program, state), fresh)

    state = program.advance(state, 20, 40, active=everyone)[0]
    learned = statistics(program, state)
    assert all(np.any(x != y) for x, y in zip(jax.tree.leaves(learned), jax.tree.leaves(fresh), strict=True))
    assert np.any(program.evaluate(state, 20)[0] != returns)
    assert_same_arrays(statistics(program, state), learned)

    arrays, text = program.save(state)
    arrays = jax.tree.map(np.array, arrays)
    ends = [jax.tree.map(np.array, program.save(program.advance(state, 40, 60, active=everyone)[0])[0])]
    program.close()
    program = dj.make_program(experiment, members)
    state = program.load(jax.tree.map(jnp.asarray, arrays), text, 40)
    ends.append(jax.tree.map(np.array, program.save(program.advance(state, 40, 60, active=everyone)[0])[0]))
    program.close()
    assert_same_arrays(*ends)


def test_a_saved_policy_acts_as_the_actor_did(tmp_path: Path) -> None:
    """By its running statistics, in any batch; a policy saved before the option existed has none."""
    experiment, _ = dj.configure({**FIELDS, "hidden": HIDDEN})
    spec = dj.envs.make_device("Pendulum-v1").spec
    agent = dj.build(experiment, spec).agent
    params = shaken(agent.init(KEY, HYPER).params.actor, 5)
    policy = make_policy(experiment, spec, params)
    policy.save(tmp_path)
    loaded = dj.load_policy(tmp_path)
    assert loaded.fields["batch_norm"]
    obs = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    expected = 2.0 * mu(float64(params), obs, False)
    for one in (policy, loaded):
        assert_close(one(obs), expected)
        assert_close(one(obs[0]), expected[0])
        assert_close(one.unit_action(one.params, jnp.asarray(obs)), expected / 2.0)
    np.testing.assert_array_equal(policy(obs), loaded(obs))

    plain, _ = dj.configure({"hidden": HIDDEN})
    params = dj.build(plain, spec).agent.init(KEY, HYPER).params.actor
    make_policy(plain, spec, params).save(tmp_path)
    about = json.loads((tmp_path / "policy.json").read_text())
    del about["batch_norm"], about["own_sha256"]  # as of an older version
    (tmp_path / "policy.json").write_text(json.dumps(about))
    assert "batch_norm" not in dj.load_policy(tmp_path).fields
    np.testing.assert_array_equal(dj.load_policy(tmp_path)(obs), make_policy(plain, spec, params)(obs))


@pytest.mark.parametrize("fields", [{"hidden": (64,)}, {"hidden": (64, 64), "action_layer": 1}], ids=["first", "second"])
def test_it_learns(fields: dict[str, Any]) -> None:
    """The best action equals the observation, and what acts, by running statistics, has learned it by those of batches.

    With biases before the normalizations, whose gradients are rounding errors, the two drift apart and it has not.
    """
    rates = {"actor_lr": 1e-3, "critic_lr": 1e-3, "tau": 0.05, "gamma": 0.9}
    length = {"steps": 3_500, "warmup_steps": 500, "eval_every": 3_500, "eval_episodes": 1}
    run = dj.train("probe/observation", batch_norm=True, activation="tanh", **rates, **length, **fields)
    obs = np.linspace(-0.7, 0.7, 8)[:, None]
    np.testing.assert_allclose(run.policy(obs), obs, atol=0.15)


def test_what_does_not_go_with_it_is_refused() -> None:
    with pytest.raises(dj.ConfigError, match="batch_norm=true is not allowed with layer_norm=true; one of them must be false"):
        dj.configure({"batch_norm": True, "layer_norm": True})
