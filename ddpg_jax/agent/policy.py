"""Implements `Policy`, a trained actor, which can be called, saved without pickle, and loaded."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.agent.networks import NETWORK_FIELDS, apply, init_actor, make_nets, takes_field
from ddpg_jax.agent.normalization import NET, OBS, init_moments, network_inputs, without_rests
from ddpg_jax.agent.policy_file import (
    FORMAT,
    check_digest,
    digest_of,
    named_leaves,
    read_about,
    read_arrays,
    read_options,
    read_spec,
    self_digest,
    write_arrays,
)
from ddpg_jax.envs.spaces import join_goals, to_native
from ddpg_jax.errors import ConfigError
from ddpg_jax.files import write_bytes
from ddpg_jax.types import NO_OPTIONS, Array, EnvOptions, EnvSpec, Params


@dataclasses.dataclass(frozen=True)
class Policy:
    """Represents the deterministic policy mu(s) in the units of the environment.

    >>> import numpy as np, ddpg_jax as dj
    >>> run = dj.train("probe/observation", steps=600, warmup_steps=500)
    >>> run.policy(np.zeros(1)).shape, run.policy(np.zeros((7, 1))).shape
    ((1,), (7, 1))
    """

    spec: EnvSpec
    params: Params
    """The actor's parameters, including the moments of the observations if these are normalized."""
    network: str = "mlp"
    """A name in `networks.NETWORKS`."""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values of `networks.NETWORK_FIELDS`; for those that are missing, the network uses its own defaults."""
    options: EnvOptions = NO_OPTIONS
    """How the environment of its training was made by its name."""

    def __repr__(self) -> str:
        return f"<Policy for {self.spec.name}: {self.spec.obs_shape} -> {self.spec.action_shape}>"

    def __call__(self, obs: Any) -> Any:
        """Returns actions `[..., *action_shape]` in the units of the environment.

        It returns JAX arrays for JAX arrays. Otherwise it returns NumPy arrays, with the dtype of the environment's actions and
        within its bounds.

        Args:
            obs: observations `[..., *obs_shape]`, or, for an environment with goals, the dict that Gymnasium returns.

        Raises:
            ValueError: the observations have the wrong shape.
        """
        obs = join_goals(obs) if isinstance(obs, dict) else obs
        obs = obs if isinstance(obs, jax.Array) else np.asarray(obs)
        shape = obs.shape
        batch = shape[: len(shape) - len(self.spec.obs_shape)]
        if shape[len(batch) :] != self.spec.obs_shape:
            raise ValueError(f"obs has shape {shape}; its last dimensions must be {self.spec.obs_shape}")
        flat = jnp.asarray(obs, jnp.float32).reshape(*batch, self.spec.obs_dim)
        unit, low, high = _compiled(self.actor(), self.params, flat), self.spec.action_low, self.spec.action_high
        if isinstance(obs, jax.Array):
            bounds = (jnp.broadcast_to(jnp.asarray(bound), unit.shape) for bound in (low, high))
            return to_native(unit, *bounds).reshape((*batch, *self.spec.action_shape))
        # This is float64 as in training on the host, so that the bounds are exact.
        action = to_native(np.asarray(unit, np.float64), np.asarray(low), np.asarray(high))
        return action.astype(self.spec.action_dtype).reshape((*batch, *self.spec.action_shape))

    def unit_action(self, params: Params, obs: Array) -> Array:
        """Returns mu(s) in [-1, 1], `[..., O] -> [..., A]`, as `training.rollout` needs it."""
        return _unit(self.actor(), params, obs)

    def actor(self) -> nn.Module:
        """Makes the actor.

        Raises:
            ConfigError: the network is not registered or cannot be made.
        """
        return make_nets(self.network, self.spec.action_dim, self.fields).actor

    def is_finite(self) -> bool:
        """Returns True unless a parameter is NaN or infinite, as those of a policy that has diverged are."""
        return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.params))

    def save(self, folder: str | Path) -> None:
        """Writes `policy.json` and `actor.npz`, which holds plain arrays, to a folder, and creates it if necessary."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data, digest = write_arrays(named_leaves(without_rests(self.params)))
        about = {"format": FORMAT, "env": self.spec._replace(goal=None)._asdict(), "network": self.network}
        about |= {name: value for name, value in self.fields.items() if takes_field(self.network, name)}
        about |= {"options": self.options._asdict()} if self.options != NO_OPTIONS else {}
        about["own_sha256"] = self_digest(about)
        # If the process is killed midway, the two files still match.
        write_bytes(folder / "policy.json", _json({**about, "sha256": [digest, *digest_of(folder / "actor.npz")]}))
        write_bytes(folder / "actor.npz", data)
        write_bytes(folder / "policy.json", _json({**about, "sha256": [digest]}))


def _json(about: dict[str, Any]) -> bytes:
    return (json.dumps(about, indent=2) + "\n").encode()


def _unit(actor: nn.Module, params: Params, obs: Array) -> Array:
    params, obs = network_inputs(params, obs)
    return apply(actor, params, obs)


_compiled = jax.jit(_unit, static_argnums=0)


def load_policy(folder: str | Path) -> Policy:
    """Loads a policy that `Policy.save` wrote, or that of a run folder. It unpickles nothing and imports no module.

    It warns if parameters are not finite, as after a run that has diverged.

    Raises:
        ConfigError: the folder does not contain a complete policy, or its network is not registered.
    """
    policy = read_policy(folder)
    if not policy.is_finite():
        warnings.warn(f"policy={folder} has parameters that are not finite: its training has diverged", stacklevel=2)
    return policy


def read_policy(folder: str | Path) -> Policy:
    """Loads a policy without warnings; see `load_policy`."""
    folder = Path(folder)
    folder = folder / "policy" if (folder / "policy" / "policy.json").exists() else folder
    try:
        about = read_about(folder / "policy.json")
        spec = read_spec(about["env"])
        fields = {name: _tuples(about[name]) for name in NETWORK_FIELDS if name in about}
        policy = Policy(spec, {}, about.get("network", "mlp"), fields, read_options(about.get("options", {})))
        plain, normalized = _expected(policy)
        arrays = read_arrays(folder / "actor.npz", plain, normalized, about.get("sha256", []))
        check_digest(about)
        params = _nested({name: jnp.asarray(leaf) for name, leaf in arrays.items()})
        return dataclasses.replace(policy, params=params)
    except FileNotFoundError as error:
        member = next((path for pattern in ("member_*", "policy/member_*") for path in sorted(folder.glob(pattern))), None)
        if member is not None:
            raise ConfigError(f"policy={folder} holds the policies of a sweep; name one of them, such as {member}") from error
        raise ConfigError(f"policy={folder} holds no policy: {Path(error.filename).name} is missing") from error
    except Exception as error:  # a truncated archive, a wrong type, a missing field
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"policy={folder} cannot be read: {reason}") from error


def _expected(policy: Policy) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns names, shapes and types of the parameters of a policy's actor: as they are, and with normalized observations."""
    own = jax.eval_shape(lambda: init_actor(jax.random.key(0), policy.actor(), policy.spec.obs_dim))
    moments = jax.eval_shape(lambda: init_moments(policy.spec.obs_dim))
    return named_leaves(own), named_leaves(without_rests({NET: own, OBS: moments}))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree
