"""Environments that are written here, in JAX."""
