"""Populations and schedules: who learns from whom, beside plain Python; that states and hyperparameters move as they should."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.experiment.grid import Range, parse_ranges
from ddpg_jax.running.members import Change
from ddpg_jax.running.population import Exploit, make_population, replacements
from ddpg_jax.running.program import Program
from ddpg_jax.running.timetable import format_changes, make_timetable
from tests.running.test_stops import SMALL

RANGES = parse_ranges({"critic_lr": "log:1e-4:1e-1", "noise_sigma": "uniform:0.1:0.5"})


def row(member: int, step: int, value: float, diverged: bool, **swept: float) -> dict[str, Any]:
    result = math.nan if diverged else value
    return (
        {"member": member, "step": step, "eval_return_mean": result, "diverged_step": step if diverged else ""}
        | swept
        | {"train_return_mean": math.nan}
    )


def expected(rows: list[dict[str, Any]], seed: int, exploit: Exploit) -> dict[int, tuple[int, dict[str, float], str]]:
    """The rule in other words, for members in any order: member -> its parent, its values, and what it copies."""
    result = {row["member"]: row["eval_return_mean"] for row in rows}
    alive = [m for m in result if not np.isnan(result[m])]
    order = [m for _, m in sorted((-result[m], m) for m in alive)]
    dead = sorted(m for m in result if np.isnan(result[m]))
    size = max(1, int(np.floor(len(result) * exploit.fraction + 1e-9)))
    top, bottom = order[:size] if order else [], {*dead, *(order + dead)[-size:]}
    found = {}
    for member in bottom if top else ():
        draw = np.random.default_rng([seed, rows[0]["step"], member])
        parent = top[draw.integers(len(top))]
        source, values = next(row for row in rows if row["member"] == parent), {}
        for name, own in RANGES.items():
            anew, factor = draw.random() < exploit.resample, exploit.perturb[draw.integers(2)]
            logarithmic = own.log
            low, high = (math.log(own.low), math.log(own.high)) if logarithmic else (own.low, own.high)
            fresh = np.exp(draw.uniform(low, high)) if logarithmic else draw.uniform(low, high)
            values[name] = float(np.clip(fresh if anew else source[name] * factor, own.low, own.high))
        if member in dead or result[parent] > result[member]:
            found[member] = parent, values, "copy" if member in dead else exploit.replay
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 11), st.sampled_from([0.05, 0.2, 1 / 3, 0.5]), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_worst_go_on_from_the_best(seed: int, members: int, fraction: float, resample: float) -> None:
    """Ties go to the member that comes first, and the order of the rows does not matter."""
    draw = np.random.default_rng(seed)
    rows = [
        row(m, 400, float(draw.integers(0, 6)), draw.random() < 0.2, critic_lr=float(draw.uniform(1e-4, 0.1)), noise_sigma=0.3)
        for m in draw.permutation(members).tolist()
    ]
    exploit = Exploit(100, fraction, (0.8, 1.25), resample, "keep")
    changes = replacements(rows, seed, RANGES, exploit=exploit)
    assert {c.member: (c.parent, dict(c.values), c.replay) for c in changes} == expected(rows, seed, exploit)
    again = replacements(sorted(rows, key=lambda row: row["member"]), seed, RANGES, exploit=exploit)
    assert sorted(changes, key=lambda change: change.member) == sorted(again, key=lambda change: change.member)
    assert not {c.member for c in changes} & {c.parent for c in changes}


def test_exploits_begin_after_the_warm_up_and_come_at_their_steps() -> None:
    _, plan = make_population(4, {"tau": "log:1e-3:1e-1"}, {"env": "Pendulum-v1", **SMALL, "warmup_steps": 110})
    assert plan.exploit == Exploit(50), "a twentieth of 400 steps is less than an evaluation"
    plan = plan._replace(exploit=Exploit(100))
    rows = {step: [row(m, step, float(m), False, tau=0.01) for m in range(4)] for step in range(50, 401, 50)}
    assert [step for step in rows if plan(rows[step])] == [200, 300, 400], "the one at the end counts if the run becomes longer"


@settings(max_examples=50, deadline=None)
@given(st.booleans(), st.floats(1e-6, 1.0), st.floats(1.01, 1e6), st.booleans(), st.floats(0.5, 2.0))
def test_values_stay_in_their_ranges(log: bool, low: float, ratio: float, whole: bool, factor: float) -> None:
    low, high = (1.0, math.ceil(ratio) + 1.0) if whole else (low, low * ratio)
    own = Range(low, high, log, whole)
    for value in own.draw(np.random.default_rng(0), 20):
        moved = own.scaled(value, factor)
        assert low <= value <= high
        assert low <= moved <= high
        assert not whole or moved == int(moved)
        assert whole or moved in (low, high, value * factor)
        assert not whole or factor == 1 or moved != value or moved in (low, high), "small numbers move, too"


def states(program: Program, state: Any) -> Any:
    """The state of each member, as arrays `[M, ...]`."""
    single = program.placement.single
    return jax.tree.map(lambda x: x[None] if single else x, program.save(state)[0])


@pytest.mark.parametrize("kind", ["map", "vmap"])
@pytest.mark.parametrize("env", ["probe/observation", "Pendulum-v1"])
def test_a_member_takes_over_the_state_of_another(kind: str, env: str) -> None:
    """All of it, except environments on the host; or networks and optimizers alone. Nobody else notices."""
    backend = "host" if env == "Pendulum-v1" else "auto"
    experiment, hyper = dj.configure({**SMALL, "env": env, "backend": backend, "placement": kind})
    program = dj.make_program(experiment, [dj.Member(seed, hyper, number=seed + 10) for seed in range(3)])
    state, _, _ = program.advance(program.start(), 0, 20, active=np.ones(3, bool))
    before = states(program, state)
    changes = [Change(20, 12, 10, {"tau": 0.5}), Change(20, 11, 10, {"tau": 0.25}, "keep"), Change(20, 10, 10, {"tau": 0.1})]
    state = program.inherit(state, changes)
    after = states(program, state)
    assert [member.hyper.tau for member in program.members] == [0.1, 0.25, 0.5]
    source = {"train": [0, 0, 0], "replay": [0, 1, 0], "noise": [0, 1, 0]}
    source |= dict.fromkeys(["env", "obs", "returns"], [0, 1, 2] if backend == "host" else [0, 1, 0])
    for name, parents in source.items():
        want = jax.tree.map(lambda x, parents=parents: np.array(x)[parents], getattr(before, name))
        if name == "replay" and backend == "host":
            want.rows[2, 19, -1] = 1.0  # the open episode has ended
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), want)
    assert not np.array_equal(before.obs[0], before.obs[1]), "or this tests nothing"
    state, _, _ = program.advance(state, 20, 40, active=np.ones(3, bool))
    program.close()


def train(placement: str, seed: int = 0) -> dj.Sweep:
    ranges = {"critic_lr": "log:1e-4:1e-1", "tau": "log:1e-3:1"}
    how: dict[str, Any] = {"exploit": {"every": 100, "fraction": 0.4}, "placement": placement, "seed": seed}
    return dj.sweep("probe/lqr", population=5, sample=ranges, **how, **SMALL)


def told(run: dj.Sweep) -> dict[str, Any]:
    """What is compared of a run, as plain JSON."""
    names = ("member", "step", "critic_lr", "tau", "eval_return_mean", "critic_loss")
    changes = [[c.step, c.member, c.parent, dict(c.values)] for c in run.changes]
    return {"rows": [[row[name] for name in names] for row in run.rows], "changes": changes}


TWO = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
from tests.running.test_population import told, train
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **more: compiled.append(event))
runs = {placement: told(train(placement)) for placement in ("map", "vmap")}
before = len(compiled)
runs["other"] = told(train("map", seed=1))
runs["compiled"] = sum("backend_compile" in event for event in compiled[before:])
print(json.dumps(runs))
"""


