"""Exports policies: writes a file in one of the formats, after it has been compared with the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax import __version__
from ddpg_jax.agent.policy import Policy
from ddpg_jax.errors import ConfigError
from ddpg_jax.export.function import check_finite, check_same
from ddpg_jax.export.npz_file import npz_bytes, npz_runner
from ddpg_jax.export.onnx_file import onnx_bytes, onnx_runner
from ddpg_jax.export.stablehlo_file import stablehlo_bytes, stablehlo_runner
from ddpg_jax.files import write_bytes

CITATION = (
    "ddpg_jax: Deep Deterministic Policy Gradient in JAX; Lillicrap et al. 2015, Continuous control with deep reinforcement "
    "learning, arXiv:1509.02971"
)


class Format(NamedTuple):
    """Holds how a format is written and run."""

    write: Callable[[Policy, Mapping[str, Any]], bytes]
    """`(policy, about) -> the contents of a file`; `about` is metadata, JSON."""
    runner: Callable[[bytes], tuple[str, Callable[[np.ndarray], np.ndarray]]]
    """`(contents) -> (name of what runs them, obs [B, *obs_shape] -> action [B, *action_shape])`."""


FORMATS = {
    "onnx": Format(onnx_bytes, onnx_runner),
    "stablehlo": Format(stablehlo_bytes, stablehlo_runner),
    "npz": Format(npz_bytes, npz_runner),
}
"""Maps the names of formats to how they are written and run."""


class Exported(NamedTuple):
    """Describes a file that was written."""

    path: Path
    difference: float
    """Largest difference from the policy in the check, in halves of the action range."""
    program: str
    """What ran the file in the check."""
    about: dict[str, Any]
    """The metadata in the file."""


def export_policy(policy: Policy, path: str | Path, *, to: str = "", notes: Mapping[str, Any] | None = None) -> Exported:
    """Writes a policy as one function, `obs [B, *obs_shape] -> action [B, *action_shape]`, that runs without this package.

    Observations are what the environment returns, actions are in its own units: normalization and rescaling are inside. Before
    the file is written, it is run on 1,000 observations, and must give the policy's actions to 1e-5 of half their range (1e-2
    with `precision=bfloat16`).

    Args:
        policy: the policy.
        path: of the file.
        to: `onnx`, `stablehlo` (a zip file with a function for `jax.export`, and its StableHLO) or `npz` (arrays for NumPy); by
            default, the one that the ending of the path names.
        notes: more metadata, JSON; it replaces entries of `describe` that have the same name.

    Raises:
        ConfigError: the format is not known, its package is not installed, or it cannot express the policy.

    >>> import ddpg_jax as dj, numpy as np, tempfile
    >>> run = dj.train("probe/observation", steps=600, warmup_steps=500)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = dj.export_policy(run.policy, f"{folder}/policy.npz")
    >>> done.program, done.difference < 1e-5
    ('numpy', True)
    """
    path = Path(path)
    to = to or path.suffix.removeprefix(".")
    if to not in FORMATS:
        raise ConfigError(f"to={to} is not allowed; it must be one of {', '.join(FORMATS)}")
    check_finite(policy)
    about = {**describe(policy), **(notes or {})}
    data = FORMATS[to].write(policy, about)
    program, run = FORMATS[to].runner(data)
    difference = check_same(policy, run, program=program)
    write_bytes(path, data)
    return Exported(path, difference, program, about)


def describe(policy: Policy) -> dict[str, Any]:
    """Returns the metadata of a policy, JSON."""
    spec = policy.spec
    return {
        "describes": f"A policy for {spec.name}: obs [B, *obs_shape] -> action [B, *action_shape] in the environment's units.",
        "env": spec.name,
        "obs_shape": list(spec.obs_shape),
        "action_shape": list(spec.action_shape),
        "action_low": list(spec.action_low),
        "action_high": list(spec.action_high),
        "network": policy.network,
        "software": "ddpg_jax",
        "version": __version__,
        "citation": CITATION,
    }
