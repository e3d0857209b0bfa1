"""DDPG in JAX: pure functions, one compiled program, whole sweeps at once.

The public names are those of `ddpg_jax.public`. They are loaded when they are first asked for: JAX takes most of a second,
which `ddpg-jax --help` need not wait for.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpg_jax.public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__} has no attribute {name}")
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.public"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *importlib.import_module(f"{__name__}.public").__all__]
