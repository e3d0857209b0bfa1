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

SETTINGS: dict[str, tuple[Any, str]] = {
    "jax_enable_x64": (False, "runs are in float32"),
    "jax_disable_jit": (False, "runs are compiled"),
    "jax_default_prng_impl": ("threefry2x32", "its random numbers would differ from those of other runs"),
    "jax_threefry_partitionable": (True, "its random numbers would differ from those of other runs"),
    "jax_debug_nans": (False, "runs use NaN for what is not known"),
    "jax_debug_infs": (False, "runs use infinity for what is not bounded"),
    "jax_numpy_dtype_promotion": ("standard", "libraries that runs use need standard promotion"),
    **dict.fromkeys(
        (
            "jax_transfer_guard",
            *(f"jax_transfer_guard_{way}" for way in ("host_to_device", "device_to_device", "device_to_host")),
        ),
        ((None, "allow", "log"), "runs move numbers to the device and back"),
    ),
}
"""Settings of JAX that results depend on, or that stop runs -> the value or values that runs require, and why."""
HEADROOM = 0.9
"""Fraction of the memory limit that programs may fill."""
LEAST_ADDRESSES = 3 << 30
"""Bytes of addresses that XLA's compiler needs; with fewer, it aborts the process, with no error that could be caught."""
SMALL_PRODUCT = 64 * 256 * 256
"""Multiplications of a matrix product that one core completes faster than two together (benchmarks/NOTES.md)."""
FEW_ROWS = 128
"""Rows of a batch that two threads sum as one does. They split sums over 1,000 rows, which changes the rounding."""


def check_settings() -> None:
    """Checks that JAX is set as runs need it.

    Raises:
        ConfigError: a setting would change the results, or there is too little memory.
    """
    limit = address_limit()
    if limit is not None and limit < LEAST_ADDRESSES:
        raise ConfigError(
            f"ulimit -v {limit >> 10} leaves too little memory for JAX; it must be unlimited, or at least "
            f"{LEAST_ADDRESSES >> 10}"
        )
    for name, (value, why) in SETTINGS.items():
        allowed = value if isinstance(value, tuple) else (value,)
        found = getattr(jax.config, name, allowed[0])
        found = getattr(found, "value", found)  # some are enumerations
        if found not in allowed:
            raise ConfigError(f"{name.upper()}={found} is not allowed, since {why}; unset it")
    if _forked[0]:
        raise ConfigError(
            "this process was forked after JAX started, and JAX's threads do not survive a fork, so it would wait forever; "
            'start it with multiprocessing.get_context("spawn")'
        )


_forked = [False]
"""Whether this process was forked from one in which JAX had started."""


def _note_fork() -> None:
    with contextlib.suppress(ImportError, AttributeError):  # there is no public way to ask without starting JAX
        from jax._src import xla_bridge

        _forked[0] = _forked[0] or xla_bridge.backends_are_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def memory_limit(devices: int) -> int:
    """Returns the bytes that each of so many devices may fill: its own memory, or its share of the machine's free memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return free_memory() // devices


def free_memory() -> int:
    """Returns the bytes of this machine's memory that this process may still take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([available, *cgroup_rooms(Path("/")), *_address_room()]))


def resident_memory() -> int:
    """Returns the bytes of memory that this process occupies, or 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def cgroup_rooms(root: Path) -> list[int]:
    """Returns the bytes that each control group of this process, version 1 or 2, still grants it; none without a limit.

    Args:
        root: the folder in which `proc` and `sys` are.
    """
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    rooms = []
    for _, controllers, name in groups:
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        limit, usage = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        own = top / name.lstrip("/")
        for folder in [own, *own.parents][: len(own.parts) - len(top.parts) + 1]:
            with contextlib.suppress(OSError, ValueError):  # "max", or a folder outside of this container
                granted, used = (int((folder / f"memory.{file}").read_text()) for file in (limit, usage))
                if granted < 2**60:  # version 1 has a huge number for none
                    rooms.append(granted - used + _page_cache(folder))
    return rooms


def _page_cache(folder: Path) -> int:
    """Returns the bytes of a control group that hold files, which the system gives up for what needs them."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (folder / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "total_inactive_file"))
    return 0


def address_limit() -> int | None:
    """Returns the bytes of addresses that `ulimit -v` grants this process, or None if it is not limited."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        return None if limit == resource.RLIM_INFINITY else limit
    except (ImportError, AttributeError):  # Windows
        return None


def _address_room() -> list[int]:
    """Returns the bytes of addresses that this process may still take, in a list that is empty if they are not limited."""
    limit = address_limit()
    if limit is None:
        return []
    with contextlib.suppress(OSError, ValueError):
        return [limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")]
    return [limit]


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
    if not _number_is_set():
        with contextlib.suppress(RuntimeError):  # JAX has already started
            jax.config.update("jax_num_cpu_devices", cores())


def _number_is_set() -> bool:
    return getattr(jax.config, "jax_num_cpu_devices", -1) > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")


def idle_cores(members: int) -> str | None:
    """Says what to change if so many members train on one core because JAX started before `use_all_cores`. It starts JAX."""
    if members == 1 or cores() == 1 or _number_is_set() or jax.default_backend() != "cpu":
        return None
    return (
        f"JAX was in use before this library, so this sweep runs on 1 of {cores()} cores; begin the program with "
        f'jax.config.update("jax_num_cpu_devices", {cores()})'
    )


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
