"""Sends metrics to TensorBoard or Weights & Biases if the user asks for it (extra `track`)."""

from __future__ import annotations

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ddpg_jax.errors import ConfigError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}

Track = Callable[[list[dict[str, Any]]], None]


def check_tracker(kind: str | None) -> None:
    """Checks that metrics can be sent to this tracker, before anything is written.

    Raises:
        ConfigError: the package is not installed.
    """
    if kind is not None and importlib.util.find_spec(PACKAGES[kind]) is None:
        raise ConfigError(
            f"track={kind} needs a package that is not installed; install the extra track, or pip install {PACKAGES[kind]}"
        )


@contextmanager
def tracker(kind: str | None, folder: Path, manifest: dict[str, Any]) -> Iterator[Track]:
    """Yields a function that takes the rows of metrics.csv in their order, and closes the tracker at the end.

    A run that is resumed gives its earlier rows again, so that the tracker shows each row once, whatever was sent before.

    Args:
        kind: `tensorboard`, `wandb` or None.
        folder: of the run.
        manifest: of the run, which says what it is trained with, and identifies it.
    """
    if kind is None:
        yield lambda rows: None
    elif kind == "tensorboard":
        with _tensorboard(folder / "tensorboard", manifest) as track:
            yield track
    else:
        with _wandb(folder, manifest) as track:
            yield track


def configuration(manifest: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    """Returns all fields of a member of a run; without its number, those in which the members differ are lists.

    >>> members = [{"member": m, "seed": m, "tau": 0.1} for m in range(2)]
    >>> configuration({"experiment": {"env": "x", "seed": 0}, "members": members})
    {'env': 'x', 'seed': [0, 1], 'tau': 0.1}
    >>> configuration({"experiment": {"env": "x", "seed": 0}, "members": members}, 1)
    {'env': 'x', 'seed': 1, 'tau': 0.1}
    """
    members = [one for one in manifest["members"] if number in (None, one["member"])]
    values = {name: [member[name] for member in members] for name in members[0] if name != "member"}
    return {
        **manifest["experiment"],
        **{name: each[0] if all(value == each[0] for value in each) else each for name, each in values.items()},
    }


@contextmanager
def _tensorboard(folder: Path, manifest: dict[str, Any]) -> Iterator[Track]:
    """Writes new files of events: of a single run in the folder, and of a sweep in a folder for each member.

    Members are then runs, whose curves are drawn together. The files of a run that is resumed are removed, or their steps would
    be shown twice.
    """
    from tensorboardX import SummaryWriter

    for old in folder.rglob("events.out.tfevents.*"):
        old.unlink()
    many = len(manifest["members"]) > 1
    with ExitStack() as stack:

        def new_writer(number: int) -> Any:
            writer = stack.enter_context(SummaryWriter(str(folder / f"member_{number}" if many else folder)))
            config = configuration(manifest, number).items()
            writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config))
            return writer

        writers = _Made(new_writer)

        def scalars(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                for name, value in _numbers(row).items():
                    writers[row["member"]].add_scalar(name, value, row["step"])
            for number in {row["member"] for row in rows}:
                writers[number].flush()

        yield scalars


@contextmanager
def _wandb(folder: Path, manifest: dict[str, Any]) -> Iterator[Track]:
    """Goes on with the runs that belong to the folder, if there are any: one, or of a sweep one for each member, in one group.

    Their steps are numbers of rows. `WANDB_MODE=offline` keeps them on this machine.
    """
    import wandb

    started = "".join(c for c in manifest["start"] if c.isdigit())
    many = len(manifest["members"]) > 1
    with ExitStack() as stack:

        def new_run(number: int) -> Any:
            identity = f"{manifest['hash']}-{started}" + (f"-{number}" if many else "")
            settings: dict[str, Any] = {"id": identity, "resume": "allow", "config": configuration(manifest, number)}
            if many:  # several runs at a time
                settings |= {"group": folder.name, "name": f"{folder.name}-{number}", "reinit": "create_new"}
            project = os.environ.get("WANDB_PROJECT", "ddpg-jax")
            run = wandb.init(**{"project": project, "name": folder.name, "dir": str(folder), **settings})
            stack.enter_context(run)
            run.define_metric("*", step_metric="step")  # so that members, which may have other evaluations, share an axis
            return run

        runs = _Made(new_run)
        known, count = _Made(lambda number: runs[number].step), Counter[int]()  # rows that a run has, and that were given

        def log(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                number = row["member"]
                if count[number] >= known[number]:
                    runs[number].log({**_numbers(row), "step": row["step"]}, step=count[number])
                count[number] += 1

        yield log


class _Made(dict[int, Any]):
    """Holds what is made at the first request, by a member's number."""

    def __init__(self, make: Callable[[int], Any]):
        super().__init__()
        self._make = make

    def __missing__(self, number: int) -> Any:
        self[number] = self._make(number)
        return self[number]


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Selects the columns that were measured, without NaN, which trackers do not accept."""
    numbers = {name: value for name, value in row.items() if name not in ("member", "seed", "step")}
    return {name: value for name, value in numbers.items() if not isinstance(value, str) and math.isfinite(value)}
