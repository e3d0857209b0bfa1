"""Lists the extras of this package that install environments, and checks that they are installed."""

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
"""Maps an extra to the module that it installs, which its environments need or which registers them."""

ROBOTICS = ("AdroitHand", "AntMaze", "Fetch", "HandManipulate", "HandReach", "PointMaze")
"""Prefixes of the environments of gymnasium-robotics, whose module is imported automatically."""


def installed(module: str) -> bool:
    """Returns True if a module can be found, without importing it."""
    with contextlib.suppress(ValueError):  # None in sys.modules marks a module as absent
        return importlib.util.find_spec(module) is not None
    return False


def missing(asked: str, extra: str) -> str:
    """Returns the error message for an option `asked` that needs an extra which is not installed."""
    return f"{asked} needs the extra {extra}, which is not installed; install it with {command_for(extra)}"


def command_for(extra: str) -> str:
    """Returns the command that installs an extra of this package, from the same folder if it was installed from one."""
    what, editable = "ddpg-jax", ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        origin = json.loads(importlib.metadata.distribution("ddpg-jax").read_text("direct_url.json") or "{}")
        folder = url2pathname(urlsplit(origin.get("url", "")).path)
        if "dir_info" in origin and Path(folder).is_dir():
            what = folder
            editable = "-e " if origin["dir_info"].get("editable") else ""
    return f'pip install {editable}"{what}[{extra}]"'
