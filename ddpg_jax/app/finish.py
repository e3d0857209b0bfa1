"""Writes the summary and the figures of a run that has finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ddpg_jax.agent.policy import read_policy
from ddpg_jax.app import report
from ddpg_jax.app.evolving import write_evolution
from ddpg_jax.app.figures import figures
from ddpg_jax.app.manifest import now
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.stopping import stops_of
from ddpg_jax.errors import ConfigError
from ddpg_jax.files import write_text
from ddpg_jax.running.clock import learns
from ddpg_jax.running.groups import Group
from ddpg_jax.running.members import Change


def finish(
    folder: RunFolder,
    groups: Sequence[Group],
    rows: list[dict[str, Any]],
    *,
    seconds: float,
    say: Callable[[str], None],
    changes: Sequence[Change] | None = None,
) -> str:
    """Writes summary and figures, marks the run as finished, and returns the line that reports its result.

    Args:
        folder: of the run.
        groups: its programs.
        rows: of metrics.csv.
        seconds: wall time of the run.
        say: reports what is missing.
        changes: of a population; None for other runs.

    Raises:
        ConfigError: there are no rows.
    """
    if not rows:
        raise ConfigError(f"out={folder.given} has no rows in metrics.csv; run it again with --overwrite")
    experiment = groups[0].experiment
    members = sorted((member for group in groups for member in group.members), key=lambda member: member.number)
    thresholds = {}
    for member in members:
        policy = folder.policy_of(member, len(members))
        try:
            thresholds[member.number] = read_policy(policy).spec.reward_threshold
        except ConfigError as error:
            if not (policy / "policy.json").exists():
                say(f"{policy} is missing, and cannot be written again, since the program that trained it has finished")
            else:
                say(f"{error}; it cannot be written again, since the program that trained it has finished")
    stops = stops_of(folder.manifest())
    summary = report.summarize(rows, thresholds, seconds, stops=stops)
    folder.check_held()
    if changes is not None:
        summary["population"] = write_evolution(folder.path, members, changes, rows=rows)
    write_text(folder.path / "summary.json", report.as_json(summary))
    settings = report.settings(folder.manifest())
    figures(rows, report.described(settings, settings), env=experiment.env, folder=folder.path, stops=stops)
    folder.write_manifest(status="finished", end=now(), seconds=seconds)
    line = report.headline(experiment.env, rows, experiment.eval_episodes, stops=stops)
    if not any(learns(group.experiment) for group in groups):
        line += f", without an update (the warm-up has warmup_steps={experiment.warmup_steps}),"
    return f"{line} in {seconds:.0f} s; {folder.given}"
