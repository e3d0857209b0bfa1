"""Environments of other libraries that are written in JAX, one adapter a file."""
