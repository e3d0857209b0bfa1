"""What the tests of the command line share: tiny runs, in this process, and how two runs are compared."""

from __future__ import annotations

import base64
import csv
import functools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ddpg_jax.api import make_program
from ddpg_jax.app.checkpoints import Checkpoint, Checkpoints
from ddpg_jax.app.cli import main
from ddpg_jax.experiment.experiment import NUMBERS as HYPERPARAMS
from ddpg_jax.experiment.experiment import Experiment, configure
from ddpg_jax.running.program import Member
from ddpg_jax.types import Hyperparams

NUMBERS: dict[str, Any] = {
    "steps": 600,
    "warmup_steps": 300,  # ends between two evaluations, so that the checkpoint there carries a part of a row
    "eval_every": 200,
    "hidden": "16-16",
    "eval_episodes": 2,
    "replay_capacity": 1000,
}
TINY = [word for name, value in NUMBERS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
"""Checkpoints, with --checkpoint-seconds 0, at steps 200, 300, 400 and 600; evaluations at 200, 400 and 600."""
HEADER = (
    "member,seed,step,eval_return_mean,eval_return_std,eval_length_mean,train_return_mean,critic_loss,actor_loss,q_mean,"
    "updates_per_second,seconds,diverged_step,eval_success_rate"
)
BACKENDS = ("device", "host")


def command(out: Path, *more: str, backend: str = "device") -> list[str]:
    """The arguments of a tiny run on Pendulum that writes a checkpoint after every block."""
    return ["train", "Pendulum-v1", *TINY, "--backend", backend, "--checkpoint-seconds", "0", "--out", str(out), *more]


def run(*arguments: str) -> int:
    """`ddpg-jax` in this process; its exit status."""
    try:
        return main(list(arguments))
    except SystemExit as end:  # argparse, after --help and --version
        return int(end.code or 0)


def start(*arguments: str) -> subprocess.Popen[str]:
    """`ddpg-jax` as a process of its own; it finds what this one has compiled."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddpg_jax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv, as text, without the columns that are measurements of time."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {name: text for name, text in row.items() if name not in ("updates_per_second", "seconds")}
            for row in csv.DictReader(file)
        ]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def steps_kept(folder: Path) -> list[int]:
    """The steps of the checkpoints that are whole, by their names."""
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def shapes_of(folder: Path) -> Any:
    """The shapes of the state of a run of one member."""
    about = manifest(folder)
    given = {name: value for name, value in about["experiment"].items() if name != "parts"}  # these are found, not given
    return _shapes(configure({**given, **{name: about["members"][0][name] for name in HYPERPARAMS}}))


@functools.cache
def _shapes(settings: tuple[Experiment, Hyperparams]) -> Any:
    experiment, hyper = settings
    program = make_program(experiment, [Member(experiment.seed, hyper)])
    try:
        return program.shapes()
    finally:
        program.close()


def newest(folder: Path, say: Callable[[str], None] = pytest.fail) -> Checkpoint | None:
    """The newest checkpoint of a run of one member, as --resume would find it."""
    shapes = shapes_of(folder)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.newest(lambda number: shapes, say)


def assert_same_run(one: Path, other: Path) -> None:
    """The same evaluations, and last checkpoints of equal bits: parameters, optimizer, replay, noise, environments."""
    assert rows(one) == rows(other)
    a, b = newest(one), newest(other)
    assert a is not None
    assert b is not None
    assert a.iteration == b.iteration
    assert_same_arrays(a.arrays, b.arrays)
    assert (a.text is None) == (b.text is None)
    if a.text is not None and b.text is not None:
        assert_same(pickle.loads(base64.b64decode(a.text)), pickle.loads(base64.b64decode(b.text)))


def assert_same_arrays(one: Any, other: Any) -> None:
    """Two trees of arrays, bit for bit."""
    a, b = jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other)
    assert [path for path, _ in a] == [path for path, _ in b]
    different = [jax.tree_util.keystr(path) for (path, x), (_, y) in zip(a, b, strict=True) if bits(x) != bits(y)]
    assert not different


def bits(array: Any) -> tuple[Any, ...]:
    return np.shape(array), str(array.dtype), np.asarray(array).tobytes()


def assert_same(one: Any, other: Any) -> None:
    """Two states of environments; pickled, they differ by what is shared, and generators have no `==`."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for x, y in zip(one, other, strict=True):
            assert_same(x, y)
    elif isinstance(one, np.random.Generator):
        assert one.bit_generator.state == other.bit_generator.state
    elif isinstance(one, np.ndarray):
        assert bits(one) == bits(other)
    else:
        assert one == other
