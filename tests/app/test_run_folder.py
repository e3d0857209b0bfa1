"""What a run leaves behind: complete, readable without this package, and enough to evaluate, draw and film it again."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import ddpg_jax as dj
from ddpg_jax.app import figures as drawing
from ddpg_jax.app import hold, metrics_table
from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.evaluation import recorded
from ddpg_jax.app.manifest import FORMAT, commit_of, digest, new_manifest
from ddpg_jax.app.queue import ProgramQueue
from ddpg_jax.app.run_folder import RunFolder, default_folder
from ddpg_jax.envs.host.lanes import Lane
from ddpg_jax.envs.host.trial import TRIAL_SEED
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, STRUCTURE, configure
from ddpg_jax.files import write_text
from ddpg_jax.running.blocks import Journal
from ddpg_jax.running.program import Member
from ddpg_jax.running.rows import FIXED
from tests.runs import BACKENDS, HEADER, command, manifest, newest, rows, run, steps_kept

pytestmark = pytest.mark.usefixtures("command_line")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_manifest_says_what_ran_and_where(whole_run: Any, backend: str) -> None:
    about = manifest(whole_run(backend))
    experiment = {**STRUCTURE, **about["experiment"]}
    assert experiment.keys() == {*STRUCTURE, "parts"}  # every field, not just what was given
    assert (experiment["env"], experiment["backend"], experiment["steps"]) == ("Pendulum-v1", backend, 600)
    assert (about["programs"], about["backends"]) == ([[0]], [backend])
    (member,) = about["members"]
    assert member.items() >= {"member": 0, "seed": 0, **NUMBERS}.items()
    assert about["seeds"] == [0]
    assert re.fullmatch("[0-9a-f]{12}", about["hash"])
    assert about["packages"].keys() >= {"ddpg-jax", "jax", "jaxlib", "flax", "optax", "gymnasium", "numpy"}
    assert about["packages"]["ddpg-jax"] == dj.__version__
    assert about["platform"] == "cpu"
    assert about["device_kind"]
    assert about["host"]
    assert about["command"].startswith("ddpg-jax")
    assert about["status"] == "finished"
    begin, end = (datetime.datetime.fromisoformat(about[name]) for name in ("start", "end"))
    assert begin.tzinfo is not None
    assert begin <= end
    assert about["seconds"] > 0


def test_the_manifest_names_the_commit_of_a_source_tree() -> None:
    if not (Path(dj.__file__).parents[1] / ".git").exists():
        pytest.skip("not run from a git checkout")
    assert re.fullmatch("[0-9a-f]{40}", new_manifest(dj.Experiment(), [Member(0, dj.Hyperparams())])["git_commit"] or "")


def test_the_manifest_names_the_commit_that_pip_has_installed(tmp_path: Path) -> None:
    about = tmp_path / "ddpg_jax-1.0.dist-info"
    about.mkdir()
    assert commit_of(tmp_path / "ddpg_jax") is None
    (about / "direct_url.json").write_text('{"url": "https://x/y.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}')
    assert commit_of(tmp_path / "ddpg_jax") == "abc"


@pytest.mark.parametrize("backend", BACKENDS)
def test_metrics_have_a_fixed_header_and_a_row_for_each_evaluation(whole_run: Any, backend: str) -> None:
    """Other programs read these columns by name and place."""
    lines = (whole_run(backend) / "metrics.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert [line.split(",")[:3] for line in lines[1:]] == [["0", "0", step] for step in ("200", "400", "600")]
    table = rows(whole_run(backend))
    assert table[0]["critic_loss"] == "nan"  # nothing is learned in the warm-up
    for row in table[1:]:
        known = [name for name in FIXED[3:] if name not in ("updates_per_second", "seconds", "diverged_step")]
        assert all(np.isfinite(float(row[name])) for name in known)
    assert all(float(row["eval_length_mean"]) == 200 for row in table)


def test_what_is_no_run_is_not_replaced(tmp_path: Path, capfd: Any) -> None:
    """Other programs have a manifest.json and folders of these names, too."""
    out = tmp_path / "site"
    (out / "policy").mkdir(parents=True)
    (out / "policy" / "privacy.md").write_text("ours")
    (out / "manifest.json").write_text('{"name": "a web application"}')
    assert run(*command(out, "--overwrite")) == 2
    assert "not the manifest of a run" in capfd.readouterr().err
    assert (out / "policy" / "privacy.md").read_text() == "ours"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_leaves_these_files_and_no_temporary_ones(whole_run: Any, backend: str) -> None:
    folder = whole_run(backend)
    names = {path.name for path in folder.iterdir()}
    parts = {"manifest.json", "metrics.csv", "summary.json", "checkpoints", "policy", "policy_best", "learning_curve.png"}
    assert names - {".lock", ".policy_best"} == parts
    assert {path.name for path in (folder / "policy").iterdir()} == {"policy.json", "actor.npz"}
    assert [path for path in folder.rglob("*") if "tmp" in path.name] == []
    assert steps_kept(folder) == [400, 600]  # the newest and, should it be damaged, the one before


def test_the_summary_agrees_with_the_metrics(whole_run: Any) -> None:
    summary = json.loads((whole_run() / "summary.json").read_text())
    returns = [float(row["eval_return_mean"]) for row in rows(whole_run())]
    (point,) = summary["points"]
    assert (point["seeds"], point["steps"]) == (1, 600)
    assert point["final_returns"] == [point["final_return_mean"]] == [returns[-1]]
    assert point["best_return_mean"] == max(returns)
    assert point["final_return_interval"] == [None, None]
    assert summary["seconds"] == manifest(whole_run())["seconds"]


def test_the_learning_curve_is_a_picture_of_reasonable_size(whole_run: Any) -> None:
    data = (whole_run() / "learning_curve.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert 600 <= width <= 2400
    assert 400 <= height <= 1600
    assert 10_000 < len(data) < 500_000
    with Image.open(whole_run() / "learning_curve.png") as picture:
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 5  # not blank


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_policy_is_plain_arrays_and_acts_as_the_trained_actor(whole_run: Any, backend: str) -> None:
    folder = whole_run(backend)
    with np.load(folder / "policy" / "actor.npz", allow_pickle=False) as leaves:
        assert leaves.files
        assert all(leaves[name].dtype == np.float32 for name in leaves.files)
    policy = dj.load_policy(folder / "policy")
    kept = newest(folder)
    assert kept is not None
    trained = dataclasses.replace(policy, params=kept.arrays.train.params.actor)
    obs = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    assert np.array_equal(policy(obs), trained(obs))
    assert policy(obs[0]).shape == (1,)
    assert (np.abs(policy(100 * obs)) <= 2).all()  # torques, not numbers in [-1, 1]
    assert policy(obs).std() > 0


def test_a_folder_that_was_moved_loses_nothing(copy_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may name the place where it was written."""
    folder = copy_of()
    assert run("eval", str(folder), "--episodes", "2") == 0
    before = capsys.readouterr().out
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert run("eval", str(moved), "--episodes", "2") == 0
    assert capsys.readouterr().out == before
    assert run(*command(moved, "--resume")) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_eval_gives_the_same_numbers_twice_from_the_folder_alone(
    copy_of: Any, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(backend)
    for name in ("checkpoints", "metrics.csv", "summary.json", "learning_curve.png"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = []
    for seed in ("0", "0", "1"):
        assert run("eval", str(folder), "--episodes", "3", "--seed", seed) == 0
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out != said[2].out
    assert re.match(r"return -\d+\.\d \+- \d+\.\d .*; length 200\.0; 3 episodes\n$", said[0].out)
    assert [one.err for one in said] == ["", "", ""]


def test_both_backends_evaluate_a_policy_alike(whole_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One policy in Gymnasium's Pendulum and in ours: start states differ, but not what is good and what is bad."""
    means = []
    for backend in BACKENDS:
        assert run("eval", str(whole_run()), "--episodes", "50", "--backend", backend) == 0
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith(f"backend={backend}: return")
        means.append([float(number) for number in re.findall(r"-?\d+\.\d+", said)[:2]])
    (a, spread), (b, _) = means
    assert abs(a - b) < 4 * spread / np.sqrt(25)


def test_eval_takes_another_environment_of_the_same_spaces(whole_run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """With another name, keyword arguments of the run's environment do not apply; modules of its own parts still do."""
    folder = str(whole_run())
    capfd.readouterr()
    assert run("eval", folder, "--episodes", "2", "--backend", "host", "--env-kwargs", "g=0.01") == 0
    assert capfd.readouterr().out.startswith('backend=host, env_kwargs={"g": 0.01}: return')
    assert run("eval", folder, "--env", "MountainCarContinuous-v0") == 2
    assert "obs_shape is (2,) and the policy was trained with (3,)" in capfd.readouterr().err
    at = whole_run() / "policy"
    own = recorded(whole_run(), at, {"env": "Other-v0", "imports": ["json"]})
    assert (own.env, own.imports, own.env_kwargs, own.backend) == ("Other-v0", ("json",), "{}", "auto")


def test_eval_starts_no_episode_where_training_did(whole_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same seed, which both have unless told: 20 episodes that nobody has trained on."""
    folder, seen, real = whole_run("host"), [], Lane.reset

    def reset(lane: Lane, seed: int | None = None) -> Any:
        seen.append(seed)
        return real(lane, seed)

    monkeypatch.setattr(Lane, "reset", reset)
    assert run("eval", str(folder)) == 0
    evaluated, seen[:] = {seed for seed in seen if seed not in (None, TRIAL_SEED)}, []
    experiment, hyper = configure({"backend": "host", "num_envs": 4, "updates_per_step": 0.25})
    program = dj.make_program(experiment, [Member(0, hyper)])
    program.start()
    program.close()
    assert len(evaluated) == 20
    assert evaluated.isdisjoint(seen)


def test_eval_writes_a_film(whole_run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pygame")
    film = tmp_path / "film.gif"
    assert run("eval", str(whole_run()), "--episodes", "1", "--video", str(film)) == 0
    said = capfd.readouterr()
    assert said.out.endswith(f"201 frames in {film}\n")
    assert said.err == ""
    assert list(tmp_path.iterdir()) == [film]
    with Image.open(film) as picture:
        assert getattr(picture, "n_frames", 1) > 100  # equal neighbours are merged
        first = np.asarray(picture.convert("L"), float)
        picture.seek(50)
        assert first.shape[0] > 100
        assert np.abs(np.asarray(picture.convert("L"), float) - first).max() > 50  # the pendulum moves


@pytest.mark.parametrize("damage", ["pickled", "truncated", "missing", "policy.json"])
def test_eval_refuses_a_policy_that_is_not_plain_arrays(
    copy_of: Any, damage: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A policy comes by mail: to look at it must not run what is in it."""
    folder = copy_of()
    actor = folder / "policy" / "actor.npz"
    if damage == "pickled":
        leaves: dict[str, Any] = {"action/kernel": np.array([Trap(tmp_path / "sprung")], dtype=object)}
        np.savez(actor, **leaves)
    elif damage == "truncated":
        actor.write_bytes(actor.read_bytes()[:100])
    elif damage == "missing":
        actor.unlink()
    else:
        (folder / "policy" / "policy.json").write_text("{}")
    capfd.readouterr()
    assert run("eval", str(folder), "--episodes", "1") == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"policy={folder / 'policy'}" in said.err
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What `plot` draws, instead of pictures."""
    figures: list[dict[str, np.ndarray]] = []

    def draw(panels: dict[str, dict[str, np.ndarray]], path: Path, **more: Any) -> None:
        figures.append({f"{env}: {label}": curve for env, curves in panels.items() for label, curve in curves.items()})

    monkeypatch.setattr(drawing, "learning_curves", draw)
    return figures


def fake_run(folder: Path, curve: list[float], **fields: Any) -> str:
    """A folder as a run would leave it, as far as `plot` reads it."""
    experiment, hyper = configure(fields)
    place = RunFolder(folder)
    folder.mkdir()
    place.write_manifest(**new_manifest(experiment, [Member(experiment.seed, hyper)]))
    every = {"member": 0, "seed": experiment.seed, "diverged_step": ""}
    place.rewrite_rows(
        [{**dict.fromkeys(FIXED, 0.0), **every, "step": 10 * (i + 1), "eval_return_mean": y} for i, y in enumerate(curve)]
    )
    return str(folder)


def test_plot_joins_seeds_and_cuts_them_to_the_shortest(tmp_path: Path, drawn: list[dict[str, np.ndarray]]) -> None:
    first = fake_run(tmp_path / "a", [1.0, 2.0, 3.0], seed=1)
    second = fake_run(tmp_path / "b", [5.0, 6.0], seed=2, steps=40_000)
    assert run("plot", first, second, "--out", str(tmp_path / "p.png")) == 0
    assert drawn[0].keys() == {"Pendulum-v1: default"}
    assert drawn[0]["Pendulum-v1: default"].tolist() == [[[10, 1], [20, 2]], [[10, 5], [20, 6]]]


def test_what_has_stopped_cuts_no_other_curve_short(tmp_path: Path, drawn: list[dict[str, np.ndarray]]) -> None:
    """A seed that was solved keeps its last return, as it does within a sweep."""
    folders = [fake_run(tmp_path / "solved", [1.0, 2.0], seed=1), fake_run(tmp_path / "whole", [5.0, 6.0, 7.0], seed=2)]
    RunFolder(tmp_path / "solved").write_manifest(stopped={"0": [20, "until"]})
    assert run("plot", *folders, "--out", str(tmp_path / "p.png")) == 0
    assert drawn[0]["Pendulum-v1: default"].tolist() == [[[10, 1], [20, 2], [30, 2]], [[10, 5], [20, 6], [30, 7]]]
    RunFolder(tmp_path / "whole").write_manifest(stopped={"0": [30, "until"]})
    assert run("plot", *folders, "--out", str(tmp_path / "p.png")) == 0
    assert drawn[1]["Pendulum-v1: default"].tolist() == drawn[0]["Pendulum-v1: default"].tolist()
    run_of = RunFolder(tmp_path / "solved")
    run_of.write_manifest(stopped={})
    run_of.rewrite_rows([{**row, "diverged_step": 20} for row in run_of.read_rows()])
    assert run("plot", *folders, "--out", str(tmp_path / "p.png")) == 0
    np.testing.assert_array_equal(drawn[2]["Pendulum-v1: default"][0], [[10, 1], [20, 2], [30, np.nan]])


def test_plot_keeps_apart_what_is_not_the_same_experiment(tmp_path: Path, drawn: list[dict[str, np.ndarray]]) -> None:
    """Two environments, or two settings, averaged as if they were seeds would be a wrong result. Labels are short."""
    usual = fake_run(tmp_path / "usual", [1.0], hidden="16-16", n_step=3)
    runs = [
        usual,
        fake_run(tmp_path / "seed", [2.0], hidden="16-16", n_step=3, seed=1),
        fake_run(tmp_path / "tau", [3.0], hidden="16-16", n_step=3, tau=0.01),
        fake_run(tmp_path / "env", [4.0], hidden="16-16", n_step=3, env="probe/lqr"),
        fake_run(tmp_path / "preset", [5.0], hidden="16-16", n_step=3, preset="nexus"),
        fake_run(tmp_path / "hidden", [6.0], hidden="32-16", n_step=3),
    ]
    assert run("plot", *runs, "--out", str(tmp_path / "p.png")) == 0
    assert sorted(curve[:, 0, 1].tolist() for curve in drawn[0].values()) == [[1.0, 2.0], [3.0], [4.0], [5.0], [6.0]]
    assert [label for label in drawn[0] if "n_step" in label] == []  # the same everywhere
    assert [label.startswith("Pendulum-v1: nexus") for label, curve in drawn[0].items() if curve[0, 0, 1] == 5] == [True]
    assert [label for label, curve in drawn[0].items() if curve[0, 0, 1] == 3 and "tau=0.01" in label]
    assert [label for label, curve in drawn[0].items() if curve[0, 0, 1] == 4 and label.startswith("probe/lqr: default")]
    assert run("plot", usual, "--out", str(tmp_path / "p.png")) == 0
    assert drawn[1].keys() == {"Pendulum-v1: default"}


def test_plot_keeps_apart_how_members_stop_and_change(tmp_path: Path, drawn: list[dict[str, np.ndarray]]) -> None:
    """A run with a schedule begins with the same settings as one without; a pruned sweep is compared with a whole one."""
    runs = [fake_run(tmp_path / name, [float(y)], seed=0) for y, name in enumerate(("usual", "scheduled", "pruned", "until"))]
    RunFolder(tmp_path / "scheduled").write_manifest(evolution={"schedule": [[0, {"tau": 0.1}], [10, {"tau": 0.2}]]})
    RunFolder(tmp_path / "pruned").write_manifest(stopping={"pruning": [[10], 0.5], "until": None})
    RunFolder(tmp_path / "until").write_manifest(stopping={"pruning": None, "until": [-200.0, 1]})
    assert run("plot", *runs, "--out", str(tmp_path / "p.png")) == 0
    assert list(drawn[0]) == [
        "Pendulum-v1: default",
        "Pendulum-v1: default, schedule=0 tau=0.1; 10 tau=0.2",
        "Pendulum-v1: default, prune=10 by 0.5",
        "Pendulum-v1: default, until=-200:1",
    ]


def test_plot_of_two_folders_writes_a_picture(whole_run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "both.png"
    runs = [str(whole_run("device")), str(whole_run("host"))]
    capfd.readouterr()  # what they said, if nobody had run them yet
    assert run("plot", *runs, "--out", str(picture)) == 0
    said = capfd.readouterr()
    assert said.out == f"{picture}\n"
    assert said.err == ""
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_overwrite_removes_the_run_and_nothing_else(copy_of: Any) -> None:
    folder = copy_of()
    (folder / "notes.txt").write_text("mine")
    assert run(*command(folder, "--overwrite", "--seed", "5", "--steps", "400")) == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert manifest(folder)["seeds"] == [5]
    assert [(row["seed"], row["step"]) for row in rows(folder)] == [("5", "200"), ("5", "400")]
    assert max(steps_kept(folder)) == 400


def test_an_overwrite_that_is_killed_half_way_can_be_repeated(copy_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest goes last: without it the rest would be a folder of unknown origin, which nothing may touch."""
    folder = copy_of()
    place = RunFolder(folder)
    monkeypatch.setattr(shutil, "rmtree", lambda path: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        place.clear()
    monkeypatch.undo()
    assert run(*command(folder, "--overwrite", "--steps", "400")) == 0
    assert manifest(folder)["status"] == "finished"


def test_without_out_the_same_settings_find_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(Path("unused"))[:-2]
    assert run(*words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"Pendulum-v1-default-seed0-[0-9a-f]{6}", folder.name)
    assert rows(folder) == rows(whole_run())
    assert run(*words, "--resume") == 0
    assert run(*words) == 2
    assert "holds a run" in capfd.readouterr().err


def another(name: str, value: Any) -> Any:
    """Some other value of a field; None where there is no other."""
    if FIELDS[name].allowed():
        return next((choice for choice in FIELDS[name].allowed() if choice != value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return {float: lambda: 0.75 * value + 0.07, str: lambda: "probe/lqr", tuple: lambda: (1,)}[type(value)]()


def test_the_digest_differs_with_any_field_but_steps() -> None:
    """It names the folder: two experiments with one digest would be taken for one another."""
    experiment, hyper = dj.Experiment(), dj.Hyperparams()
    others = {name: another(name, value) for name, value in STRUCTURE.items() if another(name, value) is not None}
    assert len(others) > 20
    digests = {name: digest(dataclasses.replace(experiment, **{name: x}), [Member(0, hyper)]) for name, x in others.items()}
    for name, value in NUMBERS.items():
        digests[name] = digest(experiment, [Member(0, hyper._replace(**{name: another(name, value)}))])
    for seeds in ((1,), (0, 1), (1, 0)):
        digests[str(seeds)] = digest(experiment, [Member(seed, hyper) for seed in seeds])
    own = digest(experiment, [Member(0, hyper)])
    assert digests.pop("steps") == digests.pop("updates") == own
    digests["offline"] = digest(dataclasses.replace(experiment, steps=0, updates=5), [Member(0, hyper)])
    assert digests["offline"] == digest(dataclasses.replace(experiment, steps=0, updates=9), [Member(0, hyper)])
    digests["defaults"] = digest(dj.Experiment(), [Member(0, dj.Hyperparams())])
    assert len(set(digests.values())) == len(digests)


def test_a_sweep_of_many_programs_is_not_made_longer(tmp_path: Path) -> None:
    """Only the last program still has a checkpoint: the points of the others would silently keep their old length."""
    fake_run(tmp_path / "a", [1.0])
    place = RunFolder(tmp_path / "a")
    longer, members = dj.Experiment(steps=40_000), [Member(0, dj.Hyperparams())]
    place.claim(longer, members, resume=True, overwrite=False)
    place.write_manifest(programs=[[0], [0]])
    with pytest.raises(dj.ConfigError, match=r"steps=40000 .*the run has 20000"):
        RunFolder(tmp_path / "a").claim(longer, members, resume=True, overwrite=False)


def test_a_run_whose_journal_is_of_another_form_is_refused(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", [1.0])
    place = RunFolder(tmp_path / "a")
    place.write_manifest(format=1)
    with pytest.raises(dj.ConfigError, match="another version of ddpg_jax"):
        place.claim(dj.Experiment(), [Member(0, dj.Hyperparams())], resume=True, overwrite=False)


def test_what_checkpoints_keep_changes_together_with_the_format() -> None:
    """Otherwise, checkpoints of older versions are tried, and fail with an error of orbax. On failure, change both numbers."""
    parts = {"normalize_obs": True, "normalize_reward": True, "batch_norm": True, "replay": "prioritized", "exploration": "ou"}
    kept = []
    for fields in ({"preset": "d4pg", "backend": "device"}, {**parts, "backend": "host"}, {"exploration": "parameter"}):
        experiment, hyper = configure({**fields, "env": "Pendulum-v1", "replay_capacity": 1_000})
        with contextlib.closing(dj.make_program(experiment, [Member(0, hyper)])) as program:
            leaves = jax.tree_util.tree_flatten_with_path(program.shapes())[0]
        kept += [f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}" for path, leaf in leaves]
    own = "\n".join([*Journal._fields, *(line for line in kept if ".opt." not in line)])  # optax may change what it keeps
    assert (FORMAT, zlib.crc32(own.encode())) == (4, 2532040118), own


def test_a_run_of_an_older_version_goes_on_if_newer_fields_are_at_their_defaults(tmp_path: Path) -> None:
    fake_run(tmp_path / "a", [1.0])
    place = RunFolder(tmp_path / "a")
    identity = place.manifest()["identity"]
    del identity["precision"], identity["wrappers"], identity["members"][0]["reward_scale"]
    place.write_manifest(identity=identity, hash="")
    members = [Member(0, dj.Hyperparams())]
    place.claim(dj.Experiment(), members, resume=True, overwrite=False)
    with pytest.raises(dj.ConfigError, match=r"other settings: precision=bfloat16 \(the run has float32\); resume"):
        place.claim(dj.Experiment(precision="bfloat16"), members, resume=True, overwrite=False)
    with pytest.raises(dj.ConfigError, match=r"other settings: reward_scale=0.5 \(the run has 1.0\); resume"):
        place.claim(dj.Experiment(), [Member(0, dj.Hyperparams(reward_scale=0.5))], resume=True, overwrite=False)


def test_names_of_folders_have_no_slashes() -> None:
    for env in ("probe/lqr", "module:Env-v0"):
        path = default_folder(dj.Experiment(env=env), [Member(0, dj.Hyperparams())])
        assert path.parent == Path("runs")
        assert ":" not in path.name


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes leaves the old file."""
    path = tmp_path / "manifest.json"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *arguments: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_made(whole_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgramQueue, "check", lambda self: pytest.fail("it was made"))
    assert run(*command(whole_run())) == 2


def test_rows_survive_a_round_trip_and_a_torn_line(tmp_path: Path) -> None:
    """Floats come back bit for bit; a line without its end is what a killed process leaves, and is no row."""
    place = RunFolder(tmp_path)
    values = [0.1 + 0.2, -1e-300, 1e22, float("nan"), -0.0, 200.0]
    others = {"seed": 2**31 - 1, "eval_return_mean": 0.5, "eval_return_std": float("nan"), "diverged_step": ""}
    table = [{"member": 0, **others, "step": i, "x": value} for i, value in enumerate(values)]
    place.append_rows(table[:2])
    place.append_rows(table[2:])
    text = place.metrics.read_text()
    assert text.count("member") == 1
    back = place.read_rows()
    assert [struct.pack("d", row["x"]) for row in back] == [struct.pack("d", value) for value in values]
    assert [type(row["step"]) for row in back] == [int] * 6
    place.rewrite_rows(back)
    assert place.metrics.read_text() == text
    for end in range(len(text)):  # wherever the process was killed
        place.metrics.write_text(text[:end])
        assert [row["step"] for row in place.read_rows()] == list(range(max(text[:end].count("\n") - 1, 0)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda line: line.replace(",", ";"), "line 3 does not have as many columns"),
        (lambda line: line.replace(",400,", ",4x0,"), "line 3 has step=4x0, which is not a number"),
        (lambda line: line.replace(",400,", ",4.5,"), "line 3 has step=4.5, which is not a whole number"),
        (lambda line: line.replace("0,0,", "5,0,"), "line 3 has member=5 with seed=0, which is not a member of this run"),
    ],
)
def test_a_damaged_table_is_one_line(copy_of: Any, damage: Any, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = copy_of()
    lines = (place / "metrics.csv").read_text().splitlines(keepends=True)
    (place / "metrics.csv").write_text("".join([*lines[:2], damage(lines[2]), *lines[3:]]))
    assert run("plot", str(place), "--out", str(place / "x.png")) == 2
    assert f"{place}/metrics.csv cannot be read: {words}" in capsys.readouterr().err


def test_a_policy_whose_sizes_are_not_those_of_its_arrays_is_refused_when_it_is_read(copy_of: Any) -> None:
    place = copy_of() / "policy"
    about = json.loads((place / "policy.json").read_text())
    (place / "policy.json").write_text(json.dumps({**about, "hidden": [16, 17]}))
    with pytest.raises(dj.ConfigError, match=r"cannot be read: .*shape"):
        dj.load_policy(place)


@pytest.mark.parametrize("name", ["hidden", "actor_hidden", "critic_hidden"])
@pytest.mark.parametrize("sizes", [[4] * 1_000, 5, ["x"]], ids=["many", "number", "words"])
def test_sizes_that_no_network_has_are_refused_before_one_is_made(copy_of: Any, name: str, sizes: Any) -> None:
    place = copy_of() / "policy"
    about = json.loads((place / "policy.json").read_text())
    del about["own_sha256"]
    (place / "policy.json").write_text(json.dumps({**about, name: sizes}))
    with pytest.raises(dj.ConfigError, match=f"{name}=.*it must be up to 256 whole numbers"):
        dj.load_policy(place)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names: names[1:], "has no .*, where the network of policy.json has one of shape"),
        (lambda names: [*names, "more"], "has more, which the network of policy.json has not"),
        (lambda names: [*names, names[0]], "has an array twice"),
    ],
    ids=["missing", "more", "twice"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_arrays_that_are_not_those_of_the_network_are_named(copy_of: Any, change: Any, words: str) -> None:
    file = copy_of() / "policy" / "actor.npz"
    with np.load(file) as arrays:
        known = {name: arrays[name] for name in arrays.files}
    with zipfile.ZipFile(file, "w") as archive:
        for name in change(list(known)):
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, known.get(name, np.zeros(1)))
    with pytest.raises(dj.ConfigError, match=f"actor.npz {words}"):
        dj.load_policy(file.parent)


@pytest.mark.parametrize("name", ["activation", "precision"])
def test_a_policy_of_a_newer_kind_is_refused_when_it_is_read(copy_of: Any, name: str) -> None:
    place = copy_of() / "policy"
    about = json.loads((place / "policy.json").read_text())
    (place / "policy.json").write_text(json.dumps({**about, name: "other"}))
    with pytest.raises(dj.ConfigError, match=f"cannot be read: {name}=other is not known; it must be one of "):
        dj.load_policy(place)


@pytest.mark.parametrize("at", [".", "policy"])
def test_the_policies_of_a_sweep_are_named_where_one_is_to_be_read(copy_of: Any, at: str) -> None:
    place = copy_of()
    (place / "policy").rename(place / "member_3")
    (place / "policy").mkdir()
    (place / "member_3").rename(place / "policy" / "member_3")
    with pytest.raises(dj.ConfigError, match=r"holds the policies of a sweep; name one of them, such as .*/policy/member_3"):
        dj.load_policy(place / at)


@pytest.mark.parametrize("after", ["nothing", "another run"])
def test_a_run_whose_folder_is_moved_writes_nothing_at_its_old_place(
    after: str, whole_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else its rows are mixed with those of the run that begins there next, and both are called finished."""
    out, moved, real = tmp_path / "run", tmp_path / "moved", metrics_table.append_rows

    def append_and_move(path: Path, table: Any) -> None:
        real(path, table)
        if not moved.exists():
            shutil.move(out, moved)
            if after == "another run":
                shutil.copytree(whole_run(), out)

    monkeypatch.setattr(metrics_table, "append_rows", append_and_move)
    assert run(*command(out, "--seed", "7")) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"out={out} was moved, removed or replaced" in said
    assert not out.exists() if after == "nothing" else rows(out) == rows(whole_run())
    monkeypatch.undo()
    assert run(*command(moved, "--seed", "7", "--resume")) == 0
    assert [row["step"] for row in rows(moved)] == ["200", "400", "600"]


def test_a_folder_whose_lock_is_not_that_of_the_run_is_not_written_to(tmp_path: Path) -> None:
    place = RunFolder(tmp_path / "a")
    place.claim(dj.Experiment(), [Member(0, dj.Hyperparams())], resume=False, overwrite=False)
    place.hold()
    place.write_manifest(status="running")
    (tmp_path / "a" / ".lock").unlink()
    with pytest.raises(dj.ConfigError, match=r"a \.lock other than"):
        place.write_manifest(status="finished")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES])
def test_a_file_system_without_locks_is_not_in_use(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(hold.fcntl, "flock", flock)
    place = RunFolder(tmp_path / "a")
    place.claim(dj.Experiment(), [Member(0, dj.Hyperparams())], resume=False, overwrite=False)
    assert "without locks" in capfd.readouterr().err
    assert place.mark()


@pytest.mark.parametrize(
    "name", ["[a]", "a[!b]", "a\\b", "**", "a?b", "%20", "gs:", "a.orbax-checkpoint-tmp", "{a,b}", "a b\nc", "雪"]
)
def test_a_run_in_a_folder_of_any_name_can_be_resumed(name: str, tmp_path: Path) -> None:
    """Orbax and tensorstore take some characters for patterns; a checkpoint that can never be read is worth nothing."""
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        checkpoints.save(Checkpoint(0, 5, {"x": jax.numpy.ones(3)}, None, []))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {"x": jax.ShapeDtypeStruct((3,), np.float32, sharding=one)}
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        found = checkpoints.newest(lambda number: shapes, pytest.fail)
    assert found is not None
    assert found.iteration == 5


def policy_of(copy: Path) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    """The folder of a policy, its policy.json and its arrays."""
    place = copy / "policy"
    with np.load(place / "actor.npz") as leaves:
        return place, json.loads((place / "policy.json").read_text()), {name: leaves[name] for name in leaves.files}


def save_arrays(path: Path, arrays: dict[str, np.ndarray], *, compressed: bool = False) -> None:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("change", [{"activation": "tanh"}, {"own_sha256": "0"}, {"layer_norm": False, "more": 1}])
def test_a_policy_that_was_changed_is_named(change: dict[str, Any], copy_of: Any) -> None:
    """Also where it would still act."""
    place, about, _ = policy_of(copy_of())
    (place / "policy.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(dj.ConfigError, match=r"policy\.json was changed after it was saved"):
        dj.load_policy(place)
    del about["own_sha256"]  # as of an older version
    (place / "policy.json").write_text(json.dumps(about))
    dj.load_policy(place)


def test_parameters_that_are_not_finite_do_not_act_in_silence(copy_of: Any) -> None:
    place, _, _ = policy_of(copy_of())
    policy = dj.load_policy(place)
    dataclasses.replace(policy, params=jax.tree.map(lambda x: x * np.nan, policy.params)).save(place)
    with pytest.warns(UserWarning, match="has parameters that are not finite: its training has diverged"):
        dj.load_policy(place)


@pytest.mark.parametrize("how", ["digit", "fewer"])
def test_a_figure_does_not_believe_rows_that_were_changed(how: str, copy_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    copy = copy_of()
    table = copy / "metrics.csv"
    lines = table.read_text().splitlines(keepends=True)
    cells = lines[1].split(",")
    cells[3] = str(float(cells[3]) + 1)
    table.write_text("".join([lines[0], ",".join(cells), *lines[2:]] if how == "digit" else lines[:-1]))
    assert run("plot", str(copy), "--out", str(copy / "x.png")) == 2
    sentence = "was changed after" if how == "digit" else f"has {len(lines) - 2} of the {len(lines) - 1} rows"
    assert sentence in capsys.readouterr().err


def test_an_experiment_that_was_changed_in_a_manifest_is_named(copy_of: Any) -> None:
    copy = copy_of()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["experiment"]["batch_size"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(dj.ConfigError, match="experiment and identity differ in batch_size"):
        RunFolder(copy).manifest()


@pytest.mark.parametrize("trick", ["more", "larger", "compressed", "integers", "complex", "twice", "pipe", "other arrays"])
def test_a_strangers_arrays_are_known_before_they_are_unpacked(trick: str, copy_of: Any) -> None:
    """3 MB of zeros can be 3 GB once they are unpacked; a pipe keeps its reader waiting."""
    place, about, arrays = policy_of(copy_of())
    first = next(iter(arrays))
    changed = {
        "more": {**arrays, "x": np.zeros(1_000_000, np.float32)},
        "larger": {**arrays, first: np.zeros((1000, *arrays[first].shape), np.float32)},
        "integers": {**arrays, first: arrays[first].astype(np.int32)},
        "complex": {**arrays, first: arrays[first].astype(np.complex64)},
        "other arrays": {**arrays, first: arrays[first] + 1},
    }.get(trick, arrays)
    if trick != "other arrays":
        del about["sha256"]
        (place / "policy.json").write_text(json.dumps(about))
    save_arrays(place / "actor.npz", changed, compressed=trick in ("compressed", "more"))
    if trick == "twice":
        with zipfile.ZipFile(place / "actor.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(f"{first}.npy", b"")
    if trick == "pipe":
        (place / "actor.npz").unlink()
        os.mkfifo(place / "actor.npz")
    with pytest.raises(dj.ConfigError, match=r"policy=.* cannot be read: actor\.npz "):
        dj.load_policy(place)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action_low": [2.0], "action_high": [-2.0]}, r"env.action_low=\[2.0\] is not allowed; it must be below"),
        ({"action_low": [float("nan")]}, r"env.action_low=\[nan\] is not allowed"),
        ({"action_low": [-1e308]}, r"env.action_low=.* must be within float32"),
        ({"action_low": [-1e6], "action_dtype": "float16"}, r"env.action_low=.* must be within float16"),
        ({"action_high": [1.0, 2.0]}, "env.action_high=.* a list of 1 finite numbers"),
        ({"obs_shape": [3.0]}, "env.obs_shape"),
        ({"obs_shape": [True]}, "env.obs_shape"),
        ({"action_dtype": "object"}, "env.action_dtype=object"),
        ({"reward_threshold": "high"}, "env.reward_threshold=high"),
        ({"max_steps": -1}, "env.max_steps=-1"),
        ({"colour": "red"}, "env=colour"),
    ],
)
def test_a_strangers_environment_is_one_that_can_be(change: dict[str, Any], words: str, copy_of: Any) -> None:
    place, about, _ = policy_of(copy_of())
    (place / "policy.json").write_text(json.dumps({**about, "env": {**about["env"], **change}}))
    with pytest.raises(dj.ConfigError, match=f"cannot be read: {words}"):
        dj.load_policy(place)


@pytest.mark.parametrize(
    "text", ['{"format": 99, "env": {}}', " " * 2_000_000, "[" * 100_000, "[]", '{"hidden": [1.5]}', "pipe"]
)
def test_a_strangers_policy_json_is_one_sentence(text: str, copy_of: Any) -> None:
    place, _, _ = policy_of(copy_of())
    (place / "policy.json").unlink()
    (os.mkfifo if text == "pipe" else Path.touch)(place / "policy.json")
    if text != "pipe":
        (place / "policy.json").write_text(text)
    with pytest.raises(dj.ConfigError, match=r"policy=.* cannot be read: "):
        dj.load_policy(place)


def test_a_policy_that_is_saved_again_is_whole_wherever_the_process_is_killed(
    copy_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy_of() / "policy"
    policy = dj.load_policy(place)
    other = dataclasses.replace(policy, params=jax.tree.map(lambda leaf: leaf + 1, policy.params))
    real = Path.replace
    for kill in range(4):
        calls: list[int] = []

        def replace(path: Path, target: Any, calls: list[int] = calls, kill: int = kill) -> Any:
            calls.append(1)
            if len(calls) > kill:
                raise KeyboardInterrupt
            return real(path, target)

        policy.save(place)
        monkeypatch.setattr(Path, "replace", replace)
        try:
            other.save(place)
        except KeyboardInterrupt:
            assert kill < 3
        monkeypatch.undo()
        found = dj.load_policy(place)(np.zeros(3))
        assert found in (policy(np.zeros(3)), other(np.zeros(3)))


def test_an_environment_that_is_not_the_policys_is_named(copy_of: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copy_of()
    about = manifest(folder)
    about["experiment"]["env"] = about["identity"]["env"] = "MountainCarContinuous-v0"
    about["hash"] = ""
    (folder / "manifest.json").write_text(json.dumps(about))
    capfd.readouterr()
    assert run("eval", str(folder), "--episodes", "1") == 2
    assert "env=MountainCarContinuous-v0 is not allowed with this policy, since its obs_shape" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "format=99 is of a newer version"),
        ({"hash": "0123456789ab"}, "its identity does not match its hash"),
        ({"seconds": float("nan")}, "it is not the manifest"),
        ({"swept": 1}, "it is not the manifest"),
    ],
)
def test_a_changed_manifest_is_named(change: dict[str, Any], words: str, copy_of: Any) -> None:
    folder = copy_of()
    (folder / "manifest.json").write_text(json.dumps({**manifest(folder), **change}))
    with pytest.raises(dj.ConfigError, match=f"manifest.json cannot be read: {words}"):
        RunFolder(folder).manifest()
