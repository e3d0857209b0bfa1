"""Where the members of a sweep run: mapped or vmapped, over one device or all, and how many fit at once.

On a CPU members are MAPPED, one after the other on every core: each finds its networks in the caches, while `vmap` would push
all of them through memory at every layer. On an accelerator they are VMAPPED. Over several devices they are sharded, and each
device works on its own members without talking to the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}
"""Without it XLA copies weight matrices, for fear that they are still read when they are overwritten: 3 .. 7 % of an update."""


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

    >>> import ddpg_jax.running.placement
    >>> ddpg_jax.running.placement.place(3, "map").slots
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
