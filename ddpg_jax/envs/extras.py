"""The extras of this package that bring environments, and whether they are there."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

EXTRAS = {
    "mujoco": "mujoco",
    "box2d": "Box2D",
    "goals": "gymnasium_robotics",
    "gymnax": "gymnax",
    "brax": "brax",
    "playground": "mujoco_playground",
}
"""Extra -> the module that it brings, which environments need or which registers them."""

ROBOTICS = ("AdroitHand", "AntMaze", "Fetch", "HandManipulate", "HandReach", "PointMaze")
"""How the names of gymnasium-robotics' environments begin, whose module is imported without being asked for."""


def installed(module: str) -> bool:
    """Whether a module could be imported, without doing so."""
    with contextlib.suppress(ValueError):  # hidden: None in its place
        return importlib.util.find_spec(module) is not None
    return False


def missing(asked: str, extra: str) -> str:
    """The sentence for an environment whose extra is not installed."""
    return f"{asked} needs a package that is not installed: extra {extra}, or {command_for(extra)}"


def command_for(extra: str) -> str:
    """The command that adds an extra of this package: from the folder where it was installed from, if it was one."""
    what, editable = "ddpg-jax", ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        origin = json.loads(importlib.metadata.distribution("ddpg-jax").read_text("direct_url.json") or "{}")
        folder = url2pathname(urlsplit(origin.get("url", "")).path)
        if "dir_info" in origin and Path(folder).is_dir():
            what = folder
            editable = "-e " if origin["dir_info"].get("editable") else ""
    return f'pip install {editable}"{what}[{extra}]"'
