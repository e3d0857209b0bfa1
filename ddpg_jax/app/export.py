"""Exports the policy of a run folder, with the numbers of the run in the file: the command `export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ddpg_jax import __version__
from ddpg_jax.agent.policy import load_policy
from ddpg_jax.app.citations import bibtex
from ddpg_jax.app.cite import keys_of_run
from ddpg_jax.app.evaluation import policy_folder, recorded
from ddpg_jax.app.options import check_file
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.envs.host.make import import_modules
from ddpg_jax.errors import ConfigError
from ddpg_jax.export import export_policy
from ddpg_jax.export.formats import Exported
from ddpg_jax.running.rows import SUCCESS

MEASURED = ("step", "eval_return_mean", "eval_return_std", "eval_length_mean", SUCCESS)
"""Columns of metrics.csv that the file carries."""


def export(folder: Path, to: str, path: Path, *, member: str | None = None, kind: str = "policy") -> Exported:
    """Writes the policy of a run folder, or of a folder that `Policy.save` wrote.

    Args:
        folder: of the run or of the policy.
        to: a name in `export.FORMATS`.
        path: of the file.
        member: a member of a sweep; by default the one with the best last return, or the best of all for `policy_best`.
        kind: `policy`, the last one, or `policy_best`.

    Raises:
        ConfigError: the folder holds no policy, or not the best one, the file cannot be written there, or see `export_policy`.
    """
    check_file("out", path)
    if (folder / "policy.json").exists():
        if kind != "policy" or member is not None:
            word = "--best" if kind != "policy" else "--member"
            raise ConfigError(f"{word} is not allowed with {folder}, which holds a policy without its run; name a run folder")
        return export_policy(load_policy(folder), path, to=to)
    at = policy_folder(folder, member, kind)
    import_modules(recorded(folder, at).imports)
    return export_policy(load_policy(at), path, to=to, notes=notes_of_run(folder, at, kind))


def notes_of_run(folder: Path, policy_at: Path, kind: str = "policy") -> dict[str, Any]:
    """Returns what a file says about the run that its policy is from, and the evaluation of this policy, JSON."""
    run = RunFolder(folder)
    manifest, rows = run.manifest(), run.read_rows()
    number = policy_at.name.removeprefix("member_")
    member = next((one for one in manifest["members"] if str(one["member"]) == number), manifest["members"][0])
    own = [row for row in rows if row["member"] == member["member"]]
    if kind == "policy":
        which, row = _evaluation_of_policy(manifest, member["member"], own)
    else:
        evaluated = [row for row in own if not math.isnan(row["eval_return_mean"])]
        which, row = "best", max(evaluated, key=lambda row: row["eval_return_mean"], default={})
    about = {name: row[name] for name in MEASURED if math.isfinite(row.get(name, math.nan))}  # JSON has no NaN
    identity = {"member": member["member"], "seed": member["seed"], "hash": manifest.get("hash", ""), "evaluation": which}
    return {"run": {**identity, **about}, "citation": bibtex(keys_of_run(manifest), __version__)}


def _evaluation_of_policy(manifest: dict[str, Any], number: int, own: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Returns which evaluation of a member its policy is from, `last`, `earlier` or `none`, and the row, or its step alone.

    A run that is stopped saves its policies between evaluations, and one that is killed may have saved them before the last.
    """
    last = own[-1] if own else {}
    k = max((k for k, members in enumerate(manifest.get("programs", [])) if number in members), default=None)
    step = manifest.get("policy_steps", {}).get(str(k), last.get("step"))
    frozen = str(number) in manifest.get("stopped", {}) or last.get("diverged_step", "") != ""
    if step == last.get("step") or frozen:
        return "last", last
    row = next((row for row in own if row["step"] == step), None)
    return ("earlier", row) if row else ("none", {"step": step})
