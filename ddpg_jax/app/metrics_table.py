"""Reads and writes metrics.csv, the table of evaluations."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpg_jax.agent.policy_file import open_regular
from ddpg_jax.errors import ConfigError
from ddpg_jax.files import naming_errors, write_text
from ddpg_jax.running.rows import FIXED, KNOWN, SUCCESS

LIMIT = 1 << 32
"""Bytes of a table at most."""
ADDED = (SUCCESS, "nan")
"""What rows of an older version get when their run is resumed; digests do not count it."""
COUNTS = ("member", "seed", "step")
"""Columns of whole numbers of at least 0."""
NUMERIC_COLUMNS = ("member", "seed", "step", "eval_return_mean", "eval_return_std", "diverged_step")
"""Columns that have a number in every row; `diverged_step` may also be empty."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the complete rows of a table; none if there is no file.

    A torn last line, from a process that was killed, is left out.

    Raises:
        ConfigError: the table cannot be read, or another line is incomplete.
    """
    try:
        with open_regular(path, LIMIT) as file:
            text = file.read().decode()
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        table, names = list(reader), list(reader.fieldnames or ())
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if len(set(names)) < len(names):
        raise ConfigError(f"{path} cannot be read: two of its columns have the same name")
    return [_read_row(path, line, texts) for line, texts in enumerate(table, start=2)]


def _read_row(path: Path, line: int, texts: dict[str, Any]) -> dict[str, Any]:
    """Reads a row; see `read_rows`."""
    if None in texts or None in texts.values():
        raise ConfigError(f"{path} cannot be read: line {line} does not have as many columns as the first")
    row = {name: parse_cell(text) for name, text in texts.items()}
    for name in (*NUMERIC_COLUMNS, *(name for name in KNOWN if name in row)):
        if not _is_number(row.get(name)) and not (name == "diverged_step" and row.get(name) == ""):
            raise ConfigError(f"{path} cannot be read: line {line} has {name}={row.get(name)}, which is not a number")
    for name in COUNTS:
        if not isinstance(row[name], int) or row[name] < 0:
            raise ConfigError(f"{path} cannot be read: line {line} has {name}={row[name]}, which is not a whole number")
    return row


def check_rows(path: Path, rows: Sequence[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """Checks that rows are those of a run: they must have its columns and belong to its members.

    Raises:
        ConfigError: they do not.
    """
    if not rows:
        return
    columns, swept = list(rows[0]), manifest.get("swept", [])
    unknown = sorted(name for name in columns if name not in (*KNOWN, *swept))
    missing = sorted(name for name in (*FIXED, *swept) if name not in columns)
    if missing:
        more = f", and has {', '.join(unknown)} instead" if unknown else ""
        raise ConfigError(f"{path} lacks the columns {', '.join(missing)}{more}; restore its first line")
    if unknown:
        raise ConfigError(f"{path} has columns that this run does not write: {', '.join(unknown)}; remove them")
    seeds = {member["member"]: member["seed"] for member in manifest["members"]}
    for line, row in enumerate(rows, start=2):
        if row["seed"] != seeds.get(row["member"]):
            raise ConfigError(
                f"{path} cannot be read: line {line} has member={row['member']} with seed={row['seed']}, which is not a member "
                "of this run; restore the file"
            )


class RowDigest:
    """The digest of the rows so far, as they will be read back."""

    def __init__(self, rows: Sequence[dict[str, Any]] = ()):
        self.count = 0
        self._hash = hashlib.sha256()
        self.add(rows)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes more rows in."""
        for row in rows:
            texts = {name: str(value) for name, value in row.items()}
            cells = [(name, parse_cell(text)) for name, text in texts.items() if (name, text) != ADDED]
            self._hash.update(repr(cells).encode())
        self.count += len(rows)

    def text(self) -> str:
        """Returns the digest."""
        return self._hash.hexdigest()


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_cell(text: str) -> Any:
    """Converts a cell to a bool, an int or a float if it is one."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
