"""Tabulates what tutorials say of DDPG beside what was measured here; called by `benchmarks.tables`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.suite_tables import Done, curves_of, finished
from ddpg_jax.running.intervals import interval, iqm

DDPG, TD3 = "fujimoto-ourddpg", "td3"
"""Presets with the same settings except for what sets TD3 apart."""


def claims(results: Path) -> str:
    """Tabulates the claims, with the measurements that there are."""
    done = {one.task.name: one for one in finished(results)}
    rows = [
        (
            "Pendulum-v1: solved (-130 +- 20) in about 50,000 steps.",
            *_reached(results, "learning_pendulum", level=-150.0, settings="defaults"),
        ),
        (
            "MountainCarContinuous-v0: about 500,000 steps, and a shaped reward helps.",
            *_reached(
                results,
                "learning_mountain_car",
                level=90.0,
                settings="`noise_sigma=0.5 layer_norm=true`; without LayerNorm two of ten seeds failed, read off by hand",
            ),
        ),
        ("BipedalWalker-v3: 280 in 2M steps.", *_final(done.get("bipedal_walker"))),
        ("TD3 is more stable than DDPG: on Pendulum-v1.", *_spreads_on_pendulum(results)),
        (
            "TD3 is more stable than DDPG: on HalfCheetah-v5.",
            *_spreads(done.get("halfcheetah_published"), done.get("td3_halfcheetah")),
        ),
    ]
    lines = ["## What tutorials say of DDPG\n", "| | measured here | |", "|---|---|---|"]
    lines += [f"| {claim} | {measured} | {raw} |" for claim, measured, raw in rows]
    return "\n".join([*lines, ""])


NOT_YET = "Not measured yet."
WITHIN_SEEDS = (
    "Most of both is evaluation noise: episodes of one policy have a standard deviation of about 80, and means of 20 of them "
    "have one of 18. This task therefore says little about stability."
)


def _reached(results: Path, name: str, *, level: float, settings: str) -> tuple[str, str]:
    """The first evaluation at which the IQM over seeds is at a level, its range from then on, and the last evaluation."""
    steps, returns = curves_of(results / f"{name}.csv")
    middle = iqm(returns)
    first = int(np.argmax(middle >= level))  # these curves get there
    later = middle[first:]
    return (
        f"The IQM is first at {level:,g} after {steps[first]:,.0f} steps, from then on between {later.min():,.1f} and "
        f"{later.max():,.1f}, and at {_with_interval(returns[-1])} after {steps[-1]:,.0f} ({settings}).",
        f"[raw](results/{name}.csv)",
    )


def _final(one: Done | None) -> tuple[str, str]:
    if one is None:
        return NOT_YET, ""
    final = f"The IQM is {_with_interval(one.returns[-1])} after {one.steps[-1]:,.0f} steps."
    return final, f"[raw](results/{one.task.stem}.csv)"


def _with_interval(returns: np.ndarray) -> str:
    low, high = interval(returns)
    return f"{iqm(returns):,.1f} [{low:,.1f}, {high:,.1f}]"


def _spreads_on_pendulum(results: Path) -> tuple[str, str]:
    rows = json.loads((results / "parts_presets.json").read_text())["rows"]
    text, raw = _spread(np.array(rows[DDPG]["seeds"]), np.array(rows[TD3]["seeds"]), "[raw](results/parts_presets.json)")
    return f"{text} {WITHIN_SEEDS}", raw


def _spreads(ddpg: Done | None, td3: Done | None) -> tuple[str, str]:
    if ddpg is None or td3 is None:
        return NOT_YET, ""
    raw = f"[raw](results/{ddpg.task.stem}.csv), [raw](results/{td3.task.stem}.csv)"
    return _spread(ddpg.returns[-1], td3.returns[-1], raw)


def _spread(ddpg: np.ndarray, td3: np.ndarray, raw: str) -> tuple[str, str]:
    """The spreads of final returns over seeds, and whether seeds as many as these tell them apart."""
    generator = np.random.default_rng(0)
    drawn = [np.std(generator.choice(values, (10_000, len(values))), axis=1, ddof=1) for values in (td3, ddpg)]
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    shown = "no difference is shown" if low < 1 < high else "they differ"
    spreads = [float(np.std(values, ddof=1)) for values in (ddpg, td3)]
    text = (
        f"The standard deviations of final returns over seeds are {spreads[0]:,.1f} (`{DDPG}`) and {spreads[1]:,.1f} "
        f"(`{TD3}`), which is {spreads[1] / spreads[0]:.2f} ({low:.2f} .. {high:.2f}) times as large: {shown}."
    )
    return text, raw
