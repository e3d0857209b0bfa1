"""Measurements, each a script with its raw results in `results/`."""
