"""Sweeps over several processes: the results of one, and what becomes of the others when one dies.

How processes find each other and talk is tested with threads in their places; whole sweeps are real processes on loopback.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.api import make_program
from ddpg_jax.app import processes as module
from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.exchange import make_exchange
from ddpg_jax.app.idle import idle_program
from ddpg_jax.app.manifest import new_manifest
from ddpg_jax.app.processes import ALONE, Ended, Meeting, Processes, connected, detect, listen
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.running import groups
from ddpg_jax.running.blocks import run_blocks
from ddpg_jax.running.groups import Group, fit_to_memory
from ddpg_jax.running.hardware import cgroup_rooms
from ddpg_jax.running.placement import Placement
from ddpg_jax.running.program import Member
from tests.runs import manifest, rows, run

pytestmark = pytest.mark.usefixtures("command_line")

Capture = pytest.CaptureFixture[str]

LIMIT = 120
"""Seconds after which a process that should have ended fails its test."""


def free_port(low: int = 0, high: int = 1) -> int:
    """A port of this host that nobody uses, any or from a range."""
    for port in range(low, high):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return one.getsockname()[1]
    pytest.fail("no port is free")


# How they talk


def in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """What a call in a thread gives or raises. One that never ends does not keep the tests from ending."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


SHORT: dict[str, Any] = {"steps": 1600, "warmup_steps": 100, "eval_every": 200, "eval_episodes": 1, "replay_capacity": 1000}


def together(
    *tasks: Callable[[Processes], Any], total: int | None = None, numbers: list[int] | None = None
) -> list[Future[Any]]:
    """Each task in a thread, as if it were a process; when all have ended."""
    port = free_port()

    def one(k: int, task: Callable[[Processes], Any]) -> Any:
        number = k if numbers is None else numbers[k]
        with connected(Meeting("127.0.0.1", port, total or len(tasks), number)) as processes:
            return task(processes)

    futures = [in_thread(one, k, task) for k, task in enumerate(tasks)]
    for future in futures:
        future.exception(LIMIT)
    return futures


def test_all_hear_what_all_say_in_order() -> None:
    said = [{"x": float("nan")}, [1, "two", None, 0.1], "é\n"]

    def talk(processes: Processes) -> Any:
        time.sleep(0.05 * (2 - processes.number))  # the last comes first
        return processes.local, [processes.gather([said[processes.number], turn]) for turn in range(3)]

    first, *others = [future.result() for future in together(talk, talk, talk)]
    assert first[0] == 3
    assert [[heard[1] for heard in turn] for turn in first[1]] == [[turn] * 3 for turn in range(3)]
    assert [heard[0] for heard in first[1][0]][1:] == said[1:]
    assert all(repr(other) == repr(first) for other in others)


