"""Studies: which points are asked for, what stays after interruptions and among processes, and what is in the folder."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ddpg_jax.app import tune as tuning
from ddpg_jax.app.study import Finished, Reached, Study
from ddpg_jax.app.study_journal import open_journal
from ddpg_jax.app.tune_figure import tune_figure
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.grid import parse_ranges
from tests.runs import run, start

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("command_line")

Capture = pytest.CaptureFixture[str]

RANGES = {"critic_lr": "log:1e-5:1e-1", "batch_size": "uniform:4:6"}


def study(folder: Path, sampler: str = "tpe") -> Study:
    return Study(folder, parse_ranges(RANGES), sampler=sampler, seed=3)


def value(point: dict[str, Any]) -> float:
    """A known optimum: critic_lr = 1e-2, batch_size = 5."""
    return -abs(math.log10(point["critic_lr"]) + 2) - abs(point["batch_size"] - 5)


def turn(one: Study, count: int = 4) -> list[dict[str, Any]]:
    trials = one.ask(count)
    values = [value(trial.params) for trial in trials]
    one.tell(trials, [Reached([x], x, {100: x}) for x in values])
    return [trial.params for trial in trials]


def test_processes_that_ask_at_once_do_not_ask_for_more_than_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Study.ask

    def slowly(one: Study, count: int) -> list[Any]:
        time.sleep(0.3)
        return ask(one, count)

    def asked(one: Study) -> int:
        with tuning._asked(tmp_path, one, points=4, batch=3) as trials:
            both.wait()  # so that none is given back before the other has asked
            return len(trials)

    monkeypatch.setattr(Study, "ask", slowly)
    both, studies = threading.Barrier(2, timeout=60), [study(tmp_path) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(asked, studies)) == [1, 3]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_interrupted_studies_ask_for_the_same_points(tmp_path: Path, sampler: str) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = study(tmp_path / "whole", sampler)
    expected = [turn(whole) for _ in range(5)]
    found = []
    for k in range(5):
        again = study(tmp_path / "parts", sampler)
        if k % 2:
            again.give_back(again.ask(4))  # stopped by a signal
        else:
            again.ask(4)  # killed
        del again
        found.append(turn(study(tmp_path / "parts", sampler)))
    assert found == expected
    assert all(4 <= point["batch_size"] <= 6 and 1e-5 <= point["critic_lr"] <= 1e-1 for batch in found for point in batch)
    assert len({point["critic_lr"] for batch in found for point in batch}) == 20


@pytest.mark.parametrize("line", [b"returns", b"trained", b'"op_code":6'])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_study_that_is_killed_while_it_writes_goes_on_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, part: float
) -> None:
    """The process is killed when this part of a line of this kind is on the disk."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = study(tmp_path / "whole")
    expected = [turn(whole) for _ in range(3)]
    monkeypatch.chdir(tmp_path)
    first = study(Path("parts"))
    turn(first)
    before = len(Path("parts/study.journal").read_bytes())
    turn(first)
    del first
    journal = Path("parts/study.journal").read_bytes()
    lines = [match.start() for match in re.finditer(rb"[^\n]+\n", journal) if match.start() >= before and line in match.group()]
    begin = lines[min(1, len(lines) - 1)]
    end = journal.index(b"\n", begin)
    Path("parts/study.journal").write_bytes(journal[: begin + int((end + 1 - begin) * part)])
    again = study(Path("parts"))
    found = [one.point for one in again.finished]
    assert len(found) in (4, 8), "all points of a batch count, or none"
    while len(found) < 12:
        found += turn(again)
    assert found == [point for batch in expected for point in batch]
    del again
    assert [one.point for one in study(Path("parts")).finished] == found


