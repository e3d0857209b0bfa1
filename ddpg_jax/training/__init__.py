"""Trains one member, with pure functions."""
