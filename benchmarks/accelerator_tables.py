"""Makes the section of `benchmarks/README.md` about accelerators, of what has been measured and of what has not."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.accelerator import STAGES

NOT_YET = "not yet measured"
COMMAND = "python -m benchmarks.accelerator"
REJAX = {"rejax, 1 agent": 2_500.0, "rejax, 300 agents": 75_000.0}
"""rejax's published rates on an A100, updates a second in all: 398 s alone, 13.4 s each with 300, read off its figure."""
LEANRL = {"LeanRL, TD3": 936.0}
"""LeanRL's published rate on an H100."""


def load(results: Path, stage: str) -> dict[str, Any] | None:
    """What a stage has measured on an accelerator, if it has."""
    path = results / f"accelerator_{STAGES[stage]}.json"
    found = json.loads(path.read_text()) if path.exists() else None
    return None if found is None or found.get("rehearsal") or not rows(found) else found


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all jobs, each with the flags of its job."""
    return [{"flags": job["flags"], **row} for job in result["jobs"] for row in job["rows"]]


def measured(results: Path) -> str:
    """The whole section."""
    parts = (correctness, members, protocols, switches, parallel, crossover)
    sections = [part(results) for part in parts]
    remark = f"What one accelerator does with this package, by `{COMMAND}`, which says what each table holds."
    return "\n".join(["## On an accelerator\n", remark, "", *sections])


def section(title: str, result: dict[str, Any] | None, stage: str, table: list[str]) -> str:
    """A table under its title, with the machine, or the word that it has not been measured."""
    if result is None:
        source = f"{NOT_YET}: `{COMMAND} --stages {stage}`"
    else:
        source = f"{result.get('device_kind')}, jax {result['packages']['jax']}, {result['date']}; `{result['command']}`; "
        source += f"[raw](results/accelerator_{STAGES[stage]}.json)"
    return "\n".join([f"### {title}\n", *table, *([""] if table else []), f"{source}.", ""])


def rate_of(row: dict[str, Any], of: str = "updates_per_second") -> str:
    """A rate, or why there is none; in brackets if other programs were compiled at the same time."""
    if of not in row:
        return row.get("failed", NOT_YET).replace("|", "/")
    rate = f"{statistics.median(row[of]):,.0f}"
    return f"({rate})" if "meanwhile" in row else rate


def correctness(results: Path) -> str:
    result, table = load(results, "a"), []
    if result is not None:
        for row in rows(result):
            if "agrees" in row:
                low, high = row["interval"]
                said = f"IQM {row['difference']:+.1f} beside a CPU's [{low:.1f}, {high:.1f}]"
            elif "resumed" in row:
                said = ", ".join(f"{name} {row[name]}" for name in ("repeated", "in_two_calls", "resumed"))
            elif "passed" in row:
                said = f"{row['passed']} passed, {len(row['failures'])} failed"
            elif "copies_a_step" in row:
                said = f"{row['events_a_step']:.1f} kernels and copies a step, busy {row['busy_us_a_step']:.1f} of "
                said += f"{row['us_a_step']:.1f} us, copies {row['us_of_copies_a_step']:.1f} us"
            else:
                said = (
                    row.get("failed") or f"{rate_of(row)} updates/s, {row['copies_of_the_replay']} copies of the replay a step"
                )
            table.append(f"| {row['name']} | {said} |")
        table = ["| | |", "|---|---|", *table]
    return section("Correctness", result, "a", table)


def members(results: Path) -> str:
    """Rates beside their limits; kernels a step are known from compiling alone."""
    result = load(results, "b")
    path = results / "compiled.json"
    compiled = {
        row["members"]: row["kernels_a_step"]
        for row in (json.loads(path.read_text())["rows"] if path.exists() else [])
        if row["part"] == "defaults" and row["kernels_a_step"] is not None
    }
    found = {row["members"]: row for row in rows(result) if "members" in row} if result else {}
    lines = [
        "| members | updates/s, all | limit by bytes | limit by launches | kernels a step | compiled for an H100 | "
        "MiB a member | compile, s |",
        "|" + "---|" * 8,
    ]
    for count in sorted({*found, *compiled}):
        row = found.get(count, {})
        cells = [f"{count:,}", rate_of(row)]
        cells += [f"{row[name]:,.0f}" if name in row else "" for name in ("limit_by_bytes", "limit_by_launches")]
        cells += [str(row.get("kernels_a_step", "")), str(compiled.get(count, ""))]
        cells += [f"{(row['bytes_a_member'] + row['scratch_bytes_a_member']) / 2**20:.1f}"] if "bytes_a_member" in row else [""]
        cells += [f"{row['compile_seconds']:.1f}"] if "compile_seconds" in row else [""]
        lines.append(f"| {' | '.join(cells)} |")
    return section("Members, with the defaults", result, "b", lines)


def protocols(results: Path) -> str:
    result = load(results, "c")
    found = {row["name"]: row for row in rows(result)} if result else {}
    lines = ["| protocol | published, updates/s in all (rejax: read off its figure) | here |", "|---|---|---|"]
    lines += [f"| {name} | {rate:,.0f} | {rate_of(found.get(name, {}))} |" for name, rate in {**REJAX, **LEANRL}.items()]
    return section("By the protocols of others", result, "c", lines)


def switches(results: Path) -> str:
    result = load(results, "d")
    own = rows(result) if result else []
    lines = [f"| {row['name']} | {row['flags'] and '`' + row['flags'] + '`'} | {rate_of(row)} |" for row in own]
    return section("Switches", result, "d", ["| | flags | updates/s, all |", "|---|---|---|", *lines] if lines else [])


def parallel(results: Path) -> str:
    result, lines = load(results, "e"), []
    for row in rows(result) if result else []:
        if "seconds_steps_return" in row:
            seconds, step, value = row["seconds_steps_return"][-1]
            said = f"a return of {value:,.0f} after {seconds:.1f} s and {step:,} steps"
            said += "" if row["is_solved"] else f", where {row['solved']:,.0f} counts as solved"
        else:
            said = f"{rate_of(row, 'env_steps_per_second')} environment steps/s"
        lines.append(f"| {row['name']} | {said} |")
    return section("Thousands of environments", result, "e", ["| | |", "|---|---|", *lines] if lines else [])


def crossover(results: Path) -> str:
    """Rates beside those of two cores, where both are known."""
    result, path = load(results, "f"), results / "scaling_cpu.json"
    cores = {
        (row["axis"], row[row["axis"]]): statistics.median(row["updates_per_second"])
        for row in (json.loads(path.read_text())["rows"] if path.exists() else [])
    }
    lines = []
    for row in rows(result) if result else []:
        cpu = cores.get((row.get("axis"), row.get(row.get("axis", ""))))
        times = f"{statistics.median(row['updates_per_second']) / cpu:.1f}" if cpu and "updates_per_second" in row else ""
        lines.append(f"| {row['name']} | {rate_of(row)} | {f'{cpu:,.0f}' if cpu else ''} | {times} |")
    head = ["| one member | updates/s | on two cores of a CPU | times |", "|---|---|---|---|"]
    return section("Where it begins to pay", result, "f", [*head, *lines] if lines else [])
