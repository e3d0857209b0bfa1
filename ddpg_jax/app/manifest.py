"""Writes and checks the manifest of a run: its settings, its software and hardware, and what must agree to resume it."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from ddpg_jax import __version__
from ddpg_jax.agent.policy_file import open_regular
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import NUMBERS, STRUCTURE, Experiment
from ddpg_jax.experiment.validate import is_offline
from ddpg_jax.running.clock import length
from ddpg_jax.running.program import Member

FORMAT = 4
"""Version of what a run resumes from: state, journal and table. A run of another version can be read, but not resumed."""
LIMIT = 1 << 28
"""Bytes of a manifest at most."""
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


def new_manifest(experiment: Experiment, members: list[Member], processes: int = 1) -> dict[str, Any]:
    """Returns the manifest of a run that starts."""
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
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "host": platform.node(),
        "system": platform.platform(),
        **provenance(),
        "end": None,
        "status": "running",
    }


def provenance() -> dict[str, Any]:
    """Returns the command that this process runs, with the time and the versions of the software."""
    return {
        "packages": versions(),
        "git_commit": commit_of(Path(__file__).resolve().parents[1]),
        "command": shlex.join(["ddpg-jax", *sys.argv[1:]]),
        "start": now(),
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        ValueError: the file is not the manifest of a run.
        OSError: it cannot be read.
        RecursionError: it is nested too deeply.
    """
    with open_regular(path, LIMIT) as file:
        manifest = json.loads(file.read())
    if not _is_manifest(manifest):
        raise ValueError("it is not the manifest of a run")
    if manifest["format"] > FORMAT:
        raise ValueError(
            f"format={manifest['format']} is of a newer version of ddpg_jax, and this version reads formats up to {FORMAT}; "
            "upgrade ddpg_jax"
        )
    if manifest["format"] == FORMAT and manifest.get("hash", "") not in ("", _hash(manifest["identity"])):
        raise ValueError("its identity does not match its hash, so one of them was changed; restore the file")
    before, after = manifest["identity"], manifest["experiment"]
    wrong = next((name for name in before if name in after and after[name] != before[name]), None)
    if wrong:
        raise ValueError(f"experiment and identity differ in {wrong}; restore the file")
    for own, known in zip(manifest["members"], manifest["identity"]["members"], strict=True):
        wrong = next((name for name in known if own.get(name, known[name]) != known[name]), None)
        if wrong:
            raise ValueError(f"members and identity differ in {wrong} of member {own['member']}; restore the file")
    return manifest


def _is_manifest(manifest: Any) -> bool:
    """Returns True if JSON that was read has the form of `new_manifest`."""
    if not isinstance(manifest, dict):
        return False
    experiment, members, identity = (manifest.get(name) for name in ("experiment", "members", "identity"))
    programs, seconds, swept = manifest.get("programs", []), manifest.get("seconds", 0.0), manifest.get("swept", [])
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
        and all(isinstance(own, list) and own and all(isinstance(number, int) for number in own) for own in programs)
        and {number for own in programs for number in own} <= {member["member"] for member in members}
        and isinstance(seconds, int | float)
        and 0 <= seconds < math.inf
        and isinstance(manifest.setdefault("format", 0), int)
        and isinstance(manifest.get("processes", 1), int)
        and isinstance(swept, list)
        and all(isinstance(name, str) for name in swept)
        and isinstance(manifest.get("backends", []), list)
        and all(isinstance(name, str) for name in manifest.get("backends", []))
        and isinstance(manifest.get("hash", ""), str)
        and isinstance(manifest.get("rows", 0), int)
        and isinstance(manifest.get("rows_digest", ""), str)
        and isinstance(manifest.get("resumes", []), list)
        and all(isinstance(one, dict) for one in manifest.get("resumes", []))
        and all(isinstance(manifest.get(name, {}), dict) for name in ("stopping", "stopped", "evolution", "demonstrations"))
        and len(members) == len(identity["members"])
        and isinstance(manifest.get("start"), str)
    )