def test_decisions_are_the_same_wherever_members_train() -> None:
    """On two devices mapped as on one, to the bit; vmapped over two, to rounding. Nothing is compiled for another run."""
    done = subprocess.run([sys.executable, "-c", TWO], capture_output=True, text=True, check=True)
    runs = json.loads(done.stdout)
    one = train("map")
    here = json.loads(json.dumps(told(one)))
    assert {step for step, *_ in here["changes"]} == {0, 100, 200, 300}
    assert here["changes"] == runs["map"]["changes"] == runs["vmap"]["changes"]
    assert runs["other"]["changes"] != here["changes"], "another seed decides otherwise"
    assert runs["compiled"] == 0
    np.testing.assert_array_equal(np.array(runs["map"]["rows"], float), np.array(here["rows"], float))
    np.testing.assert_allclose(np.array(runs["vmap"]["rows"], float), np.array(here["rows"], float), rtol=1e-3)
    best, stages = one.best(), one.schedule()
    assert {name: best[name] for name in ("critic_lr", "tau")} == stages[-1].values
    assert stages[-1].member == best["point"] == int(np.argmax(one.final))
    shown = {(row["step"], row["member"]): row["tau"] for row in one.rows}
    for stage, after in zip(stages, [*stages[1:], None], strict=True):
        for step in range(stage.step + 50, after.step + 1 if after else 401, 50):
            assert shown[step, stage.member] == stage.values["tau"], "the rows show what was in force"


