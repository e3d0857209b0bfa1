"""Shared by all tests, and by the examples in docstrings and README."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")  # [B] against [B, 1] is a bug, not a convenience
