"""The runner of the suite: killed in whatever way it goes on, and what it says of itself and of its tasks."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import suite, suite_results, suite_status, suite_tables, suite_tasks
from benchmarks.suite_levels import Level
from benchmarks.suite_store import Store
from benchmarks.suite_tasks import PILOTS, TASKS, Task, shrunk

Capture = pytest.CaptureFixture[str]

TINY: dict[str, Any] = {"hidden": (8, 8), "batch_size": 8, "warmup_steps": 100, "replay_capacity": 1_000}
LEVEL = Level(-0.1, "made up", "nobody")
LONG = Task("long", "probe/observation", 120_000, TINY, seeds=2, eval_every=4_000, published=LEVEL, note="Tiny.")
CHUNKED = Task("chunked", "probe/observation", 60_000, TINY, seeds=3, eval_every=4_000)
SHORT = Task("short", "probe/observation", 1_000, TINY, seeds=2, eval_every=500)
BAD = Task("bad", "NoSuchEnvironment-v0", 1_000, TINY, seeds=2, eval_every=500)
VARIANTS = [
    dataclasses.replace(
        SHORT, name=f"pilot_tiny_{name}", given={**TINY, **changed}, pilot="tiny", variant=name, changed=changed
    )
    for name, changed in {"base": {}, "slow": {"lr_schedule": "linear", "lr_decay_updates": suite_tasks.OVER_THE_RUN}}.items()
]
CODE = """import sys
from benchmarks.suite import main
from tests.benchmarks.test_suite import {0}
sys.exit(main(sys.argv[1:], [{0}]))"""
TIMING = ("seconds", "updates_per_second")


@pytest.fixture(autouse=True)
def _compiled_once(command_line: None) -> None:
    """Sweeps find what others have compiled."""


def words(folder: Path) -> list[str]:
    return ["--work", str(folder / "work"), "--results", str(folder / "results"), "--checkpoint-seconds", "0.2", "--nice", "0"]


def start(folder: Path, task: Task = LONG) -> subprocess.Popen[str]:
    code = CODE.format(task.name.upper())
    return subprocess.Popen([sys.executable, "-c", code, *words(folder)], stderr=subprocess.PIPE, text=True, env=os.environ)


def rows_of(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def when_there_are(rows: int, run: Path, process: subprocess.Popen[str]) -> None:
    """Waits for more rows than these, and for a checkpoint."""
    while len(rows_of(run / "metrics.csv")) <= rows or not any((run / "checkpoints").glob("[0-9]*[0-9]")):
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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_suite_that_is_stopped_and_killed_goes_on_to_its_end(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "work" / "long" / "seeds_0-1"
    assert states(tmp_path, [LONG], capsys)["long"] == "left 0 of 1 0 of 120,000 ? 0 ?"
    with start(tmp_path) as process:
        when_there_are(2, run, process)
        assert states(tmp_path, [LONG], capsys)["long"].startswith("running 0 of 1")
        assert suite.main(words(tmp_path), [LONG]) == 2
        assert f"in use by process {process.pid}" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert read(run / "manifest.json")["status"] == "interrupted"
    assert not (tmp_path / "results").exists()
    state, _, _, _, step, *_ = states(tmp_path, [LONG], capsys)["long"].split()
    assert state == "stopped"
    assert 0 < int(step.replace(",", "")) < LONG.steps
    with start(tmp_path) as process:
        when_there_are(len(rows_of(run / "metrics.csv")), run, process)
        process.kill()
    with start(tmp_path) as process:  # at once: the sweep of the one before may still be at its checkpoint
        said = process.communicate()[1]
    assert process.returncode == 0, said
    rows = [(row["member"], int(row["step"])) for row in rows_of(run / "metrics.csv")]
    assert sorted(rows) == [(member, step) for member in "01" for step in range(4_000, 120_001, 4_000)]
    assert (tmp_path / "work" / "long.log").read_text().count("resumes from step") == 2
    check_results(tmp_path / "results", run)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert suite.main(words(tmp_path), [LONG]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()} == before
    lines = states(tmp_path, [LONG], capsys)
    assert lines["long"].startswith("done 1 of 1 120,000 of 120,000")
    assert lines["total"].startswith("1 of 1 done")
    assert lines["total"].endswith(" 0:00:00")
    better = dataclasses.replace(LONG, note="Better known.")
    assert suite.main(words(tmp_path), [better]) == 0
    assert read(tmp_path / "results" / "suite_long.json")["note"] == "Better known."


def check_results(results: Path, run: Path) -> None:
    """Three files, and in the summary all that a reader asks for."""
    assert names(results) == ["suite_long.csv", "suite_long.json", "suite_long.png"]
    assert (results / "suite_long.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    summary, manifest = (read(path) for path in (results / "suite_long.json", run / "manifest.json"))
    last = [float(row["eval_return_mean"]) for row in rows_of(run / "metrics.csv")[-2:]]
    assert summary["final_returns"] == last
    assert summary["final_return_iqm"] == pytest.approx(sum(last) / 2)
    assert summary["max_mean_return"] >= summary["final_return_iqm"]
    assert summary["published"] == LEVEL._asdict()
    assert (summary["seeds"], summary["steps"], summary["note"]) == ([0, 1], 120_000, "Tiny.")
    assert summary["experiment"]["hidden"] == [8, 8]
    assert summary["command"].startswith("ddpg-jax sweep probe/observation --seed 0 --seeds 2 --hidden 8-8 ")
    assert summary["different_versions"] == []
    (chunk,) = summary["chunks"]
    assert manifest["packages"].items() < chunk["packages"].items()
    assert summary["seconds"] == chunk["seconds"] == manifest["seconds"]
    assert summary["machines"] == [chunk["machine"]]
    assert {"processor", "cores", "platform", "device_kind"} < chunk["machine"].keys()
    assert {"hyperparams", "start", "end"} < summary.keys()


def test_a_chunk_that_is_kept_outlasts_its_run_folder(tmp_path: Path, capsys: Capture) -> None:
    work, results = tmp_path / "work", tmp_path / "results"
    with start(tmp_path, CHUNKED) as process:
        when_there_are(1, work / "chunked" / "seeds_2-2", process)
        process.kill()
    with open(work / ".lock") as lock:  # the sweep has it until it is over
        fcntl.flock(lock, fcntl.LOCK_EX)
    shutil.rmtree(work)
    kept = {path: path.read_bytes() for path in results.iterdir()}
    assert sorted(path.name for path in kept) == ["suite_chunked.seeds_0-1.csv", "suite_chunked.seeds_0-1.json"]
    assert states(tmp_path, [CHUNKED], capsys)["chunked"].startswith("stopped 1 of 2 0 of 60,000")
    other = dataclasses.replace(CHUNKED, given={**TINY, "tau": 0.01})
    assert suite.main(words(tmp_path), [other]) == 1
    assert "seeds_0-1.json holds another experiment than chunked is now" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in results.iterdir()} == kept
    assert suite.main(words(tmp_path), [CHUNKED]) == 0
    assert names(work / "chunked") == ["seeds_2-2"]
    assert names(results) == ["suite_chunked.csv", "suite_chunked.json", "suite_chunked.png"]
    assert suite.main([*words(tmp_path / "whole"), "--chunk", "3"], [CHUNKED]) == 0
    assert names(tmp_path / "whole" / "work" / "chunked") == ["seeds_0-2"]
    chunked, whole = (
        [{name: cell for name, cell in row.items() if name not in TIMING} for row in rows_of(folder / "suite_chunked.csv")]
        for folder in (results, tmp_path / "whole" / "results")
    )
    assert chunked == whole
    assert [row["member"] for row in chunked[:4]] == ["0", "1", "2", "0"]
    one, other = read(results / "suite_chunked.json"), read(tmp_path / "whole" / "results" / "suite_chunked.json")
    assert one["final_returns"] == other["final_returns"]
    assert (one["command"], one["experiment"]) == (other["command"], other["experiment"])
    assert [chunk["seeds"] for chunk in one["chunks"]] == [[0, 1], [2]]
    first = json.loads(next(content for path, content in kept.items() if path.suffix == ".json"))
    assert one["chunks"][0]["end"] == first["end"]
    assert one["seconds"] == pytest.approx(sum(chunk["seconds"] for chunk in one["chunks"]))


def test_chunks_are_made_of_the_seeds_that_are_neither_kept_nor_begun(tmp_path: Path) -> None:
    store = Store(tmp_path / "work", tmp_path / "results", 2)
    task = Task("hop", "Hopper-v5", 1_000, {})
    assert [sweep.part for sweep in store.sweeps(task)] == [f"seeds_{k}-{k + 1}" for k in range(0, 10, 2)]
    begun = tmp_path / "work" / "hop" / "seeds_5-7" / "manifest.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    store.results.mkdir()
    for name in ("hop.seeds_2-3", "hop.seeds_3-4", "hop.seeds_8-11", "hop_2seeds.seeds_0-0"):
        (store.results / f"suite_{name}.json").write_text("{}")
    parts = ["seeds_0-1", "seeds_2-3", "seeds_4-4", "seeds_5-7", "seeds_8-9"]
    assert [sweep.part for sweep in store.sweeps(task)] == parts


def test_a_chunk_that_is_not_whole_counts_as_none(tmp_path: Path) -> None:
    assert suite.main(words(tmp_path), [SHORT]) == 0
    store = Store(tmp_path / "work", tmp_path / "results", 2)
    store.keep(SHORT)
    assert store.record(SHORT)
    table = store.part(SHORT, "csv")
    text = table.read_text()
    table.write_text(text[: len(text) // 2])
    assert store.record(SHORT) is None
    table.write_text(text)
    store.part(SHORT).write_text('{"task": "sh')
    assert store.record(SHORT) is None
    assert suite.main(words(tmp_path), [SHORT]) == 0
    assert names(store.results) == ["suite_short.csv", "suite_short.json", "suite_short.png"]


def test_results_say_where_the_chunks_differ() -> None:
    late = {"seconds": 2.5, "start": "2026-11-02T00:30:00+02:00", "end": "2026-11-02T03:00:00+02:00"}
    early = {"seconds": 1.0, "start": "2026-11-01T23:00:00+00:00", "end": "2026-11-01T23:30:00+00:00"}
    one, other = {"cores": 2}, {"cores": 4}
    chunks = [
        {**late, "machine": one, "packages": {"jax": "1", "numpy": "2"}},
        {**early, "machine": other, "packages": {"jax": "1.1", "numpy": "2"}},
        {**early, "machine": one, "packages": {"jax": "1.1", "numpy": "2", "Box2D": "3"}},
    ]
    assert suite_results.together(chunks) == {
        "seconds": 4.5,
        "start": late["start"],
        "end": late["end"],
        "machines": [one, other],
        "different_versions": ["Box2D", "jax"],
    }


def test_a_runner_waits_for_the_sweep_that_a_killed_one_has_left(tmp_path: Path, capsys: Capture) -> None:
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("99999999 hopper/seeds_0-1")  # a process that cannot be
        lock.flush()
        assert suite.at_work(tmp_path) == "hopper/seeds_0-1"
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
    assert lines["bad"].startswith("failed 0 of 1 0 of 1,000 ? 0")
    assert lines["bad"].endswith(f"seeds_0-1: {failure['line']}")
    assert lines["short"].startswith("done")
    before = {path: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    other = dataclasses.replace(SHORT, given={**TINY, "tau": 0.01}, seeds=3)
    assert suite.main(words(tmp_path), [other]) == 1
    said = capsys.readouterr().err
    assert "another experiment" in said
    assert "tau=0.01 (there 0.005), seeds=[0, 1, 2] (there [0, 1])" in said
    assert {path: path.read_bytes() for path in (tmp_path / "results").iterdir()} == before
    assert states(tmp_path, [other], capsys)["short"].startswith("other")
    manifest = (tmp_path / "work" / "short" / "seeds_0-1" / "manifest.json").read_bytes()
    shutil.rmtree(tmp_path / "results")
    assert suite.main(words(tmp_path), [other]) == 1
    assert "seeds_0-1 holds another experiment" in capsys.readouterr().err
    assert (tmp_path / "work" / "short" / "seeds_0-1" / "manifest.json").read_bytes() == manifest


def test_a_pilot_compares_its_variants_and_a_trial_is_kept_apart(tmp_path: Path, capsys: Capture) -> None:
    trial = [*words(tmp_path), "--pilot", "--steps", "600", "--only"]
    assert suite.main([*trial, "pilot_tiny_base"], [], VARIANTS) == 0
    assert names(tmp_path / "results") == ["pilot_tiny_600steps.base.json"]
    shutil.rmtree(tmp_path / "work")
    capsys.readouterr()
    assert suite.main([*trial, "tiny", "--status"], [], VARIANTS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:5] for line in lines[1:3]] == [["done", "1", "of", "1"], ["left", "0", "of", "1"]]
    assert suite.main([*trial, "tiny"], [], VARIANTS) == 0
    assert names(tmp_path / "results") == ["pilot_tiny_600steps.json"]
    result = read(tmp_path / "results" / "pilot_tiny_600steps.json")
    assert list(result["variants"]) == ["base", "slow"]
    slow = result["variants"]["slow"]
    assert slow["overrides"] == {"lr_schedule": "linear", "lr_decay_updates": 600}
    assert slow["curves"]["steps"] == [150, 300, 450, 600]
    assert [len(returns) for returns in slow["curves"]["returns"]] == [4, 4]
    assert [returns[-1] for returns in slow["curves"]["returns"]] == slow["final_returns"]
    assert slow["updates_per_second"] > 0
    assert [path.name for path in (tmp_path / "work").iterdir() if path.is_dir()] == ["pilot_tiny_slow_600steps"]
    assert suite.main([*trial, "tiny"], [], VARIANTS) == 0
    assert read(tmp_path / "results" / "pilot_tiny_600steps.json") == result


def test_all_tasks_can_be_configured_and_have_names_of_their_own(capsys: Capture, tmp_path: Path) -> None:
    assert len({task.name for task in (*TASKS, *PILOTS)}) == len(TASKS) + len(PILOTS)
    for task in (*TASKS, *PILOTS):
        experiment, _ = task.configure()
        assert experiment.steps == task.steps >= 2 * experiment.warmup_steps
        assert shrunk(task, 2, 2_000).configure()[0].steps == 2_000
    assert suite.main(["--work", str(tmp_path), "--status"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TASKS) + 2
    assert suite.main(["--work", str(tmp_path), "--only", "hoper"]) == 2
    assert "hoper is no task" in capsys.readouterr().err


def test_the_examples_hold() -> None:
    for module in (suite_results, suite_status, suite_tables, suite_tasks):
        failed, attempted = doctest.testmod(module)
        assert attempted > 0 == failed, module
