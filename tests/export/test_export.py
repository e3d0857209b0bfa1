"""Exported files compute what the policy does, say what they are, and are used without this package."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.agent.networks import STATISTICS, init_actor, make_nets
from ddpg_jax.agent.normalization import NET, OBS, init_moments, update_moments
from ddpg_jax.export import FORMATS, export_policy, function
from ddpg_jax.export.formats import describe

SPEC = dj.EnvSpec("Some-v0", (2, 3), (2,), (-2.0, 0.1), (2.0, 0.7), 100)
PAGE = Path(dj.__file__).parent / "export" / "USE.md"
NEEDS = {"onnx": "onnx", "stablehlo": "flatbuffers", "npz": "numpy"}
CASES: list[dict[str, Any]] = [
    {"activation": "relu", "normalized": True},
    *({"activation": name} for name in ("tanh", "elu", "gelu", "silu")),
    {"layer_norm": True},
    {"batch_norm": True, "normalized": True},
    {"network": "residual", "normalized": True},
    {"network": "two_branch"},
    {"network": "crossq", "normalized": True},
    {"precision": "bfloat16"},
]
NOT_FOR_NUMPY = ("precision=bfloat16",)


def policy_of(*, network: str = "mlp", normalized: bool = False, **fields: Any) -> dj.Policy:
    """A policy whose actions use much of their range, with bounds that are no float32 and observations far from 0."""
    fields = {"hidden": (16, 16), "init": "fan_in", **fields}
    actor = make_nets(network, SPEC.action_dim, fields).actor
    params = init_actor(jax.random.key(0), actor, SPEC.obs_dim)
    if STATISTICS in params:
        params = {**params, STATISTICS: jax.tree.map(lambda x: x + 0.1, params[STATISTICS])}
    if normalized:
        seen = 100.0 + jax.random.normal(jax.random.key(1), (50, SPEC.obs_dim))
        params = {NET: params, OBS: update_moments(init_moments(SPEC.obs_dim), seen, jnp.ones(50, bool))}
    return dj.Policy(SPEC, params, network, fields)


WHOLE = [(case, to) for case in CASES for to in FORMATS if to != "stablehlo" or case in (CASES[0], CASES[-1])]
"""StableHLO is what JAX itself writes of every network."""


@pytest.mark.parametrize(("case", "to"), WHOLE, ids=str)
def test_files_compute_what_the_policy_does(case: dict[str, Any], to: str, tmp_path: Path) -> None:
    """For every network of the package, and for batches of a size that the check at export has not seen."""
    pytest.importorskip(NEEDS[to])
    policy = policy_of(**case)
    refused = [one for one in NOT_FOR_NUMPY if one in [f"{name}={value}" for name, value in case.items()]]
    if to == "npz" and refused:
        with pytest.raises(dj.ConfigError, match=f"{refused[0]} cannot be exported to npz.*--to stablehlo"):
            export_policy(policy, tmp_path / "file", to=to)
        return
    done = export_policy(policy, tmp_path / "file", to=to)
    _, run = FORMATS[to].runner(done.path.read_bytes())
    obs = function.sample_observations(policy, 7)
    tolerance = function.TOLERANCE[case.get("precision", "float32")]
    np.testing.assert_allclose(run(obs), policy(obs), atol=2 * tolerance)
    found = run(1e3 * obs)
    assert found.dtype == np.float32
    assert (np.float64(found) >= SPEC.action_low).all()
    assert (np.float64(found) <= SPEC.action_high).all()


def test_a_policy_with_rounded_actions_is_exported_without_rounding(tmp_path: Path) -> None:
    policy = policy_of()
    rounded = dataclasses.replace(policy, spec=SPEC._replace(action_dtype="float16"))
    assert dj.export_policy(rounded, tmp_path / "p.npz", to="npz").difference < 1e-5


def test_the_actions_of_the_cases_use_much_of_their_range() -> None:
    """Else a file that ignores its observations would pass."""
    for case in CASES:
        policy = policy_of(**case)
        actions = policy(function.sample_observations(policy))
        assert (np.std(actions, axis=0) > 0.02).all(), case


@pytest.mark.parametrize("to", FORMATS)
def test_metadata_says_what_a_file_is(to: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS[to])
    policy = policy_of()
    data = export_policy(policy, tmp_path / "file", to=to, notes={"run": {"seed": 7}}).path.read_bytes()
    if to == "onnx":
        import onnx

        model = onnx.load_from_string(data)
        found = {entry.key: entry.value for entry in model.metadata_props}
        found = {name: json.loads(text) if text[0] in "[{" else text for name, text in found.items()}
    elif to == "stablehlo":
        found = json.loads(zipfile.ZipFile(io.BytesIO(data)).read("about.json"))
    else:
        found = json.loads(str(np.load(io.BytesIO(data))["about"]))
    assert found == {**describe(policy), "run": {"seed": 7}}
    assert found["action_low"] == [-2.0, 0.1]
    assert found["version"] == dj.__version__


class Odd(nn.Module):
    """An actor with a primitive that is no node of ONNX, a cumulative sum."""

    action_dim: int

    @nn.compact
    def __call__(self, obs: Any) -> Any:
        return jnp.tanh(jnp.cumsum(nn.Dense(self.action_dim)(obs), axis=-1))


class Own(nn.Module):
    """An actor of the user's, of primitives that have nodes; one of them works on axes of its own."""

    action_dim: int

    @nn.compact
    def __call__(self, obs: Any) -> Any:
        parts = obs.reshape(*obs.shape[:-1], 2, 3)
        x = jnp.concatenate([parts.max(axis=-1), jnp.swapaxes(parts, -1, -2)[..., 1:, :1].squeeze(-1)], axis=-1)
        x = nn.leaky_relu(nn.Dense(8)(x)) ** 3 / (1.0 + nn.softplus(x).sum(axis=-1, keepdims=True))
        return jnp.sin(nn.Dense(self.action_dim)(x))


