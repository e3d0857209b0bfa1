"""Defines environments that are written here, in JAX."""
