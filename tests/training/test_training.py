"""Training as a whole: seeds, blocks, members, the number of updates, what is compiled, and what is stored.

Nearly everything runs on a walk whose episodes end at different times in different environments, terminated or truncated.
"""

import dataclasses
import functools
import json
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.experiment.experiment import updates_of
from ddpg_jax.running import blocks
from ddpg_jax.running.blocks import Journal
from ddpg_jax.running.placement import PACKED, make_placement
from ddpg_jax.running.program import Program
from ddpg_jax.training.loop import PLAIN, Layout, Metrics
from ddpg_jax.training.step import STREAMS, RunState, fork, gradient_steps, stream
from ddpg_jax.types import Episodes
from tests.agents import mlp_agent

LIMIT, SPEED = 5, 0.25
WARMUP = 8  # vector steps
BASE = dj.Experiment(
    env="Walk", num_envs=4, updates_per_step=0.25, warmup_steps=32, batch_size=16, replay_capacity=400, hidden=(16,)
)
HYPER = dj.Hyperparams(noise_sigma=0.3, tau=0.05)

compilations: list[float] = []


def listen(event: str, duration_secs: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compilations.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(listen)


def make_walk() -> dj.Env:
    """Position and steps to live, 2 to 9 of them; it terminates when none is left, and is truncated after 5."""
    spec = dj.EnvSpec("Walk", (2,), (1,), (-2.0,), (2.0,), max_steps=LIMIT)

    def start(key: jax.Array) -> jax.Array:
        position_key, life_key = jax.random.split(key)
        position = jax.random.uniform(position_key, minval=-1.0, maxval=1.0)
        return jnp.stack([position, jax.random.randint(life_key, (), 2, 10).astype(jnp.float32)])

    def advance(key: jax.Array, x: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = x + jnp.stack([SPEED * action[0], jnp.float32(-1.0)])
        return x, -jnp.square(x[0]), x[1] < 0.5

    return dj.envs.make_env(spec, start, advance, observe=lambda x: x)


WALK = make_walk()


class Functions(NamedTuple):
    """The parts of `Training`, compiled for one member."""

    init: Any
    fill: Any
    learn: Any


@functools.cache
def compiled(experiment: dj.Experiment, layout: Layout = PLAIN) -> Functions:
    parts = dj.build(experiment, WALK.spec)
    training = dj.make_training(
        WALK,
        parts.agent,
        parts.replay,
        explorer=parts.explorer,
        warmup=parts.warmup,
        num_envs=experiment.num_envs,
        updates=parts.updates,
        update_interval=parts.update_interval,
        layout=layout,
    )
    return Functions(
        jax.jit(training.init), jax.jit(training.fill, donate_argnums=1), jax.jit(training.learn, donate_argnums=1)
    )


def given(seed: int, hyper: dj.Hyperparams = HYPER) -> tuple[jax.Array, dj.Hyperparams]:
    """Key and numbers of a run as arrays."""
    return jax.random.key(seed), jax.tree.map(jnp.float32, hyper)


def warm(seed: int, hyper: dj.Hyperparams = HYPER) -> RunState:
    """The state after the warm-up."""
    functions, (key, numbers) = compiled(BASE), given(seed, hyper)
    return functions.fill(key, functions.init(key, numbers), numbers, 0, WARMUP)[0]


def run(seed: int, hyper: dj.Hyperparams = HYPER, blocks: tuple[int, ...] = (30,)) -> RunState:
    """The state after the warm-up and these blocks of vector steps."""
    (key, numbers), state, i = given(seed, hyper), warm(seed, hyper), WARMUP
    for block in blocks:
        state, _ = compiled(BASE).learn(key, state, numbers, i, i + block)
        i += block
    return state


def assert_same_bits(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), f"{jax.tree_util.keystr(path)} differs"


def assert_all_differ(a: Any, b: Any) -> None:
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() != np.asarray(y).tobytes(), f"{jax.tree_util.keystr(path)} is the same"


def test_same_seed_same_bits() -> None:
    """A run is a function of its seed and its numbers."""
    assert_same_bits(run(seed=0), run(seed=0))


def test_other_seed_other_numbers_everywhere() -> None:
    """The seed reaches every random leaf: parameters, environments, noise, and what is learned and stored."""
    a, b = (compiled(BASE).init(*given(seed)) for seed in (0, 1))
    assert_all_differ((a.train.params, a.train.target, a.obs), (b.train.params, b.train.target, b.obs))
    a, b = (
        (s.train.params, s.train.target, s.train.opt.actor[0].mu, s.train.opt.critic[0].nu, s.replay.rows, s.noise, s.obs)
        for s in (run(seed=0), run(seed=1))
    )
    assert_all_differ(a, b)


def test_what_a_diverged_actor_does_is_not_the_environments_fault() -> None:
    """Neither at once nor when a uniform draw, or the next episode, gives it actions again; nor when it is evaluated."""
    experiment = dataclasses.replace(BASE, parts=("epsilon_uniform",), num_envs=1, updates_per_step=1.0)
    program = Program(experiment, WALK, [dj.Member(0, HYPER._replace(epsilon_uniform=0.5))])
    active = np.ones(1, bool)
    (state,), _, _ = program.advance(program.start(), 0, 32, active=active)

    def scaled(factor: float) -> list[RunState]:
        actor = jax.tree.map(lambda x: x * factor, state.train.params.actor)
        params = dj.Nets(actor, state.train.params.critic)
        return [jax.tree.map(jnp.copy, dataclasses.replace(state, train=dataclasses.replace(state.train, params=params)))]

    assert np.isnan(program.evaluate(scaled(np.nan), 32)[0]).all()
    assert np.isfinite(program.evaluate(scaled(1e30), 32)[0]).all()  # each weight is a number, and the actions are none
    for factor in (np.nan, 1e30):
        _, metrics, _ = program.advance(scaled(factor), 32, 82, active=active)
        assert metrics.bad_step.tolist() == [-1], "of an environment that is at fault"


def test_streams_do_not_meet() -> None:
    """Each purpose and time has a key of its own: no draw is used twice."""
    keys = {tuple(jax.random.key_data(stream(jax.random.key(0), name, t)).tolist()) for name in STREAMS for t in range(4)}
    assert len(keys) == 4 * len(STREAMS)


def test_other_block_boundaries_same_bits() -> None:
    """Where a run is interrupted, for a look, an evaluation or a checkpoint, leaves no trace in it."""
    whole = run(seed=3, blocks=(30, 30))
    assert_same_bits(whole, run(seed=3, blocks=(30, *[1] * 30)))


def test_the_layout_of_the_loop_changes_nothing_but_rounding() -> None:
    """As GPUs have it: small arrays packed, and 31 steps as ten turns of three and one of one."""
    key, numbers = given(seed=5)
    layouts = (PLAIN, PACKED[0]._replace(unroll=3), PACKED[1])
    results = [compiled(BASE, layout).learn(key, warm(seed=5), numbers, WARMUP, WARMUP + 31) for layout in layouts]
    expected = results[0]
    assert expected[1].done == WARMUP + 31
    for found in results[1:]:
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for (path, x), y in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_new_seed_and_new_numbers_compile_nothing() -> None:
    """Once compiled, never again: seeds and hyperparameters are arguments."""
    run(seed=0)
    before = len(compilations)
    state = run(seed=7, hyper=dj.Hyperparams(*(0.9 * x for x in HYPER)))
    assert len(compilations) == before
    assert not np.array_equal(state.replay.rows, run(seed=7).replay.rows), "the numbers had no effect"


def test_the_listener_hears_compilations() -> None:
    """Without this, the test above would pass on a renamed event."""
    before = len(compilations)
    jax.jit(lambda x: x * 3.25 - 1.5)(1.0)
    assert len(compilations) > before


def test_a_member_alone_gives_the_bits_that_it_gives_among_others() -> None:
    """A sweep is its runs: nothing of the other members reaches a member, and one that is stopped stays as it is."""
    members = [
        dj.Member(0, HYPER),
        dj.Member(5, HYPER._replace(actor_lr=1e-3, gamma=0.9, noise_sigma=0.1)),
        dj.Member(0, HYPER._replace(tau=0.5, critic_lr=1e-4, ou_theta=0.5)),
    ]
    pendulum = dj.envs.make_device("Pendulum-v1")
    alone, among = Program(BASE, pendulum, members[1:2]), Program(BASE, pendulum, members)
    one, all_three, everyone = alone.start(), among.start(), np.ones(3, bool)
    for begin, end in ((0, WARMUP), (WARMUP, WARMUP + 30)):
        one, _, _ = alone.advance(one, begin, end, active=everyone[:1])
        all_three, metrics, _ = among.advance(all_three, begin, end, active=everyone)
        assert metrics.bad_step.shape == (3,)
        assert_same_bits(member(among, all_three, 1), member(alone, one, 0))
    before = [member(among, all_three, m) for m in range(3)]
    after, _, _ = among.advance(all_three, WARMUP + 30, WARMUP + 60, active=np.array([False, True, False]))
    one, _, _ = alone.advance(one, WARMUP + 30, WARMUP + 60, active=everyone[:1])
    for m, expected in enumerate((before[0], member(alone, one, 0), before[2])):
        assert_same_bits(member(among, after, m), expected)


def member(program: Program, state: Any, m: int) -> Any:
    """All that a program keeps of its m-th member."""
    arrays, _ = program.save(state)
    return arrays if len(program.members) == 1 else jax.tree.map(lambda x: x[m], arrays)


@pytest.mark.parametrize("kind", ["map", "vmap"])
def test_the_metrics_of_a_block_in_pieces_are_those_of_the_block(kind: str) -> None:
    members = [dj.Member(seed, HYPER) for seed in range(2)]
    program = Program(BASE, dj.envs.make_device("Pendulum-v1"), members, placement=make_placement(2, kind))
    active = np.array([True, False])
    state = program.advance(program.start(), 0, WARMUP, active=np.ones(2, bool))[0]
    start, _ = program.save(state)
    state, whole, _ = program.advance(state, WARMUP, WARMUP + 30, active=active)
    np.testing.assert_array_equal(whole.counts["critic_loss"], [30, 0], "one learned, one was stopped")
    again, pieces = program.load(start, None, WARMUP), None
    for begin, end in ((0, 1), (1, 18), (18, 30)):
        again, pieces, _ = program.advance(again, WARMUP + begin, WARMUP + end, active=active, so_far=pieces)
    assert pieces.done[0] == whole.done[0] == WARMUP + 30
    assert_same_bits(pieces._replace(done=0), whole._replace(done=0))
    assert_same_bits(program.save(again)[0].train, program.save(state)[0].train)


def told(reports: dict[tuple[int, int], tuple[float, int]], returns: float = 1.0) -> Program:
    """A program of one member whose pieces report what they are told: (begin, end) -> sum and count of returns.

    Each takes a second, and `pieces_of` makes all as long as the first.
    """

    def advance(state: Any, begin: Any, end: int, active: Any, so_far: Any = None) -> tuple[Any, Metrics, float]:
        total, count = reports[int(begin[0]), end]
        before = (so_far.sums["train_return_mean"][0], so_far.counts["train_return_mean"][0]) if so_far else (0.0, 0)
        sums: Any = {"train_return_mean": np.array([before[0] + total])}
        counts: Any = {"train_return_mean": np.array([before[1] + count])}
        never: Any = np.array([-1])
        return state, Metrics(sums, counts, never, never, np.array([end])), 1.0

    def evaluate(state: Any, i: int) -> Episodes:
        return Episodes(np.full((1, 2), returns), np.ones((1, 2)), np.full((1, 2), np.nan))

    functions = {"advance": advance, "evaluate": evaluate, "after_evaluation": lambda state, i: state}
    members = [dj.Member(0, HYPER)]
    program: Any = SimpleNamespace(members=members, calls=1, state_survives_failure=False, **functions)
    return program


def pieces_of(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(blocks, "FIRST_PIECE", steps)
    monkeypatch.setattr(blocks, "PIECE_SECONDS", 1.0)


BLOCKS = dj.Experiment(steps=2_500, warmup_steps=2_500, eval_every=2_000)


def test_a_mean_over_blocks_is_that_of_all_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block with one long episode counts no more than one with a hundred short ones."""
    pieces_of(monkeypatch, 1_000)
    program = told({(0, 1_000): (100.0, 100), (1_000, 2_000): (50.0, 1), (2_000, 2_500): (0.0, 0)})
    ticks = list(dj.run_blocks(program, BLOCKS, ()))
    rows = [row for tick in ticks for row in tick.rows]
    assert [row["step"] for row in rows] == [2_000, 2_500]
    assert rows[0]["train_return_mean"] == 150.0 / 101
    assert np.isnan(rows[1]["train_return_mean"])
    assert [row["seconds"] for row in rows] == [2.0, 3.0]


def test_a_run_that_ends_between_two_evaluations_can_be_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next row then is that of a run that never stopped there, and counts what the last one has counted."""
    pieces_of(monkeypatch, 500)
    halves = {(begin, begin + 500): (1.0 + begin, 1) for begin in range(0, 4_000, 500)}
    longer = dataclasses.replace(BLOCKS, steps=4_000, warmup_steps=4_000)
    short = list(dj.run_blocks(told(halves), BLOCKS, ()))
    assert [row["train_return_mean"] for row in short[-1].rows] == [2_001.0]
    again = list(
        dj.run_blocks(told(halves), longer, (), begin=2_500, journal=Journal(*json.loads(json.dumps(short[-1].journal))))
    )
    whole = list(dj.run_blocks(told(halves), longer, ()))
    assert again[-1].rows == whole[-1].rows
    assert whole[-1].rows[0]["train_return_mean"] == 2_751.0


def test_an_actor_that_diverges_with_the_last_update_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the updates is their critic's loss; the actor that they leave is first seen in the evaluation."""
    pieces_of(monkeypatch, 10)
    program = told({(begin, begin + 10): (0.0, 0) for begin in range(0, 20, 10)}, returns=np.nan)
    experiment = dataclasses.replace(BLOCKS, steps=20, eval_every=10)
    ticks = list(dj.run_blocks(program, experiment, ()))
    assert [row["diverged_step"] for tick in ticks for row in tick.rows] == [10]
    assert ticks[-1].finished


def test_what_a_tick_gave_stays_as_it_is() -> None:
    """A checkpoint is written while training goes on."""
    experiment, hyper = dj.configure({"steps": 400, "warmup_steps": 200, "eval_every": 400, "hidden": (8,), "eval_episodes": 1})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    journals, then = [], []
    for tick in dj.run_blocks(program, experiment, program.start()):
        journals.append(tick.journal)
        then.append(json.dumps(tick.journal))
    assert max(len(journal.pending) for journal in journals) == 1
    assert [json.dumps(journal) for journal in journals] == then


STEPS, CAPACITY = 6, 100_000
LARGE = dataclasses.replace(BASE, updates_per_step=1, policy_delay=2, replay_capacity=CAPACITY)
IN_PLACE = {
    "one environment": dataclasses.replace(LARGE, num_envs=1),
    "four environments": dataclasses.replace(LARGE, n_step=3),
}


@functools.cache
def compiled_learn(name: str) -> tuple[Any, RunState]:
    """`learn` for `STEPS` vector steps, compiled ahead of time, and the shapes of its state."""
    functions, (key, numbers) = compiled(IN_PLACE[name]), given(seed=0)
    state = jax.eval_shape(functions.init, key, numbers)
    return functions.learn.lower(key, state, numbers, 0, STEPS).compile(), state


@pytest.mark.parametrize("name", IN_PLACE)
def test_replay_is_written_in_place(name: str) -> None:
    """The compiled program holds no second copy of the buffer, which a million transitions could not afford."""
    memory = compiled_learn(name)[0].memory_analysis()
    replay_bytes = CAPACITY * (2 * 2 + 1 + 3) * 4
    assert memory.alias_size_in_bytes >= replay_bytes, "the replay that comes in is not the one that goes out"
    assert memory.temp_size_in_bytes < replay_bytes / 20


@pytest.mark.parametrize("name", IN_PLACE)
def test_as_many_updates_as_steps_times_updates_per_step(name: str) -> None:
    """With one update a step, each environment adds one to a vector step; the actor's share is one in `policy_delay`."""
    (learn, shapes), num_envs, (key, numbers) = compiled_learn(name), IN_PLACE[name].num_envs, given(seed=0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state, metrics = learn(key, state, numbers, WARMUP, WARMUP + STEPS)
    assert int(state.train.opt.critic[0].count) == STEPS * num_envs
    assert int(state.train.opt.actor[0].count) == STEPS * num_envs // 2
    assert np.asarray(state.replay.size).tolist() == [STEPS] * num_envs
    assert all(np.isfinite(total) for total in metrics.sums.values()), "sums leave out the updates in which the actor rests"
    assert int(metrics.counts["actor_loss"]) == STEPS // (1 if num_envs > 1 else 2), "of steps in which it learned at all"


@pytest.mark.parametrize(("num_envs", "each"), [(3, "0.33333333"), (49, 1 / 49), (8, 0.125)])
def test_a_fraction_need_not_be_exact(num_envs: int, each: Any) -> None:
    experiment, _ = dj.configure({"num_envs": num_envs, "updates_per_step": each})
    assert updates_of(experiment) == (1, 1)


@pytest.mark.parametrize("each", [0.1, 1e20, 0.3])
def test_a_fraction_that_makes_no_whole_number_is_refused(each: float) -> None:
    with pytest.raises(dj.ConfigError, match="updates_per_step"):
        dj.configure({"num_envs": 8, "updates_per_step": each})


def test_a_fraction_of_an_update_for_each_environment() -> None:
    """Four environments at a quarter of an update a step make one update a vector step."""
    state = run(seed=0)
    assert int(state.train.opt.critic[0].count) == int(state.train.opt.actor[0].count) == 30
    assert np.asarray(state.replay.size).tolist() == [WARMUP + 30] * 4


def test_every_update_has_a_clock_and_a_batch_of_its_own() -> None:
    """Update `u` of vector step `i` is number `i * updates + u`, and draws anew."""
    replay = dj.replay.uniform(obs_dim=1, action_dim=1, capacity=64, batch_size=5)
    stored: Any = replay.init()
    stored = stored.replace(rows=stored.rows.at[:, 3].set(jnp.arange(64.0)), size=stored.size + 64)  # column 3: the reward

    def update(key: Any, log: jax.Array, batch: dj.Transition, weight: Any, hyper: Any, t: jax.Array) -> Any:
        return log.at[t].set(batch.reward), batch.reward, {}

    agent = mlp_agent(1, 1)._replace(update=update)
    state = RunState(jnp.full((16, 5), jnp.nan), stored, (), (), jnp.zeros((1, 1)), jnp.zeros(1))  # pyright: ignore
    after, _ = jax.jit(functools.partial(gradient_steps, agent, replay, updates=4, i=jnp.int32(2)))(
        jax.random.key(0), state, HYPER
    )
    log = np.asarray(after.train)
    assert np.flatnonzero(np.isfinite(log).all(axis=1)).tolist() == [8, 9, 10, 11]
    assert len({tuple(row) for row in log[8:12]}) == 4


def test_the_loss_of_every_update_counts() -> None:
    """What an update did not measure is left out of the means, but a loss that is no number is how divergence shows."""

    def update(key: Any, state: Any, batch: Any, weight: Any, hyper: Any, t: Any) -> Any:
        del key, batch, weight, hyper
        odd = jnp.where(t % 2 == 1, jnp.nan, 1.0)
        return state, jnp.zeros(4), {"critic_loss": odd, "q_mean": jnp.ones(()), "actor_loss": odd}

    agent = mlp_agent(1, 1, hidden=(4,))._replace(update=update)
    replay = dj.replay.uniform(obs_dim=1, action_dim=1, capacity=8, batch_size=4)
    nothing = jnp.zeros(())
    state = RunState(agent.init(jax.random.key(0), HYPER), replay.init(), nothing, nothing, nothing, nothing)
    _, info = gradient_steps(agent, replay, jax.random.key(0), state, HYPER, updates=2, i=jnp.int32(0))
    assert {name: float(value) for name, value in info.items() if value == value} == {"q_mean": 1.0, "actor_loss": 1.0}


def test_stored_transitions_are_what_happened() -> None:
    """Also at the end of an episode: the true successor, never the observation after the reset; a time limit bootstraps."""
    state = run(seed=2)
    size = int(state.replay.size.sum())
    stored = dj.replay.unpack(state.replay.rows[:size], obs_dim=2, action_dim=1)
    obs, action, next_obs = (np.asarray(x) for x in (stored.obs, stored.action, stored.next_obs))
    reward, discount, last = (np.asarray(x) for x in (stored.reward, stored.discount, stored.last))
    np.testing.assert_allclose(next_obs[:, 0], obs[:, 0] + SPEED * 2.0 * action[:, 0], atol=1e-5)  # native: [-2, 2]
    np.testing.assert_array_equal(next_obs[:, 1], obs[:, 1] - 1.0)
    np.testing.assert_allclose(reward, -np.square(next_obs[:, 0]), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(discount, np.where(next_obs[:, 1] == 0.0, 0.0, 1.0))
    truncated = last & (discount == 1.0)
    assert truncated.any()
    assert (last & ~truncated).any()

    by_lane = [x.reshape(-1, BASE.num_envs, *x.shape[1:]) for x in (obs, next_obs, last)]  # [T, N, ...]
    follows = (by_lane[0][1:] == by_lane[1][:-1]).all(axis=-1)
    np.testing.assert_array_equal(follows, ~by_lane[2][:-1])
    for n in range(BASE.num_envs):
        lengths = np.diff(np.flatnonzero(by_lane[2][:, n]))
        assert set(lengths) <= set(range(2, LIMIT + 1)), "an episode outlived its limit"


def test_noise_and_returns_start_anew_with_every_episode() -> None:
    """Step by step: zero exactly in the environments whose episode has just ended, and carried on in the others."""
    (key, numbers), state, ends = given(seed=4), warm(seed=4), 0
    for i in range(WARMUP, WARMUP + 30):
        returns = np.asarray(state.returns)
        state, metrics = compiled(BASE).learn(key, state, numbers, i, i + 1)
        newest = dj.replay.unpack(state.replay.rows[4 * i : 4 * i + 4], obs_dim=2, action_dim=1)
        ended = np.asarray(newest.last)
        returns = returns + np.asarray(newest.reward)
        np.testing.assert_array_equal(np.asarray(state.noise)[:, 0] == 0.0, ended)
        np.testing.assert_allclose(state.returns, np.where(ended, 0.0, returns), rtol=1e-6)
        np.testing.assert_allclose(metrics.sums["train_return_mean"], returns[ended].sum(), rtol=1e-5)
        assert int(metrics.counts["train_return_mean"]) == ended.sum()
        ends += ended.sum()
    assert 0 < ends < 4 * 30


def test_a_member_that_goes_on_from_another_keeps_what_belongs_to_its_episodes() -> None:
    """The noise, too: an episode that has begun with it would get that of another."""

    def state(value: float) -> RunState:
        ring = dj.replay.uniform(1, 1, 4, batch_size=1).init()
        whole = jnp.full((1, 1), value)
        params = dj.Nets(whole, whole)
        return RunState(dj.TrainState(params, params, params), ring, whole, whole, whole, whole[0])

    merged = fork(state(1.0), state(2.0))
    assert [float(x.sum()) for x in (merged.noise, merged.env, merged.obs, merged.returns)] == [1.0] * 4
    assert float(merged.train.params.actor.sum()) == 2.0


def test_a_program_of_which_nobody_is_active_waits_where_a_phase_ends() -> None:
    """Members of other processes go on; the phase is then that before, whatever comes next."""
    experiment, hyper = dj.configure({"env": "probe/lqr", "warmup_steps": 20, "steps": 40, "batch_size": 8, "hidden": (4,)})
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(2)])
    state, so_far, _ = program.advance(program.start(), 0, 10, active=np.ones(2, bool))
    state, metrics, _ = program.advance(state, 20, 20, active=np.zeros(2, bool), so_far=so_far)
    assert metrics.sums.keys() == so_far.sums.keys()
    program.close()
