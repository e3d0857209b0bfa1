"""Starts a sweep of `benchmarks.suite`: becomes `ddpg-jax`, but nicer, and does not outlive the suite.

`python benchmarks/suite_child.py NICE PARENT WORDS...` is `ddpg-jax WORDS...` with the niceness raised by NICE. It is sent
SIGTERM, and so stops after a checkpoint, when the process PARENT ends, however that happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    nice, parent, *words = sys.argv[1:]
    os.nice(int(nice))
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before
        sys.exit(128 + signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", "ddpg_jax", *words])


if __name__ == "__main__":
    main()
