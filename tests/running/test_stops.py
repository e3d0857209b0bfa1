"""Stops: which members stop, in plain Python beside the referee, and that the others neither notice nor wait."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.running.groups import Group, make_groups
from ddpg_jax.running.placement import make_placement
from ddpg_jax.running.results import Stop
from ddpg_jax.running.seats import in_order, move, seat
from ddpg_jax.running.stops import Pruning, Referee, Until, make_pruning, parse_until

SMALL: dict[str, Any] = {
    **{"steps": 400, "warmup_steps": 50, "eval_every": 50},
    **{"hidden": (8,), "eval_episodes": 1, "replay_capacity": 500, "batch_size": 8},
}


def row(member: int, step: int, value: float) -> dict[str, Any]:
    diverged = step if math.isnan(value) else ""
    return {"member": member, "step": step, "eval_return_mean": value, "train_return_mean": math.nan, "diverged_step": diverged}


def play(groups: list[Group], returns: Any, **stops: Any) -> dict[int, tuple[int, str]]:
    """Runs the groups on paper: `returns[member][k]` is that of evaluation k, every 50 steps."""
    referee = Referee(groups, **stops)
    for group in groups:
        judge, over = referee.judge(group.members), set()
        for k in range(8):
            rows = [row(m.number, 50 * (k + 1), returns[m.number][k]) for m in group.members if m.number not in over]
            over |= {group.members[m].number for m in judge(rows, None)}
    return {m: (stop.step, stop.reason) for m, stop in referee.stops.items()}


def test_the_worse_half_stops_at_each_rung() -> None:
    """Four points of two seeds, ranked by their means; by hand."""
    groups = make_groups([{"tau": tau} for tau in (0.1, 0.2, 0.3, 0.4)], 2, {"env": "Pendulum-v1", **SMALL})
    pruning = make_pruning("100,200", None, groups)
    assert pruning == Pruning((100, 200), 0.5)
    returns = np.repeat([[1.0], [4.0], [2.0], [3.0]], 8, axis=1).repeat(2, axis=0)
    returns[2:4, 3] = [-9.0, -9.0]  # the best one at the first rung is the worst at the second
    stopped = play(groups, returns, pruning=pruning)
    assert stopped == dict.fromkeys((0, 1, 4, 5), (100, "prune")) | dict.fromkeys((2, 3), (200, "prune"))


def test_rungs_that_are_counted_share_the_cost() -> None:
    groups = make_groups([{"tau": 0.1}, {"tau": 0.2}], 1, {"env": "Pendulum-v1", **SMALL, "steps": 8_000})
    assert make_pruning(3, None, groups).rungs == (1_000, 2_000, 4_000)
    assert make_pruning("2", 0.75, groups).rungs == (500, 2_000)
    assert make_pruning([600], None, groups) == make_pruning("600,", None, groups) == Pruning((600,), 0.5)


def expected(returns: np.ndarray, programs: list[list[int]], rungs: list[int], fraction: float) -> dict[int, int]:
    """The rule in other words, for points of one seed: member -> evaluation at which it stops."""
    reached: dict[int, list[tuple[float, int]]] = {rung: [] for rung in rungs}
    ends: dict[int, int] = {}
    for members in programs:
        going = list(members)
        for rung in rungs:
            reached[rung] += [(-returns[m, rung], m) for m in going]
            keep = len(reached[rung]) - int(len(reached[rung]) * fraction + 1e-9)
            best = {m for _, m in sorted(reached[rung])[:keep]}
            ends |= {m: rung for m in going if m not in best}
            going = [m for m in going if m in best]
    return ends


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 2 / 3]))
def test_programs_are_ranked_with_those_before_them(seed: int, fraction: float) -> None:
    """Two programs of five and four points, as in ASHA; ties go to the point that comes first."""
    points = [{"hidden": (8,), "tau": 0.1 * k} for k in range(1, 6)] + [{"hidden": (4,), "tau": 0.1 * k} for k in range(1, 5)]
    groups = make_groups(points, 1, {"env": "Pendulum-v1", **{k: v for k, v in SMALL.items() if k != "hidden"}})
    returns = np.random.default_rng(seed).integers(0, 6, size=(9, 8)).astype(float)
    stopped = play(groups, returns, pruning=Pruning((100, 200, 350), fraction))
    want = expected(returns, [[*range(5)], [*range(5, 9)]], [1, 3, 6], fraction)
    assert stopped == {m: (50 * (rung + 1), "prune") for m, rung in want.items()}


def test_a_resumed_referee_decides_the_same() -> None:
    """From the rows alone, wherever it was interrupted: here after the second evaluation, at the first rung, and between."""
    groups = make_groups([{"tau": 0.1 * k} for k in range(1, 6)], 1, {"env": "Pendulum-v1", **SMALL})
    returns = np.random.default_rng(3).normal(size=(5, 8))
    pruning, until = Pruning((100, 200), 0.5), Until(1.2, 1)
    whole = play(groups, returns, pruning=pruning, until=until)
    assert {reason for _, reason in whole.values()} == {"prune", "until"}, "or this tests nothing"
    for cut in (1, 2, 3, 4):
        referee = Referee(groups, pruning=pruning, until=until)
        early = {m: stop for m, stop in whole.items() if stop[0] <= 50 * cut}
        rows = [row(m, 50 * (k + 1), returns[m, k]) for k in range(cut) for m in range(5) if whole.get(m, (999,))[0] > 50 * k]
        referee.add(rows, [(m, Stop(*stop)) for m, stop in early.items()])
        judge, over = referee.judge(groups[0].members), set(early)
        for k in range(cut, 8):
            over |= set(judge([row(m, 50 * (k + 1), returns[m, k]) for m in range(5) if m not in over], None))
        assert {m: tuple(stop) for m, stop in referee.stops.items()} == whole


def test_solved_is_so_many_evaluations_in_a_row() -> None:
    groups = make_groups([{}], 2, {"env": "Pendulum-v1", **SMALL})
    returns = [[5, 1, 5, 5, 5, 1, 1, 1], [5, 1, 5, 1, 5, 1, 5, math.nan]]
    assert play(groups, returns, until=Until(5.0, 2)) == {0: (200, "until")}
    assert play(groups, returns, until=Until(5.0)) == {0: (50, "until"), 1: (50, "until")}


def test_a_diverged_point_is_the_worst_and_environments_do_not_compete() -> None:
    points = [{"env": env, "tau": tau} for env in ("Pendulum-v1", "probe/lqr") for tau in (0.1, 0.2)]
    groups = make_groups(points, 1, SMALL)
    returns = np.repeat([[math.nan], [-1e9], [2.0], [1.0]], 8, axis=1)
    assert play(groups, returns, pruning=Pruning((100,), 0.5)) == {0: (100, "prune"), 3: (100, "prune")}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"prune": 30}, ["prune=30", "from 1 to 20"]),
        ({"prune": "x"}, ["prune=x", "number of rungs"]),
        ({"prune": "200,100"}, ["prune=200,100", "ascending"]),
        ({"prune": [500]}, ["prune=500", "after it"]),
        ({"prune": [400]}, ["prune=400", "last evaluation"]),
        ({"prune": [50]}, ["step 50", "before anything is learned"]),
        ({"prune": [110, 120]}, ["share an evaluation", "eval_every"]),
        ({"prune": 1, "prune_fraction": 1.0}, ["prune_fraction=1.0", "below 1"]),
        ({"prune": 1, "prune_fraction": "half"}, ["prune_fraction=half"]),
        ({"prune_fraction": 0.5}, ["prune_fraction=0.5", "needs prune"]),
        ({"prune": 1, "grid": None}, ["at least two points"]),
        ({"until": "many"}, ["until=many", "-200:3"]),
        ({"until": (1.0, 0)}, ["until=(1.0, 0)"]),
        ({"until": True}, ["until=True"]),
    ],
)
def test_bad_stops_are_one_sentence(how: dict[str, Any], words: list[str]) -> None:
    fields: dict[str, Any] = {"grid": {"tau": [0.1, 0.2]}, **SMALL, **how}
    with pytest.raises(dj.ConfigError) as error:
        dj.sweep("Pendulum-v1", **fields)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_return_is_read_in_each_form() -> None:
    assert parse_until(None) is None
    assert parse_until(-200) == parse_until("-200") == parse_until(np.float32(-200)) == Until(-200.0)
    assert parse_until((-200, 3)) == parse_until("-200:3") == Until(-200.0, 3)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.sampled_from(["map", "vmap"]), st.data())
def test_states_move_with_their_members(members: int, kind: str, data: Any) -> None:
    """Through two moves, on one device: every slot has its own state, and those that go on sit in the calls that are made."""
    place = make_placement(members, kind)
    seats = seat(place)
    state: list[Any] = [
        call.placement.put(np.float32(call.slots[0]) if call.placement.single else np.array(call.slots, np.float32))
        for call in seats.calls
    ]
    stopped = np.zeros(members, bool)
    for _ in range(2):
        stopped |= np.array(data.draw(st.lists(st.booleans(), min_size=members, max_size=members)))
        new = seat(place, stopped)
        state, seats = move(state, seats, new), new
        np.testing.assert_array_equal(in_order([np.asarray(one) for one in state], seats), np.arange(place.slots))
        assert all(seats.calls[seats.find(m)[0]].slots[seats.find(m)[1]] == m for m in range(members))
        live = [slot for call in seats.calls[: seats.live] for slot in call.slots]
        assert set(np.flatnonzero(~stopped)) <= set(live)
        if kind == "vmap":
            assert len(live) in (1, 2, 4, 8, members), "few sizes are compiled"
            assert len(live) < 2 * max(1, (~stopped).sum())
        else:
            assert len(live) == max(1, (~stopped).sum()), "none waits for one that has stopped"


TWO = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
import ddpg_jax as dj
from tests.running.test_stops import SMALL, grid
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **more: compiled.append(event))
def sweep(placement, **how):
    return dj.sweep("probe/lqr", 2, grid, placement=placement, **SMALL, **how)
result = {}
for placement in ("map", "vmap"):
    whole = sweep(placement)
    before = sum("backend_compile" in event for event in compiled)
    cut = sweep(placement, prune="100,200")
    after = sum("backend_compile" in event for event in compiled)
    result[placement] = {
        "compiled": after - before if placement == "map" else None,
        "stops": cut.stops,
        "whole": [[r["member"], r["step"], r["eval_return_mean"], r["critic_loss"]] for r in whole.rows],
        "cut": [[r["member"], r["step"], r["eval_return_mean"], r["critic_loss"]] for r in cut.rows],
        "best": cut.best()["point"],
    }
print(json.dumps(result))
"""
grid = {"critic_lr": [1e-4, 1e-3, 3e-3, 1e-2, 3e-2]}


