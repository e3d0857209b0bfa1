"""Combinations of fields: what cannot be trained is refused, and so is what a user gives and nothing reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ddpg_jax as dj
from ddpg_jax.experiment.experiment import NUMBERS, STRUCTURE, coerce, reads
from ddpg_jax.running.groups import check_read, make_groups

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
def test_what_nothing_reads_contradicts_nothing(fields: dict[str, Any]) -> None:
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


@pytest.mark.parametrize(
    "fields",
    [
        {"noise_sigma_final": 0.05},
        {"lr_final": "0.5"},
        {"priority_alpha": 0.5},
        {"target_noise_clip": 0.3},
        {"ou_theta": 0.3, "exploration": "gaussian"},
        {"noise_schedule": "linear", "exploration": "none"},
        {"hidden": (64, 64), "actor_hidden": (64,), "critic_hidden": (128,)},
        {**OFFLINE, "warmup_steps": 200},
    ],
    ids=str,
)
def test_what_is_given_and_nothing_reads_is_refused(fields: dict[str, Any]) -> None:
    """Who gives it believes that it does something."""
    with pytest.raises(dj.ConfigError, match=r"=.* is not allowed, since nothing reads it with these fields \(") as told:
        check_read(make_groups([{}], 1, fields), fields)
    assert "\n" not in str(told.value)


def test_what_is_given_may_be_read_by_some_points_or_be_what_it_is_anyway() -> None:
    check_read(make_groups([{"exploration": "ou"}, {"exploration": "none"}], 1, {"ou_theta": 0.3}), {"ou_theta": 0.3})
    check_read(make_groups([{"ou_theta": 0.1}], 1, {"ou_theta": 0.3}), {"ou_theta": 0.3})
    dj.PRESETS["clipped"] = dj.Preset("clipped", {"target_noise_clip": "0.3"})
    for fields in ({"lr_final": 0.1, "lr_schedule": "constant"}, {"preset": "clipped", "target_noise_clip": 0.3}):
        check_read(make_groups([{}], 1, fields), fields)
    del dj.PRESETS["clipped"]


def test_the_page_tells_the_defaults() -> None:
    page = (Path(dj.__file__).parent / "experiment" / "README.md").read_text()
    told = dict(
        re.findall(
            r"`(\w+)=([\w.-]+)`",
            page.partition("## The defaults")[2]
            .partition(
                "\n\n",
            )[2]
            .partition("\n\n")[0],
        )
    )
    assert len(told) > 12
    defaults = {**STRUCTURE, **NUMBERS}
    assert {name: coerce(name, value) for name, value in told.items()} == {name: defaults[name] for name in told}


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
