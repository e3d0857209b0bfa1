"""Sends metrics to TensorBoard or Weights & Biases if the user asks for it (extra `track`)."""

from __future__ import annotations

import importlib.util
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
def tracker(kind: str | None, folder: Path, config: dict[str, Any]) -> Iterator[Track]:
    """Yields a function that sends the rows of an evaluation, and closes the tracker at the end."""
    if kind is None:
        yield lambda rows: None
    elif kind == "tensorboard":
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(folder / "tensorboard")) as writer:

            def scalars(rows: list[dict[str, Any]]) -> None:
                for row in rows:
                    for name, value in _numbers(row).items():
                        writer.add_scalar(f"member_{row['member']}/{name}", value, row["step"])
                writer.flush()

            yield scalars
    else:
        import wandb

        with wandb.init(project="ddpg-jax", name=folder.name, dir=str(folder), config=config) as run:
            run.define_metric("*", step_metric="step")  # wandb's own steps may not restart with the next program of a sweep

            def log(rows: list[dict[str, Any]]) -> None:
                values = {f"member_{row['member']}/{name}": x for row in rows for name, x in _numbers(row).items()}
                run.log({**values, "step": rows[0]["step"]})

            yield log


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Selects the columns that were measured, without NaN, which trackers do not accept."""
    numbers = {name: value for name, value in row.items() if name not in ("member", "seed", "step")}
    return {name: value for name, value in numbers.items() if not isinstance(value, str) and math.isfinite(value)}
