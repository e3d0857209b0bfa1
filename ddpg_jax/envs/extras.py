"""The extras of this package that bring environments, and whether they are there."""

from __future__ import annotations

import contextlib
import importlib.util

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
    return f'{asked} needs a package that is not installed: extra {extra}, or pip install "ddpg_jax[{extra}]"'
