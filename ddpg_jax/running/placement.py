"""Decides where the members of a sweep run: mapped or vmapped, on one device or spread over several.

On a CPU members are MAPPED, one after the other on every core: each finds its networks in the caches, whereas `vmap` would push
the networks of all members through memory at every layer. What is compiled then advances one member on each device, and
`Program` calls it for others in turn (`seats.in_turn`). On an accelerator they are VMAPPED. Several devices shard the members,
and each device works on its own without communication.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ddpg_jax.flatten import as_bits, make_pack
from ddpg_jax.training.loop import PLAIN, Layout

MEMBERS = "members"
"""Name of the axis of members, on the devices of a mesh and under `vmap`."""

CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}
"""Otherwise XLA copies weight matrices in case they are still read when they are overwritten: 3 .. 7 % of an update."""

SMALL = 32
"""Largest size of an array that is carried in a vector together with others."""
PACKED = (
    Layout(functools.partial(make_pack, largest=SMALL)),
    Layout(functools.partial(make_pack, largest=SMALL, code=as_bits)),
)
"""The layouts of the loop over vector steps on GPUs, where every kernel of a step costs a launch: of a member alone, and of
vmapped ones. With the defaults there are 64 and 50 kernels instead of 78 and 61."""
LAYOUTS = dict.fromkeys(("gpu", "cuda", "rocm"), PACKED)
"""Maps platforms to their layouts; on all others, every array is carried by itself."""


class Placement(NamedTuple):
    """The layout of M members; `slots` is M, padded to a multiple of the number of devices."""

    slots: int
    kind: str = "map"
    devices: tuple[Any, ...] = ()

    @property
    def single(self) -> bool:
        """True for a single member, which has no member axis: with one of length 1, XLA copies the replay at every write."""
        return self.slots == 1

    @property
    def vmapped(self) -> bool:
        """True if one loop advances several members."""
        return self.kind == "vmap" and not self.single

    @property
    def per_call(self) -> Placement:
        """The placement of the members that one call advances: one on each device if they are mapped, else all."""
        return self._replace(slots=len(self.devices)) if self.kind == "map" else self

    @property
    def mesh(self) -> Mesh:
        """A mesh of the devices with one axis, the members."""
        return Mesh(list(self.devices), (MEMBERS,))

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """Compiler options for training."""
        return CPU_OPTIONS if self.devices[0].platform == "cpu" else None

    @property
    def layout(self) -> Layout:
        """The layout of the loop over vector steps."""
        return LAYOUTS.get(self.devices[0].platform, (PLAIN, PLAIN))[self.vmapped]

    def put(self, tree: Any) -> Any:
        """Puts arrays `[M, ...]` on the devices of their members."""
        return jax.device_put(tree, self.sharding)

    def replicate(self, tree: Any) -> Any:
        """Puts arrays that all members share on every device."""
        return jax.device_put(tree, self._sharding())

    def abstract(self, shapes: Any) -> Any:
        """Adds the sharding of the members to shapes `[M, ...]`."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), shapes)

    @property
    def sharding(self) -> Any:
        """The sharding of arrays `[M, ...]` over the devices of their members."""
        return self._sharding(MEMBERS)

    def _sharding(self, *axes: str) -> Any:
        if len(self.devices) == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def make_placement(members: int, choice: str = "auto", devices: list[Any] | None = None) -> Placement:
    """Places members on the given devices, by default on all devices of this process.

    >>> import ddpg_jax.running.placement
    >>> ddpg_jax.running.placement.make_placement(3, "map").slots
    3
    """
    devices = (devices or jax.local_devices())[:members]
    kind = choice if choice != "auto" else "map" if devices[0].platform == "cpu" else "vmap"
    return Placement(-(-members // len(devices)) * len(devices), kind, tuple(devices))


def over_members(function: Callable[..., Any], placement: Placement, shared: int = 0) -> Callable[..., Any]:
    """Lifts a function of one member to the members of a call: arguments and results get a leading axis `[M]`.

    Args:
        function: a pure function of one member.
        placement: where the members of the call are, `Placement.per_call`.
        shared: how many of the last arguments are the same for all members and get no leading axis.
    """
    if placement.single:
        return function
    assert placement == placement.per_call, "a compiled loop over members would copy their replays in and out"
    return shard_members(lift(function, placement, shared), placement, shared)


def lift(function: Callable[..., Any], placement: Placement, shared: int = 0) -> Callable[..., Any]:
    """Lifts a function of one member to the members of one device: a single one, unless they are vmapped."""

    def lifted(*arguments: Any) -> Any:
        count = len(arguments) - shared

        def one(*own: Any) -> Any:
            return function(*own, *arguments[count:])

        if placement.kind == "vmap":
            return jax.vmap(one, axis_name=MEMBERS)(*arguments[:count])
        return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], arguments[:count])))

    return lifted


def shard_members(function: Callable[..., Any], placement: Placement, shared: int = 0) -> Callable[..., Any]:
    """Shards a function of members over the devices of the placement; see `over_members`."""
    if len(placement.devices) < 2:
        return function
    own, everywhere = PartitionSpec(MEMBERS), PartitionSpec()

    def sharded(*arguments: Any) -> Any:
        specs = (own,) * (len(arguments) - shared) + (everywhere,) * shared
        return jax.shard_map(function, mesh=placement.mesh, in_specs=specs, out_specs=own, check_vma=False)(*arguments)

    return sharded


def max_over_members(placement: Placement) -> Callable[[Any], Any]:
    """Returns a function that takes the maximum of a number over the members that one loop advances."""
    return functools.partial(jax.lax.pmax, axis_name=MEMBERS) if placement.vmapped else lambda status: status
