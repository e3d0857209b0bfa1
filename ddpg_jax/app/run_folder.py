"""The run folder: what is in it, and how it is written so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import fcntl
import hashlib
import importlib.metadata
import io
import json
import platform
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from ddpg_jax.app.processes import ALONE, Processes
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import NUMBERS, STRUCTURE, Experiment
from ddpg_jax.running.program import Member

PARTS = (
    "metrics.csv",
    "summary.json",
    "checkpoints",
    "policy",
    "learning_curve.png",
    "heat_map.png",
    "sensitivity.png",
    "tensorboard",
    "manifest.json",
)
FORMAT = 3
"""Of what a run goes on from: its journal and its table. A run of another can be looked at, and not be resumed."""
MEASURED = ("member", "seed", "step", "eval_return_mean", "eval_return_std", "diverged_step")
"""Columns of metrics.csv that are numbers in every row, the last one if there is anything."""
BEFORE = (".lock", "manifest.json.tmp")
"""What a run that was killed before its first step leaves."""
PACKAGES = (
    "ddpg-jax",
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "flax",
    "optax",
    "chex",
    "gymnasium",
    "numpy",
    "orbax-checkpoint",
    "mujoco",
    "mujoco-mjx",
    "torch",
    "stable-baselines3",
    "sbx-rl",
    "rejax",
    "gymnax",
    "brax",
    "playground",
)


def write(path: Path, text: str) -> None:
    """Writes a file whole: to a temporary name first, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with _naming(path):
        temporary.write_text(text)
        temporary.replace(path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says where, when the system only says that a disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def digest(experiment: Experiment, members: list[Member]) -> str:
    """Twelve characters that differ where the experiment or its numbers do; the length of the run does not count."""
    return hashlib.sha256(json.dumps(_identity(experiment, members), sort_keys=True).encode()).hexdigest()[:12]


def _identity(experiment: Experiment, members: list[Member]) -> dict[str, Any]:
    """All that a run's results depend on, as plain JSON, but for its length."""
    about: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(experiment)))
    del about["steps"]
    return {**about, "members": [{"seed": member.seed, **member.hyper._asdict(), **dict(member.swept)} for member in members]}


def default_folder(experiment: Experiment, members: list[Member]) -> Path:
    """`runs/ENV-PRESET-seedK-DIGEST`: the same settings find the same folder again."""
    name = f"{experiment.env}-{experiment.preset}".replace("/", "-").replace(":", "-")
    return Path("runs") / f"{name}-seed{experiment.seed}-{digest(experiment, members)[:6]}"


