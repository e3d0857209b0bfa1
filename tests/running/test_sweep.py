"""Sweeps: which points there are, where members run, and that a member knows nothing of its neighbours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax import api
from ddpg_jax.app.cli import main
from ddpg_jax.app.evaluation import recorded
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, STRUCTURE
from ddpg_jax.experiment.grid import grid_points, parse_grid, random_points
from ddpg_jax.hyperparams import collects
from ddpg_jax.running import groups, hardware
from ddpg_jax.running.groups import make_groups
from ddpg_jax.running.placement import make_placement
from ddpg_jax.running.program import Program

SMALL: dict[str, Any] = {
    **{"steps": 300, "warmup_steps": 100, "eval_every": 100},
    **{"hidden": (16, 16), "eval_episodes": 2, "replay_capacity": 1_000},
}
"""One structure for most tests, as each is compiled anew."""


def test_grid_is_the_product_and_values_have_the_types_of_their_fields() -> None:
    points = grid_points(parse_grid(["tau=0.01,0.1", "hidden=16-16,8", "layer-norm=true"]))
    assert [point["tau"] for point in points] == [0.01, 0.01, 0.1, 0.1]
    assert points[0] == {"tau": 0.01, "hidden": (16, 16), "layer_norm": True}
    assert grid_points(parse_grid(["hidden=(8,8),(16,)"])) == [{"hidden": (8, 8)}, {"hidden": (16,)}]
    assert parse_grid(['env_kwargs={"g": 9.0, "m": 1},{"g": 8.0}', "wrappers=A(x=1, y=(1,2)),B"]) == {
        "env_kwargs": ['{"g": 9.0, "m": 1}', '{"g": 8.0}'],
        "wrappers": ["A(x=1, y=(1,2))", "B"],
    }
    assert grid_points({"hidden": [np.array([8, 8])]}) == [{"hidden": (8, 8)}]


def test_random_points_keep_to_their_ranges_and_repeat() -> None:
    ranges = {"critic_lr": "log:1e-5:1e-2", "tau": "uniform:0:0.1", "batch_size": "log:16:64"}
    points = random_points(ranges, 400)
    assert points == random_points(ranges, 400)
    assert points != random_points(ranges, 400, seed=1)
    exponents = np.log10([point["critic_lr"] for point in points])
    assert exponents.min() >= -5
    assert exponents.max() <= -2
    assert abs(exponents.mean() + 3.5) < 0.15  # uniform in the exponent, not in the value
    whole = {point["sync_period"] for point in random_points({"sync_period": "uniform:1:9"}, 50)}
    assert whole == {float(period) for period in range(1, 10)}, "traced as a float, and whole"
    sizes = [point["batch_size"] for point in random_points({"batch_size": "uniform:1:3", "tau": "uniform:0:1"}, 3_000)]
    assert min(map(sizes.count, (1, 2, 3))) > 900, "the ends are as likely as what is between them"
    assert len(random_points({"batch_size": "uniform:1:3"}, 3_000)) == 3, "what is drawn again would pass for another seed"
    assert all(isinstance(point["batch_size"], int) and 16 <= point["batch_size"] <= 64 for point in points)


def test_random_points_need_a_field_and_a_seed_that_can_be_drawn_from() -> None:
    with pytest.raises(dj.ConfigError, match="it must name at least one field"):
        random_points({}, 4)
    with pytest.raises(dj.ConfigError, match="seed=-1 is not allowed"):
        random_points({"tau": "log:1e-3:1e-1"}, 4, seed=-1)


def test_a_sweep_over_environments(tmp_path: Path, command_line: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its own threshold and its own best point, and `eval` knows each one's."""
    words = ["--hidden", "8", "--steps", "120", "--warmup-steps", "100", "--eval-every", "120", "--eval-episodes", "1"]
    grid = ["--grid", "env=MountainCarContinuous-v0,probe/lqr", "--replay-capacity", "200"]
    assert main(["sweep", "Pendulum-v1", *grid, "--batch-size", "8", *words, "--out", str(tmp_path / "s")]) == 0
    assert re.match(r"MountainCarContinuous-v0: return .*; probe/lqr: return ", capsys.readouterr().out)
    points = json.loads((tmp_path / "s" / "summary.json").read_text())["points"]
    assert [(point["point"]["env"], point["seeds"], point["threshold"]) for point in points] == [
        ("MountainCarContinuous-v0", 1, 90.0),
        ("probe/lqr", 1, None),
    ]
    for member, env in enumerate(["MountainCarContinuous-v0", "probe/lqr"]):
        assert recorded(tmp_path / "s", tmp_path / "s" / "policy" / f"member_{member}").env == env
    assert main(["eval", str(tmp_path / "s"), "--member", "1", "--episodes", "1"]) == 0
    assert capsys.readouterr().out.startswith("member_1, seed 0, env=probe/lqr: return ")
    assert main(["plot", str(tmp_path / "s"), "--out", str(tmp_path / "s.png")]) == 0


