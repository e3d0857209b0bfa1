"""One contract for every optional part, and every pair of parts at work together.

A part is a number in `SWITCHES` or a value of a structural field. Each runs through the same small program: a replay that is
filled with the same transitions, six updates, and actions of the explorer on the same observations. Whoever adds a number, an
explorer, a replay or an initialization adds nothing here, unless the identity of a number is not its off value (`IDENTITY`), or
half more than it is no telling value (`ON`). Other parts have lines in `STRUCTURES` and `OPTIONS`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.agent.heads import HEADS
from ddpg_jax.agent.layers import INITS, PRECISIONS
from ddpg_jax.agent.losses import TD_LOSSES
from ddpg_jax.agent.networks import NETWORKS
from ddpg_jax.envs.registry import DEVICE
from ddpg_jax.experiment.build import Parts
from ddpg_jax.experiment.experiment import SWITCHES
from ddpg_jax.exploration import EXPLORERS
from ddpg_jax.replay.demonstrations import make_store, mixed
from ddpg_jax.replay.hindsight import STRATEGIES
from ddpg_jax.replay.samplers import REPLAYS
from ddpg_jax.schedules import SCHEDULES
from ddpg_jax.training.step import train_step

ON = {"sync_period": 3.0, "huber_delta": 0.1, "actor_clip": 0.02, "critic_clip": 0.2}
OTHER = {"sync_period": 2.0, "actor_clip": 1e3, "critic_clip": 1e3}  # Adam hides a factor on ALL gradients
IDENTITY = {"huber_delta": 1e9, "actor_clip": 1e9, "critic_clip": 1e9}
"""Where a part that is built does nothing, if that is not where it is left out."""

NEEDS: dict[str, dict[str, Any]] = {
    "bc_weight": {"demonstrations": "shown"},
    "bc_alpha": {"demonstrations": "shown", "bc_weight": 1.0},  # alone, it is a factor on all gradients
    "q_filter": {"demonstrations": "shown", "bc_weight": 1.0},
    "atom_sigma": {"critic": "categorical", "value_min": -2.0, "value_max": 1.0},
}
"""What a part does nothing without."""

FIELDS: dict[str, Any] = {
    "env": "probe/lqr",
    "num_envs": 2,
    "updates_per_step": 0.5,
    "warmup_steps": 8,
    "batch_size": 8,
    "replay_capacity": 64,
    "hidden": (4,),
    "eval_episodes": 1,
    "actor_lr": 1e-2,
    "critic_lr": 1e-2,
    "tau": 0.1,
    "noise_decay_steps": 9.0,
    "lr_decay_updates": 9.0,
    "init": "fan_in",
}
STRUCTURES: list[dict[str, Any]] = [
    *({"exploration": name} for name in EXPLORERS if name != "ou"),
    *({"noise_schedule": name, "lr_schedule": name} for name in SCHEDULES if name != "constant"),
    *({"replay": name} for name in REPLAYS if name != "uniform"),
    *({"init": name} for name in INITS if name != "fan_in"),
    *({"hindsight": name} for name in STRATEGIES),
    {"layer_norm": True},
    {"batch_norm": True},
    {"activation": "tanh"},
    {"action_layer": 1},
    {"diagnostics": True},
    {"precision": "bfloat16"},
    {"normalize_obs": True},
    {"normalize_reward": True},
    {"num_critics": 2},
    {"policy_delay": 2},
    {"n_step": 3},
    {"critic": "categorical", "value_min": -2.0, "value_max": 1.0},
    {"atom_sigma": 0.75},
    {"critic": "quantile", "num_atoms": 7},
    {"network": "residual"},
    {"network": "two_branch"},
    {
        "network": "crossq",
        "activation": "tanh",
    },  # of a relu that is active in a whole batch, the normalization cancels the bias
    {"targets": "joint", "tau": 0.005},  # without target networks, their rate must not be set
    {"actor_hidden": (5,)},
    {"critic_hidden": (6,)},
    {"demonstrations": "shown"},
    {"q_filter": True},
]
LQR = DEVICE["probe/lqr"]()
GOAL = dj.Goal(1, lambda achieved, desired: (-jnp.abs(achieved - desired)[..., 0], jnp.ones(achieved.shape[:-1])))
SPEC = LQR.spec._replace(goal=GOAL)
"""Of its two observations the second one is taken for a goal, for hindsight's sake."""
UPDATES, N = 6, 2
CHEAP = {"xla_backend_optimization_level": 0}  # these programs are compiled and hardly run


class Outcome(NamedTuple):
    """What parts can change: the learner, and the actions `[6, N, 1]` of the policy as it was at first."""

    train: Any
    actions: Any


