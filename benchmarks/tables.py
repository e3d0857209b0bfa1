"""Writes `benchmarks/README.md`, and the tables in `README.md`, from the raw results in `benchmarks/results`.

    python -m benchmarks.tables

No figure there is typed by hand; a test compares both with what this script makes of the results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import accelerator_tables, suite_tables
from benchmarks import population as of_populations
from benchmarks import pruning as of_pruning
from benchmarks import sweeps as of_sweeps
from benchmarks.claims import claims
from benchmarks.peers import figure, ratios

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
QUARTILES = (0.25, 0.5, 0.75)
BEGIN, END = "<!-- made by python -m benchmarks.tables -->", "<!-- end of what it made -->"

HEAD = """# Benchmarks

Each script says in its docstring what it measures and how to repeat it. Raw results are in `results/`, the JSON files with
hardware, versions, date, and commit where it is known; version 0.1.0 is what was there before the first release.
[NOTES.md](NOTES.md) says what was found out about them, also by hand, and what was tried and did not help. This file is made
by `python -m benchmarks.tables`.
"""


def load(name: str) -> dict[str, Any] | None:
    """A result, if it has been measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def where(result: dict[str, Any], name: str) -> str:
    """The line under a table: which machine, when, and how to repeat it."""
    return f"{machine(result)}, {result['date']}; `{result['command']}`; [raw](results/{name}.json)."


def machine(result: dict[str, Any]) -> str:
    """Hardware and versions."""
    hardware = f"{result['cores']} cores of {result['processor']}" if result["platform"] == "cpu" else result["device_kind"]
    versions = ", ".join(f"{name} {result['packages'][name]}" for name in ("ddpg-jax", "jax") if name in result["packages"])
    return f"{hardware}, {versions}"


def speed() -> str:
    """Tabulates runs and sweeps beside their limits."""
    bench, sweeps = load("bench"), load("sweeps")
    if bench is None or sweeps is None:
        return ""
    lines = [
        "## Runs and sweeps beside the matrix products of their updates\n",
        "Networks are 256-256, with one update a step. The last column compares with what the products alone reach on the same",
        "cores, measured in turns. Most of an update is matrix products, which cost every system the same; the faster they",
        "are, the more the rest matters.",
        "",
        "| | batch | updates/s, all members | of the products alone |",
        "|---|---|---|---|",
    ]
    gains: list[str] = []

    def line(what: str, batch_size: int, rate: np.ndarray, limit: np.ndarray) -> None:
        lines.append(f"| {what} | {batch_size} | {np.median(rate):,.0f} | {np.median(rate / limit):.0%} |")

    for row in bench["rows"]:
        rates = (np.array(row[name]) for name in ("updates_per_second", "limit_updates_per_second"))
        line(f"one run, {row['backend']}, {row['env']}", row["batch_size"], *rates)
    for row in sweeps["rows"]:
        for members, result in row["members"].items():
            cores = f"{row['devices']} core{'s' if row['devices'] > 1 else ''}"
            rates = (np.array(one[name]) for one, name in ((result, "updates_per_second"), (row, "limit_updates_per_second")))
            line(f"sweep of {members} member{'s' if members != '1' else ''}, {cores}, Pendulum-v1", row["batch_size"], *rates)
    for what, batch_size, ratio in of_sweeps.ratios(sweeps["rows"]):
        low, middle, high = np.quantile(ratio, QUARTILES)
        gains.append(f"- {what}, batch {batch_size}: {middle:.2f} ({low:.2f} .. {high:.2f}, {len(ratio)} rounds)")
    commands = {"command": "ddpg-jax bench"}, {"command": "python -m benchmarks.sweeps"}
    about = [f"- runs: {where(commands[0] | bench, 'bench')}", f"- sweeps: {where(commands[1] | sweeps, 'sweeps')}"]
    return "\n".join([*lines, "", *gains, "", *about, ""])


IN_README = {
    "ours host / sbx": "SBX, one run as it comes",
    "ours host / sbx cores as ours": "SBX, one run with XLA's threads set as ours are",
    "ours host / sb3": "Stable-Baselines3, one run",
    "ours sweep / sbx": "two processes of SBX; ours: 16 members, environment in JAX",
    "ours sweep / sb3": "two processes of Stable-Baselines3; ours: 16 members, environment in JAX",
    "ours sweep td3 / rejax td3": "rejax, 16 members with TD3's parts each",
}
"""The comparisons that `README.md` shows, and what it calls them."""


