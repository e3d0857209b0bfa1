"""The training of one member, as pure functions."""