def test_one_process_only_talks_to_itself() -> None:
    with connected(None) as processes:
        assert processes is ALONE
        assert processes.gather("word") == ["word"]
    with connected(Meeting("nowhere.invalid", 1, 1, 0)) as processes:
        assert processes is ALONE


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_a_process_that_fails_ends_the_others_with_its_words(culprit: int) -> None:
    def talk(processes: Processes) -> None:
        processes.gather(None)
        if processes.number == culprit:
            raise dj.ConfigError("the motor\nis too hot")
        processes.gather(None)

    for k, future in enumerate(together(talk, talk, talk)):
        error = future.exception()
        assert type(error) is (dj.ConfigError if k == culprit else Ended)
        if isinstance(error, Ended):
            assert str(error) == f"process {culprit} of this sweep has failed: the motor is too hot"
            assert error.status == 2


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_process_that_is_gone_ends_the_others(victim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections break without a word; nobody is forced to leave who has noticed by itself."""
    forced: list[str] = []
    monkeypatch.setattr(module, "_leave", forced.append)
    monkeypatch.setattr(module, "GRACE", 0.2)
    real = module._send

    def send(peers: dict[int, Any], message: Any) -> None:
        if "dead" not in str(message.get("end")):
            real(peers, message)

    monkeypatch.setattr(module, "_send", send)

    def talk(processes: Processes) -> None:
        processes.gather(None)
        if processes.number == victim:
            raise RuntimeError("dead")
        processes.gather(None)

    for k, future in enumerate(together(talk, talk, talk)):
        error = future.exception()
        if k != victim:
            assert isinstance(error, Ended)
            assert str(error) == f"process {victim} of this sweep has died; go on with --resume"
            assert error.status == 1
    time.sleep(0.4)
    assert not forced


def test_a_process_that_is_busy_when_another_dies_is_ended_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[str] = []
    monkeypatch.setattr(module, "_leave", forced.append)
    monkeypatch.setattr(module, "GRACE", 0.1)

    def dies(processes: Processes) -> None:
        processes.gather(None)
        monkeypatch.setattr(module, "_send", lambda peers, message: None)

    def computes(processes: Processes) -> None:
        processes.gather(None)
        deadline = time.monotonic() + LIMIT
        while not forced and time.monotonic() < deadline:
            time.sleep(0.01)

    together(computes, dies)
    assert forced == ["process 1 of this sweep has died; go on with --resume"]


def test_nobody_is_forced_to_leave_who_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks behind the end of a sweep is no business of the process that goes on with other things."""
    forced: list[str] = []
    monkeypatch.setattr(module, "_leave", forced.append)
    monkeypatch.setattr(module, "GRACE", 0.2)

    def ends(processes: Processes) -> None:
        processes.gather(None)
        monkeypatch.setattr(module, "_send", lambda peers, message: None)  # without a word

    together(ends, ends)
    time.sleep(0.5)
    assert not forced


@pytest.mark.parametrize(
    ("numbers", "total", "words"),
    [
        ([0, 1, 1], 3, "process_id=1 is not allowed; each number from 0 to 2"),
        ([0, 1], 3, "process 2 did not connect to 127.0.0.1:"),
    ],
)
def test_a_meeting_that_fails_is_one_line(numbers: list[int], total: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 1.0)
    errors = [future.exception() for future in together(*[lambda processes: None] * len(numbers), total=total, numbers=numbers)]
    assert isinstance(errors[0], dj.ConfigError)
    assert all(words in str(error) and "\n" not in str(error) for error in errors)


def test_a_stranger_at_the_door_is_sent_away() -> None:
    meeting = Meeting("127.0.0.1", free_port(), 2, 0)

    def host() -> list[Any]:
        with connected(meeting) as processes:
            return processes.gather(0)

    waiting = in_thread(host)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", meeting.port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
        except OSError:
            time.sleep(0.01)
    with connected(meeting._replace(number=1)) as processes:
        assert processes.gather(1) == [0, 1]
    assert waiting.result(LIMIT) == [0, 1]


def test_nobody_at_the_meeting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 0.3)
    with (
        pytest.raises(dj.ConfigError, match=r"coordinator=127.0.0.1:\d+ could not be reached") as error,
        connected(Meeting("127.0.0.1", free_port(), 2, 1)),
    ):
        pass
    assert "\n" not in str(error.value)


def test_where_nobody_listens_is_soon_said(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """Process 0 may have been killed before it listened: five minutes of silence help nobody."""
    monkeypatch.setattr(module, "REFUSED", 0.5)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with (
        pytest.raises(dj.ConfigError, match=r"could not be reached in .* process 0 must be running"),
        connected(Meeting("127.0.0.1", free_port(), 2, 1)),
    ):
        pass
    assert capfd.readouterr().err.startswith("process 1 waits for process 0 at 127.0.0.1:")


def test_a_first_process_that_is_killed_before_it_answers_ends_the_others() -> None:
    """It listens before it imports anything that takes long; the system closes the port of a process that is gone."""
    meeting = Meeting("127.0.0.1", free_port(), 2, 1)
    server = listen(meeting._replace(number=0))
    assert server is not None

    def join() -> None:
        with connected(meeting):
            pass

    with server:
        joining = in_thread(join)
        time.sleep(0.5)
    with pytest.raises(Ended, match="process 0 of this sweep has died"):
        joining.result(timeout=LIMIT)


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(dj.ConfigError, match=rf"coordinator=127.0.0.1:{port} cannot be used"),
            connected(Meeting("127.0.0.1", port, 2, 0)),
        ):
            pass