def beside_others() -> str:
    """Tabulates rates beside those of other systems, with a column for each batch size, for `README.md`."""
    columns, table, results = [], {}, [pair for pair in peer_results() if pair[1]["env"] == "Pendulum-v1"]
    for column, (name, result) in enumerate(results):
        columns.append(f"[batch {result['batch_size']}](benchmarks/results/{name}.json), {machine(result)}, {result['date']}")
        for kind, rates in result["updates_per_second"].items():
            for one, other, ratio in ratios(kind, rates):
                low, middle, high = np.quantile(ratio, QUARTILES)
                cell = f"{middle:.2f} ({low:.2f} .. {high:.2f}, {len(ratio)} rounds)"
                table.setdefault(f"{one} / {other}".replace("_", " "), [""] * len(results))[column] = cell
    lines = [f"| updates/s relative to | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    lines += [f"| {label} | {' | '.join(table[names])} |" for names, label in IN_README.items() if names in table]
    return "\n".join(lines)


def peer_results() -> list[tuple[str, dict[str, Any]]]:
    """`(name, result)` of the comparisons with others, by batch size."""
    found = [(path.stem, json.loads(path.read_text())) for path in RESULTS.glob("peers_*.json")]
    return sorted(found, key=lambda pair: pair[1]["batch_size"])


def with_tables(readme: str) -> str:
    """`README.md` with the tables of returns and of speeds between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{suite_tables.short(RESULTS)}\n\n{beside_others()}\n\n{END}{after}"


def learning() -> str:
    """What whole runs reach, environment by environment."""
    lines = ["## Learning\n", "| | steps | IQM of the return | 95 % interval | seeds | worst | |", "|" + "---|" * 7]
    about = []
    for path in sorted(RESULTS.glob("learning_*.json")):
        result = json.loads(path.read_text())
        (point,) = result["points"]
        (low, high), finals = point["final_return_interval"], point["final_returns"]
        env = result["experiment"]["env"]
        lines.append(
            f"| {env} | {point['steps']:,} | {point['final_return_iqm']:.1f} | [{low:.1f}, {high:.1f}] | {len(finals)} | "
            f"{min(finals):.1f} | [every seed](results/{path.stem}.csv), [curve](results/{path.stem}.png) |"
        )
        about.append(f"- {env}: {where(result, path.stem)}")
    return "\n".join([*lines, "", "Noise-free, 20 episodes each.", "", *about, ""])


def parts(
    kind: str, title: str, column: str, digits: int = 1, *, script: str = "parts", unit: str = "steps", over: str = "seeds"
) -> str:
    """IQM and interval of a figure for each variant, `over` seeds or rounds, after some steps or other units."""
    stem = f"{script}_{kind}"
    result = load(stem)
    if result is None:
        return ""
    lines = [f"## {title}\n", f"| | {column} | 95 % interval | {over} |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        iqm, low, high = (f"{row[key]:.{digits}f}" for key in ("iqm", "low", "high"))
        beside = [f"{word} {row[word]:.{digits}f}" for word in ("data", "demonstrator") if word in row]
        label = f"{name} ({', '.join(beside)})" if beside else name
        lines.append(f"| {label} | {iqm} | [{low}, {high}] | {len(row['seeds'])} |")
    length = f"{result['steps']:,} {unit}. " if result["steps"] else ""
    about = [f"{length}{where(result, stem)}"]
    about += [f"{name}: {where(row['about'], stem)}" for name, row in result["rows"].items() if "about" in row]
    if column == STEPS_TO:
        for name, row in result["rows"].items():
            if late := sum(steps > result["steps"] for steps in row["seeds"]):
                counted = f"did not get there, counted as {2 * result['steps']:,}."
                about.append(f"In `{name}`, {late} of {len(row['seeds'])} seeds {counted}")
    return "\n".join([*lines, "", *about, ""])


OTHERS = ("sbx-rl", "stable-baselines3", "rejax", "torch")
"""Packages of those that are compared."""


def peers() -> str:
    """Rates beside other systems, and ratios pair by pair."""
    found = []
    for stem, result in peer_results():
        lines = [f"## Other systems: {result['env']}, batch {result['batch_size']}\n"]
        lines += ["| | | updates/s, all seeds: median | quartiles | fastest |", "|---|---|---|---|---|"]
        for kind, rates in result["updates_per_second"].items():
            for name, values in rates.items():
                low, middle, high = np.quantile(values, QUARTILES)
                label = name.replace("_", " ")
                lines.append(f"| {kind} | {label} | {middle:,.0f} | {low:,.0f} .. {high:,.0f} | {max(values):,.0f} |")
        lines += ["", "| ratio, round by round | median | quartiles |", "|---|---|---|"]
        for kind in result["updates_per_second"]:
            for one, other, ratio in ratios(kind, result["updates_per_second"][kind]):
                names = f"{kind}: {one} / {other}".replace("_", " ")
                low, middle, high = np.quantile(ratio, QUARTILES)
                lines.append(f"| {names} | {middle:.2f} | {low:.2f} .. {high:.2f} |")
        commands = "`, `".join(dict.fromkeys(result["commands"].values()))
        later = [
            f"{kind}: {where({**about, 'command': result['commands'][kind]}, stem)}"
            for kind, about in result.get("about", {}).items()
        ]
        versions = ", ".join(f"{name} {result['packages'][name]}" for name in OTHERS if name in result["packages"])
        found += [*lines, "", f"{versions}; {where({**result, 'command': commands}, stem)}", *later, ""]
    remarks = (
        "Each ratio is of rates measured in the same run, in turns. A sweep of 16 members is compared with two simultaneous",
        "processes of the other system. It steps Pendulum-v1 written in JAX, whereas the others and `ours host` step",
        "Gymnasium's; on the host, our sweep makes fewer updates ([notes](NOTES.md#one-loop-for-environments-on-the-host)).",
        "rejax's TD3 runs in its own vmap, and is compared with our sweep with TD3's parts. `products` is the rate that the",
        "matrix products of an update reach in a loop of their own: a guide, not a strict bound, since XLA schedules them",
        "differently within an update. `bfloat16` is ours with `precision=bfloat16`, which the others do not offer; it is",
        "faster where the processor multiplies bfloat16. One run of ours keeps products of batch 64 on one core. SBX gains",
        "from this as well ([notes](NOTES.md#on-an-intel-xeon-with-avx512)): `sbx cores as ours` is SBX with this setting,",
        "which changes nothing at larger batches. Other work on the machine does not slow all systems down alike; it affects",
        "the fastest rates less than the medians.",
        "",
    )
    found += remarks if found else []
    found += ["![Beside Stable-Baselines3, SBX, a single-file loop and rejax](results/peers.png)", ""] if found else []
    return "\n".join(found)


def budget() -> str:
    """Where a step goes, and the replay beside others."""
    result = load("budget")
    if result is None:
        return ""
    lines = []
    for kind, title in (("step", "Where a step goes"), ("replay", "Replay: add one, draw a batch")):
        batches = result[kind]
        names = list(next(iter(batches.values())))
        heads = " | ".join(f"batch {batch}, us" for batch in batches)
        lines += [f"## {title}\n", f"| | {heads} |", "|---|" + "---|" * len(batches)]
        for name in names:
            medians = [np.median(table[name]) if name in table else math.nan for table in batches.values()]
            cells = ["" if math.isnan(us) else f"{us:,.2f}" if us < 1 else f"{us:,.1f}" for us in medians]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, where(result, "budget"), ""])


def by_platform(
    kind: str, head: Callable[[dict[str, Any], str], list[str]], cells: Callable[[dict[str, Any]], list[str]]
) -> str:
    """A table of every `KIND_PLATFORM.json`: the lines of `head(result, name)`, and a row of `cells` for each of its rows."""
    found = []
    for path in sorted(RESULTS.glob(f"{kind}_*.json")):
        result = json.loads(path.read_text())
        rows = [f"| {' | '.join(cells(row))} |" for row in result["rows"]]
        found += [*head(result, path.stem), *rows, "", where(result, path.stem), ""]
    return "\n".join(found)


def scaling() -> str:
    """Time, memory and compilation along each axis."""

    def head(result: dict[str, Any], name: str) -> list[str]:
        return [
            f"## Scaling on {result['platform']}\n",
            f"![us an update against each axis](results/{name}.png)\n",
            "| | | us an update | of the limit | MiB a member | compile, s |",
            "|---|---|---|---|---|---|",
        ]

    def cells(row: dict[str, Any]) -> list[str]:
        rate, limit = np.array(row["updates_per_second"]), np.array(row["limit_updates_per_second"])
        times = [f"{1e6 / np.median(rate):,.1f}", f"{np.median(rate / limit):.0%}"]
        costs = [f"{row['bytes_a_member'] / 2**20:,.1f}", f"{row['compile_seconds']:.1f}"]
        return [row["axis"].replace("_", " "), f"{row[row['axis']]:,}", *times, *costs]

    return by_platform("scaling", head, cells)


def compiled() -> str:
    """What accelerators would run, by the compilers' account."""
    result = load("compiled")
    if result is None:
        return ""
    rows = {(row["target"], row["part"], row["members"]): row for row in result["rows"]}
    targets, parts, members = (list(dict.fromkeys(key[i] for key in rows)) for i in range(3))
    launching = [target for target in targets if rows[target, parts[0], 1]["kernels_a_step"] is not None]
    heads = [f"kernels a step, {target}, {count}" for target in launching for count in members]
    heads += [f"MiB a member, {target}, {count}" for target in targets for count in members]
    lines = ["## Compiled for accelerators, which nothing was run on: one member and 64\n"]
    lines += [f"| | {' | '.join(heads)} | copies of the replay in a step |", "|---|" + "---|" * (len(heads) + 1)]
    for part in parts:
        cells = [f"{rows[target, part, count]['kernels_a_step']}" for target in launching for count in members]
        for row in (rows[target, part, count] for target in targets for count in members):
            cells.append(f"{(row['bytes_a_member'] + row['scratch_bytes_a_member']) / 2**20:.1f}")
        cells.append(str(max(row["copies_of_the_replay"] for key, row in rows.items() if key[1] == part)))
        lines.append(f"| {part} | {' | '.join(cells)} |")
    # Rows that an earlier run has compiled say so, since a run may have been for one of the targets only.
    earlier = {row["target"]: row["about"] for row in result["rows"] if "about" in row}
    about = [f"{target}: {where(row, 'compiled')}" for target, row in earlier.items()]
    return "\n".join([*lines, "", where(result, "compiled"), *about, ""])


def environments() -> str:
    """Steps a second of each environment, alone and with learning."""

    def head(result: dict[str, Any], name: str) -> list[str]:
        del name
        return [
            f"## Environments on {result['platform']}: steps a second, one update of batch 64 a vector step\n",
            "| | runs on | side by side | alone | with learning | time in the environment |",
            "|---|---|---|---|---|---|",
        ]

    def cells(row: dict[str, Any]) -> list[str]:
        alone, learning = np.array(row["alone_steps_per_second"]), np.array(row["learning_steps_per_second"])
        rates = [f"{np.median(alone):,.0f}", f"{np.median(learning):,.0f}", f"{min(1.0, np.median(learning / alone)):.0%}"]
        return [row["env"], row["backend"], str(row["num_envs"]), *rates]

    return by_platform("environments", head, cells)


def populations() -> str:
    """Populations beside a random search."""
    results = {name: load(name) for name in of_populations.TASKS}
    sections = [[*of_populations.table(one), "", where(one, name), ""] for name, one in results.items() if one]
    return "\n".join(line for section in sections for line in section)


def pruning() -> str:
    """A pruned sweep beside a whole one."""
    result = load("pruning")
    return "\n".join([*of_pruning.table(result), "", where(result, "pruning"), ""]) if result else ""


STEPS_TO = "IQM of the steps"
COST = "Cost of each part on Pendulum-v1: its updates/s relative to the defaults"
REACH = "Demonstrations on {}: steps until 90 % of the episodes end at the goal"
CHEETAH = "Demonstrations of a policy with a return of 2,846, on HalfCheetah-v5: steps to a return of 5,000"
OFFLINE = "TD3+BC without steps, on {}: returns beside the data's and the demonstrator's without noise"


def page() -> str:
    """The whole file."""
    sections = [
        HEAD,
        suite_tables.suite(RESULTS),
        learning(),
        claims(RESULTS),
        suite_tables.ablations(RESULTS),
        parts("presets", "Presets on Pendulum-v1, with 1,000 steps of warm-up each", "IQM of the return"),
        parts("parts", "One thing changed, on Pendulum-v1", "IQM of the return"),
        parts("speed", COST, "ratio", 2, unit="steps a turn", over="rounds"),
        parts("time", "Seconds of training to a return: -250 on Pendulum-v1, 900 on the pole of brax", "IQM of the seconds", 1),
        parts("bias", "Overestimation on Pendulum-v1, gamma 0.95", "value minus return", 2),
        parts("hindsight", "Hindsight on point-reach", "IQM of the success rate", 2),
        populations(),
        pruning(),
        parts("reach", REACH.format("point-reach"), STEPS_TO, 0, script="demonstrations"),
        parts("maze", REACH.format("PointMaze_UMaze-v3"), STEPS_TO, 0, script="demonstrations"),
        parts("cheetah", CHEETAH, STEPS_TO, 0, script="demonstrations"),
        parts("pendulum", OFFLINE.format("Pendulum-v1"), "IQM of the return", script="demonstrations", unit="updates"),
        parts(
            "half_cheetah", OFFLINE.format("HalfCheetah-v5"), "IQM of the return", 0, script="demonstrations", unit="updates"
        ),
        speed(),
        peers(),
        budget(),
        scaling(),
        accelerator_tables.measured(RESULTS),
        compiled(),
        environments(),
        suite_tables.pilots(RESULTS),
    ]
    return "\n".join(section for section in sections if section).rstrip() + "\n"


if __name__ == "__main__":
    suite_tables.draw(RESULTS)
    figure(RESULTS / "peers.png")
    (HERE / "README.md").write_text(page())
    README.write_text(with_tables(README.read_text()))
