"""Half a minute of `python -m tests.chaos`: random damage and misuse, always the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import act, damage, hostile, kill

pytestmark = pytest.mark.usefixtures("command_line")

SECONDS = 25.0


def test_what_is_damaged_or_misused_is_the_same_or_one_sentence(whole_run: Any, tmp_path: Path) -> None:
    whole, end, number = whole_run(), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        act(0, number, whole, tmp_path, (damage, damage, hostile))
        number += 1
    assert number > 0


def test_what_is_killed_goes_on_to_the_same_end(whole_run: Any, tmp_path: Path) -> None:
    act(0, 0, whole_run(), tmp_path, (kill,))
