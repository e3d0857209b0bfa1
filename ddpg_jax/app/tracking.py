"""Sends metrics to TensorBoard or Weights & Biases if the user asks for it (extra `track`)."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            f"track={kind} needs a package that is not installed; install extra track, or pip install {PACKAGES[kind]}"
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
        with _tensorboard(folder / "tensorboard", configuration(manifest)) as track:
            yield track
    else:
        with _wandb(folder, manifest) as track:
            yield track


def configuration(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns all fields of a run; those in which its members differ as lists."""
    members = manifest["members"]
    values = {name: [member[name] for member in members] for name in members[0] if name != "member"}
    return {
        **manifest["experiment"],
        **{name: each[0] if all(value == each[0] for value in each) else each for name, each in values.items()},
    }


@contextmanager
def _tensorboard(folder: Path, config: dict[str, Any]) -> Iterator[Track]:
    """Writes a new file of events, and removes those of a run that is resumed: TensorBoard would show their steps twice."""
    from tensorboardX import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()))

        def scalars(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                for name, value in _numbers(row).items():
                    writer.add_scalar(f"member_{row['member']}/{name}", value, row["step"])
            writer.flush()

        yield scalars


@contextmanager
def _wandb(folder: Path, manifest: dict[str, Any]) -> Iterator[Track]:
    """Goes on with the run that belongs to the folder, if there is one. Its steps are numbers of rows."""
    import wandb

    started = "".join(c for c in manifest["start"] if c.isdigit())
    settings = {"id": f"{manifest['hash']}-{started}", "resume": "allow", "config": configuration(manifest)}
    with wandb.init(project="ddpg-jax", name=folder.name, dir=str(folder), **settings) as run:
        run.define_metric("*", step_metric="step")  # wandb's own steps may not restart with the next program of a sweep
        known, count = run.step, 0  # rows that the run has, and rows that were given here

        def log(rows: list[dict[str, Any]]) -> None:
            nonlocal count
            for batch in _batches(rows):
                new = batch[max(0, known - count) :]
                count += len(batch)
                if new:
                    values = {f"member_{row['member']}/{name}": x for row in new for name, x in _numbers(row).items()}
                    run.log({**values, "step": new[0]["step"]}, step=count - 1)

        yield log


def _batches(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Splits rows where the step changes."""
    for _, batch in itertools.groupby(rows, key=lambda row: row["step"]):
        yield list(batch)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Selects the columns that were measured, without NaN, which trackers do not accept."""
    numbers = {name: value for name, value in row.items() if name not in ("member", "seed", "step")}
    return {name: value for name, value in numbers.items() if not isinstance(value, str) and math.isfinite(value)}