SWEEP: Any = dj.sweep  # without its types


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: grid_points(parse_grid(["critic_rl=1"])), ["critic_rl", "critic_lr"]),
        (lambda: grid_points(parse_grid(["tau="])), ["tau", "at least one value"]),
        (lambda: grid_points(parse_grid(["tau"])), ["grid=tau", "FIELD=V1,V2"]),
        (lambda: grid_points({"tau": []}), ["tau=[]", "at least one value"]),
        (lambda: grid_points({"tau": [0.1, "x"]}), ["tau=x", "number"]),
        (lambda: grid_points({"tau": [0.1, 0.2, "1e-1"]}), ["tau=0.1", "twice"]),
        (lambda: grid_points(parse_grid(["hidden=64,64"])), ["hidden=64", "twice", "256-256"]),
        (lambda: grid_points(parse_grid(["batch_size=1.5"])), ["batch_size=1.5", "whole number"]),
        (lambda: random_points({"tau": "log:0:1"}, 3), ["tau=log:0:1", "above 0"]),
        (lambda: random_points({"tau": "normal:0:1"}, 3), ["tau=normal:0:1", "log:LOW:HIGH"]),
        (lambda: make_groups([{}], 0, {}), ["seeds=0", "from 1"]),
        (lambda: SWEEP(seeds="two"), ["seeds=two", "whole number"]),
        (lambda: SWEEP(grid=["tau"]), ["grid=['tau']", "map names"]),
        (lambda: SWEEP(points=["tau"]), ["points=['tau']", "map names"]),
        (lambda: dj.sweep(points=[]), ["points=[]"]),
        (lambda: make_groups([], 1, {}), ["points=[]"]),
        (lambda: make_groups([{}], 2_000_000, {}), ["seeds=2000000", "at most 1,000,000"]),
        (lambda: random_points({"tau": "uniform:0:1"}, 10**10), ["points=10000000000", "1000000"]),
        (lambda: SWEEP(grid={"tau": np.array(0.1)}), ["tau=0.1", "at least one value"]),
        (lambda: grid_points({"hidden": [(8.7,)]}), ["hidden=(8.7,)", "sizes"]),
        (lambda: grid_points({"tau": [np.True_]}), ["tau=True", "number"]),
        (lambda: grid_points({"critic_lr": [1e39]}), ["critic_lr=1e+39", "float32"]),
        (lambda: SWEEP(points=5), ["points=5", "map names"]),
        (lambda: SWEEP(points=[{None: 1}]), ["None is not a field"]),
        (lambda: SWEEP(dj.envs.make_device("probe/lqr"), grid={"env": ["probe/lqr"]}), ["env cannot be swept", "an object"]),
        (lambda: make_groups([{"tau": 0.1}, {"gamma": 0.1}], 1, {}), ["points[0]", "same fields"]),
        (lambda: make_groups([{"seed": 3}], 1, {}), ["seed"]),
        (lambda: make_groups([{"hindsight_k": 3}, {"hindsight_k": 4}], 1, {}), ["hindsight_k", "nothing reads it"]),
    ],
)
def test_what_cannot_be_swept_is_said_in_one_line(call: Any, words: list[str]) -> None:
    with pytest.raises(dj.ConfigError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_points_of_one_structure_share_a_program_and_seeds_are_paired() -> None:
    points = grid_points({"layer_norm": [False, True], "tau": [0.1, 0.2]})
    groups = make_groups(points, 3, {"seed": 5})
    assert [group.experiment.layer_norm for group in groups] == [False, True]
    assert [[member.number for member in group.members] for group in groups] == [[*range(6)], [*range(6, 12)]]
    assert all([member.seed for member in group.members] == [5, 6, 7, 5, 6, 7] for group in groups)
    assert [float(member.hyper.tau) for member in groups[0].members] == [0.1] * 3 + [0.2] * 3


def test_a_number_is_swept_where_some_points_read_it() -> None:
    """Which fields are read is said in a table: with all that it asks for, none of them is refused."""
    everything: dict[str, Any] = {
        "noise_schedule": "linear",
        "lr_schedule": "linear",
        "replay": "prioritized",
        "target_noise": 0.2,
        "demonstrations": "shown.npz",
    }
    everything |= {"critic": "categorical", "num_envs": 2}
    nothing = {"exploration": "none", "network": "crossq", "targets": "joint", "actor_hidden": (8,), "critic_hidden": (8,)}
    numbers = [name for name, field in FIELDS.items() if field.read_by not in (None, collects)]
    point = {name: {**STRUCTURE, **NUMBERS, **everything}[name] for name in numbers}
    assert make_groups([{**point, "hindsight": name} for name in ("none", "final")], 1, everything)
    for name in numbers:
        with pytest.raises(dj.ConfigError, match=f"{name} cannot be swept"):
            make_groups([{name: point[name]}], 1, nothing)


@pytest.fixture(scope="module")
def small() -> dj.Sweep:
    return dj.sweep("Pendulum-v1", seeds=2, grid={"tau": [0.01, 0.1], "layer_norm": [True, False]}, **SMALL)


def test_results_come_in_the_order_asked(small: dj.Sweep) -> None:
    """Two programs, whose points alternate in the grid."""
    assert small.points[1] == {"tau": 0.01, "layer_norm": False}
    assert small.returns.shape == (4, 2, 3)
    assert small.steps[0, 0].tolist() == [100, 200, 300]
    alone = dj.train("Pendulum-v1", seed=1, tau=0.1, layer_norm=True, **SMALL)
    np.testing.assert_array_equal(small.returns[2, 1], alone.returns)
    obs = np.array([1.0, 0.0, 0.5])
    np.testing.assert_array_equal(small.policies[2 * 2 + 1](obs), alone.policy(obs))


def test_best_point_and_table(small: dj.Sweep, tmp_path: Path) -> None:
    best = small.best()
    assert best["iqm"] == pytest.approx(small.final.mean(axis=1).max())  # two seeds: nothing is cut off
    assert {name: best[name] for name in ("tau", "layer_norm")} == small.points[best["point"]]
    small.to_csv(tmp_path / "sweep.csv")
    header, *lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert header.startswith("member,seed,tau,layer_norm,step,eval_return_mean")
    assert len(lines) == 4 * 2 * 3


def test_a_second_sweep_with_new_values_seeds_and_lengths_compiles_nothing() -> None:
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(f"{event} {duration_secs}")

    dj.sweep("Pendulum-v1", seeds=2, grid={"critic_lr": [1e-3, 1e-2]}, **SMALL)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        dj.sweep("Pendulum-v1", seeds=2, grid={"gamma": [0.9, 0.5]}, seed=7, **{**SMALL, "steps": 330, "eval_every": 70})
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


@pytest.mark.parametrize(("backend", "placement"), [("device", "map"), ("device", "vmap"), ("host", "auto")])
def test_a_diverged_member_is_flagged_and_costs_the_others_nothing(backend: str, placement: str) -> None:
    fields = {**SMALL, "backend": backend, "placement": placement, "layer_norm": True}
    with_it = dj.sweep("Pendulum-v1", points=[{"critic_lr": 1e-3}, {"critic_lr": 1e30}, {"critic_lr": 1e-4}], **fields)
    without = dj.sweep("Pendulum-v1", points=[{"critic_lr": 1e-3}, {"critic_lr": 1e-3}, {"critic_lr": 1e-4}], **fields)
    np.testing.assert_array_equal(with_it.returns[[0, 2]], without.returns[[0, 2]])
    flagged = {row["member"]: row["diverged_step"] for row in with_it.rows}
    assert flagged[0] == flagged[2] == ""
    assert 100 < flagged[1] <= 110
    assert np.isnan(with_it.final[1]).all()
    last = [row for row in with_it.rows if row["member"] == 1][-1]
    told = ("train_return_mean", "critic_loss", "actor_loss", "q_mean", "updates_per_second")
    assert all(np.isnan(last[name]) for name in told), "what it does after that is nobody's business"
    assert with_it.best()["point"] in (0, 2)


@pytest.mark.parametrize(("backend", "placement"), [("device", "map"), ("device", "vmap"), ("host", "auto")])
def test_what_a_diverged_member_learns_is_dropped(backend: str, placement: str) -> None:
    """Its networks and optimizers stay as they were when it was found; those of the others are none the wiser."""
    experiment, hyper = dj.configure({**SMALL, "env": "Pendulum-v1", "backend": backend, "placement": placement})
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(3)])

    def after(active: list[bool]) -> list[Any]:
        """What is learned at step 110, and at 130 where some sit out the steps between."""
        state, found = program.start(), []
        for begin, end, who in ((0, 100, [True] * 3), (100, 110, [True] * 3), (110, 130, active)):
            state, _, _ = program.advance(state, begin, end, active=np.array(who))
            found.append(jax.tree.map(np.array, program.save(state)[0].train))
        return found[1:]

    (before, without), (_, whole) = after([True, False, True]), after([True] * 3)
    for m, expected in enumerate((whole, before, whole)):
        jax.tree.map(lambda x, y, m=m: np.testing.assert_array_equal(x[m], y[m]), without, expected)
    assert not np.array_equal(*(state.params.critic["critic_0"]["value"]["bias"][1] for state in (before, whole)))


