"""Presets: the values that their sources publish, everything that they name is built, and users add their own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import ddpg_jax as dj
from ddpg_jax.experiment.experiment import FIELDS
from tests.runs import TINY, manifest, run

DEFAULT = {
    **{"actor_lr": 1e-4, "critic_lr": 1e-3, "gamma": 0.99, "tau": 0.005, "replay_capacity": 100_000, "batch_size": 64},
    **{"exploration": "ou", "noise_sigma": 0.2, "ou_theta": 0.15, "ou_dt": 1.0, "noise_schedule": "constant"},
    **{"warmup_steps": 1_000, "hidden": (256, 256), "activation": "relu", "action_layer": 0, "init": "paper"},
    **{"num_envs": 1, "updates_per_step": 1.0, "num_critics": 1, "policy_delay": 1, "n_step": 1, "parts": ()},
    **{"targets": "slow", "noise_spread": 0.0},
    **{"replay": "uniform", "hindsight": "none", "layer_norm": False, "batch_norm": False, "precision": "float32"},
    **{"normalize_obs": False, "normalize_reward": False, "lr_schedule": "constant", "target_noise_clip": 0.5},
}
MILLION = {"replay_capacity": 1_000_000, "batch_size": 256}
FUJIMOTO = {
    **{**MILLION, "exploration": "gaussian", "noise_sigma": 0.1, "warmup_steps": 25_000, "init": "fan_in"},
    **{"steps": 1_000_000, "eval_every": 5_000},
}
DELAYED = {"actor_lr": 3e-4, "critic_lr": 3e-4, "policy_delay": 2, "sync_period": 2.0}
PUBLISHED: dict[str, dict[str, Any]] = {
    "default": {},
    "mujoco": {
        **{"actor_lr": 1e-3, "exploration": "gaussian", "noise_sigma": 0.1, "warmup_steps": 10_000, "normalize_obs": True},
        **{"replay_capacity": 1_000_000, "init": "fan_in", "steps": 1_000_000, "eval_every": 5_000},
    },
    "lillicrap2015": {
        **{"tau": 1e-3, "critic_l2": 1e-2, "parts": ("critic_l2",), "replay_capacity": 1_000_000, "warmup_steps": 64},
        **{"hidden": (400, 300), "action_layer": 1, "batch_norm": True, "steps": 1_000_000, "eval_every": 10_000},
    },
    "nexus": {**MILLION, "layer_norm": True, "noise_sigma": 0.1, "warmup_steps": 256},
    "keras": {
        **{"actor_lr": 1e-3, "critic_lr": 2e-3, "noise_sigma": 0.1, "ou_dt": 0.01, "warmup_steps": 64},
        **{"replay_capacity": 50_000, "network": "two_branch"},
    },
    "spinningup": {
        **{"actor_lr": 1e-3, "batch_size": 100, "exploration": "gaussian", "noise_sigma": 0.1, "warmup_steps": 10_000},
        **{"replay_capacity": 1_000_000, "init": "fan_in", "steps": 400_000, "eval_every": 4_000},
    },
    "fujimoto-ddpg": {**FUJIMOTO, "hidden": (400, 300), "action_layer": 1, "critic_l2": 5e-3, "parts": ("critic_l2",)},
    "fujimoto-ourddpg": {**FUJIMOTO, "actor_lr": 3e-4, "critic_lr": 3e-4},
    "cleanrl": {**FUJIMOTO, **DELAYED, "parts": ("sync_period",)},
    "sb3": {**MILLION, "actor_lr": 1e-3, "hidden": (400, 300), "exploration": "none", "warmup_steps": 256, "init": "fan_in"},
    "sbx": {**MILLION, "actor_lr": 3e-4, "exploration": "none", "warmup_steps": 256, "init": "fan_in"},
    "td3": {**FUJIMOTO, **DELAYED, "num_critics": 2, "target_noise": 0.2, "parts": ("target_noise", "sync_period")},
    "td3-bc": {
        **{**DELAYED, "batch_size": 256, "init": "fan_in", "eval_every": 5_000, "num_critics": 2, "target_noise": 0.2},
        **{"normalize_obs": True, "bc_weight": 1.0, "bc_alpha": 2.5, "steps": 0, "updates": 1_000_000},
        "parts": ("target_noise", "sync_period", "bc_weight", "bc_alpha"),
    },
    "d4pg": {
        **{"critic": "categorical", "n_step": 5, "replay": "prioritized", "critic_lr": 1e-4, "hidden": (400, 300)},
        **{"batch_size": 256, "exploration": "gaussian", "noise_sigma": 0.3, "replay_capacity": 1_000_000, "tau": 1.0},
        **{"sync_period": 100.0, "steps": 1_000_000, "eval_every": 10_000, "parts": ("sync_period",)},
    },
    "simba": {
        **{"network": "residual", "actor_hidden": (128,), "critic_hidden": (512, 512), "normalize_obs": True},
        **{"critic_lr": 1e-4, "actor_decay": 1e-2, "critic_decay": 1e-2, "batch_size": 256, "exploration": "gaussian"},
        **{"noise_sigma": 0.1, "warmup_steps": 5_000, "replay_capacity": 1_000_000, "init": "fan_in", "steps": 1_000_000},
        **{"eval_every": 10_000, "parts": ("actor_decay", "critic_decay")},
    },
    "crossq-ddpg": {
        **{"network": "crossq", "targets": "joint", "actor_hidden": (256, 256), "critic_hidden": (2_048, 2_048)},
        **{"actor_lr": 1e-3, "policy_delay": 3, "batch_size": 256, "exploration": "gaussian", "noise_sigma": 0.1},
        **{"warmup_steps": 5_000, "replay_capacity": 1_000_000, "init": "fan_in", "steps": 1_000_000, "eval_every": 10_000},
    },
    "parallel": {
        **{"num_envs": 1_024, "updates_per_step": 2 / 1_024, "batch_size": 8_192, "warmup_steps": 10_240, "tau": 0.1},
        **{"replay_capacity": 2**20, "actor_hidden": (512, 256, 128), "critic_hidden": (1_024, 512, 256)},
        **{"precision": "bfloat16", "critic": "categorical", "num_atoms": 101, "num_critics": 2, "policy_delay": 2},
        **{"normalize_obs": True, "normalize_reward": True, "actor_lr": 3e-4, "critic_lr": 3e-4, "actor_decay": 0.1},
        **{"critic_decay": 0.1, "exploration": "gaussian", "noise_spread": 0.99, "steps": 10_240_000},
        **{"eval_every": 204_800, "parts": ("noise_spread", "actor_decay", "critic_decay")},
    },
}
"""Name -> the fields in which it differs from the default, said a second time."""


def resolved(name: str) -> dict[str, Any]:
    x, hyper = dj.configure({"preset": name})
    return {**dataclasses.asdict(x), **hyper._asdict(), "preset": None}


def test_every_preset_has_the_values_of_its_source() -> None:
    """All fields, resolved: neither a default that changes nor a field too many may change what a preset means."""
    assert set(PUBLISHED) == set(dj.PRESETS)
    default = resolved("default")
    assert {name: default[name] for name in DEFAULT} == DEFAULT
    for name, different in PUBLISHED.items():
        found = resolved(name)
        assert {field: value for field, value in found.items() if value != default[field]} == different, name
        assert found["steps"] > found["warmup_steps"] or found["updates"], f"{name} would never learn"


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_preset_can_be_built(name: str) -> None:
    """Down to the shapes of an update; and it says where it comes from."""
    x, hyper = dj.configure({"preset": name})
    spec = dj.envs.make_device("Pendulum-v1").spec
    parts = dj.build(x, spec)
    batch = dj.Transition(*(jnp.zeros((4, *shape)) for shape in ((3,), (1,), (), (), (), (3,))))

    def update(key: Any) -> Any:
        state = parts.agent.init(key, hyper)
        return state, parts.agent.update(key, state, batch, jnp.ones(4), hyper, jnp.int32(0))[0]

    before, after = jax.eval_shape(update, jax.random.key(0))
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
    assert len(dj.PRESETS[name].source) > 20


def test_a_preset_that_a_user_adds_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No list of the names was copied when the package was imported; its values are checked like all others."""
    monkeypatch.setitem(dj.PRESETS, "mine", dj.Preset("Mine.", {"hidden": "8-8", "tau": 0.3}))
    assert "mine" in FIELDS["preset"].allowed()
    x, hyper = dj.configure({"preset": "mine", "tau": 0.4})
    assert (x.hidden, hyper.tau, x.preset) == ((8, 8), 0.4, "mine")
    with pytest.raises(dj.ConfigError, match=r"dj\.PRESETS has mine already"):
        dj.PRESETS["mine"] = dj.Preset("Another.", {"tau": 0.5})
    monkeypatch.delitem(dj.PRESETS, "mine")
    monkeypatch.setitem(dj.PRESETS, "mine", dj.Preset("Mine.", {"taw": 0.3}))
    with pytest.raises(dj.ConfigError, match=r"taw is not a field; the nearest are .*tau"):
        dj.configure({"preset": "mine"})
    monkeypatch.delitem(dj.PRESETS, "mine")
    with pytest.raises(dj.ConfigError, match="preset=mine is not allowed"):
        dj.configure({"preset": "mine"})


