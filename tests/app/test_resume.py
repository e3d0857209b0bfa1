"""Runs that were stopped by signals, full disks, damaged files and failing environments, and what becomes of them.

A run that goes on must end with the bits of one that was never stopped. Only processes that are killed are processes of
their own here; the rest happens in this one, at the moments where it would hurt most.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.app import checkpoints, finish, machine, progress, queue
from ddpg_jax.app.checkpoints import Checkpoints
from ddpg_jax.app.queue import ProgramQueue
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.signals import signals
from ddpg_jax.envs.host import stopping
from ddpg_jax.errors import Interrupted
from ddpg_jax.running import blocks
from ddpg_jax.running.program import Program
from tests.runs import (
    BACKENDS,
    HEADER,
    TINY,
    assert_same_arrays,
    assert_same_run,
    command,
    manifest,
    newest,
    rows,
    run,
    shapes_of,
    start,
    steps_kept,
)

pytestmark = pytest.mark.usefixtures("command_line")

Capture = pytest.CaptureFixture[str]


def resume(folder: Path, *more: str, backend: str = "device") -> None:
    assert run(*command(folder, "--resume", *more, backend=backend)) == 0
    assert manifest(folder)["status"] == "finished"


# Killed


def when_it_says(lines: int) -> Callable[[Path, subprocess.Popen[str]], None]:
    """Waits for that many evaluations."""

    def wait(folder: Path, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for _ in range(lines):
            assert process.stderr.readline().startswith("step")

    return wait


def when_there_is(pattern: str) -> Callable[[Path, subprocess.Popen[str]], None]:
    """Waits for a file."""

    def wait(folder: Path, process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not any(folder.glob(pattern)):
            time.sleep(0.0005)

    return wait


KILLS = {
    "before the first checkpoint": when_there_is("manifest.json"),
    "while a checkpoint's arrays are written": when_there_is("checkpoints/400*tmp*/arrays*/ocdbt*/d/*"),
}


@pytest.mark.parametrize(
    ("backend", "moment"),
    [
        ("device", "before the first checkpoint"),
        ("device", "while a checkpoint's arrays are written"),
        ("host", "while a checkpoint's arrays are written"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(
    whole_run: Callable[..., Path], tmp_path: Path, backend: str, moment: str, capfd: Capture
) -> None:
    whole, out = whole_run(backend), tmp_path / "out"
    with start(*command(out, backend=backend)) as process:
        KILLS[moment](out, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    left = steps_kept(out) if (out / "checkpoints").exists() else []
    if left:  # what a kill before this one has left
        shutil.copytree(out / "checkpoints" / str(left[0]), out / "checkpoints" / "123.orbax-checkpoint-tmp")
    capfd.readouterr()
    resume(out, backend=backend)
    said = capfd.readouterr().err
    assert "damaged" not in said
    assert ("starting from the beginning" in said) == (left == [])
    assert_same_run(out, whole)
    assert [path for path in out.rglob("*") if "tmp" in path.name] == []  # what it was writing does not stay


class Killed(BaseException):
    """The process ends here; nothing catches it."""


def kill_at(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, after: bool) -> None:
    """The `call`-th call of `owner.name` is the last thing that happens, before or after it is done."""
    real, calls = getattr(owner, name), []

    def deadly(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call and not after:
            raise Killed
        result = real(*arguments, **named)
        if len(calls) == call:
            raise Killed
        return result

    patch.setattr(owner, name, deadly)


POINTS = [
    ("host", RunFolder, "rewrite_rows", 1, False),  # there is a manifest, but no metrics
    ("device", RunFolder, "append_rows", 2, False),  # evaluated, not written
    ("host", RunFolder, "append_rows", 2, True),  # written, but the checkpoint is older
    ("device", Checkpoints, "save", 2, True),  # between evaluations, with part of a row in the checkpoint
    ("host", Checkpoints, "save", 2, True),
    ("device", Checkpoints, "save", 4, True),  # finished but for the policy
    ("device", finish, "figures", 1, False),  # finished but for the figure
]


@pytest.mark.parametrize(
    ("backend", "owner", "name", "call", "after"), POINTS, ids=["-".join(map(str, (p[0], *p[2:]))) for p in POINTS]
)
def test_wherever_a_run_ends_it_goes_on_to_the_same_end(
    whole_run: Callable[..., Path], tmp_path: Path, backend: str, owner: Any, name: str, call: int, after: bool
) -> None:
    whole, out = whole_run(backend), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, owner, name, call, after)
        with contextlib.suppress(Killed):
            run(*command(out, backend=backend))
            pytest.fail("it was not killed")
    resume(out, backend=backend)
    assert_same_run(out, whole)
    assert (out / "learning_curve.png").exists()


def test_a_run_can_be_killed_again_and_again(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more in ((), ("--resume",), ("--resume",)):
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, Checkpoints, "save", 1, after=True)
            with contextlib.suppress(Killed):
                run(*command(out, *more))
                pytest.fail("it was not killed")
    assert max(steps_kept(out)) == 400
    resume(out)
    assert_same_run(out, whole_run())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_in_pieces_is_the_block_in_one(backend: str, whole_run: Any, tmp_path: Path) -> None:
    """How often a run looks at the world outside depends on the machine; what comes of it does not."""
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "FIRST_PIECE", 37)
        patch.setattr(blocks, "_next_piece", lambda *_: 37)
        kill_at(patch, Checkpoints, "save", 10, after=True)
        with contextlib.suppress(Killed):
            run(*command(out, backend=backend))
            pytest.fail("it was not killed")
    kept = newest(out)
    assert kept is not None
    assert kept.iteration == 337, "no checkpoint in the middle of a block"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "FIRST_PIECE", 11)
        patch.setattr(blocks, "_next_piece", lambda *_: 11)
        resume(out, "--checkpoint-seconds", "1000", backend=backend)
    assert_same_run(out, whole_run(backend))


# Signals


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`(signal, count)`: has this process send itself signals when the run shows its second evaluation.

    Ctrl-C acts as in a terminal also where the tests run in the background, for which shells switch it off.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def prepare(number: int, count: int = 1) -> None:
        real, seen = progress.Display.update, []

        def update(*arguments: Any) -> None:
            real(*arguments)
            seen.extend(arguments[-1])
            if len(seen) == 2:
                seen.append("sent")
                for _ in range(count):
                    signal.raise_signal(number)  # two that come by `os.kill` may be taken for one

        monkeypatch.setattr(progress.Display, "update", update)

    yield prepare
    signal.signal(signal.SIGINT, before)


def assert_says_how_to_go_on(line: str, out: Path) -> None:
    """The whole command, with all that the run was started with."""
    assert line.startswith("ddpg-jax: stopped at step 400; go on with: ddpg-jax train Pendulum-v1 --steps 600")
    assert f"--out {out}" in line
    assert line.endswith(" --resume")


@pytest.mark.parametrize(
    ("backend", "number", "status"),
    [("device", signal.SIGINT, 130), ("host", signal.SIGTERM, 143), ("device", signal.SIGHUP, 129)],
)
def test_a_signal_ends_a_run_after_a_checkpoint(
    send: Any,
    monkeypatch: pytest.MonkeyPatch,
    whole_run: Any,
    tmp_path: Path,
    backend: str,
    number: int,
    status: int,
    capfd: Capture,
) -> None:
    whole, out = whole_run(backend), tmp_path / "out"
    under_nohup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    send(number)
    capfd.readouterr()
    assert run(*command(out, "--checkpoint-seconds", "1000", backend=backend)) == status
    said = capfd.readouterr()
    assert said.out == ""
    assert_says_how_to_go_on(said.err.splitlines()[-1], out)
    assert manifest(out)["status"] == "interrupted"
    assert steps_kept(out) == [400]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    signal.signal(signal.SIGHUP, under_nohup)
    monkeypatch.undo()
    resume(out, backend=backend)
    assert_same_run(out, whole)


def test_a_second_signal_does_not_wait(send: Any, monkeypatch: pytest.MonkeyPatch, whole_run: Any, tmp_path: Path) -> None:
    """For the user who does not want the checkpoint either; the checkpoints before are still whole."""
    out = tmp_path / "out"
    send(signal.SIGINT, count=2)
    assert run(*command(out)) == 130
    assert steps_kept(out) == [200, 300]
    assert manifest(out)["status"] == "interrupted"
    monkeypatch.undo()
    resume(out)
    assert_same_run(out, whole_run())


def test_a_signal_at_the_end_of_a_program_keeps_the_next_from_being_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command_line: None, capfd: Capture
) -> None:
    """Nobody who has pressed Ctrl-C waits for another compilation; with --resume it is made."""
    sweep = ["sweep", "Pendulum-v1", *TINY, "--grid", "tau=0.1", "--grid", "layer_norm=false,true", "--out"]
    real = progress.Display.update

    def update(display: Any, step: int, *rest: Any) -> None:
        real(display, step, *rest)
        if step == 600:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Display, "update", update)
        assert run(*sweep, str(tmp_path / "out")) == 143
    assert "stopped at step 600 of program 1 of 2; go on with: " in capfd.readouterr().err
    assert manifest(tmp_path / "out")["programs"] == [[0]]
    assert run(*sweep, str(tmp_path / "out"), "--resume") == 0
    steps = ("200", "400", "600")
    assert [(row["member"], row["step"]) for row in rows(tmp_path / "out")] == [(m, step) for m in "01" for step in steps]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_leaves_everything_as_it_was(
    copy_of: Any, monkeypatch: pytest.MonkeyPatch, send: Any, capfd: Capture, number: int, status: int
) -> None:
    """Also the run that this one was to replace."""
    folder, real = copy_of(), ProgramQueue.check
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def check(programs: ProgramQueue) -> None:
        real(programs)
        signal.raise_signal(number)

    monkeypatch.setattr(ProgramQueue, "check", check)
    assert run(*command(folder, "--overwrite", "--seed", "5")) == status
    assert capfd.readouterr().err == "ddpg-jax: stopped before anything was written\n"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_control_c_on_a_process(tmp_path: Path) -> None:
    """The same with a real process, whose status a shell and a batch system see."""
    out = tmp_path / "out"
    long = command(out, "--steps", "100000", backend="host")
    with start(*long) as process:
        when_it_says(2)(out, process)
        process.send_signal(signal.SIGINT)
        output, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in said
    assert_says_how_to_go_on(said.splitlines()[-1], out)
    assert len(steps_kept(out)) == 2
    assert manifest(out)["command"] == shlex.join(["ddpg-jax", *long])


# Finished


@pytest.mark.parametrize("more", [(), ("--steps", "800")], ids=" ".join)
def test_a_run_that_diverged_is_finished(tmp_path: Path, more: tuple[str, ...], capfd: Capture) -> None:
    """There is nothing to go on with: no more rows, whatever steps one asks for."""
    out = tmp_path / "out"
    wild = ("--critic-lr", "1e30", "--actor-lr", "1e30")
    assert run(*command(out, *wild)) == 0
    table = rows(out)
    assert "DIVERGED" in capfd.readouterr().out
    assert table[-1]["diverged_step"] != ""
    assert run(*command(out, *wild, *more, "--resume")) == 0
    said = capfd.readouterr()
    assert "has finished at" in said.err
    assert "DIVERGED" in said.out
    assert rows(out) == table
    assert run("eval", str(out)) == 2
    assert "has diverged, and its parameters are not finite" in capfd.readouterr().err


def test_resuming_a_finished_run_says_so_and_leaves_the_results(copy_of: Any, capfd: Capture) -> None:
    folder = copy_of()
    parts = ("metrics.csv", "summary.json", "policy/actor.npz", "policy/policy.json")
    before = {name: (folder / name).read_bytes() for name in parts}
    capfd.readouterr()
    resume(folder)
    said = capfd.readouterr()
    assert "finished at step 600" in said.err
    assert said.out.startswith("Pendulum-v1: return ")
    assert {name: (folder / name).read_bytes() for name in parts} == before


@pytest.mark.parametrize(("backend", "steps"), [("device", 400), ("host", 400), ("device", 450)])
def test_more_steps_make_a_longer_run(whole_run: Any, tmp_path: Path, backend: str, steps: int) -> None:
    """Also from an end between two evaluations, whose own evaluation then is no part of the run any more."""
    out = tmp_path / "out"
    assert run(*command(out, "--steps", str(steps), backend=backend)) == 0
    assert rows(out)[-1]["step"] == str(steps)
    resume(out, backend=backend)
    assert manifest(out)["experiment"]["steps"] == 600
    assert_same_run(out, whole_run(backend))


def test_rows_that_are_lost_are_named(copy_of: Any, capfd: Capture) -> None:
    """A checkpoint may have come to the disk, when the power went, and the row before it not."""
    folder = copy_of()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:2] + lines[3:]))
    capfd.readouterr()
    resume(folder)
    assert "metrics.csv is missing the rows of step 400\n" in capfd.readouterr().err


def test_checkpoints_on_another_disk_stay_there(copy_of: Any, tmp_path: Path) -> None:
    folder = copy_of()
    (folder / "checkpoints").rename(tmp_path / "disk")
    (folder / "checkpoints").symlink_to(tmp_path / "disk")
    assert run(*command(folder, "--overwrite", "--steps", "400")) == 0
    assert (folder / "checkpoints").is_symlink()
    assert max(steps_kept(folder)) == 400


def test_a_finished_run_without_its_metrics_is_one_line(copy_of: Any, capfd: Capture) -> None:
    folder = copy_of()
    (folder / "metrics.csv").unlink()
    capfd.readouterr()
    assert run(*command(folder, "--resume")) == 2
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("ddpg-jax: ")]) == 1
    assert "metrics.csv" in said[-1]


def change_a_return(text: str) -> str:
    lines = text.splitlines(keepends=True)
    cells = lines[2].split(",")
    return "".join([*lines[:2], ",".join([*cells[:3], "-1.5", *cells[4:]]), *lines[3:]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_a_return, "was changed after this run wrote it"),
        (lambda text: text.replace("q_mean", "tau", 1), "lacks the columns q_mean, and has tau instead"),
    ],
)
def test_rows_that_were_changed_are_not_believed(
    change: Callable[[str], str], words: str, copy_of: Any, capfd: Capture
) -> None:
    """Else a digit in the table becomes the best return of the summary."""
    folder = copy_of()
    table, summary = folder / "metrics.csv", (folder / "summary.json").read_bytes()
    table.write_text(change(table.read_text()))
    capfd.readouterr()
    assert run(*command(folder, "--resume")) == 2
    said = capfd.readouterr().err.splitlines()
    assert words in said[-1]
    assert (folder / "summary.json").read_bytes() == summary


def test_a_damaged_policy_is_restored_from_the_checkpoint(whole_run: Any, copy_of: Any) -> None:
    folder = copy_of()
    for name in ("policy.json", "actor.npz"):
        flip(folder / "policy" / name)
    resume(folder)
    for name in ("policy.json", "actor.npz"):
        assert (folder / "policy" / name).read_bytes() == (whole_run() / "policy" / name).read_bytes()


# Damage


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 20])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for i in range(0, len(data), 97):
        data[i] ^= 0xFF
    path.write_bytes(data)


def flip_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "one bit": flip_one_bit,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted", "folder gone", "folder empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole_run: Any, copy_of: Any, damage: str, capfd: Capture) -> None:
    folder = copy_of()
    last = folder / "checkpoints" / "600"
    if damage in DAMAGE:
        DAMAGE[damage](largest(last))
    else:
        shutil.rmtree(last)
        if damage == "folder empty":
            last.mkdir()
    capfd.readouterr()
    resume(folder)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "resumes from step 400" in said
    if damage != "folder gone":
        assert "checkpoint at vector step 600 is damaged" in said
    assert_same_run(folder, whole_run())


def test_a_run_that_cannot_be_made_here_keeps_its_checkpoints(
    whole_run: Any, copy_of: Any, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra that is not installed says nothing of a checkpoint."""

    def missing(*_: Any) -> Any:
        raise dj.ConfigError("env=X needs an extra that is missing")

    folder = copy_of()
    with monkeypatch.context() as patch:
        patch.setattr(queue, "make_program", missing)
        assert run(*command(folder, "--resume")) == 2
    said = capfd.readouterr().err
    assert "needs an extra that is missing" in said
    assert "damaged" not in said
    assert steps_kept(folder) == [400, 600]
    assert rows(folder) == rows(whole_run())
    resume(folder)
    assert_same_run(folder, whole_run())


