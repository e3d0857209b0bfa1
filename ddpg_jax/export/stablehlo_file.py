"""Writes a policy, of any network, as a program that JAX, or anything that reads StableHLO, runs on any platform."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ddpg_jax.agent.policy import Policy
from ddpg_jax.envs.extras import installed, missing
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.export.function import policy_function

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
ABOUT, FUNCTION, MODULE = "about.json", "policy.jax", "policy.mlir"
"""Files in the archive: the metadata; the function as `jax.export` writes it; its StableHLO, as portable bytecode."""
DATE = (1980, 1, 1, 0, 0, 0)
"""The date of files in the archive, so that the same policy gives the same file."""


def stablehlo_bytes(policy: Policy, about: Mapping[str, Any]) -> bytes:
    """Returns the contents of a zip file of `ABOUT`, `FUNCTION` and `MODULE`.

    Args:
        policy: the policy, of any network.
        about: metadata, JSON.

    Raises:
        ConfigError: the extra `export` is not installed, or the network cannot be traced for batches of any size.
    """
    if not installed("flatbuffers"):
        raise ConfigError(missing("to=stablehlo", "export"))
    from jax import export

    (batch,) = export.symbolic_shape("B")
    obs = jax.ShapeDtypeStruct((batch, *policy.spec.obs_shape), np.float32)
    try:
        exported = export.export(jax.jit(policy_function(policy)), platforms=PLATFORMS)(obs)
    except Exception as error:  # a network of the user's, which may raise anything
        raise ConfigError(
            f"network={policy.network} cannot be exported for batches of any size: {one_line(error)}; it must not depend on "
            "the batch size"
        ) from error
    file = io.BytesIO()
    contents = {
        ABOUT: json.dumps(dict(about), indent=2).encode(),
        FUNCTION: bytes(exported.serialize()),
        MODULE: exported.mlir_module_serialized,
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), data)
    return file.getvalue()


def stablehlo_runner(data: bytes) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns what runs the contents of such a file, and a function that does."""
    from jax import export

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        exported = export.deserialize(bytearray(archive.read(FUNCTION)))
    return "jax.export", lambda obs: np.asarray(jax.jit(exported.call)(obs))
