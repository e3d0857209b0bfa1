"""Runs Gymnasium environments on the host, as an `Env` whose steps are calls from the compiled program back into Python."""

from __future__ import annotations

from ddpg_jax.envs.host.callback import host_env, watchers
from ddpg_jax.envs.host.factories import from_function, make_host
from ddpg_jax.envs.host.seeding import generators_kept
from ddpg_jax.envs.host.threads import stopping

__all__ = ["from_function", "generators_kept", "host_env", "make_host", "stopping", "watchers"]