def test_another_number_of_devices_is_no_damage(
    whole_run: Any, copy_of: Any, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padding of a sweep depends on it; to take that for damage would throw the whole run away."""
    folder = copy_of()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "slots_of", lambda shapes: 3)
        assert run(*command(folder, "--resume", "--steps", "800")) == 2
    assert "and this machine has 3; resume the run with as many cores" in capfd.readouterr().err
    assert steps_kept(folder) == [400, 600]
    assert rows(folder) == rows(whole_run())


def test_a_damaged_environment_is_noticed(whole_run: Any, copy_of: Any, capfd: Capture) -> None:
    """On the host part of the state is no array; its checksum has to count too."""
    folder = copy_of("host")
    path = folder / "checkpoints" / "600" / "meta" / "metadata"
    text = path.read_text()
    place = text.index('"text"') + 200
    other = "A" if text[place] != "A" else "B"
    path.write_text(text[:place] + other + text[place + 1 :])
    capfd.readouterr()
    resume(folder, backend="host")
    assert "checkpoint at vector step 600 is damaged" in capfd.readouterr().err
    assert_same_run(folder, whole_run("host"))


@pytest.mark.parametrize("damage", ["truncated", "one bit", "emptied", "deleted"])
def test_no_damage_to_any_file_goes_unnoticed(whole_run: Any, tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with whatever file: the newest checkpoint is right to the bit, or it is not taken."""
    whole = newest(whole_run())
    assert whole is not None
    names = sorted(
        str(path.relative_to(whole_run())) for path in (whole_run() / "checkpoints" / "600").rglob("*") if path.is_file()
    )
    assert len(names) > 5
    shapes = shapes_of(whole_run())
    taken = []
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(whole_run() / "checkpoints", folder / "checkpoints")
        DAMAGE[damage](folder / name)
        said: list[str] = []
        with Checkpoints(folder / "checkpoints") as kept:
            found = kept.newest(lambda number: shapes, said.append)
        assert found is not None
        if found.iteration == 600:
            assert_same_arrays(found.arrays, whole.arrays)
            assert found.text == whole.text
            taken.append(name)
        else:
            assert found.iteration == 400
            assert len(said) == 1
        shutil.rmtree(folder)
    assert len(taken) < len(names)


def test_without_a_whole_checkpoint_nothing_is_touched(whole_run: Any, copy_of: Any, capfd: Capture) -> None:
    """What keeps all of them from being read may be rights, a disk or a setting, and pass."""
    folder = copy_of()
    files = [largest(folder / "checkpoints" / str(step)) for step in (400, 600)]
    whole = [file.read_bytes() for file in files]
    for file in files:
        truncate(file)
    capfd.readouterr()
    assert run(*command(folder, "--resume")) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "none of the checkpoints" in said
    assert steps_kept(folder) == [400, 600]
    assert rows(folder) == rows(whole_run())
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(data)
    resume(folder)
    assert_same_run(folder, whole_run())


@pytest.mark.parametrize("how", ["of another seed", "of another step"])
def test_a_checkpoint_that_was_put_there_is_no_checkpoint(how: str, copy_of: Any, tmp_path: Path, capfd: Capture) -> None:
    """What goes on from it would pass for the run that the manifest tells of."""
    folder = copy_of()
    if how == "of another seed":
        assert run(*command(tmp_path / "other", "--seed", "7")) == 0
        shutil.rmtree(folder / "checkpoints")
        shutil.copytree(tmp_path / "other" / "checkpoints", folder / "checkpoints")
    else:
        shutil.rmtree(folder / "checkpoints" / "400")
        (folder / "checkpoints" / "600").rename(folder / "checkpoints" / "500")
    capfd.readouterr()
    assert run(*command(folder, "--resume", "--steps", "800")) == 2
    assert "it belongs to another run or another step" in capfd.readouterr().err


class Deaf(io.StringIO):
    """The standard error of a terminal that was closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_run_that_nobody_listens_to_goes_on(whole_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Deaf())
        assert run(*command(tmp_path / "out")) == 0
        assert run(*command(tmp_path / "out")) == 2, "and what is wrong has no traceback for want of a listener"
    assert_same_run(tmp_path / "out", whole_run())


def test_a_bar_that_nobody_sees_goes_on(whole_run: Any, tmp_path: Path) -> None:
    """On a terminal rich draws, which ends the process when nobody reads."""
    arguments = [sys.executable, "-m", "ddpg_jax", *command(tmp_path / "out")]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(arguments, stderr=write, stdout=subprocess.PIPE, env={**os.environ, "FORCE_COLOR": "1"})
    os.close(write)
    assert done.returncode == 0
    assert done.stdout
    assert_same_run(tmp_path / "out", whole_run())


def test_an_environment_that_goes_to_another_folder_takes_nothing_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Any
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    original = queue.make_program

    def moving(*arguments: Any) -> Any:
        os.chdir(tmp_path / "elsewhere")
        return original(*arguments)

    monkeypatch.setattr(queue, "make_program", moving)
    assert run(*command(Path("out"))) == 0
    assert not any((tmp_path / "elsewhere").iterdir())
    assert_same_run(tmp_path / "out", whole_run())


@pytest.mark.parametrize("cut", [1, 30, 110])
def test_a_torn_line_in_the_metrics_is_repaired(whole_run: Any, tmp_path: Path, cut: int) -> None:
    """The machine lost power while the second row was written."""
    out = tmp_path / "out"
    assert run(*command(out, "--steps", "400")) == 0
    with open(out / "metrics.csv", "rb+") as file:
        file.truncate((out / "metrics.csv").stat().st_size - cut)
    torn = (out / "metrics.csv").read_text()
    shutil.rmtree(out / "checkpoints" / "400")  # it was written after the row
    resume(out)
    assert (out / "metrics.csv").read_text().startswith(torn[: torn.rfind("\n") + 1])
    assert (out / "metrics.csv").read_text().count(HEADER) == 1
    assert_same_run(out, whole_run())


# Full disks


def assert_one_line_about(said: str, folder: Path) -> None:
    """Progress, then one line that says what could not be written."""
    lines = said.splitlines()
    assert [line for line in lines[:-1] if not line.startswith(("step", str(folder)))] == []
    assert lines[-1].startswith("ddpg-jax: ")
    assert str(folder) in lines[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=False)


@pytest.mark.parametrize("left", [0, 300_000], ids=["nothing left", "less left than a checkpoint needs"])
def test_a_full_disk_is_one_line_and_costs_nothing(small_disk: Path, whole_run: Any, left: int, capfd: Capture) -> None:
    out = small_disk / "out"
    assert run(*command(out, "--steps", "200")) == 0
    assert "200 steps, without an update (the warm-up has warmup_steps=300), in" in capfd.readouterr().out
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free - left))
    kept = newest(out)
    assert kept is not None
    capfd.readouterr()
    assert run(*command(out, "--resume")) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert_one_line_about(said.err, small_disk)
    assert "No space left on device" in said.err
    again = newest(out)
    assert again is not None
    assert again.iteration == kept.iteration == 200
    assert_same_arrays(again.arrays, kept.arrays)
    assert rows(out)[:1] == rows(whole_run())[:1]
    dj.load_policy(out / "policy")
    (small_disk / "ballast").unlink()
    resume(out)
    assert_same_run(out, whole_run())


def test_a_limit_on_the_size_of_files_is_one_line(whole_run: Any, tmp_path: Path, capfd: Capture) -> None:
    """As `ulimit -f` and quotas set it; it needs no right to mount."""
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert run(*command(out)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line_about(capfd.readouterr().err, out)
    resume(out)
    assert_same_run(out, whole_run())


def test_a_disk_that_fills_while_a_row_is_written(
    whole_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Half of the row is there, the checkpoint before it is whole."""
    out = tmp_path / "out"
    real = RunFolder.append_rows

    def append(place: RunFolder, table: list[dict[str, Any]]) -> None:
        real(place, table)
        if table[0]["step"] == 400:
            os.truncate(place.metrics, place.metrics.stat().st_size - 20)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.metrics))

    monkeypatch.setattr(RunFolder, "append_rows", append)
    assert run(*command(out)) == 2
    assert_one_line_about(capfd.readouterr().err, out)
    assert steps_kept(out) == [200, 300]
    monkeypatch.undo()
    resume(out)
    assert_same_run(out, whole_run())


