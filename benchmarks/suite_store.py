"""Where `benchmarks.suite` has what it works on: run folders, which may be lost at any time, and results, which stay."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite_results import (
    draw,
    machine_of,
    merged,
    outcome,
    parse,
    read_json,
    read_table,
    together,
    variant_of,
    write,
)
from benchmarks.suite_tasks import Task
from ddpg_jax.app.report import as_json

Record = dict[str, Any]
"""What is kept of a sweep: what was run and where, and of a pilot's variant what has come of it."""

OF_A_CHUNK = ("seeds", "command", "seconds", "start", "end", "hash", "git_commit", "machine", "packages")
"""What the results of a task keep of the record of each chunk."""


def of_manifest(manifest: Mapping[str, Any]) -> Record:
    """The experiment of a run folder, its numbers and its seeds."""
    members = manifest.get("members") or [{}]
    numbers = {name: value for name, value in members[0].items() if name not in ("member", "seed")}
    return {"experiment": manifest.get("experiment", {}), "hyperparams": numbers, "seeds": manifest.get("seeds", [])}


def differences(task: Task, record: Mapping[str, Any]) -> list[str]:
    """The fields in which what was run is another experiment than the task's. What only one of the two knows of is none."""
    then = json.loads(as_json({**record.get("experiment", {}), **record.get("hyperparams", {})}))
    if not then:
        return []
    experiment, hyper = task.configure()
    now = json.loads(as_json({**asdict(experiment), **hyper._asdict()}))
    del now["seed"]  # the first one; all of them are compared below
    different = {name: value for name, value in now.items() if value != then.get(name, None if name in task.fields else value)}
    lines = [f"{name}={value} (there {then.get(name)})" for name, value in different.items()]
    seeds = record.get("seeds")
    return lines + ([] if seeds == task.all_seeds else [f"seeds={task.all_seeds} (there {seeds})"])


