"""Environments on the host: Gymnasium's, as an `Env` whose steps are calls out of the compiled program."""

from __future__ import annotations

from ddpg_jax.envs.host.callback import from_function, host_env, make_host, watchers
from ddpg_jax.envs.host.threads import stopping

__all__ = ["from_function", "host_env", "make_host", "stopping", "watchers"]
