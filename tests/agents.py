"""Agents for tests."""

from typing import Any

import ddpg_jax as dj
from ddpg_jax.agent.networks import NETWORK_FIELDS, make_nets


def mlp_agent(obs_dim: int, action_dim: int, hidden: tuple[int, ...] = (256, 256), **options: Any) -> dj.Agent:
    """DDPG with fully connected networks; options of the networks, with names of activations, and of `make_agent`."""
    fields = {"hidden": hidden, **{name: options.pop(name) for name in NETWORK_FIELDS if name in options}}
    return dj.make_agent(*make_nets("mlp", action_dim, fields), obs_dim=obs_dim, **options)
