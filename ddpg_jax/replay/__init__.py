"""Stores transitions and samples batches of them."""

from ddpg_jax.replay.ring import Ring, end_open_episodes, make_ring, pack, ring_state, unpack
from ddpg_jax.replay.samplers import REPLAYS, prioritized, uniform, with_age, with_reward_scale

__all__ = [
    "REPLAYS",
    "Ring",
    "end_open_episodes",
    "make_ring",
    "pack",
    "prioritized",
    "ring_state",
    "uniform",
    "unpack",
    "with_age",
    "with_reward_scale",
]
