"""Shows the progress of a run on standard error: a bar on a terminal, otherwise a line for each evaluation."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ddpg_jax.app.report import readable
from ddpg_jax.app.stderr import ignoring_closed, tell
from ddpg_jax.envs.host import watchers
from ddpg_jax.running.rows import result_of

PATIENCE = 10.0
"""Seconds between two lines about the same evaluation."""


class PatientConsole(Console):
    """A console that becomes quiet when nobody reads it; Rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """The progress of one run.

    `total` and `done` are steps of all members, and `what` names the program.
    """

    def __init__(self, total: int, done: int, *, silent: bool = False, what: str = ""):
        self.console = PatientConsole(stderr=True)
        self._silent = silent
        self._total = total
        self._bar: Progress | None = None
        self._told = time.monotonic()
        if self.console.is_terminal and not silent:
            self._bar = Progress(
                *([TextColumn(f"{what}:")] if what else []),
                TextColumn("[bold]{task.completed:,.0f}[/] / {task.total:,.0f} steps"),
                BarColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[evaluation]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                speed_estimate_period=60,
            )
            self._task = self._bar.add_task("train", total=total, completed=done, speed="compiling", evaluation="")

    def __enter__(self) -> Display:
        watchers.append(self.evaluating)
        if self._bar:
            with ignoring_closed():
                self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        watchers.remove(self.evaluating)
        if self._bar:
            with ignoring_closed():
                self._bar.stop()

    def update(self, step: int, steps_per_second: float, rows: list[dict[str, Any]]) -> None:
        """Shows the progress; `rows` are those of a new evaluation, if there was one."""
        diverged = sum(row["diverged_step"] != "" for row in rows)
        known = [result_of(row) for row in rows if row["diverged_step"] == ""]
        mean = f"{readable(sum(known) / len(known)) if known else '-':>10s}"
        mean += f" ({diverged} of {len(rows)} members diverged)" if diverged else ""
        if self._bar:
            self._bar.update(self._task, completed=step, speed=f"{steps_per_second:,.0f} steps/s")
            if rows:
                self._bar.update(self._task, evaluation=f"return {mean.strip()}")
        elif rows:
            self.say(f"step {step:>9,} of {self._total:,}  return {mean}  {steps_per_second:8,.0f} steps/s")

    def evaluating(self, done: int, episodes: int) -> None:
        """Shows the progress of a long evaluation: on the bar, or as a line every ten seconds."""
        if self._bar:
            self._bar.update(self._task, evaluation=f"evaluating, {done} of {episodes} episodes")
        elif time.monotonic() - self._told > PATIENCE:
            self._told = time.monotonic()
            self.say(f"evaluating, {done} of {episodes} episodes done")

    def say(self, line: str) -> None:
        """Writes one line, above the bar if there is one."""
        if self._bar:
            with ignoring_closed():
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif not self._silent:
            tell(line)
