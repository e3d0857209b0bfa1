"""A few actions of `python -m tests.chaos`: random damage and misuse, always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos import act, damage, hostile

pytestmark = pytest.mark.usefixtures("command_line")

ACTIONS = 40


def test_what_is_damaged_or_misused_is_the_same_or_one_sentence(whole_run: Any, tmp_path: Path) -> None:
    whole = whole_run()
    for number in range(ACTIONS):
        act(0, number, whole, tmp_path, (damage, damage, hostile))