def test_pruned_points_cost_the_others_nothing_and_nothing_is_compiled_anew() -> None:
    """10 members on 2 devices: each has its rows up to its stop, and all of them if it has none.

    If they are mapped, they have them to the bit, and nothing is compiled anew.
    """
    done = subprocess.run([sys.executable, "-c", TWO], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    stops = {int(m): step for m, (step, _) in result["map"]["stops"].items()}
    assert sorted(stops.values()) == [100] * 4 + [200] * 2, "2 of 5 points, and 1 of 3"
    for placement, tolerance in (("map", 0.0), ("vmap", 1e-3)):
        own = {int(m): step for m, (step, _) in result[placement]["stops"].items()}
        kept = [row for row in result[placement]["whole"] if row[1] <= own.get(row[0], math.inf)]
        np.testing.assert_allclose(np.array(kept, float), np.array(result[placement]["cut"], float), rtol=tolerance)
        assert result[placement]["best"] * 2 not in own
    assert result["map"]["compiled"] == 0
    assert result["vmap"]["stops"] == result["map"]["stops"], "the same decisions, whatever the placement"


def test_seeds_of_a_later_program_are_pruned_when_they_arrive() -> None:
    """The seeds of a point may not fit in one program."""
    (whole,) = make_groups([{"tau": 0.01}, {"tau": 0.02}], 4, {"env": "probe/lqr", **SMALL})
    referee, left = Referee([whole], pruning=Pruning((200,), 0.5)), []
    for members in (whole.members[first : first + 2] for first in range(0, 8, 2)):
        stopped = set(referee.judge(members)([row(m.number, 200, float(m.number < 4)) for m in members], None))
        left += [m.number for k, m in enumerate(members) if k not in stopped]
    assert left == [0, 1, 2, 3]
    assert referee.stops == dict.fromkeys(range(4, 8), Stop(200, "prune"))
