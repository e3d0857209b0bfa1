"""The benchmark of accelerators, rehearsed: what is known is written at once, and nothing takes anything else with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from benchmarks import accelerator, accelerator_pack, accelerator_tables
from benchmarks.accelerator import FUTILE, JOBS, STAGES, USELESS, Job, Records, answers, carry_out
from benchmarks.accelerator_tasks import Task, check_device, work
from benchmarks.turns import ANSWER


@pytest.fixture(autouse=True)
def _compiled_once(command_line: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))


def rehearse(out: Path, stages: str, *more: str) -> subprocess.Popen[str]:
    words = ["--rehearse", "--minutes", "3", "--stages", stages, "--out", str(out), *more]
    command = [sys.executable, "-m", "benchmarks.accelerator", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)


def read(out: Path, stage: str) -> dict[str, Any]:
    return json.loads((out / f"accelerator_{STAGES[stage]}.json").read_text())


def test_a_rehearsal_that_is_killed_leaves_what_it_knew_and_another_does_the_rest(tmp_path: Path) -> None:
    with rehearse(tmp_path, "b") as process:
        path = tmp_path / "accelerator_members.json"
        while not path.exists() or len(read(tmp_path, "b")["jobs"][0]["rows"]) < 2:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.kill()
    (job,) = read(tmp_path, "b")["jobs"]
    assert job["status"] == "running"
    assert [row["name"] for row in job["rows"]][:2] == ["bandwidth", "launches"]
    assert accelerator_tables.load(tmp_path, "b") is None, "a rehearsal is no result"
    with rehearse(tmp_path, "b", "--rest") as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    result = read(tmp_path, "b")
    (job,) = result["jobs"]
    assert (job["status"], result["platform"], result["rehearsal"]) == ("done", "cpu", True)
    assert not [row for row in job["rows"] if "failed" in row]
    assert [row["name"] for row in job["rows"]] == ["bandwidth", "launches", "1 members", "4 members", "products"]
    one, four = job["rows"][2:4]
    assert (one["members"], four["members"]) == (1, 4)
    assert min(*one["updates_per_second"], one["limit_by_launches"], four["limit_by_bytes"]) > 0
    (tmp_path / "accelerator_members.json").write_text(json.dumps({**result, "rehearsal": False}))
    table = accelerator_tables.members(tmp_path)
    assert f"| 4 | {accelerator_tables.rate_of(four)} |" in table
    assert "cpu, jax" in table


def test_what_is_not_measured_is_said_not_to_be(tmp_path: Path) -> None:
    page = accelerator_tables.measured(tmp_path)
    assert page.count(accelerator_tables.NOT_YET) == len(STAGES) + 3  # and in each row of what others have published


def test_jobs_that_do_not_fit_are_skipped_and_one_that_fails_takes_none_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [0.0], []

    def pretend(job: Job, rehearse: bool, seconds: float, cache: str, *options: str) -> Iterator[dict[str, Any]]:
        asked.append((job.name, seconds))
        now[0] += 50.0
        yield {"row": {"name": "first"}}
        yield {"status": "failed: 1 Killed" if job.name == "breaks" else "done"}

    monkeypatch.setattr(accelerator, "answers", pretend)
    jobs = [Job("b", "breaks", 30, 60), Job("b", "fits", 30, 200), Job("c", "large", 60, 80), Job("f", "small", 10, 30)]
    records = Records(tmp_path, {"rehearsal": False})
    skipped = carry_out(jobs, records, rehearse=False, seconds=150.0, clock=lambda: now[0])
    assert asked == [("breaks", 60), ("fits", 100), ("small", 30)]
    assert [job.name for job in skipped] == ["large"]
    assert [job["status"] for job in read(tmp_path, "b")["jobs"]] == ["failed: 1 Killed", "done"]
    assert read(tmp_path, "c")["jobs"][0]["status"] == "skipped"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("status", "tried"), [("done", FUTILE), ("failed: 1 Killed", FUTILE), ("cut off", FUTILE), (f"failed: {USELESS} no GPU", 1)]
)
def test_nothing_is_tried_for_long_where_nothing_can_be_measured(
    status: str, tried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def pretend(job: Job, rehearse: bool, seconds: float, cache: str, *options: str) -> Iterator[dict[str, Any]]:
        asked.append(options)
        yield {"row": {"name": "first", "failed": "no memory"}}
        yield {"status": status}

    monkeypatch.setattr(accelerator, "answers", pretend)
    jobs = [Job("b", str(k), 0, 1) for k in range(FUTILE + 2)]
    skipped = carry_out(jobs, Records(tmp_path, {}), rehearse=False, seconds=100.0)
    assert skipped == jobs[tried:]
    assert [int(options[-1]) for options in asked] == [8, 0, 0][:tried], "after the first, programs are compiled one by one"


def test_what_is_left_for_another_time_begins_with_what_has_not_been_tried() -> None:
    jobs = [Job("b", name, 0, 1) for name in ("done", "cut off", "skipped", "new")]
    entries = [{"job": job.name, "flags": "", "status": job.name, "rows": [{}] * (job.name != "skipped")} for job in jobs[:3]]
    assert [job.name for job in accelerator.rest(jobs, {"b": {"jobs": entries}})] == ["skipped", "new", "cut off"]
    assert accelerator.rest(jobs, {}) == jobs


def test_a_process_that_dies_while_it_writes_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that has left a process of its own, which keeps the pipe open."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh\necho '{ANSWER} {{"row": 1}}'\nsleep 60 &\nprintf '{ANSWER} {{"row"'\nkill -9 $$\n""")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    since = time.monotonic()
    assert list(answers(Job("b", "members", 0, 0), True, 1.0, str(tmp_path))) == [{"row": 1}, {"status": "cut off"}]
    assert time.monotonic() - since < 30


