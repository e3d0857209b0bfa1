"""The algorithm: networks, losses, optimizers, and the update that is made of them."""
