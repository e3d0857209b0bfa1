"""The command line: what is wrong is said in one line before anything is done, and results are all of standard output."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import ddpg_jax
from ddpg_jax.app import evaluation, job, progress
from ddpg_jax.app.films import new_film
from ddpg_jax.app.tracking import configuration, tracker
from ddpg_jax.envs.registry import DEVICE
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, PRESETS, STRUCTURE
from tests.runs import TINY, command, manifest, rows, run

pytestmark = pytest.mark.usefixtures("command_line")


class Flat(gymnasium.Env[Any, Any]):
    """An environment that cannot be drawn."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.observation_space.sample() * 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample() * 0, 0.0, False, False, {}


if "tests/Flat-v0" not in gymnasium.registry:
    gymnasium.register("tests/Flat-v0", Flat, max_episode_steps=5)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def one_line(capfd: pytest.CaptureFixture[str]) -> Any:
    """`(*arguments) -> line` on standard error of a command that must fail, with nothing else said and nothing run."""

    def call(*arguments: str) -> str:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "Job", lambda *_, **__: pytest.fail("it began to train"))
            assert run(*arguments) == 2
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err.startswith("ddpg-jax: ")
        return said.err.strip()

    return call


BAD = [
    # arguments after `train`, what the line must name: the field, its value, and what is allowed
    (["Pendulum-v2"], ["env=Pendulum-v2", "nearest", "Pendulum-v1"]),
    (["HalfCheeta-v5"], ["env=HalfCheeta-v5", "nearest", "HalfCheetah-v5"]),
    (["HalfCheetah-v5", "--backend", "device"], ["env=HalfCheetah-v5", "backend=device", "Pendulum-v1"]),
    (["CartPole-v1"], ["env=CartPole-v1", "Discrete", "Box"]),
    (["Pendulum-v1", "--preset", "nexsus"], ["preset=nexsus", "nexus", "fujimoto-ourddpg"]),
    (["Pendulum-v1", "--critic-rl", "1"], ["--critic-rl", "--critic-lr"]),
    (["Pendulum-v1", "--critic-rl=1"], ["--critic-rl", "--critic-lr"]),
    (["Pendulum-v1", "Pendulum-v1"], ["Pendulum-v1 is not an option"]),
    (["Pendulum-v1", "--learning-rate=1"], ["--learning-rate=1 is not an option", "--actor-lr, --critic-lr"]),
    (["Pendulum-v1", "--seeds", "3"], ["--seeds is not an option of train", "ddpg-jax sweep has it"]),
    (["Pendulum-v1", "--layer-norm", "--steps", "9"], ["--layer-norm needs a value; allowed are true, false"]),
    (["Pendulum-v1", "--critic-lr", "-1"], ["critic_lr=-1", "at least 0"]),
    (["Pendulum-v1", "--critic-lr=-1e-3"], ["critic_lr=-1e-3", "at least 0"]),
    (["Pendulum-v1", "--actor-lr", "nan"], ["actor_lr=nan", "finite number of at least 0"]),
    (["Pendulum-v1", "--actor-lr", "inf"], ["actor_lr=inf", "finite number"]),
    (["Pendulum-v1", "--actor-lr", "fast"], ["actor_lr=fast", "finite number"]),
    (["Pendulum-v1", "--actor-lr", ""], ["actor_lr=", "finite number"]),
    (["Pendulum-v1", "--gamma", "2"], ["gamma=2", "from 0 to 1"]),
    (["Pendulum-v1", "--tau", "-0.1"], ["tau=-0.1", "from 0 to 1"]),
    (["Pendulum-v1", "--batch-size", "0"], ["batch_size=0", "whole number from 1"]),
    (["Pendulum-v1", "--batch-size", "2.5"], ["batch_size=2.5", "whole number"]),
    (["Pendulum-v1", "--steps", "1e10"], ["steps=1e10", "2147483647"]),
    (["Pendulum-v1", "--seed", "-1"], ["seed=-1", "whole number from 0"]),
    (["Pendulum-v1", "--hindsight", "future"], ["hindsight=future", "no goals", "point-reach"]),
    (["Pendulum-v1", "--sync-period", "2.5"], ["sync_period=2.5", "whole number"]),
    (["Pendulum-v1", "--noise-schedule", "linear", "--noise-decay-steps", "300"], ["decay_steps=300", "300 of the warm-up"]),
    (["Pendulum-v1", "--lr-schedule", "linear", "--lr-decay-updates", "200"], ["decay_updates=200", "300 of the warm-up"]),
    (["Pendulum-v1", "--hidden", "0"], ["hidden=0", "at least 1", "256-256"]),
    (["Pendulum-v1", "--hidden", "64-"], ["hidden=64-", "256-256"]),
    (["Pendulum-v1", "--exploration", "foo"], ["exploration=foo", "ou", "gaussian", "none"]),
    (["Pendulum-v1", "--layer-norm", "maybe"], ["layer_norm=maybe", "true or false"]),
    (["Pendulum-v1", "--batch-size", "500"], ["batch_size=500", "warmup_steps=300"]),
    (["Pendulum-v1", "--n-step", "90", "--replay-capacity", "80"], ["replay_capacity=80", "n-step window", "90"]),
    (["Pendulum-v1", "--n-step", "2000"], ["n_step=2000", "from 1 to 100"]),
    (["Pendulum-v1", "--tau=--"], ["--tau=--", "needs a value"]),
    (["Pendulum-v1", "--tau", "1e-300"], ["tau=1e-300", "float32"]),
    (["Pendulum-v1", "--num-envs", "8", "--updates-per-step", "0.3"], ["updates_per_step=0.3", "num_envs=8", "whole number"]),
    (["Pendulum-v1", "--steps", "2000000000", "--updates-per-step", "2"], ["updates_per_step=2", "at most 2,147,483,647"]),
    (["Pendulum-v1", "--action-layer", "9"], ["action_layer=9", "at most 2"]),
    (["Pendulum-v1", "--critic-hidden", "64", "--action-layer", "2"], ["action_layer=2", "critic_hidden=64", "at most 1"]),
    (["Pendulum-v1", "--lr-schedule", "exponential", "--actor-lr", "0"], ["actor_lr=0", "above 0"]),
    (["Pendulum-v1", "--lr-schedule", "exponential", "--lr-final", "0"], ["lr_final=0", "above 0"]),
    (["Pendulum-v1", "--ou-theta", "4", "--ou-dt", "0.5"], ["ou_theta=4", "below 2"]),
    (["Pendulum-v1", "--checkpoint-seconds", "-1"], ["checkpoint_seconds=-1", "at least 0"]),
    (["Pendulum-v1", "--checkpoint-seconds", "nan"], ["checkpoint_seconds=nan", "at least 0"]),
    (["Pendulum-v1", "--resume", "--overwrite"], ["--resume", "--overwrite"]),
    (["Pendulum-v1", "--track", "paper"], ["--track", "paper", "tensorboard", "wandb"]),
    (["Pendulum-v1", "--critic-lr"], ["--critic-lr"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_that_names_the_field_before_anything_is_written(
    one_line: Any, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    line = one_line("train", *TINY, "--out", str(tmp_path / "out"), *arguments)
    assert [word for word in words if word not in line] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("env", ["no_such_module:Env-v0", "a:b:c"])
def test_an_environment_in_a_module_that_is_not_there_is_one_line(one_line: Any, tmp_path: Path, env: str) -> None:
    assert f"env={env}" in one_line("train", env, *TINY, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_negative_number_reaches_its_field(one_line: Any, tmp_path: Path) -> None:
    line = one_line("train", "Pendulum-v1", "--critic-lr", "-1e-3", "--out", str(tmp_path / "out"))
    assert "critic_lr=-0.001" in line or "critic_lr=-1e-3" in line
    assert "at least 0" in line


def test_missing_and_unknown_words_are_one_line(one_line: Any) -> None:
    assert "ENV" in one_line("train")
    assert "train, sweep, tune, eval" in one_line()
    line = one_line("trian", "Pendulum-v1")
    assert "trian" in line
    assert "train" in line
    assert "DIR" in one_line("eval")
    assert "--episode" in one_line("eval", "x", "--episode", "3")  # no abbreviations: a new option must not change old ones


def test_a_tracker_that_is_not_installed_names_the_extra_and_leaves_no_folder(
    one_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    line = one_line("train", "Pendulum-v1", *TINY, "--track", "wandb", "--out", str(tmp_path / "out"))
    assert "track=wandb" in line
    assert "extra track" in line
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_that_holds_a_run_is_left_alone(one_line: Any, copy_of: Any) -> None:
    folder = copy_of()
    before = contents(folder)
    line = one_line(*command(folder))
    assert str(folder) in line
    assert "--resume" in line
    assert "--overwrite" in line
    assert contents(folder) == before


def test_resume_with_other_settings_names_them_and_both_values(one_line: Any, copy_of: Any) -> None:
    """Otherwise one folder would hold the results of two experiments."""
    folder = copy_of()
    before = contents(folder)
    line = one_line(*command(folder, "--resume", "--seed", "3", "--critic-lr", "2e-3", "--hidden", "32-16"))
    assert "seed=3 (the run has 0)" in line
    assert "critic_lr=0.002 (the run has 0.001)" in line
    assert "hidden=[32, 16] (the run has [16, 16])" in line
    assert "gamma" not in line
    line = one_line(*command(folder, "--resume", "--steps", "400"))
    assert "steps=400" in line
    assert "600" in line
    assert contents(folder) == before


def test_folders_that_cannot_be_used_are_named_and_left_alone(one_line: Any, tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    for more in ((), ("--overwrite",)):
        assert "not empty" in one_line(*command(foreign, *more))
    assert "no run to resume" in one_line(*command(foreign, "--resume"))
    assert "no run to resume" in one_line(*command(tmp_path / "nothing", "--resume"))
    assert "is a file" in one_line(*command(foreign / "chapter.txt"))
    assert str(foreign / "chapter.txt") in one_line(*command(foreign / "chapter.txt" / "below"))
    assert contents(tmp_path) == {"thesis/chapter.txt": b"years of work"}


def test_a_folder_is_for_one_process_at_a_time(one_line: Any, copy_of: Any) -> None:
    """Two processes that write the same checkpoints would destroy both runs."""
    import fcntl

    folder = copy_of()
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use by another process" in one_line(*command(folder, "--resume"))


def test_a_folder_that_a_killed_start_left_can_be_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Killed between the lock and the manifest, a run leaves files that are nobody's work."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / "manifest.json.tmp").write_text("{")
    assert run(*command(out)) == 0
    assert manifest(out)["status"] == "finished"
    assert capfd.readouterr().out.startswith("Pendulum-v1: return ")


@pytest.mark.parametrize("words", [("eval",), ("plot",), ("eval", "--video", "x.gif")], ids=" ".join)
def test_commands_on_a_folder_without_a_run_are_one_line(one_line: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        line = one_line(words[0], str(folder), *words[1:])
        assert f"{folder} holds no run" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_disable_jit", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_debug_nans", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_transfer_guard_device_to_host", "disallow"),
    ],
)
def test_settings_of_jax_that_change_results_are_one_line(one_line: Any, tmp_path: Path, name: str, value: Any) -> None:
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        assert f"{name.upper()}={value} is not allowed, since " in one_line(*command(tmp_path / "out"))
        with pytest.raises(ddpg_jax.ConfigError, match=f"{name.upper()}={value} is not allowed, since "):
            ddpg_jax.train()
    finally:
        jax.config.update(name, before)
    assert not (tmp_path / "out").exists()


def test_a_second_field_of_a_grid_needs_its_own_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", "Pendulum-v1", "--grid", "tau=0.1,0.2", "critic_lr=1e-3,1e-2") == 2
    assert "write --grid critic_lr=1e-3,1e-2, one --grid for each field" in capsys.readouterr().err


@pytest.mark.parametrize(("job", "platform"), [("train", "cuda"), ("sweep", "cuda"), ("train", "nonsense")])
def test_a_platform_that_is_not_here_is_one_line(tmp_path: Path, job: str, platform: str) -> None:
    arguments = [sys.executable, "-m", "ddpg_jax", job, *command(tmp_path / "out")[1:]]
    done = subprocess.run(arguments, env={**os.environ, "JAX_PLATFORMS": platform}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"ddpg-jax: JAX_PLATFORMS={platform} is not allowed here")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text_is_one_line(one_line: Any, tmp_path: Path) -> None:
    assert "its name must be UTF-8" in one_line(*command(Path(f"{tmp_path}/caf\udce9")))


@pytest.mark.parametrize(
    "change", [{"programs": [[5]]}, {"programs": [[]]}, {"identity": {"preset": "default", "env": "x", "members": [None]}}]
)
def test_a_manifest_of_members_that_are_none_is_one_line(one_line: Any, copy_of: Any, change: dict[str, Any]) -> None:
    folder = copy_of()
    about = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**about, **change}))
    assert "it is not the manifest of a run" in one_line(*command(folder, "--resume"))


def test_a_table_with_other_columns_is_not_added_to(copy_of: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copy_of()
    lines = (folder / "metrics.csv").read_text().splitlines()
    more = "".join(f"{line},{'note' if n == 0 else 1}\n" for n, line in enumerate(lines))
    (folder / "metrics.csv").write_text(more)
    capfd.readouterr()
    assert run(*command(folder, "--resume", "--steps", "800")) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith("has columns that this run does not write: note; remove them")
    assert (folder / "metrics.csv").read_text() == more


@pytest.mark.parametrize("text", ["{}", "[]", '{"experiment', ""])
def test_a_damaged_manifest_is_one_line(one_line: Any, copy_of: Any, text: str) -> None:
    folder = copy_of()
    (folder / "manifest.json").write_text(text)
    for arguments in (("eval", str(folder)), ("plot", str(folder)), command(folder, "--resume")):
        assert "manifest.json" in one_line(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--video", "film.avi"], ["video=film.avi", ".gif"]),
        (["--video", "film"], ["video=film", ".gif"]),
        (["--video", "nowhere/film.gif"], ["video=nowhere/film.gif", "nowhere"]),
        (["--episodes", "0"], ["episodes=0", "at least 1", "from 1"]),
        (["--episodes", "many"], ["episodes=many"]),
        (["--seed", "-1"], ["seed=-1"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_eval_checks_its_options_before_it_works(
    one_line: Any, whole_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    """A hundred episodes on a slow environment must not come before the news that .mp4 is not written."""
    folder = whole_run()
    monkeypatch.chdir(tmp_path)
    line = one_line("eval", str(folder), *arguments)
    assert any(word in line for word in words[1:] or words)
    assert words[0] in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("env", ["probe/observation", "brax/ant", "tests/Flat-v0"])
def test_a_film_of_what_cannot_be_drawn_is_one_line(one_line: Any, env: str, copy_of: Any, tmp_path: Path) -> None:
    """Two are only written in JAX, the other is a Gymnasium environment without render."""
    folder = copy_of()
    about = manifest(folder)
    about["experiment"]["env"] = about["identity"]["env"] = env
    about["hash"] = ""
    (folder / "manifest.json").write_text(json.dumps(about))
    line = one_line("eval", str(folder), "--episodes", "1", "--video", str(tmp_path / "film.gif"))
    assert f"video={tmp_path / 'film.gif'}" in line
    assert f"env={env} does not render" in line
    assert list(tmp_path.iterdir()) == [folder]


def test_plot_says_which_endings_it_writes(one_line: Any, whole_run: Any, tmp_path: Path) -> None:
    line = one_line("plot", str(whole_run()), "--out", str(tmp_path / "curve.jpg"))
    assert "curve.jpg" in line
    assert ".svg" in line


def test_help_names_every_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "train" in capsys.readouterr().out
    assert run("train", "--help") == 0
    shown = capsys.readouterr().out
    missing = [name for name in (*STRUCTURE, *NUMBERS) if name != "env" and f"--{name.replace('_', '-')} " not in shown]
    assert missing == []
    assert "256-256" in shown


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.table and name != "preset"])
def test_help_names_every_choice(name: str) -> None:
    """Also those in tables, which the command line does not load for its help."""
    field = FIELDS[name]
    assert [word for word in field.allowed() if not re.search(rf"\b{word}\b", field.help)] == []


def test_version_presets_and_envs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"ddpg-jax {ddpg_jax.__version__}\n"
    assert run("presets") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in PRESETS)
    assert "--layer-norm True" in shown
    assert run("envs") == 0
    said = capsys.readouterr()
    assert all(name in said.out for name in (*DEVICE, "MountainCarContinuous-v0"))
    assert "CartPole" not in said.out  # discrete
    assert said.err == ""


def test_what_presets_shows_can_be_given_back(tmp_path: Path, one_line: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The lines of `presets` are options: copied into a command they must be understood, down to the next error."""
    assert run("presets") == 0
    for line in capfd.readouterr().out.splitlines():
        if line.strip().startswith("--"):
            assert "env=none" in one_line("train", "none", *line.split(), "--out", str(tmp_path / "out"))


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ddpg_jax", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ddpg-jax {ddpg_jax.__version__}\n", "")


def test_results_are_all_of_stdout_and_progress_is_a_line_an_evaluation(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Standard error is no terminal here: in a log file a bar would be thousands of lines."""
    assert run(*command(tmp_path / "out")) == 0
    said = capfd.readouterr()
    assert said.out.count("\n") == 1
    assert said.out.startswith("Pendulum-v1: return ")
    assert said.out.strip().endswith(str(tmp_path / "out"))
    lines = said.err.splitlines()
    assert [line.split()[:4] for line in lines] == [["step", step, "of", "600"] for step in ("200", "400", "600")]
    returns = [float(line.split("return")[1].split()[0]) for line in lines]
    assert returns == pytest.approx([float(row["eval_return_mean"]) for row in rows(tmp_path / "out")], abs=0.05)


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "PatientConsole", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    with progress.Display(600, 200) as display:
        display.update(400, 1234.0, [{"eval_return_mean": -7.25, "diverged_step": ""}])
    shown = screen.getvalue()
    assert "400\x1b[0m / 600 steps" in shown
    assert "1,234 steps/s" in shown
    assert "-7.2" in shown


def test_a_reader_that_went_away_is_no_traceback() -> None:
    """`ddpg-jax presets | head -1`."""
    code = "import sys; from ddpg_jax.app.cli import main; sys.exit(main(['presets']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-u", "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


def events(folder: Path) -> list[tuple[str, int]]:
    """Tags and steps in the one file of events of a folder."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    (file,) = folder.iterdir()
    data, seen = file.read_bytes(), []
    while data:  # records: length, checksum of it, event, checksum of it
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        seen += [(value.tag, event.step) for value in event.summary.value]
        data = data[16 + size :]
    return seen


def test_tensorboard_gets_every_evaluation_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboardX")
    out = tmp_path / "out"
    assert run(*command(out, "--track", "tensorboard")) == 0
    assert capfd.readouterr().err.count("\n") == 3  # and no complaint about the losses that the warm-up does not have
    seen = events(out / "tensorboard")
    assert {("eval_return_mean", step) for step in (200, 400, 600)} <= set(seen)
    assert ("critic_loss", 200) not in seen
    assert ("critic_loss", 600) in seen
    shutil.rmtree(out / "checkpoints" / "600")  # as if it had been killed after the last row
    assert run(*command(out, "--track", "tensorboard", "--resume")) == 0
    assert sorted(events(out / "tensorboard")) == sorted(seen)
    assert len(set(seen)) == len(seen)


MEMBERS = {
    "experiment": {"env": "x"},
    "members": [{"member": m, "seed": m, "tau": 0.1 * m} for m in range(2)],
    "start": "2026",
    "hash": "abc",
}
BOTH = [
    {"member": m, "seed": m, "tau": 0.1 * m, "step": 5, "eval_return_mean": 1.0 * m, "critic_loss": math.nan} for m in range(2)
]


def test_tensorboard_shows_members_as_runs(tmp_path: Path) -> None:
    """In a folder each, with the same names of curves, so that they are drawn together."""
    pytest.importorskip("tensorboardX")
    with tracker("tensorboard", tmp_path, MEMBERS) as track:
        track(BOTH)
        track([{**BOTH[1], "step": 9}])
    for m, steps in enumerate([[5], [5, 9]]):
        seen = events(tmp_path / "tensorboard" / f"member_{m}")
        assert [step for name, step in seen if name == "eval_return_mean"] == steps
        assert "critic_loss" not in {name for name, _ in seen}


class FakeRun:
    """As much of a run of Weights & Biases as is used: it keeps what it was given under its id."""

    kept: ClassVar[dict[str, list[tuple[int, dict[str, Any]]]]] = {}

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        assert settings["resume"] == "allow"
        self.rows = self.kept.setdefault(settings["id"], [])
        self.step = self.rows[-1][0] + 1 if self.rows else 0
        FakeRun.last = self

    last: ClassVar[Any] = None

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def define_metric(self, name: str, **options: Any) -> None:
        pass

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step
        self.rows.append((step, values))


def test_wandb_gets_one_run_for_a_folder_with_all_fields_and_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=FakeRun, __spec__=True))
    out = tmp_path / "out"
    assert run(*command(out, "--track", "wandb", "--actor-lr", "0.002")) == 0
    shutil.rmtree(out / "checkpoints" / "600")
    assert run(*command(out, "--track", "wandb", "--actor-lr", "0.002", "--resume")) == 0
    ((_, rows),) = FakeRun.kept.items()
    assert [values["step"] for _, values in rows] == [200, 400, 600]
    assert (
        FakeRun.last.settings["config"].items() >= {"env": "Pendulum-v1", "actor_lr": 0.002, "gamma": 0.99, "seed": 0}.items()
    )


def test_wandb_gets_the_members_of_a_sweep_as_runs_of_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own values, and without rows that it has already."""
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=FakeRun, __spec__=True))
    monkeypatch.setattr(FakeRun, "kept", {})
    for _ in range(2):
        with tracker("wandb", tmp_path / "mine", MEMBERS) as track:
            track(BOTH)
            track([{**BOTH[1], "step": 9}])
    assert FakeRun.last.settings["config"] == {"env": "x", "seed": 1, "tau": 0.1}
    assert FakeRun.last.settings["group"] == "mine"
    rows = {name: [(step, values["step"]) for step, values in own] for name, own in FakeRun.kept.items()}
    assert rows == {"abc-2026-0": [(0, 5)], "abc-2026-1": [(0, 5), (1, 9)]}
    assert "critic_loss" not in FakeRun.kept["abc-2026-1"][0][1]


def test_a_configuration_lists_what_members_differ_in() -> None:
    members = [{"member": m, "seed": m, "tau": 0.1 * m, "gamma": 0.9} for m in range(2)]
    config = configuration({"experiment": {"env": "x", "seed": 0}, "members": members})
    assert config == {"env": "x", "seed": [0, 1], "tau": [0.0, 0.1], "gamma": 0.9}


@pytest.mark.parametrize(("program", "is_ours"), [("/opt/bin/ddpg-jax", True), ("ddpg-jax/train.py", False), ("", False)])
def test_ctrl_c_is_quiet_from_the_first_instruction_of_the_command_on(program: str, is_ours: bool) -> None:
    """And is left alone in other programs that import the package."""
    begin = "import signal, sys; signal.signal(2, signal.default_int_handler)"  # a shell's background ignores it
    ask = "print(signal.getsignal(2) is signal.default_int_handler)"
    code = f"{begin}; sys.argv = [{program!r}]; import ddpg_jax; {ask}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(not is_ours)


@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.8])
def test_ctrl_c_during_the_imports_is_quiet(seconds: float, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ddpg_jax", "train", "Pendulum-v1", "--steps", "1000000", "--out", str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (130, False), said


def test_too_little_memory_ends_at_once_and_says_so(tmp_path: Path) -> None:
    """XLA's compiler aborts, and threads that wait for memory keep a process for minutes."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1_500_000 << 10, -1))\n"
    code += "import sys; from ddpg_jax.__main__ import main; sys.exit(main())"
    words = ["train", "Pendulum-v1", "--steps", "200", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "ulimit -v 1500000 leaves too little memory" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_failed_command_does_not_wait_for_threads() -> None:
    code = "import threading, time; from ddpg_jax.app.interrupts import end_with\n"
    code += "threading.Thread(target=time.sleep, args=(100,)).start(); print('said'); raise SystemExit(end_with(2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "said\n")


def test_a_forked_process_says_that_it_would_hang() -> None:
    code = "import os, jax, ddpg_jax; jax.devices(); ddpg_jax.train\npid = os.fork()\nif pid == 0:\n  try: ddpg_jax.train()\n"
    code += "  except ddpg_jax.ConfigError as error: print(error, flush=True)\n  os._exit(0)\nos.waitpid(pid, 0)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("this process was forked after JAX started"), done.stderr


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_films_are_written_frame_by_frame(ending: str, tmp_path: Path) -> None:
    """A thousand frames at once are gigabytes."""
    film = tmp_path / f"film{ending}"
    with new_film(film, 40) as add:
        for i in range(5):
            pixels = np.full((32, 48, 3), 255, np.uint8)
            pixels[8 * min(i, 3) : 8 * min(i, 3) + 8] = (200, 30, 40)
            add(Image.fromarray(pixels))
    with Image.open(film) as picture:
        assert (picture.size, getattr(picture, "n_frames", 1)) == ((48, 32), 4 if ending == ".gif" else 5)
        for i in range(4):
            picture.seek(i)
            found = np.asarray(picture.convert("RGB"), int)
            assert np.abs(found[8 * i + 4, 20] - (200, 30, 40)).max() < 12
    assert list(tmp_path.iterdir()) == [film]


def test_a_film_may_be_an_mp4(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    with new_film(tmp_path / "film.mp4", 40) as add:
        for i in range(5):
            add(Image.fromarray(np.full((33, 48, 3), 40 * i, np.uint8)))
    about, *frames = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    assert (about["size"], about["fps"]) == ((48, 32), 25.0)
    assert [round(float(np.frombuffer(frame, np.uint8).mean()) / 40) for frame in frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("milliseconds", [8, 33])
def test_a_gif_is_as_long_as_its_frames(milliseconds: int, tmp_path: Path) -> None:
    """Its times are hundredths of a second, and frames of less than two of them are shown for ten."""
    with new_film(tmp_path / "film.gif", milliseconds) as add:
        for i in range(100):
            add(Image.fromarray(np.full((8, 8, 3), 2 * i, np.uint8)))
    with Image.open(tmp_path / "film.gif") as picture:
        durations = []
        for i in range(getattr(picture, "n_frames", 1)):
            picture.seek(i)
            durations.append(picture.info["duration"])
    assert min(durations) >= 20
    assert abs(sum(durations) - 100 * milliseconds) <= 20


def test_a_failure_of_opengl_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert "MUJOCO_GL=egl" in evaluation._cure(RuntimeError("GLEW initialization error"))
    assert evaluation._cure(ValueError("it renders nothing")) == ""