@pytest.mark.parametrize("side_by_side", [0, 3])
def test_tasks_are_prepared_before_any_is_measured_and_the_slow_come_last(
    side_by_side: int, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []
    release = Event()

    def task(name: str, prepare: Callable[[], Any]) -> Task:
        def measure(ready: Any) -> dict[str, Any]:
            events.append(f"{name} measured")
            if name == "quick":
                release.set()
            return {"ready": ready}

        return Task(name, measure, lambda: (events.append(f"{name} begun"), prepare())[1])

    def slow() -> str:
        return "late" if not side_by_side or release.wait(60.0) else "never"

    tasks = [task("slow", slow), task("breaks", lambda: 1 // 0), task("quick", lambda: "soon")]
    work(tasks, side_by_side, patience=0.2)
    said = [json.loads(line.removeprefix(ANSWER))["row"] for line in capsys.readouterr().out.splitlines()]
    rows = {row["name"]: row for row in said}
    assert (rows["slow"]["ready"], rows["quick"]["ready"]) == ("late", "soon")
    assert "zero" in rows["breaks"]["failed"]
    if side_by_side:
        assert list(rows) == ["breaks", "quick", "slow"]
        assert sorted(events[:3]) == ["breaks begun", "quick begun", "slow begun"]
        assert rows["breaks"]["meanwhile"] == "slow still compiling"
        assert "meanwhile" not in rows["slow"]
    else:
        assert events == ["slow begun", "slow measured", "breaks begun", "quick begun", "quick measured"]


def test_a_machine_without_an_accelerator_or_a_compiler_is_not_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_device("gpu")
    with pytest.raises(SystemExit, match=str(USELESS)):
        check_device("cpu")
    assert "no accelerator" in capsys.readouterr().err

    def fail(_: Any) -> None:
        raise RuntimeError("libdevice not found")

    monkeypatch.setattr("jax.jit", fail)
    with pytest.raises(SystemExit, match=str(USELESS)):
        check_device("gpu")
    assert "libdevice not found" in capsys.readouterr().err


def test_a_job_is_ended_when_its_time_is_over_and_says_why_it_failed(tmp_path: Path) -> None:
    *_, last = answers(Job("b", "members", 0, 0), True, 0.1, str(tmp_path))
    assert last == {"status": "cut off"}
    *_, last = answers(Job("b", "no such job", 0, 0), True, 60.0, str(tmp_path))
    assert last["status"].startswith("failed: 2 ")
    assert "no such job" in last["status"]


def test_jobs_are_there_for_all_stages_and_wheels_for_all_packages(tmp_path: Path) -> None:
    from benchmarks.accelerator_stages import JOBS as KNOWN

    assert {job.stage for job in JOBS} == set(STAGES)
    assert {job.name for job in JOBS} == set(KNOWN)
    with pytest.raises(SystemExit, match="must hold one each of brax"):
        accelerator_pack.check(tmp_path)
    for package in accelerator_pack.PACKAGES:
        (tmp_path / f"{package.replace('-', '_').replace('==', '-')}-py3-none-any.whl").write_bytes(b"0" * 10)
    assert accelerator_pack.check(tmp_path) == 10 * len(accelerator_pack.PACKAGES)