class RunFolder:
    """The files of one run. Of several processes the first writes what belongs to all; each has checkpoints of its own."""

    def __init__(self, path: Path, processes: Processes = ALONE):
        self.given = path  # as it was typed, for what is said of it
        self.path = path = path.absolute()  # an environment may go to another folder
        self.processes = processes
        self.checkpoints = path / "checkpoints" / (f"process_{processes.number}" if processes.total > 1 else "")
        self.policy = path / "policy"
        self.metrics = path / "metrics.csv"
        self._lock: Any = None

    def check(self, experiment: Experiment, members: list[Member], resume: bool, overwrite: bool) -> None:
        """Asks whether a run may go here.

        Raises:
            ConfigError: another run is here or something else; or there is nothing to resume, or not with these settings.
        """
        if not self.processes.first:
            return
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"out={str(self.given)!a} is not allowed; its name must be UTF-8") from error
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out={self.given} is a file; it must be a folder, new or empty")
        there = (self.path / "manifest.json").exists()
        if there:
            self.manifest()  # others have files of this name too, which are not ours to replace
        if there and not (resume or overwrite or self._failed_at_once()):
            raise ConfigError(
                f"out={self.given} holds a run; continue it with --resume, replace it with --overwrite, or name another"
            )
        if resume and not there:
            raise ConfigError(f"out={self.given} holds no run to resume; leave --resume out to start one")
        if resume:
            self._compare(experiment, members)
        elif not there and self.path.exists() and any(part.name not in BEFORE for part in self.path.iterdir()):
            raise ConfigError(f"out={self.given} is not empty and holds no run; name a new or empty folder")

    def _failed_at_once(self) -> bool:
        """Whether the run that is here failed, and nothing of it would be lost: no evaluation and no checkpoint."""
        failed = str(self.manifest().get("status")).startswith("failed")
        kept = (part for part in (self.path / "checkpoints").rglob("*") if part.name.isdigit())
        return failed and not self.read_rows() and next(kept, None) is None

    def claim(self, experiment: Experiment, members: list[Member], resume: bool, overwrite: bool) -> None:
        """Checks, and locks the folder against another command, with a mark of its own. Writes nothing else.

        Raises:
            ConfigError: as `check`, or another command has locked it.
        """
        if not self.processes.first:
            return
        self.check(experiment, members, resume, overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "a")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"out={self.given} is in use by another process; wait for it, or name another folder") from error
        (self.path / ".lock").write_text(secrets.token_hex(8))

    def mark(self) -> str | None:
        """What the process that has claimed the folder has written there, or None where nobody has."""
        try:
            return (self.path / ".lock").read_text()
        except OSError:
            return None

    def clear(self) -> None:
        """Removes the run that is here, and nothing that is not a run's; the manifest last, so that it can be repeated."""
        if not self.processes.first:
            return
        for part in PARTS:
            path = self.path / part
            if path.is_symlink() and path.is_dir():  # to another disk, say: the link stays
                for inside in path.iterdir():
                    shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _compare(self, experiment: Experiment, members: list[Member]) -> None:
        manifest = self.manifest()
        then, now = manifest["identity"], _identity(experiment, members)
        if manifest.get("format") != FORMAT:
            raise ConfigError(
                f"out={self.given} was begun by another version of ddpg_jax, and cannot go on with this one; finish it there, "
                "or replace it with --overwrite"
            )
        count = manifest.get("processes", 1)
        if count != self.processes.total:
            raise ConfigError(
                f"out={self.given} holds a run of num_processes={count}, not of {self.processes.total}; resume it with as "
                "many, or replace it with --overwrite"
            )
        if len(then["members"]) != len(now["members"]):
            raise ConfigError(
                f"out={self.given} holds a run of {len(then['members'])} members, not of {len(now['members'])}; resume it "
                "with the settings it was started with"
            )
        if set(manifest.get("backends", [])) == {"device"}:
            del now["host_order"]  # nothing is in the order of the host
        pairs = [(then, now), *zip(then["members"], now["members"], strict=True)]
        differences = [line for old, new in pairs for line in _differences(old, new)]
        if manifest["experiment"]["steps"] > experiment.steps:
            differences.append(
                f"steps={experiment.steps} (there {manifest['experiment']['steps']}; a run can only be made longer)"
            )
        elif manifest["experiment"]["steps"] < experiment.steps and len(manifest.get("programs", [])) > 1:
            differences.append(
                f"steps={experiment.steps} (there {manifest['experiment']['steps']}; its first programs are over)"
            )
        if differences:
            unique = list(dict.fromkeys(differences))
            raise ConfigError(f"out={self.given} holds another experiment; it differs in {', '.join(unique)}")

    def manifest(self) -> dict[str, Any]:
        """What the manifest says.

        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        try:
            manifest = json.loads((self.path / "manifest.json").read_text())
            if not _is_manifest(manifest):
                raise ValueError("it is not the manifest of a run")
            return manifest
        except FileNotFoundError as error:
            raise ConfigError(f"{self.given} holds no run; it has no manifest.json") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{self.given}/manifest.json cannot be read: {error}") from error

    def programs(self) -> list[list[int]]:
        """The members of each program that has been started; none where there is no run."""
        return self.manifest().get("programs", []) if (self.path / "manifest.json").exists() else []

    def write_manifest(self, **values: Any) -> None:
        """Sets these values in the manifest and keeps the others."""
        if not self.processes.first:
            return
        path = self.path / "manifest.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        write(path, json.dumps({**old, **values}, indent=2) + "\n")

    def read_rows(self) -> list[dict[str, Any]]:
        """The whole rows of metrics.csv; a torn last line, from a process that was killed, is left out.

        Raises:
            ConfigError: a line that is none of these.
        """
        try:
            text = self.metrics.read_text()
            table = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
        except FileNotFoundError:
            return []
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{self.metrics} cannot be read: {error}") from error
        rows = []
        for line, texts in enumerate(table, start=2):
            if None in texts or None in texts.values():
                raise ConfigError(f"{self.metrics} cannot be read: line {line} has not as many columns as the first")
            row = {name: _number(text) for name, text in texts.items()}
            for name in MEASURED:
                if not isinstance(row.get(name), int | float) and not (name == "diverged_step" and row.get(name) == ""):
                    raise ConfigError(
                        f"{self.metrics} cannot be read: line {line} has {name}={row.get(name)}, which is no number"
                    )
            rows.append(row)
        return rows

    def rewrite_rows(self, rows: list[dict[str, Any]]) -> None:
        """Makes metrics.csv hold just these rows."""
        if self.processes.first:
            write(self.metrics, _csv(rows, header=True) if rows else "")

    def append_rows(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows to metrics.csv."""
        if not self.processes.first:
            return
        fresh = not self.metrics.exists() or self.metrics.stat().st_size == 0
        with _naming(self.metrics), open(self.metrics, "a", newline="") as file:
            file.write(_csv(rows, header=fresh))


