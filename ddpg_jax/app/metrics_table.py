"""Reads and writes metrics.csv, the table of evaluations."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpg_jax.app.files import naming_errors, write_text
from ddpg_jax.errors import ConfigError

NUMERIC_COLUMNS = ("member", "seed", "step", "eval_return_mean", "eval_return_std", "diverged_step")
"""Columns that have a number in every row; `diverged_step` may also be empty."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the complete rows of a table; none if there is no file.

    A torn last line, from a process that was killed, is left out.

    Raises:
        ConfigError: the table cannot be read, or another line is incomplete.
    """
    try:
        text = path.read_text()
        table = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    rows = []
    for line, texts in enumerate(table, start=2):
        if None in texts or None in texts.values():
            raise ConfigError(f"{path} cannot be read: line {line} does not have as many columns as the first")
        row = {name: _parse(text) for name, text in texts.items()}
        for name in NUMERIC_COLUMNS:
            if not isinstance(row.get(name), int | float) and not (name == "diverged_step" and row.get(name) == ""):
                raise ConfigError(f"{path} cannot be read: line {line} has {name}={row.get(name)}, which is not a number")
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces the table with these rows."""
    write_text(path, _format(rows, header=True) if rows else "")


def append_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Appends rows to the table."""
    is_new = not path.exists() or path.stat().st_size == 0
    with naming_errors(path), open(path, "a", newline="") as file:
        file.write(_format(rows, header=is_new))


def _format(rows: Sequence[dict[str, Any]], header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parse(text: str) -> Any:
    """Converts a cell to a bool, an int or a float if it is one."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
