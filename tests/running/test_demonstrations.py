"""Runs with demonstrations, and without steps: what they learn from, their clocks, and how they go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.data.collect import collect, uniform
from ddpg_jax.data.npz_file import read_npz, write_npz
from ddpg_jax.running.blocks import blocks_of, run_blocks
from ddpg_jax.running.clock import step_at, total_iterations
from ddpg_jax.running.program import Program
from tests.runs import assert_same_arrays, manifest, newest, rows, run

SMALL: dict[str, Any] = {"env": "point-reach", "batch_size": 16, "hidden": (8,), "eval_every": 20, "eval_episodes": 2}
FIELDS: dict[str, Any] = {**SMALL, "steps": 60, "warmup_steps": 20, "replay_capacity": 64}
OFFLINE: dict[str, Any] = {**SMALL, "steps": 0, "updates": 60, "preset": "td3-bc"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three random episodes of point-reach, as a file."""
    path = tmp_path_factory.mktemp("shown") / "shown.npz"
    write_npz(path, collect(dj.envs.make_device("point-reach"), uniform(2), episodes=3, seed=0))
    return str(path)


def results(run: dj.Run) -> list[list[Any]]:
    """The rows as text, since NaN is not itself, without measurements of time."""
    return [[str(x) for name, x in row.items() if name not in ("seconds", "updates_per_second", "member")] for row in run.rows]


def test_without_a_share_of_them_a_run_is_what_it_is_without_demonstrations(shown: str) -> None:
    """To the bit: no draw has moved, and no statistics know of them. With a share, all is different."""
    fields = {**FIELDS, "normalize_obs": True, "n_step": 2}
    plain = dj.train(**fields)
    none, half = (dj.train(**fields, demonstrations=shown, demo_fraction=share) for share in (0.0, 0.5))
    assert results(none) == results(plain)
    assert_same_arrays(none.policy.params, plain.policy.params)
    assert results(half) != results(plain)
    moments = half.policy.params["norm_obs"]
    assert float(moments["count"]) == pytest.approx(150 + 60, abs=1e-2)
    assert float(plain.policy.params["norm_obs"]["count"]) == pytest.approx(60, abs=1e-2)


def test_all_of_it_together_in_a_sweep_and_in_pieces(shown: str) -> None:
    """Hindsight, priorities, cloning with the filter, and updates before the first step: a member is what it is alone, and a
    run that was saved among those updates goes on as if it had not been."""
    fields = {**FIELDS, "hindsight": "future", "replay": "prioritized", "n_step": 2, "normalize_obs": True}
    fields |= {"demonstrations": shown, "pretrain_updates": 30, "q_filter": True}
    sweep = dj.sweep(**fields, seeds=2, grid={"bc_weight": [0.1, 2.0]})
    alone = dj.train(**fields, bc_weight=2.0, seed=1)
    assert [row["step"] for row in alone.rows] == [0, 20, 40, 60]
    np.testing.assert_array_equal(sweep.returns[1, 1], alone.returns)
    assert_same_arrays(sweep.policies[3].params, alone.policy.params)
    assert not np.array_equal(*(jax.tree.leaves(sweep.policies[m].params)[-1] for m in (1, 3)))

    experiment, hyper = dj.configure({**fields, "bc_weight": 2.0, "seed": 1})
    program: Program = dj.make_program(experiment, [dj.Member(1, hyper)])
    tick = next(iter(run_blocks(program, experiment, program.start())))
    assert 0 < tick.iteration < 30
    assert tick.step == 0
    state = program.load(*program.save(tick.state), tick.iteration)
    ticks = list(run_blocks(program, experiment, state, begin=tick.iteration, journal=tick.journal))
    found = dj.Run(experiment, hyper, [row for tick in ticks for row in tick.rows], alone.policy)
    assert results(found) == results(alone)
    assert_same_arrays(program.actor(ticks[-1].state, 0), alone.policy.params)


def test_a_run_without_steps_learns_the_statistics_of_the_data_and_keeps_none_of_it(shown: str) -> None:
    fields = {**OFFLINE, "demonstrations": shown}
    offline = dj.train(**fields)
    assert offline.steps.tolist() == [20, 40, 60]
    data = np.concatenate([episode.obs[:-1] for episode in read_npz(Path(shown))])
    moments = offline.policy.params["norm_obs"]
    np.testing.assert_allclose(moments["mean"], data.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments["spread"] / moments["count"], data.var(axis=0), rtol=1e-4)
    experiment, hyper = dj.configure(fields)
    program = dj.make_program(experiment, [dj.Member(0, hyper), dj.Member(1, hyper)])
    assert jax.tree.leaves(program.shapes().replay) == [], "checkpoints must not hold what is read from a file"


