"""The runner of the suite: killed in whatever way it goes on, and what it says of itself and of its tasks."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import suite, suite_tasks
from benchmarks.suite_tasks import PILOTS, TASKS, Level, Task, shrunk

Capture = pytest.CaptureFixture[str]

TINY: dict[str, Any] = {"hidden": (8, 8), "batch_size": 8, "warmup_steps": 100, "replay_capacity": 1_000}
LEVEL = Level(-0.1, "made up", "nobody")
LONG = Task("long", "probe/observation", 120_000, TINY, seeds=2, eval_every=4_000, published=LEVEL, note="Tiny.")
SHORT = Task("short", "probe/observation", 1_000, TINY, seeds=2, eval_every=500)
BAD = Task("bad", "NoSuchEnvironment-v0", 1_000, TINY, seeds=2, eval_every=500)
VARIANTS = [
    dataclasses.replace(
        SHORT, name=f"pilot_tiny_{name}", given={**TINY, **changed}, pilot="tiny", variant=name, changed=changed
    )
    for name, changed in {"base": {}, "slow": {"lr_schedule": "linear", "lr_decay_updates": suite_tasks.OVER_THE_RUN}}.items()
]
CODE = "import sys; from benchmarks.suite import main; from tests.test_suite import LONG; sys.exit(main(sys.argv[1:], [LONG]))"


@pytest.fixture(autouse=True)
def _compiled_once(command_line: None) -> None:
    """Sweeps find what others have compiled."""


def words(folder: Path) -> list[str]:
    return ["--work", str(folder / "work"), "--results", str(folder / "results"), "--checkpoint-seconds", "0.2", "--nice", "0"]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CODE, *words(folder)], stderr=subprocess.PIPE, text=True, env=os.environ)


def table(folder: Path) -> list[dict[str, str]]:
    """metrics.csv of the long task."""
    try:
        with open(folder / "work" / "long" / "metrics.csv", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def when_there_are(rows: int, folder: Path, process: subprocess.Popen[str]) -> None:
    """Waits for more rows than these, and for a checkpoint."""
    while len(table(folder)) <= rows or not any((folder / "work" / "long" / "checkpoints").glob("[0-9]*[0-9]")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def states(folder: Path, tasks: list[Task], capsys: Capture) -> dict[str, str]:
    """What --status says, task by task."""
    capsys.readouterr()
    assert suite.main([*words(folder), "--status"], tasks) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_a_suite_that_is_stopped_and_killed_goes_on_to_its_end(tmp_path: Path, capsys: Capture) -> None:
    assert states(tmp_path, [LONG], capsys)["long"] == "left 0 of 120,000 0 ?"
    with start(tmp_path) as process:
        when_there_are(2, tmp_path, process)
        assert states(tmp_path, [LONG], capsys)["long"].startswith("running")
        assert suite.main(words(tmp_path), [LONG]) == 2
        assert f"in use by process {process.pid}" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert read(tmp_path / "work" / "long" / "manifest.json")["status"] == "interrupted"
    assert not (tmp_path / "results").exists()
    state, step, *_ = states(tmp_path, [LONG], capsys)["long"].split()
    assert state == "stopped"
    assert 0 < int(step.replace(",", "")) < LONG.steps
    with start(tmp_path) as process:
        when_there_are(len(table(tmp_path)), tmp_path, process)
        process.kill()
    with start(tmp_path) as process:  # at once: the sweep of the one before may still be at its checkpoint
        said = process.communicate()[1]
    assert process.returncode == 0, said
    rows = [(row["member"], int(row["step"])) for row in table(tmp_path)]
    assert sorted(rows) == [(member, step) for member in "01" for step in range(4_000, 120_001, 4_000)]
    assert (tmp_path / "work" / "long.log").read_text().count("goes on from step") == 2
    check_results(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert suite.main(words(tmp_path), [LONG]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()} == before
    lines = states(tmp_path, [LONG], capsys)
    assert lines["long"].startswith("done 120,000 of 120,000")
    assert lines["total"].startswith("1 of 1 done")
    assert lines["total"].endswith(" 0:00:00")


def check_results(folder: Path) -> None:
    """Three files, and in the summary all that a reader asks for."""
    results = folder / "results"
    assert sorted(path.name for path in results.iterdir()) == ["suite_long.csv", "suite_long.json", "suite_long.png"]
    assert (results / "suite_long.csv").read_bytes() == (folder / "work" / "long" / "metrics.csv").read_bytes()
    summary, manifest = (read(path) for path in (results / "suite_long.json", folder / "work" / "long" / "manifest.json"))
    last = [float(row["eval_return_mean"]) for row in table(folder)[-2:]]
    assert summary["final_returns"] == last
    assert summary["final_return_iqm"] == pytest.approx(sum(last) / 2)
    assert summary["max_mean_return"] >= summary["final_return_iqm"]
    assert summary["published"] == LEVEL._asdict()
    assert (summary["seeds"], summary["steps"], summary["note"]) == ([0, 1], 120_000, "Tiny.")
    assert summary["experiment"]["hidden"] == [8, 8]
    assert summary["packages"] == manifest["packages"]
    assert summary["command"].startswith("ddpg-jax sweep probe/observation --seeds 2 --hidden 8-8 ")
    assert {"processor", "cores", "seconds", "hyperparams", "date"} < summary.keys()


def test_a_runner_waits_for_the_sweep_that_a_killed_one_has_left(tmp_path: Path, capsys: Capture) -> None:
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("99999999 hopper")  # a process that cannot be
        lock.flush()
        assert suite.at_work(tmp_path) == "hopper"
        threading.Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        with suite.claimed(tmp_path):
            assert suite.holder(tmp_path) == (os.getpid(), "")
    assert "waiting for the last checkpoint of hopper" in capsys.readouterr().err


def test_a_task_that_fails_is_recorded_and_the_next_one_begun(tmp_path: Path, capsys: Capture) -> None:
    assert suite.main(words(tmp_path), [BAD, SHORT]) == 1
    failure = read(tmp_path / "work" / "bad.failed.json")
    assert failure["status"] == 2
    assert "NoSuchEnvironment" in failure["line"]
    assert failure["line"] in capsys.readouterr().err
    lines = states(tmp_path, [BAD, SHORT], capsys)
    assert lines["bad"].startswith("failed 0 of 1,000 0")
    assert lines["bad"].endswith(failure["line"])
    assert lines["short"].startswith("done")
    manifest = (tmp_path / "work" / "short" / "manifest.json").read_bytes()
    other = dataclasses.replace(SHORT, given={**TINY, "tau": 0.01}, seeds=3)
    assert suite.main(words(tmp_path), [other]) == 1
    said = capsys.readouterr().err
    assert "another experiment" in said
    assert "tau=0.01 (there 0.005), seeds=3 (there 2)" in said
    assert (tmp_path / "work" / "short" / "manifest.json").read_bytes() == manifest
    assert states(tmp_path, [other], capsys)["short"].startswith("other")


def test_a_pilot_compares_its_variants_and_a_trial_is_kept_apart(tmp_path: Path) -> None:
    trial = [*words(tmp_path), "--pilot", "--steps", "600", "--only", "tiny"]
    assert suite.main(trial, [], VARIANTS) == 0
    result = read(tmp_path / "results" / "pilot_tiny_600steps.json")
    assert list(result["variants"]) == ["base", "slow"]
    slow = result["variants"]["slow"]
    assert slow["overrides"] == {"lr_schedule": "linear", "lr_decay_updates": 600}
    assert slow["curves"]["steps"] == [150, 300, 450, 600]
    assert [len(returns) for returns in slow["curves"]["returns"]] == [4, 4]
    assert [returns[-1] for returns in slow["curves"]["returns"]] == slow["final_returns"]
    assert slow["updates_per_second"] > 0
    assert sorted(path.name for path in (tmp_path / "work").iterdir() if path.is_dir()) == [
        "pilot_tiny_base_600steps",
        "pilot_tiny_slow_600steps",
    ]


def test_all_tasks_can_be_configured_and_have_names_of_their_own(capsys: Capture, tmp_path: Path) -> None:
    names = [task.name for task in (*TASKS, *PILOTS)]
    assert len(set(names)) == len(names)
    for task in (*TASKS, *PILOTS):
        experiment, _ = task.configure()
        assert experiment.steps == task.steps >= 2 * experiment.warmup_steps
        assert shrunk(task, 2, 2_000).configure()[0].steps == 2_000
    assert suite.main(["--work", str(tmp_path), "--status"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TASKS) + 2
    assert suite.main(["--work", str(tmp_path), "--only", "hoper"]) == 2
    assert "hoper is no task" in capsys.readouterr().err


def test_the_examples_hold() -> None:
    for module in (suite, suite_tasks):
        assert doctest.testmod(module).failed == 0
