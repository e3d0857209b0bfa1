"""Collects what the run in a folder, or a preset, should cite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpg_jax import __version__
from ddpg_jax.app.citations import bibtex, environment, references
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.study_plan import SETTINGS, Plan, read_plan
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, STRUCTURE, Experiment, configure
from ddpg_jax.experiment.presets import PRESETS, read_preset

SAMPLED_BY = {"tpe": ["bergstra2011"], "cmaes": ["hansen2001"]}
"""Sampler of a study -> keys of what to cite for it."""


def cite(name: str) -> str:
    """Returns BibTeX for everything that the folder of a run or a study, or a preset by its name or as a JSON file, uses.

    Raises:
        ConfigError: it is none of these.
    """
    if (Path(name) / "manifest.json").exists():
        return bibtex(keys_of_run(RunFolder(Path(name)).manifest()), __version__)
    if (Path(name) / SETTINGS).exists():
        return bibtex(_keys_of_study(read_plan(Path(name))), __version__)
    if name in PRESETS or name.endswith(".json"):
        fields = {"preset": name} if name in PRESETS else read_preset(name)
        env_keys = [] if "env" in fields else environment(Experiment.env)  # that of the default
        return bibtex([key for key in references(configure(fields)[0]) if key not in env_keys], __version__)
    raise ConfigError(f"{name} is neither the folder of a run or a study nor a preset; presets are {', '.join(PRESETS)}")


def keys_of_run(manifest: dict[str, Any]) -> list[str]:
    """Returns the keys of everything that any member of a run uses."""
    members, keys = manifest["members"], []
    length = {name: manifest["experiment"][name] for name in ("steps", "updates") if name in manifest["experiment"]}
    for member in members:
        values = {**manifest["identity"], **length, **member}
        fields = {name: values[name] for name in (*STRUCTURE, *NUMBERS) if name in values}
        # Presets and parts that a module has added may be unknown to this process; nothing is cited for them.
        unknown = [name for name in fields if FIELDS[name].table and fields[name] not in FIELDS[name].allowed()]
        fields = {name: value for name, value in fields.items() if name not in unknown}
        keys += references(configure(fields)[0], len(members))
    if manifest.get("stopping", {}).get("pruning"):
        keys += ["jamieson2016", *(["li2020"] if len(manifest.get("programs", [])) > 1 else [])]
    if manifest.get("evolution", {}).get("population"):
        keys += ["jaderberg2017"]
    return keys


def _keys_of_study(plan: Plan) -> list[str]:
    """Returns the keys of everything that a study uses."""
    sampled = [configure({**plan.fields, **point})[0] for point in plan.trial_points()]  # a range may switch a part on
    used = [key for experiment in sampled for key in references(experiment, members=2)]
    return [*used, *SAMPLED_BY.get(plan.sampler, []), "akiba2019", "watanabe2023"]