def own_policy(module: Any) -> dj.Policy:
    dj.NETWORKS["own"] = lambda *, action_dim: dj.Nets(module(action_dim), dj.Critic())
    actor = make_nets("own", SPEC.action_dim, {}).actor
    return dj.Policy(SPEC, init_actor(jax.random.key(0), actor, SPEC.obs_dim), "own")


@pytest.fixture
def _networks() -> Any:
    yield
    dj.NETWORKS.pop("own", None)


@pytest.mark.usefixtures("_networks")
def test_own_networks_are_exported_where_a_format_can_express_them(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("flatbuffers")
    own = own_policy(Own)
    assert export_policy(own, tmp_path / "own.onnx").difference < 1e-5
    with pytest.raises(dj.ConfigError, match=r"network=own cannot be exported to npz.*use --to stablehlo"):
        export_policy(own, tmp_path / "own.npz")
    odd = own_policy(Odd)
    with pytest.raises(dj.ConfigError, match=r"the network uses the primitive cumsum of JAX, which .*use --to stablehlo"):
        export_policy(odd, tmp_path / "odd.onnx")
    assert export_policy(odd, tmp_path / "odd.stablehlo").difference < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.stablehlo", "own.onnx"]


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of()
    write, runner = FORMATS["npz"]
    broken = FORMATS["npz"]._replace(runner=lambda data: ("numpy", lambda obs: runner(data)[1](obs) + 1e-4))
    monkeypatch.setitem(FORMATS, "npz", broken)
    with pytest.raises(dj.ConfigError, match=r"numpy differs from the policy by .* where 1e-05 is allowed"):
        export_policy(policy, tmp_path / "file.npz")
    assert not list(tmp_path.iterdir())
    assert write(policy, describe(policy))


def test_what_cannot_be_exported_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of()
    with pytest.raises(dj.ConfigError, match="to=pickle is not allowed; it must be one of onnx, stablehlo, npz"):
        export_policy(policy, tmp_path / "file.pickle")
    diverged = dj.Policy(SPEC, jax.tree.map(lambda x: x * jnp.nan, policy.params), "mlp", policy.fields)
    with pytest.raises(dj.ConfigError, match="has diverged"):
        export_policy(diverged, tmp_path / "file.npz")
    for to, module in (("onnx", "onnx"), ("stablehlo", "flatbuffers")):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        with pytest.raises(dj.ConfigError, match=rf"to={to} needs the extra export.*pip install"):
            export_policy(policy, tmp_path / "file", to=to)


@pytest.mark.parametrize("number", range(3))
def test_the_page_on_using_files_works_without_this_package(number: int, tmp_path: Path) -> None:
    to = list(FORMATS)[number]
    pytest.importorskip({**NEEDS, "onnx": "onnxruntime"}[to])
    policy = policy_of(normalized=True)
    export_policy(policy, tmp_path / ("policy.zip" if to == "stablehlo" else f"policy.{to}"), to=to)
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)[number]
    assert len([line for line in code.splitlines() if line]) <= 10
    code += "\nimport sys\nassert not any(name.startswith('ddpg_jax') for name in sys.modules)\nnp.save('action.npy', action)\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "action.npy"), policy(np.zeros((5, 2, 3))), atol=1e-5)
