"""Metrics to TensorBoard or Weights & Biases, where the user asks for it (extra `track`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpg_jax.types import ConfigError

TRACKERS = ("tensorboard", "wandb")

Track = Callable[[list[dict[str, Any]]], None]


def make_tracker(kind: str | None, folder: Path, config: dict[str, Any]) -> Track:
    """A function that takes the rows of every evaluation.

    Raises:
        ConfigError: the package is not installed.
    """
    if kind is None:
        return lambda rows: None
    try:
        if kind == "tensorboard":
            from tensorboardX import SummaryWriter

            writer = SummaryWriter(str(folder / "tensorboard"))

            def scalars(rows: list[dict[str, Any]]) -> None:
                for row in rows:
                    for name, value in _numbers(row).items():
                        writer.add_scalar(f"member_{row['member']}/{name}", value, row["step"])
                writer.flush()

            return scalars
        import wandb

        run = wandb.init(project="ddpg-jax", name=folder.name, dir=str(folder), config=config)

        def log(rows: list[dict[str, Any]]) -> None:
            values = {f"member_{row['member']}/{name}": value for row in rows for name, value in _numbers(row).items()}
            run.log(values, step=rows[0]["step"])

        return log
    except ImportError as error:
        raise ConfigError(f'track={kind} needs a package that is not installed: pip install "ddpg-jax[track]"') from error


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("member", "seed", "step")}
