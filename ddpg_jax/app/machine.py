"""Describes the machine that results are measured on, and checks that JAX can be used on it."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from pathlib import Path
from typing import Any

import jax

from ddpg_jax.app.manifest import versions
from ddpg_jax.errors import ConfigError
from ddpg_jax.running.hardware import check_settings, cores


def machine() -> dict[str, Any]:
    """Returns hardware, versions and date, as plain JSON."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def check_jax() -> None:
    """Checks that JAX can be used for runs, before anything is compiled or written.

    Raises:
        ConfigError: it has no device here, or a setting would change the results.
    """
    check_settings()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion if a named platform has no plug-in at all
        named = os.environ.get("JAX_PLATFORMS")
        reason = str(error).split(" (set JAX_PLATFORMS")[0].splitlines()[0] if str(error) else "JAX cannot use it"
        reason = reason.rstrip(".")
        if named is None:
            raise ConfigError(f"JAX finds no device here: {reason}; set JAX_PLATFORMS=cpu to use the CPU") from error
        raise ConfigError(f"JAX_PLATFORMS={named} is not allowed here: {reason}; unset it, or name cpu") from error


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in the user's cache folder or where JAX was told to."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        with contextlib.suppress(RuntimeError):  # a user without a home has no cache
            root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            jax.config.update("jax_compilation_cache_dir", str(root / "ddpg-jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
