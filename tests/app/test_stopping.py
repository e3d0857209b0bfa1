"""Runs that stop: at a time limit, at a return, at rungs; how they go on; and the best policies, which are kept meanwhile."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.app import program_job, report
from ddpg_jax.app.evaluation import policy_folder
from ddpg_jax.app.release import release
from ddpg_jax.errors import Interrupted
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.hyperparams import Hyperparams
from ddpg_jax.running import blocks
from ddpg_jax.running.blocks import Journal
from ddpg_jax.running.groups import Group
from ddpg_jax.running.program import Member, Program
from ddpg_jax.running.results import Stop
from ddpg_jax.running.stops import Referee, make_pruning
from tests.app.test_report import table
from tests.runs import TINY, command, manifest, rows, run

pytestmark = pytest.mark.usefixtures("command_line")

Capture = pytest.CaptureFixture[str]

PAGE = (Path(__file__).parents[2] / "ddpg_jax" / "app" / "README.md").read_text()


def sweep(out: Path, *more: str) -> list[str]:
    points = ["--grid", "critic_lr=1e-4,1e-3,1e-2,3e-2"]
    return [
        "sweep",
        "Pendulum-v1",
        *points,
        *TINY,
        "--eval-every",
        "100",
        "--checkpoint-seconds",
        "0",
        "--out",
        str(out),
        *more,
    ]


def policies(folder: Path) -> dict[str, bytes]:
    """The files of all policies, the last and the best."""
    files = sorted(folder.glob("policy*/**/actor.npz"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_stops_at_its_time_limit_and_goes_on(
    whole_run: Callable[..., Path], clock: Callable[[int], None], tmp_path: Path, capfd: Capture
) -> None:
    clock(2)
    assert run(*command(tmp_path / "a", "--hours", "2")) == 0
    said = capfd.readouterr()
    assert said.out == "", "it has no result yet"
    assert re.fullmatch(r"ddpg-jax: stopped at step 300; go on with: ddpg-jax train .* --resume", said.err.splitlines()[-1])
    assert manifest(tmp_path / "a")["status"] == "interrupted"
    clock(1_000)
    assert run(*command(tmp_path / "a", "--hours", "2", "--resume")) == 0
    assert manifest(tmp_path / "a")["status"] == "finished"
    assert rows(tmp_path / "a") == rows(whole_run())
    assert policies(tmp_path / "a") == policies(whole_run())


@pytest.fixture(scope="module")
def pruned(command_line: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four points, of which two stop at step 400."""
    out = tmp_path_factory.mktemp("pruned") / "a"
    assert run(*sweep(out, "--prune", "400,")) == 0
    return out


def test_pruning_is_seen_everywhere(pruned: Path) -> None:
    last = {row["member"]: row["step"] for row in rows(pruned)}
    stopped = {m for m, step in last.items() if step == "400"}
    assert len(last) == 4
    assert len(stopped) == 2
    assert manifest(pruned)["stopped"] == {m: [400, "prune"] for m in sorted(stopped, key=int)}
    points = json.loads((pruned / "summary.json").read_text())["points"]
    assert [point["pruned_step"] for point in points] == [400 if str(m) in stopped else None for m in range(4)]
    assert [point["steps"] for point in points] == [400 if str(m) in stopped else 600 for m in range(4)]
    at = [float(row["eval_return_mean"]) for row in rows(pruned) if row["step"] == "400"]
    assert {str(m) for m in np.argsort(at)[:2]} == stopped
    assert policy_folder(pruned).name.removeprefix("member_") not in stopped, "eval takes one that was not pruned"


def test_a_pruned_sweep_that_is_interrupted_ends_the_same(
    pruned: Path, clock: Callable[[int], None], tmp_path: Path, capfd: Capture
) -> None:
    """At every second block; and it remembers its rungs, which cannot be others."""
    out = tmp_path / "b"
    times = 0
    while times == 0 or manifest(out)["status"] != "finished":
        clock(2)
        more = ["--prune", "400,"] if times == 0 else ["--resume"]
        assert run(*sweep(out, "--hours", "1", *more)) == 0
        times += 1
    assert times >= 2, "it was never interrupted"
    assert rows(out) == rows(pruned)
    assert policies(out) == policies(pruned)
    assert manifest(out)["stopped"] == manifest(pruned)["stopped"]
    capfd.readouterr()
    clock(1_000)
    assert run(*sweep(out, "--prune", "500,", "--resume")) == 2
    assert "prune=500, with fraction 0.5 is not what this run was started with (400, with fraction" in capfd.readouterr().err


