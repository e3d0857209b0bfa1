"""What the run in a folder, or a preset, should cite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpg_jax import __version__
from ddpg_jax.app.citations import bibtex, environment, references
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import NUMBERS, STRUCTURE, Experiment, configure
from ddpg_jax.experiment.presets import PRESETS, read_preset


def cite(name: str) -> str:
    """BibTeX for the parts that the run in this folder, or the preset of this name or in this JSON file, uses.

    Raises:
        ConfigError: it is none of them.
    """
    if (Path(name) / "manifest.json").exists():
        return bibtex(of_run(RunFolder(Path(name)).manifest()), __version__)
    if name in PRESETS or name.endswith(".json"):
        fields = {"preset": name} if name in PRESETS else read_preset(name)
        of_env = [] if "env" in fields else environment(Experiment.env)  # a preset names none
        return bibtex([key for key in references(configure(fields)[0]) if key not in of_env], __version__)
    raise ConfigError(f"{name} is neither a run folder nor a preset; presets are {', '.join(PRESETS)}")


def of_run(manifest: dict[str, Any]) -> list[str]:
    """The keys of all that any member of a run uses."""
    members, keys = manifest["members"], []
    for member in members:
        values = {**manifest["identity"], **member}
        fields = {name: values[name] for name in (*STRUCTURE, *NUMBERS) if name in values}
        if fields["preset"] not in PRESETS:
            del fields["preset"]  # all that it stands for is there; whose it is, this process does not know
        keys += references(configure(fields)[0], len(members))
    return keys