def test_an_error_of_the_storage_that_only_orbax_sees_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """tensorstore raises ValueError where it means that the disk is full, and only when one waits for it."""
    out = tmp_path / "out"

    def fail(manager: Any, *arguments: Any, **named: Any) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: Error opening zarr driver\nand more lines of that")

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", fail)
    assert run(*command(out)) == 2
    assert_one_line_about(capfd.readouterr().err, out)


# Environments that fail


class Faulty(gymnasium.Env[Any, Any]):
    """Right for `at` steps; then it does what `fault` says."""

    fault = "nothing"
    at = 350
    made = 0

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))  # as Pendulum, whose program is compiled
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.steps = 0
        type(self).made += 1
        self.number = type(self).made  # 1 is the one that is trained in

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None and self.number == 1:  # the trial before a run does not count
            self.steps = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        obs, reward = self.np_random.uniform(-1, 1, 3).astype(np.float32), float(-(action**2).sum())
        if self.steps >= self.at and (self.number == 1) != (self.fault == "evaluation"):
            if self.fault in ("raises", "evaluation"):
                raise ValueError("the motor\nis too hot")
            obs = {"nan": obs * np.nan, "shape": np.zeros(5, np.float32)}.get(self.fault, obs)
            reward = np.nan if self.fault == "reward" else reward
        return obs, reward, False, False, {}