def test_pruned_points_can_go_on(pruned: Path, clock: Callable[[int], None], tmp_path: Path, capfd: Capture) -> None:
    """From where they stopped, interrupted on the way, to the rows of a sweep that was never pruned."""
    out = tmp_path / "c"
    shutil.copytree(pruned, out)
    clock(1)
    assert run(*sweep(out, "--hours", "1", "--prune", "none", "--resume")) == 0
    assert "stopped at step 500 of each member of program 2 of 2" in capfd.readouterr().err
    clock(1_000)
    assert run(*sweep(tmp_path / "whole")) == 0
    assert run(*sweep(out, "--resume")) == 0
    by_member = sorted(rows(out), key=lambda row: (row["member"], int(row["step"])))
    assert by_member == sorted(rows(tmp_path / "whole"), key=lambda row: (row["member"], int(row["step"])))
    assert policies(out) == policies(tmp_path / "whole")
    assert manifest(out)["stopped"] == {}
    assert run(*sweep(tmp_path / "new", "--prune", "none")) == 2
    assert "needs --resume" in capfd.readouterr().err


def test_a_pruned_point_that_is_alone_in_its_program_can_go_on(tmp_path: Path) -> None:
    """Alone, it has no axis of members. Only the points of the last program can go on."""

    def two(order: str, *more: str) -> list[str]:
        return ["sweep", "Pendulum-v1", *TINY, "--grid", f"hidden={order}", "--out", str(tmp_path / order), *more]

    for order in ("8,16", "16,8"):
        assert run(*two(order, "--prune", "400,")) == 0
    order = next(order for order in ("8,16", "16,8") if manifest(tmp_path / order).get("stopped"))
    assert [row["step"] for row in rows(tmp_path / order) if row["member"] == "1"] == ["200", "400"]
    assert run(*two(order, "--prune", "none", "--resume")) == 0
    assert [row["step"] for row in rows(tmp_path / order) if row["member"] == "1"] == ["200", "400", "600"]