def transitions() -> dj.Transition:
    """`[16, N]` of them, in episodes of three and more steps."""
    rng = np.random.default_rng(0)
    shapes = {"obs": (16, N, 2), "action": (16, N, 1), "reward": (16, N), "next_obs": (16, N, 2)}
    numbers = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    last = (np.arange(16) % 5 == 4)[:, None].repeat(N, axis=1)
    return dj.Transition(**numbers, discount=1.0 - last.astype(np.float32), last=last)


def filled(replay: dj.Replay, num_envs: int = N) -> Any:
    """A replay with `transitions` in it."""
    stored = replay.init()
    for t in range(16):
        step: Any = jax.tree.map(lambda x, t=t: jnp.asarray(x[t, :num_envs]), transitions())
        stored = replay.add(stored, step, jnp.ones(num_envs, bool))
    return stored


@functools.cache
def store(relabelled: bool) -> Any:
    """The store of demonstrations: `transitions` of the second environment, which are worth more than those in the replay."""
    steps: Any = jax.tree.map(lambda x: np.asarray(x[:, 1]), transitions())
    return make_store(steps._replace(reward=steps.reward + 1), GOAL if relabelled else None)


def build(experiment: dj.Experiment) -> Parts:
    """The parts of an experiment, with a replay that mixes in demonstrations if it has any."""
    parts = dj.build(experiment, SPEC)
    if parts.demonstrations is None:
        return parts
    return parts._replace(replay=mixed(parts.replay, parts.demonstrations, store(experiment.hindsight != "none")))


@functools.cache
def program(experiment: dj.Experiment) -> Any:
    """`(keys [M], hypers [M], starts [M], stored) -> (Outcome, Outcome [M])`: the first alone, and all, vmapped."""
    parts, steps = build(experiment), jax.tree.map(jnp.asarray, transitions())

    def run(key: Any, hyper: dj.Hyperparams, start: Any, stored: Any) -> Outcome:
        def step(carry: Any, t: jax.Array) -> Any:
            train, stored, noise = carry
            train, stored, info = train_step(parts.agent, parts.replay, key, train, stored, hyper, t)
            obs, key_t = steps.obs[t], jax.random.fold_in(key, t)
            action, noise = parts.explorer.explore(key_t, noise, parts.agent.act, start.params.actor, obs, hyper, t)
            return (train, stored, parts.explorer.reset(noise, steps.last[t])), (action, info["critic_loss"])

        noise = parts.explorer.init(N, start.params.actor)
        (train, _, _), (actions, losses) = jax.lax.scan(step, (start, stored, noise), jnp.arange(UPDATES))
        return Outcome((train.params, train.target, losses), actions)

    def both(keys: Any, hypers: Any, starts: Any, stored: Any) -> Any:
        key, hyper, start = (jax.tree.map(lambda x: x[0], tree) for tree in (keys, hypers, starts))
        return run(key, hyper, start, stored), jax.vmap(run, in_axes=(0, 0, 0, None))(keys, hypers, starts, stored)

    return jax.jit(both, compiler_options=CHEAP)


def call(experiment: dj.Experiment, hypers: list[dj.Hyperparams], seeds: tuple[int, ...]) -> tuple[Outcome, list[Outcome]]:
    """The outcome of the first member alone, and of all together."""
    parts, keys = build(experiment), [jax.random.key(seed) for seed in seeds]
    starts = [parts.agent.init(key, hyper) for key, hyper in zip(keys, hypers, strict=True)]  # eager: nothing to compile

    def stack(trees: list[Any]) -> Any:
        return jax.tree.map(lambda *column: jnp.stack([jnp.asarray(x) for x in column]), *trees)

    numbers = [jax.tree.map(jnp.float32, hyper) for hyper in hypers]
    alone, together = program(experiment)(jnp.stack(keys), stack(numbers), stack(starts), filled(parts.replay))
    alone, together = jax.tree.map(np.asarray, (alone, together))
    return alone, [jax.tree.map(lambda x, m=m: x[m], together) for m in range(len(seeds))]


@functools.cache
def plain(needed: tuple[tuple[str, Any], ...] = ()) -> Outcome:
    """Without any part except what others need, seed 0."""
    experiment, hyper = dj.configure({**FIELDS, **dict(needed)})
    return call(experiment, [hyper] * 3, (0, 0, 1))[1][0]


def distance(one: Any, other: Any) -> float:
    """The largest difference of two outcomes of the same structure."""
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def assert_finite(outcome: Any) -> None:
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome))


SAME, DIFFERENT = 2e-5, 1e-3  # what rounding makes of six updates, and what a part makes of them
ROUNDED = 1e-4  # and what a part makes of them that only rounds, as `precision` does