def about(experiment: Experiment, members: list[Member], processes: int = 1) -> dict[str, Any]:
    """What a manifest says of a run that starts."""
    return {
        "format": FORMAT,
        "experiment": dataclasses.asdict(experiment),
        "members": [
            {"member": member.number, "seed": member.seed, **member.hyper._asdict(), **dict(member.swept)} for member in members
        ],
        "swept": [name for name, _ in members[0].swept],
        "programs": [],
        "processes": processes,
        "identity": _identity(experiment, members),
        "hash": digest(experiment, members),
        "seeds": sorted({member.seed for member in members}),
        "packages": versions(),
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "host": platform.node(),
        "system": platform.platform(),
        "git_commit": _commit(),
        "command": shlex.join(["ddpg-jax", *sys.argv[1:]]),
        "start": now(),
        "end": None,
        "status": "running",
    }


def _is_manifest(about: Any) -> bool:
    """Whether what is read of it has the form that `about` gives."""
    if not isinstance(about, dict):
        return False
    experiment, members, identity = (about.get(name) for name in ("experiment", "members", "identity"))
    programs, seconds = about.get("programs", []), about.get("seconds", 0.0)
    return (
        isinstance(experiment, dict)
        and isinstance(experiment.get("steps"), int)
        and isinstance(experiment.get("env"), str)
        and isinstance(members, list)
        and bool(members)
        and all(isinstance(member, dict) and isinstance(member.get("member"), int) and "seed" in member for member in members)
        and isinstance(identity, dict)
        and isinstance(identity.get("preset"), str)
        and isinstance(identity.get("env"), str)
        and isinstance(identity.get("members"), list)
        and all(isinstance(member, dict) for member in identity["members"])
        and isinstance(programs, list)
        and all(isinstance(part, list) and part and all(isinstance(number, int) for number in part) for part in programs)
        and {number for part in programs for number in part} <= {member["member"] for member in members}
        and isinstance(seconds, int | float)
        and isinstance(about.get("start"), str)
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields in which two experiments, or two members, differ. What an older version did not write is at its default."""
    defaults = {**json.loads(json.dumps(STRUCTURE)), **NUMBERS}
    return [
        f"{name}={value} (there {old.get(name, defaults.get(name))})"
        for name, value in new.items()
        if name != "members" and value != old.get(name, defaults.get(name))
    ]


def now() -> str:
    """The time, ISO 8601 with its zone, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _csv(rows: Iterable[dict[str, Any]], header: bool) -> str:
    rows = list(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _number(text: str) -> Any:
    """What a cell of metrics.csv says, in its type."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The commit of the source tree that this package runs from, if it is one."""
    try:
        root = Path(__file__).resolve().parents[2]
        if not (root / ".git").exists():
            return None
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        return done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
