"""Data: episodes of policies, for other programs and other people."""

from ddpg_jax.data.collect import collect
from ddpg_jax.data.episodes import Episode, from_ring

__all__ = ["Episode", "collect", "from_ring"]
