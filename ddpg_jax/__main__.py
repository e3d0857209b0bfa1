"""Starts `ddpg-jax`, and `python -m ddpg_jax`."""

from ddpg_jax.app.interrupts import end_quietly


def main() -> int:
    """Runs a command; returns the exit status."""
    end_quietly()
    from ddpg_jax.app.cli import main as run
    from ddpg_jax.app.interrupts import end_with

    return end_with(run())


if __name__ == "__main__":
    raise SystemExit(main())
