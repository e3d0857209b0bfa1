"""What a person sees while a run goes on: a bar on a terminal, a line for each evaluation elsewhere. Standard error only."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ddpg_jax.app.report import readable
from ddpg_jax.app.stderr import tell, unheard
from ddpg_jax.envs.host import watchers

PATIENCE = 10.0
"""Seconds between two lines about an evaluation."""


class PatientConsole(Console):
    """Rich's own ends the process when nobody reads what it writes."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """Progress of one run."""

    def __init__(self, total: int, done: int, silent: bool = False, what: str = ""):
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
            with unheard():
                self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        watchers.remove(self.evaluating)
        if self._bar:
            with unheard():
                self._bar.stop()

    def update(self, step: int, steps_per_second: float, rows: list[dict[str, Any]]) -> None:
        """Shows where the run is; `rows` are those of a new evaluation, if there was one."""
        lost = sum(row["diverged_step"] != "" for row in rows)
        known = [row["eval_return_mean"] for row in rows if row["diverged_step"] == ""]
        mean = f"{readable(sum(known) / len(known)) if known else '-':>10s}"
        mean += f" ({lost} of {len(rows)} members diverged)" if lost else ""
        if self._bar:
            self._bar.update(self._task, completed=step, speed=f"{steps_per_second:,.0f} steps/s")
            if rows:
                self._bar.update(self._task, evaluation=f"return {mean.strip()}")
        elif rows:
            self.say(f"step {step:>9,} of {self._total:,}  return {mean}  {steps_per_second:8,.0f} steps/s")

    def evaluating(self, done: int, episodes: int) -> None:
        """Shows how far an evaluation is that takes long: on the bar, or in a line every ten seconds."""
        if self._bar:
            self._bar.update(self._task, evaluation=f"evaluating, {done} of {episodes} episodes")
        elif time.monotonic() - self._told > PATIENCE:
            self._told = time.monotonic()
            self.say(f"evaluating, {done} of {episodes} episodes are over")

    def say(self, line: str) -> None:
        """One line, above the bar."""
        if self._bar:
            with unheard():
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif not self._silent:
            tell(line)
