"""Presets: the values that their sources publish, everything that they name is built, and users add their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import ddpg_jax as dj
from ddpg_jax.experiment import CHOICES
from tests.runs import TINY, manifest, run

PUBLISHED = {
    # actor lr, critic lr, tau, replay, batch, noise, sigma, warm-up, hidden, critics, delay
    "default": (1e-4, 1e-3, 0.005, 1e5, 64, "ou", 0.2, 1_000, (256, 256), 1, 1),
    "lillicrap2015": (1e-4, 1e-3, 0.001, 1e6, 64, "ou", 0.2, 64, (400, 300), 1, 1),
    "nexus": (1e-4, 1e-3, 0.005, 1e6, 256, "ou", 0.1, 256, (256, 256), 1, 1),
    "keras": (1e-3, 2e-3, 0.005, 1e5, 64, "ou", 0.1, 64, (256, 256), 1, 1),
    "spinningup": (1e-3, 1e-3, 0.005, 1e6, 100, "gaussian", 0.1, 10_000, (256, 256), 1, 1),
    "fujimoto-ddpg": (1e-4, 1e-3, 0.005, 1e6, 256, "gaussian", 0.1, 25_000, (400, 300), 1, 1),
    "fujimoto-ourddpg": (3e-4, 3e-4, 0.005, 1e6, 256, "gaussian", 0.1, 25_000, (256, 256), 1, 1),
    "cleanrl": (3e-4, 3e-4, 0.005, 1e6, 256, "gaussian", 0.1, 25_000, (256, 256), 1, 2),
    "sb3": (1e-3, 1e-3, 0.005, 1e6, 256, "none", None, 256, (400, 300), 1, 1),
    "sbx": (3e-4, 1e-3, 0.005, 1e6, 256, "none", None, 256, (256, 256), 1, 1),
    "td3": (3e-4, 3e-4, 0.005, 1e6, 256, "gaussian", 0.1, 25_000, (256, 256), 2, 2),
}


def test_every_preset_has_the_values_of_its_source() -> None:
    """Said a second time, resolved: a default that changes must not change what a preset means."""
    assert set(PUBLISHED) == set(dj.PRESETS)
    for name, expected in PUBLISHED.items():
        x, hyper = dj.configure({"preset": name})
        sigma = None if x.exploration == "none" else hyper.noise_sigma
        numbers = (hyper.actor_lr, hyper.critic_lr, hyper.tau, x.replay_capacity, x.batch_size, x.exploration, sigma)
        assert (*numbers, x.warmup_steps, x.hidden, x.num_critics, x.policy_delay) == expected, name
        assert hyper.gamma == 0.99
        assert hyper.ou_theta == 0.15
        assert x.action_layer == (1 if x.hidden == (400, 300) and name != "sb3" else 0)
        assert x.batch_norm == (name == "lillicrap2015")
        assert x.steps > x.warmup_steps, f"{name} would never learn"
        assert x.parts == {
            "lillicrap2015": ("critic_l2",),
            "fujimoto-ddpg": ("critic_l2",),
            "cleanrl": ("sync_period",),
            "td3": ("target_noise", "sync_period"),
        }.get(name, ())


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
    assert "mine" in CHOICES["preset"]
    x, hyper = dj.configure({"preset": "mine", "tau": 0.4})
    assert (x.hidden, hyper.tau, x.preset) == ((8, 8), 0.4, "mine")
    monkeypatch.setitem(dj.PRESETS, "mine", dj.Preset("Mine.", {"taw": 0.3}))
    with pytest.raises(dj.ConfigError, match=r"taw is no field; nearest are .*tau"):
        dj.configure({"preset": "mine"})
    monkeypatch.delitem(dj.PRESETS, "mine")
    with pytest.raises(dj.ConfigError, match="preset=mine is not allowed"):
        dj.configure({"preset": "mine"})


@pytest.mark.usefixtures("command_line")
def test_a_preset_of_an_imported_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_presets.py").write_text(
        "import ddpg_jax as dj\ndj.PRESETS['of a module'] = dj.Preset('Mine.', {'hidden': '8', 'warmup_steps': 70})\n"
    )
    try:
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
        ("{", ["is no JSON"]),
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
