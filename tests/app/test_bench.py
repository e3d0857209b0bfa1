"""The command `bench`: that its limit is the products of an update, and what it says and writes."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpg_jax.app import bench
from tests.runs import run

pytestmark = pytest.mark.usefixtures("command_line")


def test_the_products_are_those_of_an_update() -> None:
    """Of networks without activations and biases, they are the gradients of the two losses, here with q^2 / 2 for the actor."""
    keys = iter(jax.random.split(jax.random.key(0), 20))
    sizes = {"actor": (3, 8, 8, 2), "target_actor": (3, 8, 8, 2), "critic": (5, 8, 8, 1), "target_critic": (5, 8, 8, 1)}
    nets = {name: [jax.random.normal(next(keys), pair) for pair in itertools.pairwise(own)] for name, own in sizes.items()}
    batch = jax.random.normal(next(keys), (4, 8))
    obs, action, next_obs = batch[:, :3], batch[:, 3:5], batch[:, 5:]

    def apply(net: list[Any], *inputs: Any) -> Any:
        return jnp.linalg.multi_dot([jnp.concatenate(inputs, axis=-1), *net])

    target = apply(nets["target_critic"], next_obs, apply(nets["target_actor"], next_obs))
    of_critic = jax.grad(lambda net: 0.5 * jnp.sum((apply(net, obs, action) - target) ** 2))(nets["critic"])
    of_actor = jax.grad(lambda net: 0.5 * jnp.sum(apply(nets["critic"], obs, apply(net, obs)) ** 2))(nets["actor"])
    found = bench.products(nets, batch, 3, action_dim=2)
    for expected, own in zip((of_critic, of_actor), found, strict=True):
        for one, other in zip(expected, reversed(own), strict=True):
            np.testing.assert_allclose(other, one, rtol=2e-3, atol=2e-3 * float(jnp.abs(one).max()))


def test_a_row_is_measured_beside_the_limit_and_the_table_is_of_the_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "compile_seconds", lambda fields: (3.0, 1.5))
    monkeypatch.setattr(bench, "use_one_core", lambda *sizes: None)  # which holds for the whole process
    bench.print_row("Pendulum-v1", "device", 64, repetitions=2, updates=3)
    row = json.loads(capsys.readouterr().out)
    pairs = zip(row["updates_per_second"], row["limit_updates_per_second"], strict=True)
    assert row["fraction_of_limit"] == [ours / limit for ours, limit in pairs]
    assert all(fraction > 0 for fraction in row["fraction_of_limit"])
    asked: list[str] = []

    def answer(words: list[str], **_: Any) -> Any:
        asked.append(words[-1])
        return SimpleNamespace(returncode=0, stdout=f"a word of the environment\n{json.dumps(row)}\n")

    monkeypatch.setattr(subprocess, "run", answer)
    assert run("bench", "--quick", "--out", str(tmp_path / "bench.json")) == 0
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "bench.json").read_text())
    rows = [one for one in asked if "print_row" in one]
    assert written["rows"] == [row] * len(rows)
    assert {batch for batch in (64, 256) for one in rows if f", {batch}, " in one} == {64, 256}
    assert said.count("Pendulum-v1") >= 4
    assert "3.0 s   1.5 s" in said
    assert written["updates_per_repetition"] == 300
    monkeypatch.setattr(subprocess, "run", lambda *words, **_: SimpleNamespace(returncode=-9, stdout=""))
    assert run("bench", "--quick", "--out", str(tmp_path / "none.json")) == 2
    assert not (tmp_path / "none.json").exists()