def slurm(port: int, number: int, total: int = 2) -> dict[str, str]:
    """What Slurm sets in the environment of the tasks of a job."""
    return {
        "SLURM_JOB_ID": str(port - 61440),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(total),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def test_a_cluster_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    updates: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    with pytest.raises(dj.ConfigError, match="JAX detects no cluster here; give --coordinator"):
        detect()
    for name, value in slurm(61445, 1).items():
        monkeypatch.setenv(name, value)
    assert detect() == Meeting("localhost", 61445, 2, 1)
    assert updates == {"jax_cuda_visible_devices": "1", "jax_rocm_visible_devices": "1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--coordinator", "localhost:1234"], "must be given together"),
        (["--num-processes", "2", "--process-id", "0"], "must be given together"),
        (["--distributed", "--process-id", "0"], "cannot be combined"),
        (["--coordinator", "localhost", "--num-processes", "2", "--process-id", "0"], "coordinator=localhost is not allowed"),
        (["--coordinator", "a:99999", "--num-processes", "2", "--process-id", "0"], "coordinator=a:99999 is not allowed"),
        (["--coordinator", "a:1234", "--num-processes", "0", "--process-id", "0"], "num_processes=0 is not allowed"),
        (["--coordinator", "a:1234", "--num-processes", "2", "--process-id", "2"], "from 0 to 1"),
        (["--coordinator", "a:1234", "--num-processes", "2", "--process-id", "-1"], "from 0 to 1"),
    ],
)
def test_flags_that_do_not_name_a_meeting_are_one_line(words: list[str], said: str, tmp_path: Path, capfd: Capture) -> None:
    assert run("sweep", "Pendulum-v1", "--out", str(tmp_path / "out"), *words) == 2
    line = capfd.readouterr().err
    assert line.startswith("ddpg-jax: ")
    assert line.count("\n") == 1
    assert said in line
    assert not (tmp_path / "out").exists()


# What they decide in common


def save(folder: Path, *iterations: int, processes: Processes = ALONE) -> None:
    with Checkpoints(folder, processes) as kept:
        for iteration in iterations:
            kept.save(Checkpoint(0, iteration, {"x": np.full(3, iteration, np.float32)}, None, []))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("theirs", "wrong", "expected"),
    [([3, 2], [None], 3), ([2, 1], [None], 2), ([3, 2], ["its checksum does not match", None], 2)],
    ids=["all is well", "the newest is not there", "the newest is damaged there"],
)
def test_the_newest_checkpoint_is_whole_in_all(
    tmp_path: Path, theirs: list[int], wrong: list[str | None], expected: int
) -> None:
    """This process has checkpoints 2 and 3, and the other says what it has."""
    save(tmp_path, 1, 2, 3)
    answers, said = [theirs, *wrong], []
    with Checkpoints(tmp_path, Processes(2, 0, gather=lambda message: [message, answers.pop(0)])) as kept:
        found = kept.newest(lambda program: {"x": np.zeros(3, np.float32)}, said.append)
    assert found is not None
    assert found.iteration == expected
    assert not answers
    assert len(said) == len(wrong) - 1
    assert names(tmp_path) == {str(n) for n in (2, 3) if n in theirs and n <= expected}  # what is of no use is gone


@pytest.mark.parametrize("theirs", [[], [1]])
def test_checkpoints_that_one_of_them_does_not_see_stay(tmp_path: Path, theirs: list[int]) -> None:
    """A second one is begun when all have the first: that of the other is hidden, as by a disk that is not there."""
    save(tmp_path, 2, 3)
    with (
        Checkpoints(tmp_path, Processes(2, 0, gather=lambda message: [message, theirs])) as kept,
        pytest.raises(dj.ConfigError, match=r"no checkpoint in .* in common"),
    ):
        kept.newest(lambda program: {"x": np.zeros(3, np.float32)}, pytest.fail)
    assert names(tmp_path) == {"2", "3"}


