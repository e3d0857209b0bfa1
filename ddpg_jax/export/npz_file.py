"""Writes a policy as plain arrays and the order in which they are applied, and runs such a file with NumPy."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddpg_jax.agent.crossq import EPSILON as RENORM_EPSILON
from ddpg_jax.agent.crossq import CrossQActor
from ddpg_jax.agent.layers import ACTIVATIONS, full_product
from ddpg_jax.agent.networks import STATISTICS, Actor
from ddpg_jax.agent.normalization import CLIP_LIMIT, NET, OBS, variance
from ddpg_jax.agent.policy import Policy
from ddpg_jax.agent.residual import ResidualActor
from ddpg_jax.errors import ConfigError
from ddpg_jax.export.function import float32_bounds

EPSILON = 1e-6
"""What flax adds to the variance in LayerNorm."""
BATCH_EPSILON = 1e-5
"""What flax adds to the variance in BatchNorm."""

OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "sub": np.subtract,
    "mul": np.multiply,
    "add": np.add,
    "matmul": np.matmul,
    "clip": np.clip,
    "center": lambda x: x - x.mean(-1, keepdims=True),
    "unit": lambda x: x / np.sqrt(np.square(x).mean(-1, keepdims=True) + EPSILON),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: 0.5 * x * (1 + np.tanh(0.5 * x)),
}
"""Word in a program -> `(x [B, ...], *arrays) -> [B, ...]`. Besides them, `keep` puts x aside, and `join` adds it
again."""


class Steps:
    """Collects the words of a program and its arrays."""

    def __init__(self) -> None:
        self.program: list[list[str]] = []
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, word: str, **arrays: Any) -> None:
        """Adds a step. Its arrays are named by the keywords."""
        self.program.append([word, *arrays])
        self.arrays |= {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    def dense(self, layer: Mapping[str, Any], name: str) -> None:
        """Adds a fully connected layer, with or without a bias."""
        self.add("matmul", **{f"{name}_kernel": layer["kernel"]})
        if "bias" in layer:
            self.add("add", **{f"{name}_bias": layer["bias"]})

    def layer_norm(self, layer: Mapping[str, Any], name: str) -> None:
        """Adds a LayerNorm."""
        self.add("center")
        self.add("unit")
        self.add("mul", **{f"{name}_scale": layer["scale"]})
        self.add("add", **{f"{name}_bias": layer["bias"]})

    def batch_norm(
        self, layer: Mapping[str, Any], statistics: Mapping[str, Any], name: str, *, epsilon: float = BATCH_EPSILON
    ) -> None:
        """Adds a BatchNorm by its running statistics."""
        scale = np.asarray(layer.get("scale", 1.0)) / np.sqrt(np.asarray(statistics["var"], np.float64) + epsilon)
        self.add("sub", **{f"{name}_mean": statistics["mean"]})
        self.add("mul", **{f"{name}_scale": scale})
        if "bias" in layer:
            self.add("add", **{f"{name}_bias": layer["bias"]})


def npz_bytes(policy: Policy, about: Mapping[str, Any]) -> bytes:
    """Returns the contents of an .npz file: the arrays, `program`, the steps as JSON, and `about`, the metadata as JSON.

    A step is a word of `OPERATIONS` and the names of the arrays that it takes besides its input, the result of the step before.

    Args:
        policy: the policy.
        about: metadata, JSON.

    Raises:
        ConfigError: its network or its activation is not one of this package, or it computes with bfloat16, which NumPy lacks.
    """
    steps = _steps(policy)
    file = io.BytesIO()
    arrays: dict[str, Any] = {**steps.arrays, "program": json.dumps(steps.program), "about": json.dumps(dict(about))}
    np.savez(file, **arrays)
    return file.getvalue()


def npz_runner(data: bytes) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns what runs the contents of such a file, and a function that does."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    program, about = json.loads(str(arrays["program"])), json.loads(str(arrays["about"]))

    def run(obs: np.ndarray) -> np.ndarray:
        x = obs.reshape(len(obs), -1)
        kept = x
        for word, *names in program:
            if word == "keep":
                kept = x
            else:
                x = x + kept if word == "join" else OPERATIONS[word](x, *(arrays[name] for name in names))
        return x.reshape(len(obs), *about["action_shape"])

    return "numpy", run


def _steps(policy: Policy) -> Steps:
    actor, steps, params = policy.actor(), Steps(), policy.params
    add = next((add for kind, add in LAYERS.items() if isinstance(actor, kind)), None)
    if add is None or actor.product is not full_product:
        what = f"network={policy.network}" if add is None else "precision=bfloat16"
        raise ConfigError(
            f"{what} cannot be exported to npz, which holds the networks of this package in float32; use --to stablehlo"
        )
    if OBS in params:
        moments = {name: np.asarray(x, np.float64) for name, x in params[OBS].items()}
        steps.add("sub", obs_mean=moments["mean"])
        steps.add("mul", obs_scale=1 / np.sqrt(np.asarray(variance(moments)) + 1e-8))  # pyright: ignore[reportArgumentType]
        steps.add("clip", obs_low=-CLIP_LIMIT, obs_high=CLIP_LIMIT)
        params = params[NET]
    add(steps, actor, params)
    steps.dense(params["action"], "action")
    steps.add("tanh")
    low, high = float32_bounds(policy)
    steps.add("mul", action_half=(high.astype(np.float64) - low) / 2)
    steps.add("add", action_middle=(high.astype(np.float64) + low) / 2)
    steps.add("clip", action_low=low, action_high=high)
    return steps


def _mlp(steps: Steps, actor: Actor, params: Mapping[str, Any]) -> None:
    """Adds the steps of `networks.Actor` before its last layer."""
    word, statistics = _word_of(actor.activation), params.get(STATISTICS, {})
    if actor.batch_norm:
        steps.batch_norm(params.get("norm_input", {}), statistics["norm_input"], "input")
    for i in range(len(actor.hidden)):
        steps.dense(params[f"hidden_{i}"], f"hidden_{i}")
        if actor.layer_norm:
            steps.layer_norm(params[f"norm_{i}"], f"norm_{i}")
        if actor.batch_norm:
            steps.batch_norm(params[f"norm_{i}"], statistics[f"norm_{i}"], f"norm_{i}")
        steps.add(word)


def _word_of(activation: Callable[..., Any]) -> str:
    """Returns the word of an activation.

    Raises:
        ConfigError: it has none.
    """
    word = next((name for name in OPERATIONS if ACTIVATIONS.get(name) is activation), None)
    if word is None:
        raise ConfigError("an activation of your own cannot be exported to npz; use --to stablehlo")
    return word


def _crossq(steps: Steps, actor: CrossQActor, params: Mapping[str, Any]) -> None:
    """Adds the steps of `crossq.encoded`."""
    word = _word_of(actor.activation)

    def norm(name: str) -> None:
        steps.batch_norm(params[name], params[STATISTICS][name], name, epsilon=RENORM_EPSILON)

    norm("norm_input")
    for i in range(len(actor.hidden)):
        steps.dense(params[f"hidden_{i}"], f"hidden_{i}")
        steps.add(word)
        norm(f"norm_{i}")


def _residual(steps: Steps, actor: ResidualActor, params: Mapping[str, Any]) -> None:
    """Adds the steps of `residual.Residual`."""
    params = params["residual"]
    steps.dense(params["embedding"], "embedding")
    for i in range(len(actor.hidden)):
        steps.add("keep")
        steps.layer_norm(params[f"norm_{i}"], f"norm_{i}")
        steps.dense(params[f"wide_{i}"], f"wide_{i}")
        steps.add("relu")
        steps.dense(params[f"narrow_{i}"], f"narrow_{i}")
        steps.add("join")
    steps.layer_norm(params["norm_last"], "norm_last")


LAYERS: dict[type, Callable[[Steps, Any, Any], None]] = {Actor: _mlp, CrossQActor: _crossq, ResidualActor: _residual}
"""Type of an actor -> `(steps, actor, params)`, which adds all but its last layer."""