@pytest.mark.usefixtures("command_line")
def test_a_preset_of_an_imported_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_presets.py").write_text(
        "import ddpg_jax as dj\ndj.PRESETS['of a module'] = dj.Preset('Mine.', {'hidden': '8', 'warmup_steps': 70})\n"
    )
    try:
        assert run("presets", "--import", "my_presets") == 0
        assert "\nof a module        Mine.\n" in capfd.readouterr().out
        assert run("cite", "of a module", "--import", "my_presets") == 0
        assert run("train", "probe/observation", "--import", "my_presets", "--preset", "of a module", "--steps", "100") == 0
    finally:
        dj.PRESETS.pop("of a module", None)
    (folder,) = (tmp_path / "runs").iterdir()
    assert manifest(folder)["experiment"]["hidden"] == [8]


@pytest.mark.usefixtures("command_line")
def test_a_preset_from_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Under the options of the command line, over the preset that it names; the manifest holds the values, not the file."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"preset": "nexus", "tau": 0.3, "gamma": 0.9, "layer_norm": False, "batch_size": 16}))
    few = [*TINY, "--steps", "300", "--eval-every", "300", "--out", str(tmp_path / "out")]
    assert run("train", "Pendulum-v1", *few, "--preset", str(file), "--gamma", "0.8") == 0
    about = manifest(tmp_path / "out")
    assert about["experiment"]["preset"] == "nexus"
    numbers = about["members"][0]
    assert (numbers["tau"], numbers["gamma"], numbers["noise_sigma"]) == (0.3, 0.8, 0.1)
    assert about["experiment"]["batch_size"] == 16

    for text, words in (
        (None, ["cannot be read", "JSON file"]),
        ("[1]", ["object of fields"]),
        ("{", ["is not valid JSON"]),
        ('{"taw": 1}', ["taw", "nearest", "tau"]),
        ('{"tau": 2}', ["tau=2", "from 0 to 1"]),
        ('{"tau": null}', ["tau=None", "from 0 to 1"]),
        ('{"preset": ["nexus"]}', ["preset=", "nexus"]),
    ):
        bad = tmp_path / "bad.json"
        bad.unlink(missing_ok=True)
        if text is not None:
            bad.write_text(text)
        capfd.readouterr()
        assert run("train", "Pendulum-v1", "--preset", str(bad), "--out", str(tmp_path / "never")) == 2
        line = capfd.readouterr().err
        assert line.count("\n") == 1
        assert [word for word in words if word not in line] == [], line
    assert not (tmp_path / "never").exists()