@pytest.mark.parametrize(("kind", "replay"), [("map", "keep"), ("vmap", "copy")])
def test_a_member_that_diverges_lives_again(kind: str, replay: str) -> None:
    """Its critic explodes at once; after the next exploit it goes on as a copy, and its rows say so."""
    fields: dict[str, Any] = {**SMALL, "env": "Pendulum-v1", "placement": kind, "seed": 3}
    exploit = {"every": 100, "fraction": 0.25, "replay": replay}
    (group,), plan = make_population(4, {"critic_lr": "log:1e-4:1e-2"}, fields, exploit=exploit)
    members = list(group.members)
    wild = members[2]._replace(hyper=members[2].hyper._replace(critic_lr=1e12), swept=(("critic_lr", 1e12),))
    members[2] = wild
    program = dj.make_program(group.experiment, members)
    rows: list[dict[str, Any]] = []
    lineage: list[Any] = []
    for tick in dj.run_blocks(program, group.experiment, program.start(), evolve=plan):
        rows, lineage = rows + tick.rows, tick.journal.lineage or []
    diverged = {row["step"]: row["diverged_step"] for row in rows if row["member"] == 2}
    assert diverged[100] != "", "or this tests nothing"
    assert all(diverged[step] == "" for step in (150, 200, 400))
    assert next(change for change in lineage if change.member == 2 and change.step == 100).replay == "copy"
    returns = [row["eval_return_mean"] for row in rows if row["member"] == 2 and row["step"] > 100]
    assert np.isfinite(returns).all()


def watched(**how: Any) -> tuple[dj.Sweep, dict[int, list[np.ndarray]]]:
    """A run, and the parameters of its first actor after each evaluation."""
    seen: dict[int, list[np.ndarray]] = {}

    def look(member: int, step: int, row: dict[str, Any], policy: dj.Policy) -> None:
        if member == 0:
            seen[step] = [np.asarray(leaf) for leaf in jax.tree.leaves(policy.params)]

    return dj.sweep("Pendulum-v1", on_evaluation=look, **SMALL, **how), seen


def test_a_schedule_is_followed() -> None:
    """Two seeds; once the learning rates are 0, the networks stay as they are. Before that, the run is as one without it."""
    values = {"critic_lr": 1e-2, "actor_lr": 1e-3}
    run, seen = watched(seeds=2, schedule=[(0, values), (200, {"critic_lr": 0.0, "actor_lr": 0.0})])
    plain, usual = watched(seeds=2, **values)
    same = {step: all(map(np.array_equal, seen[step], seen[200])) for step in seen}
    assert [step for step in seen if same[step]] == [200, 250, 300, 350, 400]
    assert all(all(map(np.array_equal, seen[step], usual[step])) for step in (50, 100, 150, 200))
    assert run.returns.shape == plain.returns.shape == (1, 2, 8)
    assert run.points == [values]
    shown = {row["step"]: row["critic_lr"] for row in run.rows}
    assert shown == dict.fromkeys((50, 100, 150, 200), 1e-2) | dict.fromkeys((250, 300, 350, 400), 0.0)


