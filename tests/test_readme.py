"""Every code block of the README runs."""

import re
import shlex
from pathlib import Path

import pytest

from ddpg_jax.app.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, in order, in an empty folder: as somebody who reads along would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert blocks
    for text in blocks:
        exec(compile(text, "README.md", "exec"), names)


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the program, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    commands = [line for line in _commands() if line.startswith("ddpg-jax ")]
    assert commands
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command


def test_the_other_commands_are_the_two_that_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trains and one tests; the latter, word for word but for pip's quiet, is what continuous integration runs."""
    train, test = [line for line in _commands() if not line.startswith("ddpg-jax ")]
    assert train.endswith("ddpg-jax train Pendulum-v1")
    assert test.split() == [word for word in (ROOT / ".ci" / "run").read_text().splitlines()[-1].split() if word != "-q"]


def test_links_lead_somewhere() -> None:
    """Above all those to raw results: a figure without one is worth nothing."""
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert len(targets) > 5
    assert not missing
