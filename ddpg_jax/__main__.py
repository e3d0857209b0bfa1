"""`python -m ddpg_jax`, the same as `ddpg-jax`."""

from ddpg_jax.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