@pytest.mark.parametrize("name", SWITCHES)
def test_a_part_that_is_a_number(name: str) -> None:
    """Left out at its off value; built in, it does something, has an identity, and is one program for all its values."""
    off, needed = SWITCHES[name], tuple(NEEDS.get(name, {}).items())
    fields = {**FIELDS, **dict(needed)}
    assert dj.configure({**fields, name: off})[0] == dj.configure(fields)[0], "off, it must not be in the program"
    assert dj.configure(FIELDS)[0].parts == ()

    value = ON.get(name, off + 0.5)
    experiment, hyper = dj.configure({**fields, name: value})
    assert set(experiment.parts) == {name, *(other for other, _ in needed if other in SWITCHES)}
    others = [hyper._replace(**{name: x}) for x in (OTHER.get(name, off + 0.5 * (value - off)), IDENTITY.get(name, off))]
    alone, (member, halved, identity) = call(experiment, [hyper, *others], (0, 0, 0))
    assert_finite([member, halved, identity])
    assert distance(alone, member) < SAME, "a member is not what it is alone"
    assert distance(identity, plain(needed)) < SAME, "the identity of the part is none"
    assert distance(member, plain(needed)) > DIFFERENT, f"{name} does nothing"
    assert distance(member, halved) > DIFFERENT, f"the value of {name} does not matter"

    _, (again, _, _) = call(experiment, [x._replace(gamma=0.5, tau=0.3) for x in (hyper, *others)], (7, 8, 9))
    assert distance(again, member) > DIFFERENT
    assert program(experiment)._cache_size() == 1, "another value or seed compiled the program anew"


@pytest.mark.parametrize(
    "fields", STRUCTURES, ids=lambda fields: "-".join(map(str, fields.values())) + "-" + next(iter(fields))
)
def test_a_part_that_is_structure(fields: dict[str, Any]) -> None:
    """It does something, gives a member what it is alone, tells seeds apart, and is one program for all numbers."""
    needed = tuple((name, value) for field in fields for name, value in NEEDS.get(field, {}).items())
    without = plain(needed)
    experiment, hyper = dj.configure({**FIELDS, **dict(needed), **fields})
    alone, (member, same, other) = call(experiment, [hyper] * 3, (0, 0, 1))
    assert_finite([member.train, member.actions, other])
    assert distance(alone, member) < SAME
    assert distance(same, member) == 0.0
    assert distance(other.train, member.train) > DIFFERENT
    assert distance(other.actions, member.actions) > DIFFERENT
    acts = set(fields) & {
        "network",
        "actor_hidden",
        "exploration",
        "noise_schedule",
        "init",
        "layer_norm",
        "batch_norm",
        "precision",
        "activation",
    }
    acts -= {"network"} if fields.get("network") == "two_branch" else set()  # its actor is the usual one
    learns = set(fields) - {"exploration", "noise_schedule", "diagnostics"}
    little = ROUNDED if "precision" in fields else DIFFERENT
    assert (distance(member.actions, without.actions) > little) == bool(acts), "exploration"
    if jax.tree.map(np.shape, member.train) == jax.tree.map(np.shape, without.train):  # else it is another network altogether
        assert (distance(member.train, without.train) > little) == bool(learns), "learning"
    assert bool(jax.tree.leaves(member.train[1])) == (experiment.targets != "joint"), "target networks"
    call(experiment, [dj.Hyperparams(*(0.9 * x for x in hyper))] * 3, (5, 6, 7))
    assert program(experiment)._cache_size() == 1


APART = ("huber_delta", "sync_period", "bc_weight", "bc_alpha")
"""Parts that are values of other options, since they cannot be on without something else."""
OPTIONS: dict[str, list[Any]] = {
    **{name: [off, ON.get(name, off + 0.5)] for name, off in SWITCHES.items() if name not in APART},
    "loss": ["squared", "huber", "categorical", "quantile"],  # of which the last two have losses of their own
    "exploration": list(EXPLORERS),
    "schedule": list(SCHEDULES),  # of noise and of learning rates: they do not meet
    "replay": list(REPLAYS),
    "init": list(INITS),
    "targets": ["slow", "periodic", "joint"],  # of which the second is sync_period
    "norm": ["none", "layer_norm", "batch_norm", "crossq"],  # two fields, of which one can be on, or a network of its own
    "precision": list(PRECISIONS),
    "normalize_obs": [False, True],
    "normalize_reward": [False, True],
    "num_critics": [1, 2],
    "policy_delay": [1, 2],
    "n_step": [1, 3],
    "num_envs": [1, 2],
    "hindsight": ["none", *STRATEGIES],
    "activation": ["relu", "tanh"],
    "action_layer": [0, 1],
    "diagnostics": [False, True],
    "demonstrations": ["none", "mixed", "cloned"],  # of which the last is bc_weight and bc_alpha, with the filter
}


def test_every_network_head_and_loss_is_among_the_parts() -> None:
    named = {value for fields in STRUCTURES for value in fields.values() if isinstance(value, str)}
    assert {*NETWORKS, *HEADS} - {"mlp"} <= named
    assert {*TD_LOSSES, *HEADS} == set(OPTIONS["loss"])