def test_a_lock_that_was_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a folder that is given relative to the current one."""
    monkeypatch.chdir(tmp_path)
    Path("killed").mkdir()
    at = iter(range(0, 1_000_000, 5))
    monkeypatch.setattr("time.monotonic", lambda: next(at))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    backend = open_journal(Path("killed/study.journal"))._backend
    backend._lock.acquire()
    assert Path("killed/study.journal.lock").exists()
    assert len(turn(study(Path("killed")))) == 4


def test_samplers_that_learn_come_closer_to_an_optimum_than_chance(tmp_path: Path) -> None:
    best = {}
    for sampler in ("tpe", "cmaes", "random"):
        (tmp_path / sampler).mkdir()
        one = study(tmp_path / sampler, sampler)
        last = [turn(one) for _ in range(10)][-3:]
        best[sampler] = sum(value(point) for batch in last for point in batch) / 12
    assert min(best["tpe"], best["cmaes"]) > best["random"] + 0.5


def test_points_of_processes_at_work_are_left_to_them(tmp_path: Path) -> None:
    first, second = study(tmp_path), study(tmp_path)
    assert (first.worker, second.worker) == (0, 1)
    theirs = second.ask(3)
    assert first.taken == 3
    assert second.taken == 0
    assert not {trial.number for trial in theirs} & {trial.number for trial in first.ask(2)}
    del second
    third = study(tmp_path)
    assert third.worker == 1
    assert first.taken == 0, "the trials of a process that has died are given up"


def test_diverged_points_are_avoided_but_not_the_best(tmp_path: Path) -> None:
    one = study(tmp_path)
    for _ in range(8):
        trials = one.ask(4)
        diverged = [trial.params["critic_lr"] > 1e-3 for trial in trials]
        one.tell(trials, [Reached([math.nan], -math.inf, {100: math.nan}) if d else Reached([1.0], 1.0, {}) for d in diverged])
    later = one.ask(8)
    assert sum(trial.params["critic_lr"] > 1e-3 for trial in later) <= 2
    assert math.isnan(max(one.finished, key=lambda done: done.point["critic_lr"]).value)


def arguments(out: Path, *more: str, sampled: Sequence[str] = ("critic_lr=log:1e-5:1e-1", "tau=log:1e-3:1")) -> list[str]:
    fields = ["--steps", "150", "--warmup-steps", "50", "--hidden", "8", "--batch-size", "8", "--replay-capacity", "200"]
    fields += [
        "--eval-every",
        "50",
        "--eval-episodes",
        "2",
        *(word for one in sampled for word in ("--sample", one)),
    ]
    return ["tune", "probe/observation", *fields, "--batch", "4", "--seeds", "2", "--out", str(out), *more]


def points(folder: Path) -> list[dict[str, str]]:
    with open(folder / "points.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_from_the_command_line(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(*arguments(whole, "--points", "12")) == 0
    line = capsys.readouterr().out
    assert line.startswith("best of 12 points: ")
    assert f"--preset {whole / 'best.json'}" in line
    assert run(*arguments(parts, "--points", "4")) == 0

    def interrupted(*given: Any, received: list[int], **more: Any) -> Any:
        received.append(signal.SIGTERM)
        return train(*given, received=received, **more)

    train = tuning._train
    monkeypatch.setattr(tuning, "_train", interrupted)
    assert run(*arguments(parts, "--points", "12", "--resume")) == 128 + signal.SIGTERM
    assert "go on with: ddpg-jax tune probe/observation" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(*arguments(parts, "--points", "12", "--resume")) == 0
    anonymous = [[{name: x for name, x in row.items() if name != "point"} for row in points(one)] for one in (whole, parts)]
    assert anonymous[0] == anonymous[1]
    best = max(points(whole), key=lambda row: float(row["final_return_iqm"]))
    preset = json.loads((whole / "best.json").read_text())
    assert preset["critic_lr"] == float(best["critic_lr"])
    assert preset["hidden"] == 8
    assert (whole / "importance.png").read_bytes().startswith(b"\x89PNG")
    out = str(tmp_path / "again")
    assert run("sweep", "probe/observation", "--preset", str(whole / "best.json"), "--seeds", "2", "--out", out) == 0
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest["members"][0]["tau"] == float(best["tau"])
    with open(tmp_path / "again" / "metrics.csv", newline="") as file:
        last = {row["seed"]: float(row["eval_return_mean"]) for row in csv.DictReader(file)}
    assert [last["0"], last["1"]] == [float(best["return_seed_0"]), float(best["return_seed_1"])], "a point is a plain sweep"
    capsys.readouterr()
    assert run("cite", str(whole)) == 0
    cited = capsys.readouterr().out
    assert all(key in cited for key in ("lillicrap2015", "akiba2019", "bergstra2011", "watanabe2023"))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
@pytest.mark.parametrize("failure", [EnvironmentFailure, ConfigError])
def test_points_that_an_environment_does_not_survive_or_that_are_refused_are_not_asked_for_again(
    tmp_path: Path, sampler: str, failure: type[Exception], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[dict[str, Any]]] = []

    def fails(plan: Any, points: list[dict[str, Any]], **more: Any) -> Any:
        asked.append(points)
        raise failure("env=probe/observation fell over")

    words = arguments(tmp_path / "study", "--points", "4", "--sampler", sampler)
    monkeypatch.setattr(tuning, "_train", fails)
    for more in ([], ["--resume"]):
        assert run(*words, *more) == 2
        assert "fell over; --resume goes on with other points than the 4 of this batch" in capsys.readouterr().err
    assert not any(point in asked[0] for point in asked[1])
    monkeypatch.undo()
    assert run(*words, "--resume") == 0
    assert len(points(tmp_path / "study")) == 4


def test_points_that_diverge_are_told_from_the_others(tmp_path: Path, capsys: Capture) -> None:
    """Those in a program of their own have fewer evaluations, since it ends when all its members have diverged."""
    out = tmp_path / "study"
    sampled = ("critic_lr=log:1e-3:1e30", "n_step=uniform:1:2")
    assert run(*arguments(out, "--sampler", "random", "--points", "6", "--batch", "6", sampled=sampled)) == 0
    line, table = capsys.readouterr().out, points(out)
    diverged = [row for row in table if row["final_return_iqm"] == "nan"]
    assert 0 < len(diverged) < 6
    assert len({row["n_step"] for row in table}) > 1
    assert f"({len(diverged)} diverged, median of the others" in line
    assert run("report", str(out), "--out", str(tmp_path / "report.md")) == 2
    assert "holds a study and no run; its results are in points.csv" in capsys.readouterr().err


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan, 2.0]])
def test_the_figure_shows_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("ddpg_jax.app.tune_figure.save", lambda figure, path: drawn.append(figure) or figure.savefig(path))
    done = [Finished(k, {"tau": 0.1 / (k + 1), "n_step": k + 1}, x, [x], {}) for k, x in enumerate(values)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout that cannot be made
        tune_figure(done, {}, "title", path=tmp_path / "figure.png")
    history, _, *fields = drawn[0].axes
    crosses = [list(line.get_xdata()) for axes in (history, *fields) for line in axes.lines if line.get_label() == "diverged"]
    assert crosses == ([] if len(values) == 1 else [[2], [0.05], [2]])
    assert list(history.lines[0].get_xdata()) == list(range(1, len(values) + 1))


def test_a_study_cites_the_parts_that_its_ranges_switch_on(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "study"
    assert run(*arguments(out, "--points", "1", sampled=["target_noise=uniform:0.1:0.3"])) == 0
    capsys.readouterr()
    assert run("cite", str(out)) == 0
    assert "{fujimoto2018," in capsys.readouterr().out


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    out = tmp_path / "both"
    assert run(*arguments(out, "--points", "4")) == 0
    both: list[subprocess.Popen[str]] = [start(*arguments(out, "--points", "20", "--resume")) for _ in range(2)]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    done = points(out)
    assert len(done) == 20
    assert len({row["critic_lr"] for row in done}) == 20


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--sample", "gamma=log:2:1"], "gamma"),
        (["--sample", "network=log:1:2"], "network"),
        (["--points", "0"], "points=0"),
        (["--batch", "x"], "batch=x"),
        (["--sampler", "best"], "sampler=best"),
        (["--resume"], "holds no study"),
        (["--n-step", "0"], "n_step=0"),
        (["--huber-delta", "-1"], "huber_delta"),
        (["--grid", "tau=0.1"], "--grid"),
        (["--hours", "1"], "ddpg-jax sweep has it"),
        (["--sample", "layer_norm=uniform:0:1"], "not numbers"),
        (["--sample", "batch_size=uniform:1:51"], "batch_size=51 is more than the 50 steps that the warm-up takes"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(tmp_path: Path, capsys: Capture, more: list[str], named: str) -> None:
    assert run(*arguments(tmp_path / "new", *more)) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_one_of_two_that_begin_a_study_at_once_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"

    @contextlib.contextmanager
    def after_another(path: Path) -> Iterator[None]:
        (path.parent / "tune.json").write_text("of the other")
        yield

    monkeypatch.setattr(tuning, "one_at_a_time", after_another)
    assert run(*arguments(out, "--points", "1")) == 2
    assert "holds a study; give --resume to continue it, or to work on it" in capsys.readouterr().err
    assert (out / "tune.json").read_text() == "of the other"


def test_another_plan_in_the_folder_is_refused(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "study"
    assert run(*arguments(out, "--points", "1")) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert run(*arguments(out)) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(*arguments(out, "--resume", "--gamma", "0.9")) == 2
    assert "holds a study with fields=" in capsys.readouterr().err
    assert run("tune", "probe/observation", "--out", str(out)) == 2
    assert "--sample" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "tune.json.tmp").write_text("{")
    assert run(*arguments(tmp_path / "begun", "--points", "1")) == 0, "killed before there was a study"
    capsys.readouterr()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    assert run(*arguments(tmp_path / "other")) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