class Store(NamedTuple):
    """The run folders, the results, and how many seeds are trained in one sweep."""

    work: Path
    results: Path
    chunk: int

    # Names

    def folder(self, sweep: Task) -> Path:
        """Of the run."""
        return self.work / sweep.place

    def failure(self, task: Task) -> Path:
        """What is noted of a task that failed."""
        return self.work / f"{task.name}.failed.json"

    def path(self, task: Task, kind: str = "json") -> Path:
        """Of the results of a task, or of its whole pilot."""
        return self.results / f"{task.stem}.{kind}"

    def part(self, sweep: Task, kind: str = "json") -> Path:
        """Of the results of one sweep."""
        return self.results / f"{sweep.stem}.{sweep.part}.{kind}"

    # What is there

    def final(self, task: Task) -> Record | None:
        """The results of a task, or of a variant among those of its pilot; None if they are not there."""
        record = read_json(self.path(task)) or None
        return record and record.get("variants", {}).get(task.variant) if task.pilot else record

    def record(self, sweep: Task) -> Record | None:
        """What is kept of a sweep; None if it is not there, or not whole."""
        record = read_json(self.part(sweep))
        if not record or not record.get("experiment"):
            return None
        return record if sweep.pilot or record.get("table") == _digest(read_table(self.part(sweep, "csv"))) else None

    def manifest(self, sweep: Task) -> dict[str, Any] | None:
        """Of the run folder; None if there is no run."""
        return read_json(self.folder(sweep) / "manifest.json")

    def sweeps(self, task: Task) -> list[Task]:
        """The sweeps that a task is trained in, in order of their seeds.

        Those that are kept or begun are as they are, of whatever size; the seeds that are left go into chunks.
        """
        if task.pilot:
            return [task]
        kept = [path.name for path in sorted(self.results.glob(f"{task.stem}.seeds_*.json"))]
        begun = [path.parent.name for path in sorted((self.work / task.name).glob("seeds_*/manifest.json"))]
        left, found = set(task.all_seeds), []
        for name in [*kept, *begun]:
            ends = re.search(r"seeds_(\d+)-(\d+)", name)
            seeds = range(int(ends[1]), int(ends[2]) + 1) if ends else range(0)
            if seeds and left.issuperset(seeds):
                found.append(task.chunk(seeds[0], len(seeds)))
                left -= set(seeds)
        while left:
            first = min(left)
            many = next(n for n in range(1, self.chunk + 1) if n == self.chunk or first + n not in left)
            found.append(task.chunk(first, many))
            left -= set(found[-1].all_seeds)
        return sorted(found, key=lambda sweep: sweep.first)

    # What is written

    def keep(self, sweep: Task) -> list[Path]:
        """Writes what is kept of a finished sweep; gives the files. The JSON is last: where that is, the table is.

        Raises:
            ValueError: metrics.csv is lost, or not whole.
        """
        folder, manifest = self.folder(sweep), self.manifest(sweep) or {}
        text = read_table(folder / "metrics.csv")
        rows = parse(text)
        if {row["seed"] for row in rows} != set(sweep.all_seeds):
            raise ValueError(f"{folder} has lost rows of its metrics.csv")
        numbers = {name: manifest.get(name) for name in ("seconds", "start", "end", "hash", "git_commit")}
        command = shlex.join(["ddpg-jax", *sweep.command])
        record = {"steps": sweep.steps, **of_manifest(manifest), "command": command, **numbers, **machine_of(manifest)}
        self.results.mkdir(parents=True, exist_ok=True)
        if sweep.pilot:
            about = {"pilot": sweep.pilot, "variant": sweep.variant, "env": sweep.env}
            return [write(self.part(sweep), as_json({**about, **record, **variant_of(sweep, manifest, rows)}))]
        about = {"task": sweep.name, **record, "table": _digest(text)}
        return [write(self.part(sweep, "csv"), text), write(self.part(sweep), as_json(about))]

    def publish(self, task: Task, siblings: Sequence[Task]) -> list[Path]:
        """Writes the results of a task whose sweeps are all kept, or of its pilot as soon as all variants are; gives the files.

        What is kept of the sweeps is removed then. What is already there is written again only where the note or the
        published level is another one now.

        Args:
            task: whose sweeps are kept.
            siblings: all tasks of the suite; those of the same pilot share a file.

        Raises:
            ValueError: there are no rows.
            LookupError: what was kept of a sweep is lost.
        """
        return self._publish_pilot(task, siblings) if task.pilot else self._publish_task(task)

    def _publish_task(self, task: Task) -> list[Path]:
        """The table first and the JSON last: where that is, the others are."""
        final, about = self.final(task), {"note": task.note, "published": task.published and task.published._asdict()}
        written = []
        if final is None or {name: final.get(name) for name in about} != about:
            if final is None:
                final, text = self._merge(task)
                written = [write(self.path(task, "csv"), text)]
            rows = parse(read_table(self.path(task, "csv")))
            written.append(draw(task, rows, self.path(task, "png")))
            written.append(write(self.path(task), as_json({**final, **outcome(rows), **about})))
        for kind in ("json", "csv"):
            for path in self.results.glob(f"{task.stem}.seeds_*.{kind}"):
                path.unlink()
        return written

    def _merge(self, task: Task) -> tuple[Record, str]:
        """What was run of all chunks, and their rows."""
        sweeps = self.sweeps(task)
        records = [record for sweep in sweeps if (record := self.record(sweep))]
        if len(records) < len(sweeps):
            raise LookupError("a chunk is lost")
        text = merged([read_table(self.part(sweep, "csv")) for sweep in sweeps], task.first)
        about = {
            "task": task.name,
            "note": task.note,
            "steps": task.steps,
            **{name: records[0][name] for name in ("experiment", "hyperparams")},
            "seeds": task.all_seeds,
            "command": shlex.join(["ddpg-jax", *task.command]),
            **together(records),
            "chunks": [{name: record[name] for name in OF_A_CHUNK} for record in records],
        }
        return about, text

    def _publish_pilot(self, task: Task, siblings: Sequence[Task]) -> list[Path]:
        variants = [one for one in siblings if one.pilot == task.pilot]
        records = {one.variant: self.record(one) or self.final(one) for one in variants}
        parts = [self.part(one) for one in variants if self.part(one).exists()]
        whole = {name: record for name, record in records.items() if record}
        if not parts or len(whole) < len(variants) or any(differences(one, whole[one.variant]) for one in variants):
            return []
        about = {"pilot": task.pilot, "env": task.env, "steps": task.steps, **together(list(whole.values()))}
        written = write(self.path(task), as_json({**about, "variants": whole}))
        for path in parts:
            path.unlink()
        return [written]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
