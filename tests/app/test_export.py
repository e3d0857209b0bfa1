"""The command that exports policies of runs, and the model card beside the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddpg_jax.agent.policy import load_policy
from ddpg_jax.app.export import export
from ddpg_jax.app.report import readable
from ddpg_jax.export.npz_file import npz_runner
from tests.runs import rows, run


def test_a_policy_goes_out_with_the_numbers_of_its_run(
    whole_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = whole_run(), tmp_path / "policy.npz"
    capsys.readouterr()
    assert run("export", str(folder), "--to", "npz", "--out", str(out), "--card") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{out}: run with numpy, its actions differ from the policy's by at most ")
    assert lines[1:] == [str(tmp_path / "policy.md")]
    about = json.loads(str(np.load(out)["about"]))
    last = rows(folder)[-1]
    assert about["run"]["eval_return_mean"] == float(last["eval_return_mean"])
    assert (about["run"]["step"], about["run"]["seed"]) == (600, 0)
    assert "@article{lillicrap2015" in about["citation"]
    card = (tmp_path / "policy.md").read_text()
    assert f"| last | 600 | {readable(float(last['eval_return_mean']))} | " in card
    for text in (
        "# A policy for Pendulum-v1",
        "hidden=16-16",
        "from [-2.0] to [2.0]",
        "ddpg-jax ",
        "lillicrap",
    ):
        assert text in card


def test_the_best_policy_goes_out_with_its_own_evaluation(
    whole_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = whole_run(), tmp_path / "policy.npz"
    assert run("export", str(folder), "--best", "--to", "npz", "--out", str(out), "--card") == 0
    about = json.loads(str(np.load(out)["about"]))
    best = max(rows(folder), key=lambda row: float(row["eval_return_mean"]))
    assert about["run"]["evaluation"] == "best"
    assert (about["run"]["step"], about["run"]["eval_return_mean"]) == (int(best["step"]), float(best["eval_return_mean"]))
    assert "the one of the best evaluation, not the last" in (tmp_path / "policy.md").read_text()
    obs = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    policy = load_policy(folder / "policy_best")
    np.testing.assert_allclose(npz_runner(out.read_bytes())[1](obs), policy(obs), atol=1e-5)
    assert run("export", str(folder / "policy"), "--best", "--to", "npz", "--out", str(out)) == 2
    assert "--best is not allowed" in capsys.readouterr().err


def test_a_saved_policy_is_exported_without_a_run(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    done = export(Path(shutil.copytree(whole_run() / "policy", tmp_path / "saved")), "npz", tmp_path / "policy.npz")
    assert "run" not in done.about


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "nowhere/policy.npz"], "out=nowhere/policy.npz is not allowed; it must be a file in an existing folder"),
        (["--out", "policy.npz", "--member", "1"], "member=1 is not allowed"),
        (["--out", "policy.npz", "--to", "pickle"], "argument --to: invalid choice: 'pickle'"),
        (["--out", "card.md/policy.npz"], "out=card.md/policy.npz is not allowed"),
        ([], "the following arguments are required: --out"),
        (["--to", "onnx", "--out", "policy.npz"], "--to onnx is not allowed with out=policy.npz"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str],
    sentence: str,
    whole_run: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = whole_run()
    monkeypatch.chdir(tmp_path)
    assert run("export", str(folder), *words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_policy_without_evaluations_goes_out_with_the_returns_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "train probe/lqr --steps 200 --warmup-steps 50 --batch-size 8 --hidden 8 --eval-episodes 0 --out".split()
    assert run(*words, str(tmp_path / "run")) == 0
    out = tmp_path / "policy.npz"
    assert run("export", str(tmp_path / "run"), "--to", "npz", "--out", str(out), "--card") == 0

    def no_nan(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    json.loads(str(np.load(out)["about"]), parse_constant=no_nan)
    last = readable(float(rows(tmp_path / "run")[-1]["train_return_mean"]))
    assert f"| last | 200 | {last} |  |  |" in (tmp_path / "policy.md").read_text()
    assert run("export", str(tmp_path / "run"), "--to", "npz", "--out", str(tmp_path / "a.md"), "--card") == 2
    assert "is not allowed with --card" in capsys.readouterr().err


def test_the_format_is_that_of_the_ending(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    assert run("export", str(whole_run()), "--out", str(tmp_path / "policy.npz")) == 0
    assert "about" in np.load(tmp_path / "policy.npz").files


def test_a_card_needs_a_run(whole_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = shutil.copytree(whole_run() / "policy", tmp_path / "saved")
    assert run("export", str(saved), "--to", "npz", "--out", str(tmp_path / "policy.npz"), "--card") == 2
    assert "holds a policy without its run; name a run folder" in capsys.readouterr().err
