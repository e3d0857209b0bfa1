"""Writes model cards (Mitchell et al. 2019): Markdown that says what an exported policy is, and how good it was found to be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ddpg_jax.app.options import check_file
from ddpg_jax.app.report import changing, described, named, readable, settings, swept
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS
from ddpg_jax.export.formats import Exported
from ddpg_jax.running.rows import result_of

USE = {
    "onnx": """import numpy as np, onnxruntime

session = onnxruntime.InferenceSession({file!r})
obs = np.zeros((1, {shape}), np.float32)  # any number of observations
(action,) = session.run(["action"], {{"obs": obs}})""",
    "stablehlo": """import zipfile, numpy as np
from jax import export

policy = export.deserialize(bytearray(zipfile.ZipFile({file!r}).read("policy.jax")))
action = policy.call(np.zeros((1, {shape}), np.float32))  # any number of observations""",
    "npz": """import json, numpy as np

file = np.load({file!r})
steps = json.loads(str(file["program"]))  # each a word, and the names of the arrays that it takes
print(steps, json.loads(str(file["about"])))""",
}
"""Format -> a program that uses the file."""
SPREAD = ("eval_return_std", "eval_length_mean")
"""The columns of metrics.csv that stand beside a mean return."""


def card_path(folder: Path, path: Path) -> Path:
    """Returns where the model card of an exported file stands: beside it, with the ending `.md`.

    Raises:
        ConfigError: the folder holds a policy without its run, or the card cannot be written there.
    """
    if not (folder / "manifest.json").exists():
        raise ConfigError(f"--card is not allowed with {folder}, which holds a policy without its run; name a run folder")
    if path.suffix == ".md":
        raise ConfigError(
            f"out={path} is not allowed with --card, which is written beside it with the ending .md; choose another"
        )
    check_file("card", path.with_suffix(".md"))
    return path.with_suffix(".md")


def model_card(folder: Path, done: Exported, *, to: str) -> str:
    """Returns the model card of a policy that was exported from a run folder in a format of `export.FORMATS`."""
    about, run, manifest = done.about, done.about["run"], RunFolder(folder).manifest()
    member = next(one for one in manifest["members"] if one["member"] == run["member"])
    rows = [row for row in RunFolder(folder).read_rows() if row["member"] == run["member"]]
    own = {**manifest, "members": [member]}
    shape = ", ".join(map(str, about["obs_shape"]))
    return "\n".join(
        [
            f"# A policy for {about['env']}",
            "",
            f"A deterministic policy, trained with ddpg_jax {about['version']}. It takes observations as the "
            "environment returns them, and gives actions in the environment's own units.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {text} |" for name, text in _facts(about, own, rows).items()),
            "",
            "## Use",
            "",
            "```python",
            USE[to].format(file=done.path.name, shape=shape),
            "```",
            "",
            f"The file was compared with the policy on 1,000 observations: actions differ by at most {done.difference:.0e} of "
            f"half the action range, when it is run with {done.program}.",
            "",
            "## Results",
            "",
            *_results(rows, manifest, run),
            "",
            "## Limits",
            "",
            f"{_how_evaluated(manifest)} One seed says little about the algorithm: returns of other seeds differ.",
            "",
            "## To repeat it",
            "",
            "```text",
            manifest.get("command", ""),
            "```",
            "",
            ", ".join(f"{name} {version}" for name, version in manifest.get("packages", {}).items()),
            "",
            "## To cite",
            "",
            "```bibtex",
            about["citation"].rstrip(),
            "```",
            "",
        ]
    )


def _how_evaluated(manifest: dict[str, Any]) -> str:
    """Says where the returns of a run come from."""
    if not manifest["experiment"].get("eval_episodes"):
        return "It was not evaluated: its returns are those of training, with noise."
    return (
        "It was evaluated without noise in the environment that it was trained in, with other initial states, and nowhere else."
    )


def _facts(about: dict[str, Any], manifest: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    """Returns what the policy is, as a table."""
    last = rows[-1] if rows else {}
    values = settings(manifest)
    return {
        "observations": f"{tuple(about['obs_shape'])}, float32",
        "actions": f"{tuple(about['action_shape'])}, from {about['action_low']} to {about['action_high']}",
        "network": about["network"],
        "trained with": described(values, [name for name in FIELDS if name in values]),
        **({"at the end": named(swept(rows), [last[name] for name in swept(rows)])} if changing(rows) else {}),
        "environment steps": f"{about['run'].get('step', last.get('step', 0)):,}",
        "seed": str(about["run"]["seed"]),
        "hardware": f"{manifest.get('device_kind', '?')}, {manifest.get('system', '?')}",
        "date": str(manifest.get("end") or manifest.get("start")),
    }


def _results(rows: list[dict[str, Any]], manifest: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """Returns a table of the last and the best evaluation, and which of them the policy is from."""
    if not rows:
        return [f"The run has no evaluation; the policy in the file is from step {run.get('step', 0):,}."]
    episodes = manifest["experiment"].get("eval_episodes", 0)
    what = f"evaluation of {episodes} episodes" if episodes else "training"
    finite = [row for row in rows if math.isfinite(result_of(row))] or rows
    found = {"last": rows[-1], "best of its curve": max(finite, key=result_of)}
    lines = [
        f"| {what} | environment steps | mean return | standard deviation | mean length |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        numbers = [
            readable(number) if math.isfinite(number) else "" for number in (result_of(row), *(row[key] for key in SPREAD))
        ]
        lines.append(f"| {name} | {row['step']:,} | {' | '.join(numbers)} |")
    whence = {
        "last": "the one of the last evaluation, not the best",
        "best": "the one of the best evaluation, not the last",
        "earlier": f"the one of the evaluation at step {run.get('step', 0):,}",
        "none": f"from step {run.get('step', 0):,}, where it was not evaluated",
    }
    return [*lines, "", f"The policy in the file is {whence[run['evaluation']]}."]