def check_resumable(
    manifest: dict[str, Any], experiment: Experiment, members: list[Member], *, processes: int, out: Path
) -> None:
    """Checks that a run can be resumed with these settings, which may only make it longer.

    Args:
        manifest: the manifest of the run.
        experiment: the settings to resume with.
        members: their members.
        processes: how many processes are to share the run.
        out: its folder as the user gave it, for error messages.

    Raises:
        ConfigError: it was started with other settings, or by another version.
    """
    old, new = manifest["identity"], _identity(experiment, members)
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            f"out={out} holds a run of another version of ddpg_jax, which this version cannot resume; finish it with that "
            "version, or replace it with --overwrite"
        )
    count = manifest.get("processes", 1)
    if count != processes:
        raise ConfigError(
            f"out={out} holds a run of num_processes={count}, not of {processes}; resume it with num_processes={count}, or "
            "replace it with --overwrite"
        )
    if len(old["members"]) != len(new["members"]):
        raise ConfigError(
            f"out={out} holds a run of {len(old['members'])} members, not of {len(new['members'])}; resume it with the "
            "settings it was started with"
        )
    new.pop("offline", None)  # which `_shortened` explains
    if set(manifest.get("backends", [])) == {"device"}:
        del new["host_order"]  # nothing runs in the order of the host
    pairs = [(old, new), *zip(old["members"], new["members"], strict=True)]
    differences = [line for before, after in pairs for line in _differences(before, after)]
    differences += _shortened(manifest, experiment)
    if differences:
        unique = list(dict.fromkeys(differences))
        raise ConfigError(
            f"out={out} holds a run with other settings: {', '.join(unique)}; resume it with the settings it was started "
            "with, or name another folder"
        )


def _shortened(manifest: dict[str, Any], experiment: Experiment) -> list[str]:
    """Explains why a run cannot be continued to the length of an experiment, in steps or offline updates; empty if it can."""
    old, name = manifest["experiment"], "updates" if is_offline(experiment) else "steps"
    before, now = old.get(name, 0), length(experiment)
    if (old["steps"] == 0) != is_offline(experiment):
        return [f"steps={experiment.steps} (the run has {old['steps']})"]
    if before > now:
        return [f"{name}={now} (the run has {before}; a run can only be made longer)"]
    if before < now and len(manifest.get("programs", [])) > 1:
        return [f"{name}={now} (the run has {before}; its first programs have finished)"]
    return []


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lists fields in which two experiments, or two members, differ. Fields that an older version lacks have their default."""
    defaults = {**json.loads(json.dumps(STRUCTURE)), **NUMBERS}
    return [
        f"{name}={value} (the run has {old.get(name, defaults.get(name))})"
        for name, value in new.items()
        if name != "members" and value != old.get(name, defaults.get(name))
    ]


def digest(experiment: Experiment, members: list[Member]) -> str:
    """Returns twelve characters that identify the experiment and its numbers, independently of the run's length."""
    return _hash(_identity(experiment, members))


def _hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _identity(experiment: Experiment, members: list[Member]) -> dict[str, Any]:
    """Returns everything that a run's results depend on, except its length, as plain JSON."""
    identity: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(experiment)))
    del identity["steps"], identity["updates"]
    identity |= {"offline": True} if is_offline(experiment) else {}
    own = [{"seed": member.seed, **member.hyper._asdict(), **dict(member.swept)} for member in members]
    return {**identity, "members": own}


def now() -> str:
    """Returns the time as ISO 8601 with its zone, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that results depend on."""
    versions = {"ddpg-jax": __version__}  # an editable install keeps the number it was installed with
    for package in PACKAGES[1:]:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit_of(package: Path) -> str | None:
    """Returns the commit of the source tree that a package runs from, or of the repository that pip has installed it from."""
    root = package.parent
    try:
        if not (root / ".git").exists():
            found = (json.loads(path.read_text()) for path in root.glob(f"{package.name}-*.dist-info/direct_url.json"))
            return next((about.get("vcs_info", {}).get("commit_id") for about in found), None)
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        return done.stdout.strip() or None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
