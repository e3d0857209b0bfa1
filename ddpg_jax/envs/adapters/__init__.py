"""Adapts JAX environments of other libraries, one library per file."""
