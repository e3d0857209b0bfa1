"""Where the members of a sweep run: mapped or vmapped, over one device or all, and how many fit at once.

On a CPU members are MAPPED, one after the other on every core: each finds its networks in the caches, while `vmap` would push
all of them through memory at every layer. On an accelerator they are VMAPPED. Over several devices they are sharded, and each
device works on its own members without talking to the others.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ddpg_jax.types import ConfigError

PLACEMENTS = ("auto", "map", "vmap")
CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}
"""Without it XLA copies weight matrices, for fear that they are still read when they are overwritten: 3 .. 7 % of an update."""
SETTINGS = {
    "jax_enable_x64": (False, "runs are in float32"),
    "jax_disable_jit": (False, "runs are compiled"),
    "jax_default_prng_impl": ("threefry2x32", "its random numbers would not be those of other runs"),
    "jax_threefry_partitionable": (True, "its random numbers would not be those of other runs"),
}
"""Settings of JAX that results depend on -> the value that they have everywhere, and why."""
SMALL_PRODUCT = 64 * 256 * 256
"""Multiplications of a matrix product that one core does in less time than two together (benchmarks/NOTES.md)."""
FEW_ROWS = 128
"""Rows of a batch over which two threads add up as one does; sums over 1,000 rows they divide, and round otherwise."""


class Placement(NamedTuple):
    """How M members are laid out; `slots` is M with the padding that makes it a multiple of the devices."""

    slots: int
    kind: str = "map"
    devices: tuple[Any, ...] = ()

    @property
    def alone(self) -> bool:
        """A single member is not stacked: with an axis of length 1 XLA copies the replay at every write."""
        return self.slots == 1

    @property
    def together(self) -> bool:
        """Whether one loop advances several members."""
        return self.kind == "vmap" and not self.alone

    @property
    def call(self) -> Placement:
        """That of the members which one call advances: where they are mapped, one on each device; else all."""
        return self._replace(slots=len(self.devices)) if self.kind == "map" else self

    @property
    def mesh(self) -> Mesh:
        """One axis, the members."""
        return Mesh(list(self.devices), (MEMBERS,))

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """What the compiler is to be told about training."""
        return CPU_OPTIONS if self.devices[0].platform == "cpu" else None

    def put(self, tree: Any) -> Any:
        """Arrays `[M, ...]` where their members are."""
        return jax.device_put(tree, self._sharding(MEMBERS))

    def put_everywhere(self, tree: Any) -> Any:
        """Arrays that all members share."""
        return jax.device_put(tree, self._sharding())

    def abstract(self, shapes: Any) -> Any:
        """Shapes `[M, ...]` with the knowledge where their members are."""
        where = self._sharding(MEMBERS)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)

    def _sharding(self, *axes: str) -> Any:
        if len(self.devices) == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def place(members: int, choice: str = "auto", devices: list[Any] | None = None) -> Placement:
    """The placement of so many members over these devices, all of this process if none are given.

    >>> import ddpg_jax.placement
    >>> ddpg_jax.placement.place(3, "map").slots
    3
    """
    devices = (devices or jax.local_devices())[:members]
    kind = choice if choice != "auto" else "map" if devices[0].platform == "cpu" else "vmap"
    return Placement(-(-members // len(devices)) * len(devices), kind, tuple(devices))


MEMBERS = "members"
"""The name of the axis of members, on the devices of a mesh and under `vmap`."""


def over_members(function: Callable[..., Any], placement: Placement, shared: int = 0) -> Callable[..., Any]:
    """`function` of one member as a function of all: arguments and results get a leading `[M]`.

    Args:
        function: pure, of one member.
        placement: where the members are.
        shared: how many of the last arguments are the same for all and get no leading axis.
    """
    if placement.alone:
        return function

    def members(*arguments: Any) -> Any:
        batched, common = arguments[: len(arguments) - shared], arguments[len(arguments) - shared :]

        def one(*member: Any) -> Any:
            return function(*member, *common)

        if placement.kind == "vmap":
            return jax.vmap(one, axis_name=MEMBERS)(*batched)
        if placement == placement.call:  # a loop, even over one member, would copy its replay in and out
            return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], batched)))
        return jax.lax.map(lambda member: one(*member), batched)

    if len(placement.devices) < 2:
        return members
    own, everywhere = PartitionSpec(MEMBERS), PartitionSpec()

    def sharded(*arguments: Any) -> Any:
        specs = (own,) * (len(arguments) - shared) + (everywhere,) * shared
        return jax.shard_map(members, mesh=placement.mesh, in_specs=specs, out_specs=own, check_vma=False)(*arguments)

    return sharded


def agreed(placement: Placement) -> Callable[[Any], Any]:
    """A function that gives the greatest of a number over the members that one loop advances."""
    return functools.partial(jax.lax.pmax, axis_name=MEMBERS) if placement.together else lambda status: status


def check_settings() -> None:
    """Asks whether JAX is set as runs need it.

    Raises:
        ConfigError: it is set to something that would change the results.
    """
    for name, (value, why) in SETTINGS.items():
        found = getattr(jax.config, name, value)
        if found != value:
            raise ConfigError(f"{name.upper()}={found} is not allowed, since {why}; unset it")


def memory_limit(devices: int) -> int:
    """Bytes that each of so many devices may fill: its own memory, or its share of what the machine has left."""
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
    """Keeps XLA to one thread for a member alone whose products are small, and starts nothing.

    They are done in less time than it takes to wake up another thread. Where JAX has started already, may find an accelerator,
    or was told by the user how many threads to use, it stays at that. Processes that this one starts inherit it.

    Args:
        rows: the most that a network is given at once while it learns and acts.
        hidden: its hidden layers.
    """
    small = rows <= FEW_ROWS and rows * max(hidden) ** 2 <= SMALL_PRODUCT
    if small and not accelerated() and not {"PJRT_NPROC", "NPROC"} & os.environ.keys():
        os.environ["PJRT_NPROC"] = "1"  # read by XLA's CPU client when it starts, and by nothing else


def accelerated() -> bool:
    """Whether JAX may find an accelerator."""
    installed = bool(entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None
    return installed and jax.config.jax_platforms != "cpu"  # pyright: ignore[reportAttributeAccessIssue]


def use_all_cores() -> None:
    """Makes every core a device of its own, and starts nothing.

    Members then run on all cores at once. Where JAX has started already, or the user has said how many devices there are to
    be, it stays at that.
    """
    asked = getattr(jax.config, "jax_num_cpu_devices", -1) > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked:
        with contextlib.suppress(RuntimeError):  # it has started
            jax.config.update("jax_num_cpu_devices", cores())


def cores() -> int:
    """How many this process may use; all of the machine where the system, as macOS, does not tell."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