def test_a_run_that_diverges_stops_early() -> None:
    run = dj.train("Pendulum-v1", critic_lr=1e30, **{**SMALL, "steps": 5_000})
    assert run.rows[-1]["diverged_step"] <= 110
    assert run.rows[-1]["step"] < 1_500


def test_vmapped_members_agree_with_mapped_ones() -> None:
    """To rounding, which a chaotic system enlarges: 20 updates, parameters to 1e-5."""
    experiment, hyper = dj.configure({"env": "Pendulum-v1", **SMALL})
    members = [dj.Member(seed, hyper) for seed in range(3)]
    params = []
    for kind in ("map", "vmap"):
        program = Program(experiment, dj.envs.make_device("Pendulum-v1"), members, placement=make_placement(3, kind))
        active = np.ones(3, bool)
        state, _, _ = program.advance(program.start(), 0, 100, active=active)
        state, _, _ = program.advance(state, 100, 120, active=active)
        params.append(jax.tree.leaves(program.save(state)[0].train.params))
    for mapped, vmapped in zip(*params, strict=True):
        np.testing.assert_allclose(mapped, vmapped, atol=1e-5)


def test_members_that_do_not_fit_run_one_part_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dj.sweep("Pendulum-v1", seeds=3, **SMALL)
    parts: list[int] = []

    def make(experiment: dj.Experiment, members: list[dj.Member], env: Any = None) -> Any:
        parts.append(len(members))
        return original(experiment, members, env)

    original = api._prepare
    program = original(*make_groups([{}], 3, {"env": "Pendulum-v1", **SMALL})[0])
    need = program.memory()
    monkeypatch.setattr(api, "_prepare", make)
    monkeypatch.setattr(groups, "memory_limit", lambda _: need * 0.8 / groups.HEADROOM)
    divided = dj.sweep("Pendulum-v1", seeds=3, **SMALL)
    assert parts[0] == 3
    assert sum(parts[1:]) == 3
    assert len(parts) > 2
    np.testing.assert_array_equal(whole.returns, divided.returns)
    monkeypatch.setattr(groups, "memory_limit", lambda _: 1000)
    for seeds, fields, shown in (
        (3, {**SMALL, "critic_hidden": (8,)}, "hidden=16-16, critic_hidden=8"),
        (1, {**SMALL, "hidden": (256, 256), "actor_hidden": (16,), "critic_hidden": (8,)}, "actor_hidden=16, critic_hidden=8"),
    ):
        said = rf"a member with replay_capacity=1000, batch_size=64, {shown} and .* but a device has only"
        with pytest.raises(dj.ConfigError, match=said):
            dj.sweep("Pendulum-v1", seeds=seeds, **fields)


