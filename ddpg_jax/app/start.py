"""Starts a run: its options, and how all its processes claim the folder together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpg_jax.app.evolving import Evolution, record_of, resumed
from ddpg_jax.app.manifest import digest
from ddpg_jax.app.processes import Ended, Processes
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.stopping import Stopping
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.clock import length
from ddpg_jax.running.program import Member


class Options(NamedTuple):
    """Options of the job."""

    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    checkpoint_seconds: float = 30.0
    """Minimum time between two checkpoints; there is also one at every stop."""
    track: str | None = None
    stopping: Stopping = Stopping()
    """When the run or its members stop early. Only the time limit does not affect results."""
    evolution: Evolution | None = None
    """How hyperparameters change while the run trains."""

    def record(self) -> dict[str, Any]:
        """Returns what a manifest says of the options on which results depend."""
        return {"stopping": self.stopping.record(), "evolution": record_of(self.evolution)}

    def resumed(self, manifest: Mapping[str, Any]) -> Options:
        """Returns how a run goes on, given its manifest.

        Raises:
            ConfigError: the user asks for something else.
        """
        evolution = resumed(self.evolution, manifest.get("evolution", {}))
        return self._replace(stopping=self.stopping.resumed(manifest.get("stopping", {})), evolution=evolution)


def check_same_command(experiment: Experiment, members: list[Member], folder: RunFolder, *, options: Options) -> None:
    """Checks that all processes were given the same command.

    Raises:
        ConfigError: this one's differs from that of process 0.
    """
    own = {
        "experiment": digest(experiment, members),
        "steps": length(experiment),
        "out": str(folder.given),
        "resume": options.resume,
        "overwrite": options.overwrite,
        **options.record(),
    }
    own = json.loads(json.dumps(own))
    first = folder.processes.gather(own)[0]
    different = [f"{name}={own[name]} (process 0: {first[name]})" for name in own if own[name] != first[name]]
    if different:
        raise ConfigError(f"process 0 was given another command: {', '.join(different)}; give all processes the same command")


def claim(folder: RunFolder, experiment: Experiment, members: list[Member], *, options: Options) -> None:
    """Claims the folder, and checks that all processes see the folder that process 0 has claimed.

    Raises:
        ConfigError: as `RunFolder.claim`, or this process sees another folder.
    """
    folder.claim(experiment, members, resume=options.resume, overwrite=options.overwrite)
    if folder.processes.gather(folder.mark() if folder.processes.first else None)[0] != folder.mark():
        raise ConfigError(f"out={folder.given} is not the folder of process 0; it must be on a file system that all share")
    folder.hold()


def stop_before_start(processes: Processes, received: list[int]) -> None:
    """Ends all processes if one of them has received a signal before anything was written."""
    stop = [number for each in processes.gather(list(received)) for number in each]
    if stop:
        raise Ended("stopped before anything was written", 128 + stop[0])