def test_a_first_checkpoint_that_one_of_them_did_not_finish_is_none(tmp_path: Path) -> None:
    save(tmp_path, 2)
    with Checkpoints(tmp_path, Processes(2, 0, gather=lambda message: [message, []])) as kept:
        assert kept.newest(lambda program: {"x": np.zeros(3, np.float32)}, pytest.fail) is None
    assert names(tmp_path) == set()


def test_a_checkpoint_waits_for_the_one_before_it_everywhere(tmp_path: Path) -> None:
    """If the other dies before its second is on the disk, the third must not begin: it would take the first one's place."""
    seen: list[set[str]] = []

    def gather(message: Any) -> list[Any]:
        seen.append(names(tmp_path))
        if len(seen) == 3:
            raise Ended("the other has died", 1)
        return [message, message]

    with pytest.raises(Ended):
        save(tmp_path, 1, 2, 3, processes=Processes(2, 0, gather=gather))
    assert seen == [set(), {"1"}, {"1", "2"}]
    assert names(tmp_path) == {"1", "2"}


def test_all_divide_a_program_as_the_smallest_memory_demands() -> None:
    """Two processes: this one could hold all, the other a single member at once, so two train together and then two more."""
    experiment, hyper = dj.configure({"env": "Pendulum-v1"})
    members = [Member(seed, hyper, seed) for seed in range(4)]
    shares: list[list[int]] = []
    processes = Processes(2, 1)

    def make(x: Any, part: list[Member]) -> Any:
        shares.append([member.number for member in processes.share(part)])
        return idle_program()

    parts = [
        [member.number for member in part.members]
        for part, _ in fit_to_memory(Group(experiment, members), make, agree=lambda fit: 2)
    ]
    assert parts == [[0, 1], [2, 3]]
    assert shares == [[2, 3], [1], [3]]


