"""Populations and schedules from the command line: their folders, and that an interruption changes nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpg_jax.app import cli, evolving, points, report
from ddpg_jax.app.cite import keys_of_run
from ddpg_jax.app.evaluation import policy_folder
from ddpg_jax.app.figures import learning_curves
from ddpg_jax.running.population import Exploit
from tests.app.test_stopping import policies
from tests.runs import TINY, manifest, rows, run

pytestmark = pytest.mark.usefixtures("command_line")

Capture = pytest.CaptureFixture[str]


def population(out: Path, *more: str, every: int = 100, ranges: str = "critic_lr=log:1e-4:3e-2") -> list[str]:
    how = ["--population", "4", "--sample", ranges, "--exploit", f"every={every},fraction=0.5", "--seed", "2"]
    return ["sweep", "Pendulum-v1", *how, *TINY, *FINE, "--out", str(out), *more]


FINE = ["--eval-every", "100", "--checkpoint-seconds", "0"]


@pytest.fixture(scope="module")
def grown(command_line: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population of four, with exploits at steps 400 and 500, after a warm-up of 300."""
    out = tmp_path_factory.mktemp("population") / "a"
    assert run(*population(out)) == 0
    return out


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "schedule.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_population_is_seen_everywhere(grown: Path) -> None:
    """The table of values, its figure, the columns of metrics.csv, the summary, and the policy that eval takes."""
    changes = table(grown)
    assert list(changes[0]) == ["step", "member", "parent", "critic_lr", "final_return"]
    assert [row["step"] for row in changes[:4]] == ["0"] * 4
    assert {row["step"] for row in changes[4:]} == {"400", "500"}
    value = {(int(row["step"]), row["member"]): row["critic_lr"] for row in changes}
    for row in rows(grown):
        begun = max(step for step, member in value if member == row["member"] and step < int(row["step"]))
        assert row["critic_lr"] == value[begun, row["member"]]
    found = json.loads((grown / "summary.json").read_text())["population"]
    final = {row["member"]: float(row["eval_return_mean"]) for row in rows(grown)}
    assert str(found["best_member"]) == max(final, key=lambda member: final[member])
    assert found["replacements"] == len(changes) - 4
    assert found["lineage"][-1]["critic_lr"] == found["values"]["critic_lr"]
    assert policy_folder(grown).name == f"member_{found['best_member']}"
    assert "jaderberg2017" in keys_of_run(manifest(grown))
    assert (grown / "schedule.png").stat().st_size > 10_000
    assert not (grown / "sensitivity.png").exists(), "members do not keep their values"
    assert [point["seeds"] for point in json.loads((grown / "summary.json").read_text())["points"]] == [1] * 4


def test_the_policies_are_those_that_were_evaluated(grown: Path) -> None:
    """Not those of the members whose states are taken over right after that evaluation, as is decided at the last one, too."""
    kept = policies(grown)
    assert len({data for name, data in kept.items() if name.startswith("policy/")}) == 4
    best = json.loads((grown / "summary.json").read_text())["population"]
    assert best["final_return"] == max(float(row["eval_return_mean"]) for row in rows(grown)[-4:])


def test_a_population_that_is_interrupted_ends_the_same(grown: Path, clock: Callable[[int], None], tmp_path: Path) -> None:
    """At every block, so that it also goes on between a decision and the first step after it."""
    out, times = tmp_path / "b", 0
    while times == 0 or manifest(out)["status"] != "finished":
        clock(1)
        assert run(*population(out, "--hours", "1", *(["--resume"] if times else []))) == 0
        times += 1
    assert times >= 5, "it was hardly interrupted"
    assert rows(out) == rows(grown)
    assert policies(out) == policies(grown)
    assert (out / "schedule.csv").read_text() == (grown / "schedule.csv").read_text()
    assert manifest(out)["evolution"] == manifest(grown)["evolution"]
    before = (out / "schedule.csv").read_text()
    clock(1_000)
    assert run(*population(out, "--resume")) == 0
    assert (out / "schedule.csv").read_text() == before, "it has finished"


def test_a_population_can_become_longer(grown: Path, tmp_path: Path, capfd: Capture) -> None:
    """The decisions at its end, which nobody saw, take place then. The interval of the exploits stays, if it was left out."""
    short = tmp_path / "short"
    assert run(*population(short, "--steps", "500")) == 0
    assert {row["step"] for row in table(short)} == {"0", "400"}
    words = population(short, "--resume")
    at = words.index("--exploit")
    assert run(*words[: at + 1], "fraction=0.5", *words[at + 2 :]) == 0
    assert rows(short) == rows(grown)
    assert policies(short) == policies(grown)
    capfd.readouterr()
    assert run(*words[: at + 1], "fraction=0.25", *words[at + 2 :]) == 2
    assert "population is not what this run was started with (it differs in fraction)" in capfd.readouterr().err


