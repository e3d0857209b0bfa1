"""What the run in a folder, or a preset, should cite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpg_jax import __version__
from ddpg_jax.app.folder import RunFolder
from ddpg_jax.citations import bibtex, environment, references
from ddpg_jax.experiment import NUMBERS, STRUCTURE, Experiment, configure
from ddpg_jax.presets import PRESETS
from ddpg_jax.types import ConfigError


def cite(name: str) -> str:
    """BibTeX for the parts that the run in this folder, or the preset of this name, uses.

    Raises:
        ConfigError: it is neither.
    """
    if (Path(name) / "manifest.json").exists():
        return bibtex(of_run(RunFolder(Path(name)).manifest()), __version__)
    if name in PRESETS:
        of_env = environment(Experiment.env)  # a preset names none
        return bibtex([key for key in references(configure({"preset": name})[0]) if key not in of_env], __version__)
    raise ConfigError(f"{name} is neither a run folder nor a preset; presets are {', '.join(PRESETS)}")


def of_run(manifest: dict[str, Any]) -> list[str]:
    """The keys of all that any member of a run uses."""
    members, keys = manifest["members"], []
    for member in members:
        # All fields are there; the preset, which may be unknown to this process, adds nothing.
        values = {**manifest["identity"], **member}
        fields = {name: value for name, value in values.items() if name in (*STRUCTURE, *NUMBERS) and name != "preset"}
        keys += references(configure(fields)[0], len(members))
    return keys