def covering(options: dict[str, list[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Few settings in which every pair of values of two options occurs (greedy; an all-pairs covering array)."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.combinations(options, 2))
    missing = {((a, i), (b, j)) for a, b in pairs for i in range(len(options[a])) for j in range(len(options[b]))}
    rows: list[dict[str, Any]] = []
    while missing:
        first = min(missing)  # it is in the row whatever else is
        best: dict[str, int] = {}
        most = -1
        for _ in range(20):
            row = dict(first)
            for name in rng.permutation([name for name in options if name not in row]):
                gains = [_gain(missing, row, str(name), i) for i in range(len(options[name]))]
                row[str(name)] = int(rng.choice(np.flatnonzero(np.array(gains) == max(gains))))
            covered = sum(row[a] == i and row[b] == j for (a, i), (b, j) in missing)
            best, most = (row, covered) if covered > most else (best, most)
        missing = {((a, i), (b, j)) for (a, i), (b, j) in missing if best[a] != i or best[b] != j}
        rows.append({name: options[name][i] for name, i in best.items()})
    return rows


def _gain(missing: set[Any], row: dict[str, int], name: str, i: int) -> int:
    return sum(((other, j), (name, i)) in missing or ((name, i), (other, j)) in missing for other, j in row.items())


ROWS = covering(OPTIONS)


def test_every_pair_is_in_some_row() -> None:
    """Counted without the greedy algorithm."""
    for a, b in itertools.combinations(OPTIONS, 2):
        assert {(row[a], row[b]) for row in ROWS} == set(itertools.product(OPTIONS[a], OPTIONS[b])), (a, b)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_every_pair_of_parts_trains(row: int) -> None:
    """300 steps on a probe: finite, not diverged, and everything that had to be learned and stored has been."""
    fields = {name: value for name, value in ROWS[row].items() if name not in ("schedule", "norm", "loss", "demonstrations")}
    loss = ROWS[row]["loss"]
    fields |= {"critic": loss, "value_min": -5.0, "value_max": 1.0} if loss in dj.HEADS else {"td_loss": loss}
    fields |= {name: True for name in ("layer_norm", "batch_norm") if name == ROWS[row]["norm"]}
    if ROWS[row]["norm"] == "crossq":
        fields = {**{name: value for name, value in fields.items() if name != "action_layer"}, "network": "crossq"}
    fields |= {"slow": {}, "periodic": {"sync_period": 3.0}, "joint": {"tau": 0.005}}[ROWS[row]["targets"]]
    fields["targets"] = "joint" if ROWS[row]["targets"] == "joint" else "slow"
    if (shown := ROWS[row]["demonstrations"]) != "none":
        fields |= {"demonstrations": "shown"}
        fields |= {"bc_weight": 0.5, "bc_alpha": 2.5, "q_filter": True} if shown == "cloned" else {}
    schedule, num_envs = ROWS[row]["schedule"], fields["num_envs"]
    fields |= {"huber_delta": 0.1} if loss == "huber" else {}
    fields = {**FIELDS, **fields, "noise_schedule": schedule, "lr_schedule": schedule, "updates_per_step": 1.0 / num_envs}
    experiment, hyper = dj.configure({**fields, "replay_capacity": 1_000})
    parts = build(experiment)
    training = dj.make_training(
        LQR, parts.agent, parts.replay, explorer=parts.explorer, warmup=parts.warmup, num_envs=num_envs, updates=parts.updates
    )
    numbers: Any = jax.tree.map(jnp.float32, hyper)
    before = training.init(jax.random.key(0), numbers)
    before = before.replace(replay=filled(parts.replay, num_envs))  # pyright: ignore[reportAttributeAccessIssue]
    learn = jax.jit(training.learn, compiler_options=CHEAP)
    after, metrics = learn(jax.random.key(0), before, numbers, 0, 300 // num_envs)
    assert metrics.bad_step == metrics.diverged_step == -1
    assert_finite(jax.tree.map(np.asarray, (after.train.params, after.train.target, after.noise, metrics)))
    assert np.asarray(dj.replay.ring_state(after.replay).size).tolist() == [16 + 300 // num_envs] * num_envs
    for net in ("actor", "critic"):
        assert distance(*(jax.tree.map(np.asarray, getattr(x.train.params, net)) for x in (before, after))) > DIFFERENT


def test_a_number_is_dead_without_its_part() -> None:
    """A program has the parts that `Experiment.parts` names, and no others."""
    experiment, hyper = dj.configure(FIELDS)
    without = dataclasses.replace(experiment, parts=())
    _, (off, *_) = call(without, [hyper._replace(reward_scale=5.0, huber_delta=0.1)] * 3, (0, 0, 1))
    assert distance(off, plain()) < SAME