TWELVE: dict[str, Any] = {"seeds": 3, "grid": {"tau": [0.01, 0.1, 0.2, 0.3]}, **SMALL}
IN_TWELVE: dict[str, dict[str, Any]] = {
    "MountainCarContinuous-v0": {"num_envs": 2, "updates_per_step": 0.5, "eval_episodes": 1},
    "host": {"env": "Pendulum-v1", "backend": "host"},
}
EIGHT = """
import sys, json
import jax
jax.config.update("jax_num_cpu_devices", 8)
import ddpg_jax as dj
from tests.running.test_sweep import IN_TWELVE, TWELVE
sweep = dj.sweep(**{"env": sys.argv[1], **TWELVE, **IN_TWELVE[sys.argv[1]]})
print(json.dumps({"devices": jax.local_device_count(), "rows": len(sweep.rows), "returns": sweep.returns.tolist()}))
"""


@pytest.mark.parametrize("name", IN_TWELVE)
def test_a_member_on_one_of_eight_devices_is_the_member_alone(name: str) -> None:
    """12 members on 8 devices: 4 are padding, and nobody sees them. To the bit, but for environments on the host."""
    done = subprocess.run([sys.executable, "-c", EIGHT, name], capture_output=True, text=True, check=True)
    eight = json.loads(done.stdout)
    assert (eight["devices"], eight["rows"]) == (8, 36)
    for h, s in ((0, 0), (3, 2)):
        fields: dict[str, Any] = {"env": name, **SMALL, **IN_TWELVE[name], "tau": TWELVE["grid"]["tau"][h], "seed": s}
        alone = dj.train(**fields)
        np.testing.assert_allclose(alone.returns, eight["returns"][h][s], rtol=0.0 if name != "host" else 1e-3)