def test_a_schedule_is_repeated_with_other_seeds(grown: Path, tmp_path: Path, capfd: Capture) -> None:
    """Here that of a member that was replaced, which is declared to be the best."""
    out, file = tmp_path / "c", tmp_path / "schedule.csv"
    changes = table(grown)
    chosen = next(row["member"] for row in changes if row["step"] == "500")
    text = [",".join([*list(row.values())[:-1], "9" if row["member"] == chosen else "0"]) for row in changes]
    file.write_text("\n".join([",".join(changes[0]), *text, ""]))
    words = ["sweep", "Pendulum-v1", "--schedule", str(file), "--seeds", "2", "--seed", "7", *TINY, *FINE, "--out", str(out)]
    assert run(*words) == 0
    parent = {(int(row["step"]), row["member"]): row["parent"] for row in changes}
    lineage, member = {}, chosen
    for step in (500, 400, 0):
        if (step, member) in parent:
            lineage[step] = float(next(r["critic_lr"] for r in changes if (int(r["step"]), r["member"]) == (step, member)))
            member = parent[step, member]
    assert {0, 500} <= set(lineage)
    for row in rows(out):
        assert float(row["critic_lr"]) == lineage[max(step for step in lineage if step < int(row["step"]))]
    assert {row["seed"] for row in rows(out)} == {"7", "8"}
    (point,) = json.loads((out / "summary.json").read_text())["points"]
    assert point["seeds"] == 2
    assert "a schedule that ends with critic_lr" in capfd.readouterr().out
    plain = ["sweep", "Pendulum-v1", "--grid", f"critic_lr={lineage[0]!r}", *words[4:]]
    assert run(*plain, "--resume") == 2
    assert "schedule is not what this run was started with" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--population", "4"], "population=4 needs sample"),
        (["--population", "few", "--sample", "tau=log:1e-3:1"], "population=few"),
        (["--population", "4", "--sample", "tau=log:1e-3:1", "--points", "8"], "population=4 cannot be combined with points"),
        (["--population", "4", "--sample", "tau=log:1e-3:1", "--prune", "2"], "population=4 cannot be combined with prune"),
        (["--population", "4", "--sample", "tau=log:1e-3:1", "--seeds", "2"], "population=4 cannot be combined with seeds"),
        (["--population", "4", "--sample", "tau=log:1e-3:1", "--exploit", "every=150"], "multiple of 200"),
        (["--exploit", "--sample", "tau=log:1e-3:1", "--points", "2"], "also give --population N"),
        (["--schedule", "nowhere.csv"], "schedule=nowhere.csv cannot be read"),
        (["--schedule", "nowhere.csv", "--sample", "tau=log:1e-3:1"], "schedule=nowhere.csv cannot be combined with sample"),
    ],
)
def test_a_bad_population_is_refused_in_one_line(words: list[str], said: str, tmp_path: Path, capfd: Capture) -> None:
    assert run("sweep", "Pendulum-v1", *words, *TINY, "--out", str(tmp_path / "a")) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "a").exists()


def test_exploit_alone_has_defaults() -> None:
    options = cli.make_parser().parse_args(["sweep", "E", "--population", "8", "--sample", "tau=log:1e-3:1", "--exploit"])
    found = points.read_evolution(options, {"env": "Pendulum-v1", "steps": 30_000})
    assert found is not None
    assert isinstance(found[1], evolving.Population)
    assert found[1].exploit == Exploit(2_000, 0.2, (0.8, 1.25), 0.0, "copy")


def test_members_of_a_population_are_named_by_their_numbers(grown: Path, tmp_path: Path) -> None:
    """Their values at the start would say little about them."""
    data = evolving_rows(grown)
    curves = report.labelled(data, "all")
    assert list(curves) == [f"member {m}" for m in range(4)]
    learning_curves({"Pendulum-v1": curves}, tmp_path / "curves.png")
    assert "best member" in report.headline("Pendulum-v1", data, 2)
    np.testing.assert_array_equal(curves["member 0"][0, :, 0], [100, 200, 300, 400, 500, 600])


def evolving_rows(folder: Path) -> list[dict[str, Any]]:
    from ddpg_jax.app.run_folder import RunFolder

    return RunFolder(folder).read_rows()
