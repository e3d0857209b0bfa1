"""Tabulates what tutorials say of DDPG beside what was measured here; called by `benchmarks.tables`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.suite_results import parse
from benchmarks.suite_tables import Done, finished
from ddpg_jax.app.report import by_point
from ddpg_jax.running.intervals import interval, iqm

COMPARED = {"td3_halfcheetah": "halfcheetah", "td3_hopper": "hopper", "td3_bipedal_walker": "bipedal_walker"}
"""Tasks with TD3, and those with DDPG on the same environment."""


def claims(results: Path) -> str:
    """Tabulates the claims, with the measurements that there are."""
    done = {one.task.name: one for one in finished(results)}
    rows = [
        ("Pendulum-v1 takes 50,000 steps to reach -150.", *_reached(results, "learning_pendulum", -150.0)),
        ("MountainCarContinuous-v0 takes 500,000 steps.", *_reached(results, "learning_mountain_car", 90.0)),
        ("BipedalWalker-v3 reaches 280 in 2M steps.", *_final(done.get("bipedal_walker"))),
        ("TD3 is more stable than DDPG: Pendulum-v1.", *_spreads_on_pendulum(results)),
        *((f"The same: {done[td3].task.env}.", *_spreads(done[ddpg], done[td3])) for td3, ddpg in _pairs(done)),
    ]
    lines = ["## What is often said of DDPG\n", "| | measured here | |", "|---|---|---|"]
    lines += [f"| {claim} | {measured} | {raw} |" for claim, measured, raw in rows]
    return "\n".join([*lines, ""])


def _reached(results: Path, name: str, level: float) -> tuple[str, str]:
    """The first evaluation at which the IQM over seeds is at a level, and the last one."""
    (curves,) = by_point(parse((results / f"{name}.csv").read_text())).values()
    steps, returns = curves[0, :, 0], curves[:, :, 1].T  # [evaluations], [evaluations, S]
    above = iqm(returns) >= level
    first = f"The IQM is at {level:,g} after {steps[above][0]:,.0f} steps" if above.any() else f"The IQM is never at {level:,g}"
    return f"{first}, and at {_with_interval(returns[-1])} after {steps[-1]:,.0f}.", f"[raw](results/{name}.csv)"


def _final(one: Done | None) -> tuple[str, str]:
    if one is None:
        return "Not measured yet.", ""
    final = f"The IQM is {_with_interval(one.returns[-1])} after {one.steps[-1]:,.0f} steps."
    return final, f"[raw](results/{one.task.stem}.csv)"


def _with_interval(returns: np.ndarray) -> str:
    low, high = interval(returns)
    return f"{iqm(returns):,.1f} [{low:,.1f}, {high:,.1f}]"


def _spreads_on_pendulum(results: Path) -> tuple[str, str]:
    rows = json.loads((results / "parts_presets.json").read_text())["rows"]
    # DDPG with the settings that the paper on TD3 compares with.
    finals = {"DDPG": np.array(rows["fujimoto-ourddpg"]["seeds"]), "TD3": np.array(rows["td3"]["seeds"])}
    return _spread(finals, "[raw](results/parts_presets.json)")


def _pairs(done: Mapping[str, Done]) -> list[tuple[str, str]]:
    return [(td3, ddpg) for td3, ddpg in COMPARED.items() if td3 in done and ddpg in done]


def _spreads(ddpg: Done, td3: Done) -> tuple[str, str]:
    raw = f"[raw](results/{ddpg.task.stem}.csv), [raw](results/{td3.task.stem}.csv)"
    return _spread({"DDPG": ddpg.returns[-1], "TD3": td3.returns[-1]}, raw)


def _spread(finals: Mapping[str, np.ndarray], raw: str) -> tuple[str, str]:
    """The spread of final returns over seeds beside their IQM."""
    of_each = [f"{name} {np.std(values, ddof=1):,.1f} (IQM {iqm(values):,.1f})" for name, values in finals.items()]
    return f"Standard deviation of the final returns over seeds: {', '.join(of_each)}.", raw