class Locked(Faulty):
    """Its state cannot be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = (x for x in range(9))


for name, kind in (("tests/Faulty-v0", Faulty), ("tests/Locked-v0", Locked)):
    if name not in gymnasium.registry:
        gymnasium.register(name, kind, max_episode_steps=25)  # pyright: ignore[reportArgumentType]


def faulty(out: Path, *more: str, env: str = "tests/Faulty-v0") -> list[str]:
    Faulty.made = Locked.made = 0
    return ["train", env, *TINY, "--checkpoint-seconds", "0", "--out", str(out), *more]


class Slow(Faulty):
    """10 ms a step, 100 steps an episode: an evaluation of two episodes takes 2 s, a look at the world outside as long."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.01)
        return super().step(action)


gymnasium.register("tests/Slow-v0", Slow, max_episode_steps=100)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("kind", "seconds"), [("train", 1.5), ("sweep", 1.0)], ids=["evaluation", "sweep"])
def test_a_signal_is_obeyed_within_a_step_of_a_slow_environment(
    kind: str, seconds: float, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, command_line: None
) -> None:
    """Members of a sweep then are at different steps, or an evaluation is not over; the run goes on to the same end."""
    monkeypatch.setattr(Faulty, "at", 10**9)
    small = "--steps 80 --warmup-steps 60 --batch-size 4 --hidden 4 --eval-every 60 --eval-episodes 2".split()
    more = ["--seeds", "3"] if kind == "sweep" else []
    words = [kind, "tests/Slow-v0", *more, *small, "--checkpoint-seconds", "1000", "--out"]
    assert run(*words, str(tmp_path / "whole")) == 0  # compiles
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    real, timers = RunFolder.claim, []

    def claim(*arguments: Any, **options: Any) -> Any:
        timers.append(threading.Timer(seconds, interrupt))
        timers[-1].start()
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "claim", claim)
        assert run(*words, str(tmp_path / "out")) == 143
    assert time.monotonic() - sent[0] < 3.0
    assert "go on with" in capfd.readouterr().err
    assert run(*words, str(tmp_path / "out"), "--resume") == 0
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


