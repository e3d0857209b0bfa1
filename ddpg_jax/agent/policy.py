"""A trained actor: call it with observations, save it without pickle, load it anywhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.agent.networks import ACTIVATIONS, PRECISIONS, Actor, apply
from ddpg_jax.agent.normalization import read
from ddpg_jax.envs.spaces import join_goals, to_native
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Array, EnvSpec, Params

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Policy:
    """mu(s) in the environment's own units.

    >>> import numpy as np, ddpg_jax as dj
    >>> run = dj.train("probe/observation", steps=600, warmup_steps=500)
    >>> run.policy(np.zeros(1)).shape, run.policy(np.zeros((7, 1))).shape
    ((1,), (7, 1))
    """

    spec: EnvSpec
    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    params: Params
    batch_norm: bool = False
    precision: str = "float32"

    def __repr__(self) -> str:
        return f"<Policy for {self.spec.name}: {self.spec.obs_shape} -> {self.spec.action_shape}>"

    def __call__(self, obs: Any) -> Any:
        """Actions for observations `[..., *obs_shape]`, in the environment's shape and units; NumPy in, NumPy out.

        NumPy's are of the environment's type and within its bounds.

        An observation with goals may be the dict that Gymnasium gives.
        """
        obs = join_goals(obs) if isinstance(obs, dict) else obs
        obs = obs if isinstance(obs, jax.Array) else np.asarray(obs)
        shape = obs.shape
        batch = shape[: len(shape) - len(self.spec.obs_shape)]
        if shape[len(batch) :] != self.spec.obs_shape:
            raise ValueError(f"obs has shape {shape}; it must end in {self.spec.obs_shape}")
        flat = jnp.asarray(obs, jnp.float32).reshape(*batch, self.spec.obs_dim)
        unit, low, high = _compiled(self._actor(), self.params, flat), self.spec.action_low, self.spec.action_high
        if isinstance(obs, jax.Array):
            bounds = (jnp.broadcast_to(jnp.asarray(bound), unit.shape) for bound in (low, high))
            return to_native(unit, *bounds).reshape((*batch, *self.spec.action_shape))
        # In float64, as environments on the host are trained: bounds are exact there.
        action = to_native(np.asarray(unit, np.float64), np.asarray(low), np.asarray(high))
        return action.astype(self.spec.action_dtype).reshape((*batch, *self.spec.action_shape))

    def unit_action(self, params: Params, obs: Array) -> Array:
        """mu(s) in [-1, 1]: `[..., O] -> [..., A]`, for `training.rollout`."""
        return _unit(self._actor(), params, obs)

    def _actor(self) -> Actor:
        options = {"batch_norm": self.batch_norm, "product": PRECISIONS[self.precision]}
        return Actor(self.spec.action_dim, self.hidden, ACTIVATIONS[self.activation], self.layer_norm, **options)

    def save(self, folder: str | Path) -> None:
        """Writes `policy.json` and `actor.npz`, plain arrays, into a folder that is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        leaves = {_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(self.params)}
        about = {
            "format": FORMAT,
            "env": self.spec._replace(goal=None)._asdict(),
            "hidden": self.hidden,
            "activation": self.activation,
            "layer_norm": self.layer_norm,
            "batch_norm": self.batch_norm,
            "precision": self.precision,
        }
        with open(folder / "actor.npz.tmp", "wb") as file:
            np.savez(file, **leaves)  # pyright: ignore[reportArgumentType]
        (folder / "actor.npz.tmp").replace(folder / "actor.npz")
        (folder / "policy.json.tmp").write_text(json.dumps(about, indent=2) + "\n")
        (folder / "policy.json.tmp").replace(folder / "policy.json")


def _unit(actor: Actor, params: Params, obs: Array) -> Array:
    params, obs = read(params, obs)
    return apply(actor, params, obs)


_compiled = jax.jit(_unit, static_argnums=0)


def load_policy(folder: str | Path) -> Policy:
    """The policy that `Policy.save` wrote, or that of a run folder. Nothing is unpickled.

    Raises:
        ConfigError: the folder holds no whole policy.
    """
    folder = Path(folder)
    folder = folder / "policy" if (folder / "policy" / "policy.json").exists() else folder
    try:
        about = json.loads((folder / "policy.json").read_text())
        with np.load(folder / "actor.npz", allow_pickle=False) as leaves:
            params = _tree({name: jnp.asarray(leaves[name]) for name in leaves.files})
        spec: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in about["env"].items()}
        layers = (tuple(about["hidden"]), about["activation"], about["layer_norm"])
        options = {name: about[name] for name in ("batch_norm", "precision") if name in about}  # older policies lack some
        for name, known in (("activation", ACTIVATIONS), ("precision", PRECISIONS)):
            if about.get(name, "float32") not in known:
                raise ValueError(f"{name}={about[name]} is not known; it must be one of {', '.join(known)}")
        policy = Policy(EnvSpec(**spec), *layers, params, **options)
        layers_kept = {part for name in leaves.files for part in name.split("/") if part.startswith("hidden_")}
        if len(layers_kept) != len(policy.hidden):
            raise ValueError(f"policy.json has hidden={list(policy.hidden)}, and actor.npz {len(layers_kept)} such layers")
        jax.eval_shape(policy.unit_action, params, jax.ShapeDtypeStruct((policy.spec.obs_dim,), jnp.float32))  # do they fit?
        return policy
    except FileNotFoundError as error:
        member = next((path for pattern in ("member_*", "policy/member_*") for path in sorted(folder.glob(pattern))), None)
        if member is not None:
            raise ConfigError(f"policy={folder} holds those of a sweep; name one, as {member}") from error
        raise ConfigError(f"policy={folder} holds no policy: {Path(error.filename).name} is missing") from error
    except Exception as error:  # a truncated archive, a wrong type, a missing field
        raise ConfigError(f"policy={folder} cannot be read: {error}") from error


def reward_threshold(folder: Path) -> float | None:
    """The mean return at which the environment of the policy in a folder counts as solved."""
    return json.loads((folder / "policy.json").read_text())["env"]["reward_threshold"]


def _name(path: Any) -> str:
    return "/".join(str(entry.key) for entry in path)


def _tree(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree
