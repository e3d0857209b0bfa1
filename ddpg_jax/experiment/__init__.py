"""Describes runs as plain data: fields, presets, and the functions that they name."""
