"""DDPG in JAX: pure functions, one compiled program, whole sweeps at once.

The public names are those of `ddpg_jax.public`. They are loaded when they are first asked for: JAX takes most of a second,
which `ddpg-jax --help` need not wait for.
"""

import _signal  # the built-in part of `signal`, whose own imports take a while
import os
import sys

_program = os.path.basename([*getattr(sys, "argv", ()), ""][0])
if _program == "ddpg-jax" or (_program == "-m" and "ddpg_jax" in sys.orig_argv):  # this is the command line
    # Ctrl-C ends it without a word from here on, also in the imports below; `app.interrupts` goes on from there.
    _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(128 + number))

import importlib  # noqa: E402 - only after Ctrl-C is quiet
import importlib.util  # noqa: E402 - only after Ctrl-C is quiet
from typing import TYPE_CHECKING, Any  # noqa: E402 - only after Ctrl-C is quiet

if TYPE_CHECKING:
    from ddpg_jax.public import *  # noqa: F403 - its list of names is the one place where they stand

__version__ = "0.2.0"


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
