"""Implements the algorithm: networks, losses, optimizers, and the update that combines them."""