@pytest.mark.parametrize(("fault", "word"), [("raises", "motor"), ("nan", "nan"), ("reward", "nan"), ("shape", "shape")])
def test_an_environment_that_fails_is_one_line_with_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, word: str, capfd: Capture
) -> None:
    """A finished run is made longer and breaks: its metrics stay as they were, and all that it learned before is kept."""
    out = tmp_path / "out"
    assert run(*faulty(out, "--steps", "200")) == 0
    table = rows(out)
    monkeypatch.setattr(Faulty, "fault", fault)
    capfd.readouterr()
    assert run(*faulty(out, "--resume")) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert_one_line_about(said.err, out)
    line = said.err.splitlines()[-1]
    assert "env=tests/Faulty-v0" in line
    assert "at step 350" in line
    assert word in line
    assert steps_kept(out) == [300, 349]
    assert rows(out) == table
    dj.load_policy(out)
    assert manifest(out)["status"].startswith("failed")
    monkeypatch.setattr(Faulty, "fault", "nothing")
    assert run(*faulty(out, "--resume")) == 0  # mended, it goes on
    assert [row["step"] for row in rows(out)] == ["200", "400", "600"]


def test_a_run_that_failed_before_anything_was_kept_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Once the environment is mended the same command runs; a run that has kept something is still asked about."""
    out = tmp_path / "out"
    monkeypatch.setattr(Faulty, "fault", "raises")
    monkeypatch.setattr(Faulty, "at", 5)
    assert run(*faulty(out)) == 2
    assert "(test_resume.py, line " in capfd.readouterr().err
    monkeypatch.setattr(Faulty, "at", 250)
    assert run(*faulty(out)) == 2
    assert "at step 250" in capfd.readouterr().err
    kept = steps_kept(out)
    assert run(*faulty(out)) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert steps_kept(out) == kept


def test_a_new_run_in_an_environment_that_fails_keeps_its_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(Faulty, "fault", "raises")
    monkeypatch.setattr(Faulty, "at", 450)
    assert run(*faulty(out)) == 2
    assert "at step 450" in capfd.readouterr().err
    assert [row["step"] for row in rows(out)] == ["200", "400"]
    assert steps_kept(out) == [400, 449]
    assert run("eval", str(out), "--episodes", "1") == 0
    assert run("plot", str(out), "--out", str(tmp_path / "curve.png")) == 0


def test_a_run_that_fails_before_its_first_checkpoint_keeps_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """A simulator that becomes unstable may do so before half a minute is over."""
    out = tmp_path / "out"
    monkeypatch.setattr(Faulty, "fault", "raises")
    monkeypatch.setattr(Faulty, "at", 450)
    assert run(*faulty(out, "--checkpoint-seconds", "1000")) == 2
    assert f"there was no checkpoint yet; the policy of the last evaluation is in {out}" in capfd.readouterr().err
    assert run("eval", str(out), "--episodes", "1") == 0


def test_an_environment_that_fails_in_an_evaluation_says_at_which_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(Faulty, "fault", "evaluation")
    monkeypatch.setattr(Faulty, "at", 30)
    monkeypatch.setattr(Faulty, "made", 0)
    assert run(*faulty(out)) == 2
    assert "raised" in (line := capfd.readouterr().err.splitlines()[-1])
    # The second one; an episode has 25, and one or two steps were taken before the run.
    assert re.search(r"in an episode at step [34] in the evaluation at step 400", line)


def test_an_environment_that_cannot_be_kept_starts_new_episodes_and_says_so(tmp_path: Path, capfd: Capture) -> None:
    """Not the same run any more, so it must not pass in silence. Once, not at every checkpoint."""
    out = tmp_path / "out"
    assert run(*faulty(out, "--steps", "400", env="tests/Locked-v0")) == 0
    capfd.readouterr()
    assert run(*faulty(out, "--resume", env="tests/Locked-v0")) == 0
    assert capfd.readouterr().err.count("episodes start again") == 1
    assert [row["step"] for row in rows(out)] == ["200", "400", "600"]


# The compilation cache is part of the command line, and is the user's


def test_compiled_programs_are_kept_between_processes(whole_run: Any, cache: Path) -> None:
    """The second run of an experiment starts in a second."""
    whole_run()
    assert any((cache / "ddpg-jax").iterdir())


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no name."""
    monkeypatch.delenv("XDG_CACHE_HOME")

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    machine.use_compilation_cache()