MEMORY = """
import numpy as np, ddpg_jax as dj
from ddpg_jax.running.groups import make_groups
groups = make_groups([{}], 4, {"env": "Pendulum-v1", "replay_capacity": 2_000_000, "warmup_steps": 100, "hidden": (8,)})
program = dj.make_program(*groups[0])
need = program.memory()
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak of the compiler is not asked for
before, active = peak(), np.ones(4, bool)
state, _, _ = program.advance(program.start(), 0, 100, active=active)
state, _, _ = program.advance(state, 100, 110, active=active)
print(need, peak() - before)
"""


def test_the_estimate_of_memory_covers_the_peak() -> None:
    """Four replays of 80 MB, mapped on one device."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    estimate, peak = map(int, done.stdout.split())
    assert 0.5 * estimate < peak < 1.1 * estimate, (estimate, peak)


def test_the_estimate_of_memory_knows_of_the_evaluation() -> None:
    """Two layers of activations of 10,000 episodes are more than all that learning needs; the states are there meanwhile."""
    few, many = (
        dj.make_program(*make_groups([{}], 2, {"env": "Pendulum-v1", **SMALL, "eval_episodes": k})[0]) for k in (1, 10_000)
    )
    states = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(many.shapes()))
    assert many.memory() > states + 2 * 4 * 16 * 10_000 > few.memory()


def test_members_that_take_turns_share_the_memory_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight, no more at once than fit beside it; and none where it does not fit itself."""
    fields = {"env": "Pendulum-v1", **SMALL, "eval_episodes": 20_000}
    [group] = make_groups([{}], 8, fields)
    all_together, two = dj.make_program(*group).memory(), dj.make_program(group.experiment, group.members[:2]).memory()
    assert all_together < 3 * two, "the evaluation is most of it, or this tests nothing"
    limit = (all_together + two) / 2
    monkeypatch.setattr(groups, "memory_limit", lambda _: limit / groups.HEADROOM)
    parts = list(groups.fit_to_memory(group, dj.make_program))
    assert [m.number for part, _ in parts for m in part.members] == list(range(8))
    assert len(parts) > 1
    assert all(program.memory() <= limit for _, program in parts)
    monkeypatch.setattr(groups, "memory_limit", lambda _: two / 10 / groups.HEADROOM)
    with pytest.raises(dj.ConfigError, match=r"eval_episodes=20000 takes .* but a device has only"):
        list(groups.fit_to_memory(group, dj.make_program))


