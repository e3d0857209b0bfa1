"""Runs many members at once: where they are placed, which program trains them, in which blocks, and the results."""