def test_the_limits_of_control_groups_count(tmp_path: Path) -> None:
    """A container sees the memory of its whole host, and is killed at its own limit."""
    assert cgroup_rooms(tmp_path) == []
    files = {
        "proc/self/cgroup": "0::/a/b\n3:cpu:/c\n5:memory:/d\n",
        "sys/fs/cgroup/a/memory.max": "1000",
        "sys/fs/cgroup/a/memory.current": "600",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 50\n",
        "sys/fs/cgroup/a/b/memory.max": "max",
        "sys/fs/cgroup/a/b/memory.current": "600",
        "sys/fs/cgroup/memory/d/memory.limit_in_bytes": "700",
        "sys/fs/cgroup/memory/d/memory.usage_in_bytes": "100",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "100",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_rooms(tmp_path) == [450, 600]


def test_processes_of_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member needs 20 bytes: four fit in 100, two in the half of it."""
    experiment, hyper = dj.configure({"env": "Pendulum-v1"})
    group = Group(experiment, [Member(seed, hyper, seed) for seed in range(4)])
    monkeypatch.setattr(groups, "memory_limit", lambda _: 100 / groups.HEADROOM)

    def make(x: Any, part: list[Member]) -> Any:
        program: Any = idle_program()
        shapes = program.shapes()
        program.shapes = lambda: shapes
        program.memory, program.placement = lambda: 20 * len(part), Placement(len(part), "vmap", (None,))
        return program

    assert [len(part.members) for part, _ in fit_to_memory(group, make)] == [4]
    assert [len(part.members) for part, _ in fit_to_memory(group, make, local_processes=2)] == [2, 2]


def test_a_share_that_diverged_goes_on_while_others_train() -> None:
    """Its rows, of NaN, come as they would among the others'; the end comes when all have diverged."""
    experiment, hyper = dj.configure({"env": "Pendulum-v1", "critic_lr": 1e30, "hidden": (8,), **SHORT})
    answers: list[bool] = []

    def gather(here: float | bool) -> list[Any]:
        if not isinstance(here, bool):
            return [here]
        answers.append(here)
        return [len(answers) > 6, here]

    program = make_program(experiment, [Member(0, hyper)])
    ticks = list(run_blocks(program, experiment, program.start(), gather=gather))
    assert [tick.step for tick in ticks if tick.rows] == [200, 400, 600, 800, 1000, 1200]
    assert answers == [False] + [True] * 6
    assert [tick.finished for tick in ticks] == [False] * (len(ticks) - 1) + [True]
    assert np.isnan(ticks[-1].rows[0]["eval_return_mean"])


def test_each_has_its_share_in_order() -> None:
    for total in (1, 2, 3, 5):
        shares = [Processes(total, k).share(list(range(4))) for k in range(total)]
        assert [item for share in shares for item in share] == [0, 1, 2, 3]
        assert sorted(map(len, shares), reverse=True) == list(map(len, shares))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_another_number_of_processes_cannot_resume(tmp_path: Path) -> None:
    experiment, hyper = dj.configure({"env": "Pendulum-v1"})
    members = [Member(0, hyper)]
    place = RunFolder(tmp_path, Processes(2, 0))
    place.write_manifest(**new_manifest(experiment, members, 2))
    with pytest.raises(dj.ConfigError, match=r"holds a run of num_processes=2, not of 1; resume it with num_processes=2"):
        RunFolder(tmp_path).claim(experiment, members, resume=True, overwrite=False)
    RunFolder(tmp_path, Processes(2, 0)).claim(experiment, members, resume=True, overwrite=False)


def test_states_cross_from_one_process_to_another(tmp_path: Path) -> None:
    """Bit by bit, of any dtype and shape; what a process that was killed has left is gone afterwards, as everything else."""
    trees = [
        {"x": np.arange(6, dtype=np.float32).reshape(2, 3) + k, "y": jnp.array(0.1 * k, jnp.bfloat16), "z": np.array([k > 0])}
        for k in range(3)
    ]
    (tmp_path / "exchange_1").mkdir()
    (tmp_path / "exchange_1" / "torn.npz").write_bytes(b"PK")
    shapes = jax.eval_shape(lambda: trees[0])

    def trade(processes: Processes) -> list[Any]:
        exchange, k = make_exchange(tmp_path, processes), processes.number
        first = exchange(
            {(k, "copy"): trees[k], (k, "keep"): trees[2]} if k < 2 else {}, {(1 - k, "copy"): shapes} if k < 2 else {}
        )
        again = exchange({(5, "keep"): trees[1]} if k == 1 else {}, {(5, "keep"): shapes} if k != 1 else {})
        return [*first.items(), *again.items()]

    found = [future.result() for future in together(trade, trade, trade)]
    assert [[loan for loan, _ in own] for own in found] == [[(1, "copy"), (5, "keep")], [(0, "copy")], [(5, "keep")]]
    for own, expected in zip(found, ([trees[1], trees[1]], [trees[0]], [trees[1]]), strict=True):
        for (_, tree), true in zip(own, expected, strict=True):
            chex.assert_trees_all_equal(tree, true)
            chex.assert_trees_all_equal_dtypes(tree, true)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both let go of what they have written, so that there is room again, also for the manifest."""
    real = np.savez

    def savez(path: Path, *arrays: Any) -> None:
        real(path, *arrays)
        if path.parent.name == "exchange_1":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez)

    def trade(processes: Processes) -> None:
        make_exchange(tmp_path, processes)({(processes.number, "copy"): {"x": np.zeros(3)}}, {})

    other, full = [future.exception() for future in together(trade, trade)]
    assert isinstance(full, OSError)
    assert "exchange_1" in full.filename
    assert isinstance(other, Ended)
    assert "No space left on device" in str(other)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_has_left_is_removed_when_it_goes_on(tmp_path: Path) -> None:
    """Also if nobody is replaced from there on: environments that cannot be kept may lead elsewhere."""
    (tmp_path / "exchange_1").mkdir()
    make_exchange(tmp_path, Processes(2, 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"lost"])
def test_a_state_that_does_not_arrive_whole_is_one_line(content: bytes, tmp_path: Path) -> None:
    """Not every file system shows at once what another host has written."""
    (tmp_path / "torn.npz").write_bytes(content)
    exchange = make_exchange(tmp_path, Processes(2, 0, gather=lambda message: [message, [[1, "copy", "torn.npz"]]]))
    with pytest.raises(OSError, match=r"not whole.*torn.npz"):
        exchange({}, {(1, "copy"): {"x": np.zeros(3)}})


def test_a_folder_that_was_moved_away_is_not_made_anew(tmp_path: Path) -> None:
    exchange = make_exchange(tmp_path / "moved", Processes(2, 0, gather=lambda message: [message] * 2))
    with pytest.raises(FileNotFoundError, match="moved"):
        exchange({(0, "copy"): {"x": np.zeros(3)}}, {})
    assert not list(tmp_path.iterdir())


# Real processes

SETTINGS = (
    "sweep Pendulum-v1 --steps 1600 --warmup-steps 300 --eval-every 200 --hidden 8 --eval-episodes 1 --replay-capacity 1000 "
    "--checkpoint-seconds 0"
).split()
SEEDS = ("--seeds", "3")
"""Two members for process 0, one for process 1."""
LEGS = ("--grid", "critic_lr=0.001,1e30", "--grid", "steps=400,600")
"""Two programs of two members. Process 0 has the one that is right, process 1 one that diverges, process 2 nothing to do."""


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    """`ddpg-jax sweep` as a process of its own."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", **more}
    words = [sys.executable, "-m", "ddpg_jax", *SETTINGS, *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@contextmanager
def pair(out: Path, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of a sweep; none is left behind."""
    where = ["--out", str(out), "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    with until_the_end([start(*arguments, *where, str(k)) for k in range(2)]) as both:
        yield both


@contextmanager
def three(out: Path, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes of a sweep under Slurm, as far as JAX can tell."""
    port = free_port(61440, 65536)
    words = [*arguments, "--out", str(out), "--distributed"]
    with until_the_end([start(*words, **slurm(port, k, 3)) for k in range(3)]) as all_three:
        yield all_three


@contextmanager
def until_the_end(processes: list[subprocess.Popen[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever happens, they are gone afterwards."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def when(happened: Callable[[], bool], both: list[subprocess.Popen[str]]) -> None:
    """Waits until something has happened, while two processes are at work."""
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < deadline
        assert both[1].poll() is None
        time.sleep(0.0005)


def ends(both: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """`(status, stdout, stderr)` of each."""
    said = [process.communicate(timeout=LIMIT) for process in both]
    return [(process.returncode, *words) for process, words in zip(both, said, strict=True)]


def policies(folder: Path) -> dict[str, bytes]:
    """What the files of all policies hold."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "policy").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command_line: None) -> Path:
    """The sweep of one process."""
    out = tmp_path_factory.mktemp("whole") / "seeds"
    assert run(*SETTINGS, *SEEDS, "--out", str(out)) == 0
    return out


def test_two_processes_give_what_one_gives(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pair(out, *SEEDS) as both:
        (status, said, progress), other = ends(both)
    assert status == 0, progress
    assert other[:2] == (0, "")
    assert not any(line.startswith(("step", "program", "ddpg-jax")) for line in other[2].splitlines())
    assert "diverged members: 0" in said
    assert "program 1 of 1, shared by 2 processes: 3 members" in progress
    assert rows(out) == rows(whole)
    assert policies(out) == policies(whole)
    assert manifest(out)["processes"] == 2
    assert manifest(out)["status"] == "finished"
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"process_0", "process_1"}
    assert {path.name for path in out.iterdir()} >= {path.name for path in whole.iterdir()}


def test_shares_that_diverge_and_shares_of_nothing_take_part(whole: Path, tmp_path: Path) -> None:
    """Members 0 and 1 are the first of the other sweep, and end earlier."""
    out = tmp_path / "out"
    with three(out, *LEGS) as processes:
        first, *others = ends(processes)
    assert first[0] == 0, first[2]
    assert [other[:2] for other in others] == [(0, "")] * 2
    assert manifest(out)["programs"] == [[0, 2], [1, 3]]
    expected = [row for row in rows(whole) if row["member"] == "0"]
    for member, count in enumerate((2, 3, 2, 3)):
        mine = [{**row, "member": "0"} for row in rows(out) if row["member"] == str(member)]
        if member < 2:
            assert [{name: row[name] for name in expected[0]} for row in mine] == expected[:count]
        else:
            assert [row["step"] for row in mine] == [row["step"] for row in expected[:count]]
            assert "" not in [row["diverged_step"] for row in mine[1:]]
        assert (out / "policy" / f"member_{member}" / "actor.npz").exists()


def test_however_a_process_ends_the_sweep_goes_on_to_the_same_end(whole: Path, tmp_path: Path) -> None:
    """Killed, then the other one killed, then asked to stop; at last it runs to its end."""
    out = tmp_path / "out"

    def until(step: int, both: list[subprocess.Popen[str]]) -> None:
        when((out / "checkpoints" / "process_1" / str(step)).exists, both)

    for victim, step, more in ((1, 200, ()), (0, 600, ("--resume",))):
        with pair(out, *SEEDS, *more) as both:
            until(step, both)
            both[victim].kill()
            since = time.monotonic()
            status, _, said = ends(both)[1 - victim]
            assert time.monotonic() - since < 30
        assert status == 1
        assert said.splitlines()[-1] == f"ddpg-jax: process {victim} of this sweep has died; go on with --resume"
        assert "Traceback" not in said
        assert "***" not in said  # of a check that failed in C++
    with pair(out, *SEEDS, "--resume") as both:
        until(1000, both)
        both[1].send_signal(signal.SIGTERM)
        for status, said, progress in ends(both):
            assert (status, said) == (143, "")
            assert "ddpg-jax: stopped at step" in progress.splitlines()[-1]
            assert progress.splitlines()[-1].endswith(" --resume")
    assert manifest(out)["status"] == "interrupted"
    kept = [{path.name for path in (out / "checkpoints" / f"process_{k}").iterdir()} for k in range(2)]
    assert kept[0] == kept[1]
    with pair(out, *SEEDS, "--resume") as both:
        for status, _, progress in ends(both):
            assert status == 0, progress
    assert rows(out) == rows(whole)
    assert policies(out) == policies(whole)


POPULATION = "--population {} --sample critic_lr=log:1e-4:3e-2 --exploit every=200,fraction=0.5,replay={} --seed 2"


def test_a_population_learns_across_processes(tmp_path: Path) -> None:
    """One process dies on the way."""
    words, out = POPULATION.format(4, "copy").split(), tmp_path / "out"
    assert run(*SETTINGS, *words, "--out", str(tmp_path / "whole")) == 0
    with pair(out, *words) as both:
        when((out / "checkpoints" / "process_1" / "800").exists, both)
        both[1].kill()
        assert ends(both)[0][0] == 1
    with pair(out, *words, "--resume") as both:
        for status, _, progress in ends(both):
            assert status == 0, progress
    changes = (out / "schedule.csv").read_text().splitlines()
    assert any(change.split(",")[1] in "01" and change.split(",")[2] in "23" for change in changes[5:]), "nobody has crossed"
    assert changes == (tmp_path / "whole" / "schedule.csv").read_text().splitlines()
    assert rows(out) == rows(tmp_path / "whole")
    assert policies(out) == policies(tmp_path / "whole")
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"process_0", "process_1"}


def test_a_population_smaller_than_its_processes(tmp_path: Path) -> None:
    """The third one has nothing to do."""
    words = POPULATION.format(2, "keep").split()
    assert run(*SETTINGS, *words, "--out", str(tmp_path / "whole")) == 0
    with three(tmp_path / "out", *words) as processes:
        assert [status for status, *_ in ends(processes)] == [0] * 3
    assert (tmp_path / "out" / "schedule.csv").read_text() == (tmp_path / "whole" / "schedule.csv").read_text()
    assert policies(tmp_path / "out") == policies(tmp_path / "whole")


def test_what_the_first_process_finds_wrong_ends_both(whole: Path, tmp_path: Path) -> None:
    """The folder holds a run of one process; the second does not look at it."""
    before = (whole / "manifest.json").read_bytes()
    with pair(whole, *SEEDS) as both:
        first, second = ends(both)
    assert (first[0], second[0]) == (2, 2)
    line = first[2].splitlines()[-1]
    assert line.startswith(f"ddpg-jax: out={whole} holds a run; continue it with --resume")
    assert second[2].splitlines()[-1] == line.replace("ddpg-jax: ", "ddpg-jax: process 0 of this sweep has failed: ")
    assert (whole / "manifest.json").read_bytes() == before
