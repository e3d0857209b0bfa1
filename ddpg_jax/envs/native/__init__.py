"""Environments written here, in JAX."""