def test_the_way_to_the_best_is_read_from_a_file(tmp_path: Any) -> None:
    """By hand: member 1 is the best, and comes from 0 at step 100 and from 2 at step 200, which came from 1 before that."""
    start = [Change(0, m, m, {"tau": 0.1 * (m + 1)}) for m in range(3)]
    later = [Change(50, 2, 1, {"tau": 0.5}), Change(100, 1, 0, {"tau": 0.6}), Change(200, 1, 2, {"tau": 0.7})]
    path = tmp_path / "schedule.csv"
    path.write_text(format_changes([*start, *later], {0: 1.0, 1: 2.0, 2: math.nan}))
    _, timetable = make_timetable(path, 1, {"env": "Pendulum-v1", **SMALL})
    assert [(stage.step, stage.values) for stage in timetable.stages] == [
        (0, {"tau": 0.2}),
        (50, {"tau": 0.5}),
        (200, {"tau": 0.7}),
    ]
    rows = [row(m, 200, 0.0, False) for m in range(2)]
    assert timetable(rows) == [Change(200, m, m, {"tau": 0.7}) for m in range(2)]
    assert timetable([row(0, 250, 0.0, False)]) == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"population": 1}, ["population=1", "from 2 to"]),
        ({"sample": None}, ["population=4 needs sample"]),
        ({"sample": {"batch_size": "log:8:64"}}, ["batch_size cannot be in a population", "changes the program"]),
        ({"sample": {"learning": "log:8:64"}}, ["learning is not a field"]),
        ({"sample": {"tau": "0.1"}}, ["tau=0.1", "log:LOW:HIGH"]),
        ({"sample": {"ou_theta": "log:0.1:1"}, "exploration": "gaussian"}, ["ou_theta", "nothing reads it"]),
        ({"sample": {"ou_theta": "log:0.1:4", "ou_dt": "log:0.1:0.5"}}, ["ou_theta=4", "ou_dt=0.5", "below 2"]),
        ({"sample": {"sync_period": "uniform:1:3"}}, ["different points", "widen"]),
        ({"sample": {"sync_period": "log:1:9"}, "seed": 4}, ["one program", "sync_period=1"]),
        ({"grid": {"tau": [0.1]}}, ["population=4 cannot be combined with grid"]),
        ({"points": [{"tau": 0.1}]}, ["combined with points"]),
        ({"prune": 1}, ["combined with prune"]),
        ({"until": 1.0}, ["combined with until"]),
        ({"seeds": 2}, ["combined with seeds"]),
        ({"schedule": [(0, {"tau": 0.1})]}, ["combined with schedule"]),
        ({"exploit": {"fraction": 0.6}}, ["fraction=0.6", "at most 0.5"]),
        ({"exploit": {"fraction": 0}}, ["fraction=0", "above 0"]),
        ({"exploit": "fraction=half"}, ["fraction=half", "a number"]),
        ({"exploit": {"every": 75}}, ["every=75", "multiple of 50"]),
        ({"exploit": {"every": 20}}, ["every=20", "multiple of 50"]),
        ({"exploit": {"every": 400}}, ["every=400", "no exploit"]),
        ({"exploit": {"perturb": (-1.0, 1.2)}}, ["perturb=-1.0:1.2", "positive"]),
        ({"exploit": "perturb=2"}, ["perturb=2", "0.8:1.25"]),
        ({"exploit": {"resample": 2}}, ["resample=2", "from 0 to 1"]),
        ({"exploit": {"replay": "share"}}, ["replay=share", "copy or keep"]),
        ({"exploit": {"each": 1}}, ["each", "every, fraction"]),
        ({"exploit": "every"}, ["exploit=every", "every=2000"]),
        ({"sample": {"value_max": "uniform:1:2"}}, ["value_max cannot be in a population", "sweep it"]),
        ({"population": None}, ["sample needs population"]),
        ({"population": None, "sample": None, "exploit": {}}, ["exploit needs population"]),
    ],
)
def test_a_bad_population_is_one_sentence(how: dict[str, Any], words: list[str]) -> None:
    refused({"population": 4, "sample": {"tau": "log:1e-3:1e-1"}, **how}, words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.csv", ["schedule=nowhere.csv cannot be read"]),
        ("step,member\n0,0\n", ["is not the schedule of a population", "parent"]),
        ("step,member,parent,tau\n", ["has no values"]),
        ("step,member,parent,tau\n0,0,0,0.1\n0,1,1,0.2\n", ["no final_return", "leave one member"]),
        ([(0, {"batch_size": 8})], ["batch_size cannot be in a schedule"]),
        ([(50, {"tau": 0.1})], ["ascend from 0"]),
        ([(0, {"tau": 0.1}), (30, {"tau": 0.2})], ["step 30", "not at an evaluation"]),
        ([(0, {"tau": 0.1}), (50, {"gamma": 0.2})], ["step 50", "must give values for tau"]),
        ([(0, {"tau": 0.1}), (50, {"tau": 7})], ["tau=7"]),
        ([(0, {"critic_l2": 0.0}), (50, {"critic_l2": 0.1})], ["switches critic_l2 on"]),
        ([(0, {"value_max": 1.0}), (50, {"value_max": 2.0})], ["value_max cannot be in a schedule", "sweep it"]),
        (7, ["schedule=7", "a file"]),
    ],
)
def test_a_bad_schedule_is_one_sentence(given: Any, words: list[str], tmp_path: Any) -> None:
    if isinstance(given, str) and "\n" in given:
        (tmp_path / "schedule.csv").write_text(given)
        given = tmp_path / "schedule.csv"
    refused({"schedule": given}, words)


def test_a_schedule_says_all_about_its_fields() -> None:
    refused({"schedule": [(0, {"tau": 0.1})], "tau": 0.2}, ["tau=0.2", "leave it out"])
    refused({"schedule": [(0, {"tau": 0.1})], "grid": {"gamma": [0.9]}}, ["schedule cannot be combined with grid"])


def refused(how: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(dj.ConfigError) as error:
        dj.sweep("Pendulum-v1", **{**SMALL, **how})
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_member_without_a_return_is_neither_the_worst_nor_the_best() -> None:
    """Without evaluations, an episode that goes on for long has none yet."""
    rows = [row(m, 100, math.nan, False, tau=0.01) for m in range(4)]
    for own, value in zip(rows, [-50.0, math.nan, -60.0, -40.0], strict=True):
        own["train_return_mean"] = value
    ranges = {"tau": Range(0.001, 1.0, log=True, whole=False)}
    changes = replacements(rows, 0, ranges, exploit=Exploit(100, fraction=0.25))
    assert [(change.member, change.parent) for change in changes] == [(2, 3)]
