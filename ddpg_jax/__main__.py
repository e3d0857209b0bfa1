"""Starts `ddpg-jax`, and `python -m ddpg_jax`."""

import os
import signal


def main() -> int:
    """Runs a command; returns the exit status. Until the command takes over, Ctrl-C ends the process without a word."""
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from ddpg_jax.app.cli import main as run

    if before is not None:
        signal.signal(signal.SIGINT, before)
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
