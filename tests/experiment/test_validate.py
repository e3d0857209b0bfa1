"""Combinations of fields: what cannot be trained is refused, and what nothing reads is not."""

from __future__ import annotations

from typing import Any

import pytest

import ddpg_jax as dj
from ddpg_jax.experiment.experiment import reads
from ddpg_jax.running.groups import make_groups

OFFLINE = {"steps": 0, "updates": 500, "demonstrations": "x.npz"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "crossq", "targets": "joint", "batch_size": 1}, "batch_size=1 is not allowed with network=crossq"),
        ({"batch_norm": True, "batch_size": 1}, "batch_size=1 is not allowed with batch_norm=true"),
        ({"critic": "categorical", "value_min": 200.0}, "value_min=200 is not allowed; it must be below value_max=150"),
        ({"critic": "categorical", "value_min": -3e38, "value_max": 3e38}, "does not have num_atoms=51 values"),
        ({"critic": "categorical", "value_min": 1e8, "value_max": 1e8 + 1}, "does not have num_atoms=51 values"),
        ({"critic": "categorical", "atom_sigma": 1e9}, "atom_sigma"),
        ({"num_envs": 64, "warmup_steps": 60, "batch_size": 65}, "batch_size=65 is more than the 64 steps that the warm-up"),
        ({**OFFLINE, "lr_schedule": "cosine", "lr_decay_updates": 0.0}, "lr_decay_updates"),
        ({"noise_schedule": "exponential", "noise_sigma": 0.0}, "noise_sigma_final=0.02 is not allowed"),
        ({"noise_schedule": "linear", "noise_decay_steps": 1_000}, "more than the 1000 of the warm-up"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(dj.ConfigError, match=words):
        dj.configure(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_envs": 64, "warmup_steps": 60, "batch_size": 64},
        {**OFFLINE, "lr_schedule": "cosine", "lr_decay_updates": 500},
        {**OFFLINE, "noise_schedule": "linear", "noise_decay_steps": 500},
        {"value_min": 200.0},
        {"exploration": "none", "noise_schedule": "exponential", "noise_sigma": 0.0},
    ],
    ids=str,
)
def test_what_nothing_reads_refuses_nothing(fields: dict[str, Any]) -> None:
    dj.configure(fields)


@pytest.mark.parametrize(
    "name",
    ["noise_sigma", "ou_theta", "epsilon_uniform", "action_smoothing", "warmup_steps", "updates_per_step", "replay_capacity"],
)
def test_offline_runs_do_not_read_what_collecting_does(name: str) -> None:
    """Members of a sweep over it would be equal."""
    value = getattr(dj.Experiment(), name, None) or getattr(dj.Hyperparams(), name) or 0.1
    with pytest.raises(dj.ConfigError, match=f"{name} cannot be swept"):
        make_groups([{name: value}, {name: 2 * value}], 1, OFFLINE)


def test_parts_of_ones_own_may_read_the_numbers_of_those_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dj.REPLAYS, "mine", lambda **sizes: dj.replay.prioritized(**sizes))
    monkeypatch.setitem(dj.EXPLORERS, "mine", lambda **sizes: dj.exploration.ornstein_uhlenbeck(**sizes))
    experiment, _ = dj.configure({"replay": "mine", "exploration": "mine"})
    assert reads(experiment, "priority_alpha")
    assert reads(experiment, "ou_theta")
    assert not reads(dj.Experiment(), "priority_alpha")
    assert not reads(dj.Experiment(exploration="pink"), "ou_theta")


def test_a_run_that_ends_before_its_first_update_says_so() -> None:
    run = dj.train("probe/observation", steps=40, warmup_steps=20, batch_size=8, updates_per_step=0.01, hidden=(4,))
    assert "without an update" in repr(run)