def test_a_run_without_steps_goes_on_to_the_bit_but_not_with_other_data(
    shown: str, command_line: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = str(shutil.copy(shown, tmp_path / "own.npz"))
    given = {**OFFLINE, "demonstrations": own, "hidden": "8", "env": None, "updates": None}
    words = [word for name, x in given.items() if x is not None for word in (f"--{name.replace('_', '-')}", str(x))]

    def train(out: str, updates: int, *more: str) -> int:
        return run("train", "point-reach", *words, "--updates", str(updates), "--out", str(tmp_path / out), *more)

    assert train("whole", 60) == train("halves", 30) == train("halves", 60, "--resume") == 0
    assert [row["step"] for row in rows(tmp_path / "whole")] == ["20", "40", "60"]
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    a, b = newest(tmp_path / "halves"), newest(tmp_path / "whole")
    assert a is not None
    assert b is not None
    assert_same_arrays(a.arrays, b.arrays)
    assert list(manifest(tmp_path / "whole")["demonstrations"]) == [own]
    capsys.readouterr()
    assert train("halves", 20, "--resume") == 2
    assert "updates=20 (the run has 60; a run can only be made longer)" in capsys.readouterr().err
    assert (
        run("train", "point-reach", *words, "--steps", "90", "--updates", "0", "--out", str(tmp_path / "whole"), "--resume")
        == 2
    )
    assert "steps=90 (the run has 0)" in capsys.readouterr().err
    write_npz(Path(own), read_npz(Path(own))[:2])
    assert train("whole", 90, "--resume") == 2
    assert f"demonstrations={own} holds other data (digest" in capsys.readouterr().err
    shutil.copy(shown, own)
    assert train("whole", 90, "--resume") == 0
    assert run("record", str(tmp_path / "whole"), "--replay", "--out", str(tmp_path / "none.npz")) == 2
    assert "record episodes of its policy instead, with ddpg-jax record" in capsys.readouterr().err


def test_the_replay_of_a_run_is_read(command_line: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which gives the same transitions as a file of the same replay; a sweep has several, and is refused."""
    words = ["--steps", "60", "--warmup-steps", "20", "--batch-size", "16", "--hidden", "8", "--eval-episodes", "1"]
    folder, out = tmp_path / "run", tmp_path / "replay.npz"
    assert run("train", "point-reach", *words, "--out", str(folder)) == 0
    assert run("record", str(folder), "--replay", "--out", str(out)) == 0
    assert run("record", str(folder), "--replay", "--out", str(out)) == 2
    assert "it exists already" in capsys.readouterr().err
    fields = {**OFFLINE, "updates": 20}
    one, other = (dj.train(**fields, demonstrations=str(path)) for path in (folder, out))
    assert_same_arrays(one.policy.params, other.policy.params)
    with pytest.raises(dj.ConfigError, match="holds a run in env=point-reach; it must be one in env=Pendulum-v1"):
        dj.train(**{**fields, "env": "Pendulum-v1"}, demonstrations=str(folder))
    about = manifest(folder)
    (folder / "manifest.json").write_text(json.dumps({**about, "members": 2 * about["members"]}))
    with pytest.raises(dj.ConfigError, match="holds a sweep of 2 members; record the replay of one"):
        dj.train(**fields, demonstrations=str(folder))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"steps": 0}, "updates=0 is not allowed with steps=0; exactly one of them must be above 0"),
        ({"updates": 9}, "updates=9 is not allowed with steps=60"),
        ({"steps": 0, "updates": 9}, "steps=0 needs demonstrations; give a Minari id or folder, a .npz file, or a run folder"),
        ({"pretrain_updates": 9}, "pretrain_updates=9 needs demonstrations"),
        ({"bc_weight": 1.0}, "bc_weight needs demonstrations"),
        ({"q_filter": True}, "q_filter=true is not allowed with bc_weight=0"),
        ({**OFFLINE, "num_envs": 2}, "num_envs=2 is not allowed with steps=0"),
        ({**OFFLINE, "replay": "prioritized"}, "replay=prioritized is not allowed with steps=0"),
        ({**OFFLINE, "pretrain_updates": 5}, "pretrain_updates=5 is not allowed with steps=0"),
        ({"demonstrations": "nothing"}, "demonstrations=nothing: there is nothing of this name"),
        ({"demo_fraction": 1.5}, "demo_fraction=1.5 is not allowed"),
    ],
)
def test_what_cannot_be_learned_from_is_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(dj.ConfigError, match=sentence):
        dj.train(**{**(SMALL if fields.get("steps") == 0 else FIELDS), **fields})


@pytest.mark.parametrize("num_envs", [1, 4])
def test_blocks_and_steps_against_slow_counting(num_envs: int) -> None:
    """Blocks cover all iterations once, none straddles a change of phase, and evaluations are where their steps say."""
    x = dj.Experiment(pretrain_updates=1_500, num_envs=num_envs, steps=5_000, warmup_steps=800, updates_per_step=1 / num_envs)
    blocks = list(blocks_of(x))
    assert [begin for begin, *_ in blocks] == [0, *(end for _, end, _ in blocks[:-1])]
    assert blocks[-1][1] == total_iterations(x) == 1_500 + 5_000 // num_envs
    for border in (1_500, 1_500 + 800 // num_envs):
        assert border in {end for _, end, _ in blocks}
    assert [step_at(x, end) for _, end, evaluated in blocks if evaluated] == [0, 1_000, 2_000, 3_000, 4_000, 5_000]
    offline = dj.Experiment(steps=0, updates=2_500, eval_every=2_000)
    assert list(blocks_of(offline)) == [(0, 1_000, False), (1_000, 2_000, True), (2_000, 2_500, True)]
    assert [step_at(offline, end) for _, end, _ in blocks_of(offline)] == [1_000, 2_000, 2_500]