def test_the_command_line_writes_one_tidy_folder_and_resumes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--steps 300 --warmup-steps 100 --eval-every 100 --hidden 16-16 --eval-episodes 2 --replay-capacity 1000".split()
    sweep = ["sweep", "Pendulum-v1", "--seeds", "2", "--grid", "tau=0.01,0.1", "--grid", "layer_norm=true,false", *words]
    assert main([*sweep, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    assert "best point tau=" in said.out
    assert "program 1 of 2: 4 members (2 points x 2 seeds) in one program" in said.err
    assert "program 2 of 2: 4 members" in said.err
    for name in ("metrics.csv", "learning_curve.png", "heat_map.png", "sensitivity.png", "policy/member_7/policy.json"):
        assert (tmp_path / "a" / name).exists(), name
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["programs"] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert manifest["members"][7]["layer_norm"] is False
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    asked = [(0.01, True), (0.01, False), (0.1, True), (0.1, False)]
    assert [tuple(point["point"].values()) for point in summary["points"]] == asked
    assert all(point["seeds"] == 2 for point in summary["points"])
    assert main([*sweep, "--out", str(tmp_path / "a"), "--resume"]) == 0  # finished: nothing is lost
    again = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert again["points"] == summary["points"]
    # What its first program has left cannot be made again: it is named, and the rest is reported.
    shutil.rmtree(tmp_path / "a" / "policy" / "member_0")
    table = tmp_path / "a" / "metrics.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith("4,")))
    capsys.readouterr()
    assert main([*sweep, "--out", str(tmp_path / "a"), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "metrics.csv is missing the rows of the members 4, whose program has finished" in said
    assert "policy/member_0 is missing, and cannot be written again, since the program that trained it has finished" in said


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"replay_capacity": [1_000, 1_000_000]}, "a member with replay_capacity=1000000, "),
        ({"replay_capacity": [100_000], "batch_size": [16, 100_000]}, "batch_size=100000, hidden=16-16 and"),
        ({"replay_capacity": [1_000], "eval_episodes": [2, 100_000], "hidden": [256]}, "eval_episodes=100000 takes"),
    ],
)
def test_a_later_program_that_fits_nowhere_is_refused_before_the_first(
    monkeypatch: pytest.MonkeyPatch, grid: Any, words: str
) -> None:
    monkeypatch.setattr(groups, "memory_limit", lambda devices: 10 * 2**20)
    with pytest.raises(dj.ConfigError, match=words):
        dj.sweep("Pendulum-v1", grid=grid, **{**SMALL, "warmup_steps": 100_000, "steps": 10**9})