def test_a_cache_that_the_user_set_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        machine.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_signal_within_the_handler_of_another_is_noted() -> None:
    """Somebody who presses Ctrl-C again and again sends one at any place, and none may wait for another."""
    places = next(place for place in itertools.count() if not signalled_within_the_handler(place))
    assert places > 3, "the handler makes some calls, within each of which one came"


def signalled_within_the_handler(place: int) -> bool:
    """Sends a signal, and another one when its handler makes a call; returns False if it does not make so many."""
    calls: list[str] = []

    def late(number: int, frame: Any) -> None:
        raise TimeoutError("a signal waits for another one")

    def again(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)
            if len(calls) == place + 1:
                signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: None), signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 5.0, 1.0)
        with signals() as received:
            sys.setprofile(again)
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                sys.setprofile(None)
            assert stopping.is_set()
            assert received
        assert not stopping.is_set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in zip((signal.SIGTERM, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
    return len(calls) > place


@pytest.mark.parametrize("step", [400, 600])
def test_an_evaluation_that_a_signal_stopped_is_made_up_for(
    step: int,
    tmp_path: Path,
    whole_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also the last one, after which nothing else is left to do."""
    out, real = tmp_path / "a", Program.evaluate

    def evaluate(self: Program, state: Any, i: int) -> Any:
        if i == step:
            signal.raise_signal(signal.SIGTERM)
            raise Interrupted
        return real(self, state, i)

    monkeypatch.setattr(Program, "evaluate", evaluate)
    assert run(*command(out)) == 128 + signal.SIGTERM
    assert len(rows(out)) == step // 200 - 1
    monkeypatch.undo()
    capfd.readouterr()
    assert run(*command(out, "--resume")) == 0
    assert "missing" not in capfd.readouterr().err
    assert rows(out) == rows(whole_run())
    for kind in ("policy", "policy_best"):
        assert (out / kind / "actor.npz").read_bytes() == (whole_run() / kind / "actor.npz").read_bytes()
