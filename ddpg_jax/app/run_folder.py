"""Manages the run folder: its files, and how a run claims it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ddpg_jax.app import metrics_table
from ddpg_jax.app.hold import LOCK, Hold, mark_of
from ddpg_jax.app.manifest import check_resumable, digest, read_manifest
from ddpg_jax.app.processes import ALONE, Processes
from ddpg_jax.app.stderr import tell
from ddpg_jax.app.study_plan import SETTINGS
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.files import write_text
from ddpg_jax.running.program import Member

ASIDE = ".policy_best"
"""The folder of best policies that a run goes back to if it is resumed from an earlier checkpoint."""
CONTENTS = (
    ASIDE,
    "metrics.csv",
    "summary.json",
    "checkpoints",
    "policy",
    "policy_best",
    "learning_curve.png",
    "heat_map.png",
    "sensitivity.png",
    "schedule.csv",
    "schedule.png",
    "tensorboard",
    "manifest.json",
)
"""Files and folders of a run. The manifest is removed last, so that an interrupted removal can be repeated."""
LEFTOVERS = (LOCK, "manifest.json.tmp")
"""Files that a run leaves if it is killed before it has written its manifest."""


def default_folder(experiment: Experiment, members: list[Member]) -> Path:
    """Returns `runs/ENV-PRESET-seedK-DIGEST`, which is the same for the same settings."""
    name = f"{experiment.env}-{experiment.preset}-seed{experiment.seed}-{digest(experiment, members)[:6]}"
    return in_runs(name)


def in_runs(name: str) -> Path:
    """Returns a folder in `runs`, whose name has no separators."""
    return Path("runs") / name.replace("/", "-").replace(":", "-")


class RunFolder:
    """The files of one run. If several processes share it, the first writes the shared files; each has its own checkpoints."""

    def __init__(self, path: Path, processes: Processes = ALONE):
        self.given = path_given = path  # as the user gave it, for messages
        self.path = path = path.absolute()  # an environment may change the current folder
        self.processes = processes
        self.checkpoints = path / "checkpoints" / (f"process_{processes.number}" if processes.total > 1 else "")
        self.metrics = path / "metrics.csv"
        self._written: dict[str, Any] | None = None  # the manifest, once this process has written it
        self._hold = Hold(path, path_given)

    def check(self, experiment: Experiment, members: list[Member], *, resume: bool, overwrite: bool) -> None:
        """Checks that a run may start or resume here.

        Raises:
            ConfigError: the folder holds another run or something else; or there is nothing to resume, or not with these
                settings.
        """
        if not self.processes.first:
            return
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"out={str(self.given)!a} is not allowed; its name must be UTF-8") from error
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out={self.given} is a file; it must be a folder, new or empty")
        exists = (self.path / "manifest.json").exists()
        if exists:
            self.manifest()  # another program's file of this name must not be replaced
        if exists and not (resume or overwrite or self._failed_at_once()):
            raise ConfigError(
                f"out={self.given} holds a run; continue it with --resume, replace it with --overwrite, or name another folder"
            )
        if resume and not exists:
            raise ConfigError(f"out={self.given} holds no run to resume; leave out --resume to start one")
        if resume:
            check_resumable(self.manifest(), experiment, members, processes=self.processes.total, out=self.given)
        elif not exists and self.path.exists() and any(item.name not in LEFTOVERS for item in self.path.iterdir()):
            raise ConfigError(f"out={self.given} is not empty and holds no run; name a new or empty folder")

    def _failed_at_once(self) -> bool:
        """Returns True if the run here failed before its first evaluation and checkpoint, so that nothing would be lost."""
        failed = str(self.manifest().get("status")).startswith("failed")
        saved = (item for item in (self.path / "checkpoints").rglob("*") if item.name.isdigit())
        return failed and not self.read_rows() and next(saved, None) is None

    def claim(self, experiment: Experiment, members: list[Member], *, resume: bool, overwrite: bool) -> None:
        """Checks the folder and locks it against other commands, with a mark of its own; writes nothing else.

        Raises:
            ConfigError: as `check`, or another command has locked it.
        """
        if not self.processes.first:
            return
        self.check(experiment, members, resume=resume, overwrite=overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._hold.lock():
            tell(f"out={self.given} is on a file system without locks: make sure that no other run writes into it")

    def hold(self) -> None:
        """Keeps this process's folder open; from here on, nothing is written into another that takes its place."""
        self._hold.take()

    def check_held(self) -> None:
        """Checks that the folder is still the one that is held, if one is; see `Hold.check`."""
        self._hold.check()

    def mark(self) -> str | None:
        """Returns the mark of the process that has claimed the folder, or None if there is none."""
        return mark_of(self.path)

    def clear(self) -> None:
        """Removes the run that is here, and nothing else."""
        if not self.processes.first:
            return
        self._written = None
        for name in CONTENTS:
            path = self.path / name
            if path.is_symlink() and path.is_dir():  # the link stays, since it may lead to another disk
                for inside in path.iterdir():
                    shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """Reads the manifest.

        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        if self._written is not None:
            return dict(self._written)
        try:
            return read_manifest(self.path / "manifest.json")
        except FileNotFoundError as error:
            if (self.path / SETTINGS).exists():
                raise ConfigError(
                    f"{self.given} holds a study and no run; its results are in points.csv and importance.png there, and "
                    f"ddpg-jax sweep ENV --preset {self.given / 'best.json'} trains the best point"
                ) from error
            raise ConfigError(f"{self.given} holds no run; it has no manifest.json") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{self.given}/manifest.json cannot be read: {error}") from error

    def programs(self) -> list[list[int]]:
        """Returns the members of each program that has been started; none if there is no run."""
        return self.manifest().get("programs", []) if (self.path / "manifest.json").exists() else []

    def write_manifest(self, **values: Any) -> None:
        """Sets these values in the manifest and keeps the others."""
        if not self.processes.first:
            return
        self.check_held()
        path = self.path / "manifest.json"
        old = self.manifest() if self._written is not None or path.exists() else {}
        new = {**old, **values}
        write_text(path, json.dumps(new, indent=2) + "\n")
        self._written = json.loads(json.dumps(new))

    def policy_of(self, member: Member, members: int, kind: str = "policy") -> Path:
        """Returns the folder of a member's policy, `policy` or `policy_best`, in a run of so many members."""
        return self.path / kind if members == 1 else self.path / kind / f"member_{member.number}"

    def read_rows(self) -> list[dict[str, Any]]:
        """Reads metrics.csv; see `metrics_table.read_rows` and `check_rows`."""
        rows = metrics_table.read_rows(self.metrics)
        if rows and (self.path / "manifest.json").exists():
            metrics_table.check_rows(self.metrics, rows, self.manifest())
        return rows

    def check_rows(self, rows: list[dict[str, Any]]) -> None:
        """Checks that rows of metrics.csv are those that the run wrote, as far as the manifest knows.

        Raises:
            ConfigError: they are not.
        """
        manifest = self.manifest()
        count, digest = manifest.get("rows", 0), manifest.get("rows_digest", "")
        if digest and metrics_table.RowDigest(rows[:count]).text() != digest:
            fewer = f"has {len(rows)} of the {count} rows that this run wrote"
            raise ConfigError(
                f"{self.metrics} {fewer if len(rows) < count else 'was changed after this run wrote it'}; restore it, or go on "
                "with --resume"
            )

    def rewrite_rows(self, rows: list[dict[str, Any]]) -> None:
        """Replaces metrics.csv with these rows."""
        if self.processes.first:
            self.check_held()
            metrics_table.write_rows(self.metrics, rows)

    def append_rows(self, rows: list[dict[str, Any]]) -> None:
        """Appends rows to metrics.csv."""
        if self.processes.first:
            self.check_held()
            metrics_table.append_rows(self.metrics, rows)
