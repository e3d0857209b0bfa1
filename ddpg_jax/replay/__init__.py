"""Where transitions are kept and how they are drawn."""

from ddpg_jax.replay.ring import Ring, bare, interrupt, make_ring, pack, unpack
from ddpg_jax.replay.samplers import REPLAYS, aged, prioritized, scaled, uniform

__all__ = ["REPLAYS", "Ring", "aged", "bare", "interrupt", "make_ring", "pack", "prioritized", "scaled", "uniform", "unpack"]