def test_random_search_on_the_command_line(tmp_path: Path) -> None:
    words = "--steps 200 --warmup-steps 100 --hidden 16-16 --eval-episodes 2 --replay-capacity 1000".split()
    sample = ["--sample", "critic_lr=log:1e-5:1e-2", "--sample", "tau=uniform:0.001:0.1", "--points", "3"]
    assert main(["sweep", "Pendulum-v1", *sample, *words, "--out", str(tmp_path / "a")]) == 0
    members = json.loads((tmp_path / "a" / "manifest.json").read_text())["members"]
    assert len({member["critic_lr"] for member in members}) == 3
    assert main(["sweep", "Pendulum-v1", *sample[:-2], *words, "--out", str(tmp_path / "b")]) == 2
    assert main(["sweep", "Pendulum-v1", "--points", "3", *words, "--out", str(tmp_path / "b")]) == 2, "points of what?"
    assert main(["sweep", "Pendulum-v1", "--seeds", "0", *words, "--out", str(tmp_path / "b")]) == 2
    assert main(["sweep", "Pendulum-v1", "--grid", "hindsight=none,future", *words, "--out", str(tmp_path / "b")]) == 2
    assert not (tmp_path / "b").exists()  # also where only the second program is impossible


@pytest.mark.parametrize(
    ("rows", "hidden", "told", "threads"),
    [
        (64, (256, 256), None, "1"),
        (65, (256, 256), None, None),
        (64, (400, 300), None, None),
        (1_024, (4_096,), None, None),
        (1_000, (64, 64), None, None),
        (64, (256, 256), "2", "2"),
    ],
)
def test_small_products_stay_on_one_core(
    monkeypatch: pytest.MonkeyPatch, rows: int, hidden: tuple[int, ...], told: str | None, threads: str | None
) -> None:
    """Where no accelerator may be, and the user has not said otherwise."""
    monkeypatch.setattr(hardware, "accelerated", lambda: False)
    monkeypatch.setattr(os, "environ", {"PJRT_NPROC": told} if told else {})
    hardware.use_one_core(rows, hidden)
    assert os.environ.get("PJRT_NPROC") == threads


def test_a_sweep_on_one_core_of_two_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX cannot be told of the cores any more once it is in use."""
    jax.devices()
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "_number_is_set", lambda: False)
    fields: dict[str, Any] = {"steps": 10, "warmup_steps": 10, "batch_size": 8, "eval_episodes": 1, "hidden": (8,)}
    with warnings.catch_warnings(record=True) as caught:
        dj.sweep("probe/lqr", seeds=1, **fields)
        assert not caught
        dj.sweep("probe/lqr", seeds=2, **fields)
    assert [str(one.message) for one in caught] == [hardware.idle_cores(2)]
    monkeypatch.setattr(hardware, "_number_is_set", lambda: True)  # by the user
    assert hardware.idle_cores(2) is None


def test_cores_are_counted_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert hardware.cores() == 8


def test_every_program_of_a_sweep_is_checked_before_the_first_trains() -> None:
    seen: list[Any] = []
    fields: dict[str, Any] = {"hidden": (16, 8), "steps": 200, "warmup_steps": 100, "batch_size": 8, "eval_every": 100}
    with pytest.raises(dj.ConfigError, match="hidden"):
        dj.sweep("Pendulum-v1", grid={"network": ["mlp", "residual"]}, on_evaluation=lambda *one: seen.append(one), **fields)
    assert not seen
