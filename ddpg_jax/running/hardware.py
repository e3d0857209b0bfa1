"""Detects the hardware of this machine and configures JAX for it: cores, memory, settings."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jax

from ddpg_jax.errors import ConfigError

SETTINGS = {
    "jax_enable_x64": (False, "runs are in float32"),
    "jax_disable_jit": (False, "runs are compiled"),
    "jax_default_prng_impl": ("threefry2x32", "its random numbers would differ from those of other runs"),
    "jax_threefry_partitionable": (True, "its random numbers would differ from those of other runs"),
}
"""Settings of JAX that results depend on -> the value that runs require, and why."""
SMALL_PRODUCT = 64 * 256 * 256
"""Multiplications of a matrix product that one core completes faster than two together (benchmarks/NOTES.md)."""
FEW_ROWS = 128
"""Rows of a batch that two threads sum as one does. They split sums over 1,000 rows, which changes the rounding."""


def check_settings() -> None:
    """Checks that JAX is set as runs need it.

    Raises:
        ConfigError: a setting would change the results.
    """
    for name, (value, why) in SETTINGS.items():
        found = getattr(jax.config, name, value)
        if found != value:
            raise ConfigError(f"{name.upper()}={found} is not allowed, since {why}; unset it")


def memory_limit(devices: int) -> int:
    """Returns the bytes that each of so many devices may fill: its own memory, or its share of the machine's free memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return available // devices


def use_one_core(rows: int, hidden: tuple[int, ...]) -> None:
    """Restricts XLA to one thread for a single member with small matrix products, without starting JAX.

    One thread completes them in less time than it takes to wake another. Nothing changes if JAX has already started, may find
    an accelerator, or was told by the user how many threads to use. Child processes inherit the setting.

    Args:
        rows: the largest batch that a network gets while the member learns and acts.
        hidden: sizes of its hidden layers.
    """
    small = rows <= FEW_ROWS and rows * max(hidden) ** 2 <= SMALL_PRODUCT
    if small and not accelerated():
        _use_threads(1)


def spare_threads(programs: int) -> None:
    """Gives XLA a second thread for each program that runs at the same time, without starting JAX.

    A step of an environment that computes with JAX needs one, since its program holds another thread until the step is over.
    Small matrix products become slower with every thread: by 10 to 30 % (benchmarks/NOTES.md).

    Args:
        programs: how many programs run at the same time.
    """
    _use_threads(max(2 * programs, cores()))


def _use_threads(count: int) -> None:
    if not {"PJRT_NPROC", "NPROC"} & os.environ.keys():
        os.environ["PJRT_NPROC"] = str(count)  # read by XLA's CPU client when it starts, and by nothing else


def accelerated() -> bool:
    """Returns True if JAX may find an accelerator."""
    installed = bool(entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None
    return installed and jax.config.jax_platforms != "cpu"  # pyright: ignore[reportAttributeAccessIssue]


def use_all_cores() -> None:
    """Makes every core a device of its own, so that members run on all cores at once, without starting JAX.

    Nothing changes if JAX has already started, or if the user has set the number of devices.
    """
    is_set = getattr(jax.config, "jax_num_cpu_devices", -1) > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")
    if not is_set:
        with contextlib.suppress(RuntimeError):  # JAX has already started
            jax.config.update("jax_num_cpu_devices", cores())


def cores() -> int:
    """Returns the number of cores that this process may use, or all of the machine where the system (macOS) does not say."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def bytes_of(shapes: Any) -> int:
    """Returns the bytes of arrays of these shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def compiled_bytes(compiled: Any) -> int:
    """Returns the bytes that a compiled program needs on each device: arguments, results that do not alias them, scratch."""
    sizes = compiled.memory_analysis()
    buffers = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return int(buffers + sizes.temp_size_in_bytes)
