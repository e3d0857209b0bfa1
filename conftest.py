"""Lets the examples in docstrings and README run under the settings of the tests."""

from tests.conftest import *  # noqa: F403 - pytest finds fixtures by their names, whichever there are
