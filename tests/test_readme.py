"""Every code block of the README runs."""

import re
import shlex
from pathlib import Path
from unittest import mock

import pytest

import ddpg_jax as dj
from ddpg_jax.app.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = sorted((ROOT / "ddpg_jax").glob("*/README.md"))


def _blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


BLOCKS = _blocks(README)


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


@pytest.mark.parametrize("page", [ROOT / "README.md", *ROOMS], ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Above all those to raw results: a figure without one is worth nothing."""
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert len(targets) > 5 or page in ROOMS
    assert not missing


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.parent.name)
def test_the_example_of_a_room_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one, and it leaves no preset behind."""
    monkeypatch.chdir(tmp_path)
    ((language, text),) = _blocks(page.read_text())
    assert language == "python"
    with mock.patch.dict(dj.PRESETS):
        exec(compile(text, str(page), "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.parent.name)
def test_a_room_names_its_files_on_one_screen(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= 50
    files = [path.name for path in page.parent.glob("*.py") if path.name != "__init__.py"]
    assert [name for name in files if f"`{name}`" not in text] == []
