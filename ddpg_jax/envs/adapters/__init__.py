"""Adapters of other libraries' JAX environments, one per file."""