def test_a_solved_run_stops(tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "a"
    assert run(*command(out, "--until", "-1e9:2")) == 0
    assert [row["step"] for row in rows(out)] == ["200", "400"]
    assert manifest(out)["status"] == "finished"
    (point,) = json.loads((out / "summary.json").read_text())["points"]
    assert point["stopped_members"] == {"0": 400}
    assert point["pruned_step"] is None
    assert run(*command(out, "--resume")) == 0
    assert [row["step"] for row in rows(out)] == ["200", "400"], "and stays so"
    capfd.readouterr()
    assert run(*command(out, "--until", "5", "--resume")) == 2
    assert "until=5:1 is not what this run was started with (-1e+09:2)" in capfd.readouterr().err


def test_the_best_policy_is_that_of_the_best_evaluation(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    """A run that ends there has the same one as its last."""
    table = rows(whole_run())
    best = max(table, key=lambda row: float(row["eval_return_mean"]))
    assert best is not table[-1], "or this tests nothing"
    assert run(*command(tmp_path / "short", "--steps", best["step"])) == 0
    short, whole = policies(tmp_path / "short"), policies(whole_run())
    assert whole["policy_best/actor.npz"] == short["policy/actor.npz"] != whole["policy/actor.npz"]
    assert policy_folder(whole_run(), kind="policy_best") == whole_run() / "policy_best"
    assert run("eval", str(whole_run()), "--best", "--episodes", "1") == 0


NOISY = "--hidden 8 --batch-size 8 --warmup-steps 100 --eval-every 100 --eval-episodes 1 --actor-lr 1e-2 --critic-lr 1e-2"
"""Evaluations of which any may be the best."""


def many(out: Path, steps: int, *more: str) -> list[str]:
    words = ["sweep", "Pendulum-v1", *TINY, *NOISY.split(), "--seeds", "12", "--checkpoint-seconds", "0"]
    return [*words, "--steps", str(steps), "--out", str(out), *more]


def best(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in policies(out).items() if name.startswith("policy_best")}


def test_the_best_policies_go_back_with_a_run_that_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an evaluation at the end of a run that becomes longer counts, nor one after the checkpoint that is left."""

    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    assert run(*many(tmp_path / "whole", 400)) == 0
    assert run(*many(tmp_path / "longer", 250)) == 0
    ended = best(tmp_path / "longer")
    assert run(*many(tmp_path / "longer", 400, "--resume")) == 0
    assert best(tmp_path / "longer") == best(tmp_path / "whole") != ended
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "400")
    assert run(*many(tmp_path / "short", 300)) == 0
    monkeypatch.setattr(program_job, "run_blocks", interrupted)
    assert run(*many(tmp_path / "whole", 400, "--resume")) == 130
    assert best(tmp_path / "whole") == best(tmp_path / "short") != best(tmp_path / "longer")


def test_what_was_put_aside_for_a_checkpoint_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints can be of the same step: before an evaluation that a signal stopped, and after it was made up for."""
    evaluate, go_on = Program.evaluate, program_job.run_blocks

    def stopped(self: Program, state: Any, i: int) -> Any:
        if i == 200:
            signal.raise_signal(signal.SIGTERM)
            raise Interrupted
        return evaluate(self, state, i)

    def killed(*given: Any, **more: Any) -> Any:
        for tick in go_on(*given, **more):
            yield tick
            if tick.rows:
                raise KeyboardInterrupt

    assert run(*many(tmp_path / "whole", 400)) == 0
    monkeypatch.setattr(Program, "evaluate", stopped)
    assert run(*many(tmp_path / "twice", 400)) == 128 + signal.SIGTERM
    monkeypatch.setattr(Program, "evaluate", evaluate)
    monkeypatch.setattr(program_job, "run_blocks", killed)
    assert run(*many(tmp_path / "twice", 400, "--resume")) == 130
    monkeypatch.setattr(program_job, "run_blocks", go_on)
    assert run(*many(tmp_path / "twice", 400, "--resume")) == 0
    assert best(tmp_path / "twice") == best(tmp_path / "whole")


def test_solved_seeds_keep_their_last_return_and_pruned_points_are_not_the_best() -> None:
    """Seeds of a point that stop at different times still make one curve."""
    data = table([[1.0, 9.0], [2.0, 3.0, 4.0], [50.0], [50.0]], tau=[0.1, 0.1, 0.2, 0.2])
    stops = {0: Stop(200, "until"), 2: Stop(100, "prune"), 3: Stop(100, "prune")}
    points = report.by_point(data, stops)
    assert points[0.1,][:, :, 1].tolist() == [[1.0, 9.0, 9.0], [2.0, 3.0, 4.0]]
    assert points[0.2,][:, :, 1].tolist() == [[50.0], [50.0]]
    assert "best point tau=0.1, IQM 6.5" in report.headline("E", data, 1, stops=stops)
    assert "2 points, 1 of them pruned" in report.headline("E", data, 1, stops=stops)


def test_the_job_for_slurm_requeues_itself_until_it_has_finished(
    clock: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script is run by a shell, with a `ddpg-jax` that notes its arguments; these are then run here, with a clock."""
    (script,) = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in (("ddpg-jax", 'echo "$@" >> calls'), ("scontrol", 'echo "$@" >> requeued')):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    for n, (looks, status) in enumerate([(2, "interrupted"), (1_000, "finished")]):
        # What the program leaves is only known after it has run, so the script first finds what the job before has left.
        subprocess.run(["sh", "-c", script], env=env, check=False, capture_output=True)
        words = shlex.split((tmp_path / "calls").read_text().splitlines()[n])
        assert ("--resume" in words) == (n > 0)
        clock(looks)
        assert run(*words, *TINY, "--checkpoint-seconds", "0") == 0
        assert manifest(tmp_path / "runs" / "long")["status"] == status
    assert (tmp_path / "requeued").read_text() == "requeue 7\n" * 2
    subprocess.run(["sh", "-c", script], env=env, check=True)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n" * 2, "it has finished"


@pytest.mark.parametrize(
    ("warmup", "every", "until", "steps", "longer"),
    [(300, 300, "-1:2", 450, 900), (1000, 3000, "-1", 2000, 4000)],
    ids=["within a block", "where a block ends"],
)
def test_a_stop_where_a_longer_run_does_not_evaluate_is_not_known_to_it(
    warmup: int, every: int, until: str, steps: int, longer: int, tmp_path: Path
) -> None:
    """The row of the last evaluation goes when a run becomes longer, and so does what was decided by it."""
    sizes = f"--warmup-steps {warmup} --eval-every {every} --hidden 8"
    words = f"sweep probe/observation --seeds 2 {sizes} --until={until}".split()
    assert run(*words, "--steps", str(steps), "--out", str(tmp_path / "longer")) == 0
    assert manifest(tmp_path / "longer")["stopped"] == {"0": [steps, "until"], "1": [steps, "until"]}
    assert run(*words, "--steps", str(longer), "--out", str(tmp_path / "longer"), "--resume") == 0
    assert run(*words, "--steps", str(longer), "--out", str(tmp_path / "whole")) == 0
    assert rows(tmp_path / "longer") == rows(tmp_path / "whole")
    assert manifest(tmp_path / "longer")["stopped"] == manifest(tmp_path / "whole")["stopped"]
    commands = [one["command"] for one in manifest(tmp_path / "longer")["resumes"]]
    assert len(commands) == 1, "a report tells the way to a run that was made longer"


class Fragile(nn.Module):
    """An actor that the first update breaks, since the root has no derivative at 0."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.sqrt(nn.Dense(1, kernel_init=nn.initializers.zeros)(obs)))


class Value(nn.Module):
    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        return nn.Dense(1)(jnp.concatenate([obs, action], -1))[..., 0]


def test_a_divergence_where_a_longer_run_does_not_evaluate_is_not_known_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only update of the shorter run is its last; the longer one finds at the next step what came of it."""
    monkeypatch.setattr(blocks, "BLOCK_UPDATES", 1)
    monkeypatch.setitem(dj.NETWORKS, "fragile", lambda *, action_dim: dj.Nets(Fragile(), Value()))
    words = "train probe/observation --network fragile --warmup-steps 99 --eval-every 150".split()
    assert run(*words, "--steps", "100", "--out", str(tmp_path / "longer")) == 0
    assert [row["diverged_step"] for row in rows(tmp_path / "longer")] == ["100"]
    assert run(*words, "--steps", "200", "--out", str(tmp_path / "longer"), "--resume") == 0
    assert run(*words, "--steps", "200", "--out", str(tmp_path / "whole")) == 0
    assert [row["diverged_step"] for row in rows(tmp_path / "whole")] == ["101"]
    assert rows(tmp_path / "longer") == rows(tmp_path / "whole")


def test_who_had_diverged_before_being_pruned_still_has() -> None:
    program = SimpleNamespace(save=lambda state: ({"x": np.arange(3)}, None), placement=SimpleNamespace(single=False))
    group = Group(Experiment(), [Member(m, Hyperparams(), m) for m in range(3)])
    referee = SimpleNamespace(stops={1: Stop(1_000, "prune"), 2: Stop(500, "prune")})
    journal = Journal([], [-1, 700, -1], 2_000, stopped=[-1, 1_000, 500])
    later = release(group, program, [], journal, referee)  # pyright: ignore[reportArgumentType]
    assert later is not None
    assert later.journal.diverged == [700, -1]
    assert later.journal.waiting == [1_000, 500]


def test_who_has_no_return_yet_is_not_judged() -> None:
    """Without evaluations, returns are those of training, and an episode that goes on for long is not a bad one."""
    members = [Member(m, Hyperparams(), m, (("tau", 0.1 * (m + 1)),)) for m in range(4)]
    group = Group(Experiment(steps=400, warmup_steps=100, eval_every=100, eval_episodes=0), members)
    referee = Referee([group], pruning=make_pruning("200,", None, [group]))
    data = [{**row, "step": 200, "eval_return_mean": math.nan} for row in table([[1.0], [2.0], [3.0], [4.0]])]
    for row, value in zip(data, [-50.0, -60.0, math.nan, -40.0], strict=True):
        row["train_return_mean"] = value
    stopped = list(referee.judge(members)(data, None))
    assert stopped == [1], "the worst of those that are known"
