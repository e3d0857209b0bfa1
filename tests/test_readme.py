"""Every block of Python and of commands on the README and on the rooms' pages runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import ddpg_jax as dj
from ddpg_jax.app.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = sorted((ROOT / "ddpg_jax").glob("*/README.md"))
RESULTS = sorted((ROOT / "benchmarks").glob("*.md"))


def _blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


BLOCKS = _blocks(README)


@pytest.fixture(autouse=True)
def _tables_as_they_were() -> Any:
    """Forgets the parts that examples register."""
    tables = (dj.PRESETS, dj.NETWORKS, dj.EXPLORERS, dj.REPLAYS, dj.envs.DEVICE)
    before = [dict(table) for table in tables]
    yield
    for table, parts in zip(tables, before, strict=True):
        for name in set(table) - set(parts):
            del table[name]


def test_the_readme_is_short() -> None:
    """A newcomer reads it in one go; all else is on the pages of the rooms."""
    assert len(README.splitlines()) <= 200


def _commands(blocks: list[tuple[str, str]]) -> list[str]:
    lines = [line for language, text in blocks if language == "bash" for line in text.splitlines()]
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
    commands = [line for line in _commands(BLOCKS) if line.startswith("ddpg-jax ")]
    assert commands
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command


def test_the_other_commands_are_the_two_that_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trains and one tests; the latter, word for word but for pip's quiet, is what continuous integration runs."""
    train, test = [line for line in _commands(BLOCKS) if not line.startswith("ddpg-jax ")]
    assert train.endswith("ddpg-jax train Pendulum-v1")
    assert test.split() == [word for word in (ROOT / ".ci" / "run").read_text().splitlines()[-1].split() if word != "-q"]


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *RESULTS, *ROOMS], ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_links_lead_somewhere(page: Path) -> None:
    """Above all those to raw results: a figure without one is worth nothing. Those to headings find them."""
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in target]
    assert len(targets) > 5 or page not in (ROOT / "README.md", *RESULTS[-1:])
    for target in targets:
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not heading or heading in _headings(file.read_text()), target


def _headings(page: str) -> set[str]:
    """The headings of a page, as links name them."""
    found = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.parent.name)
def test_the_examples_of_a_room_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the README: first its Python, of which there is some, in one namespace, then its commands."""
    monkeypatch.chdir(tmp_path)
    blocks = _blocks(page.read_text())
    assert "python" in [language for language, _ in blocks]
    names: dict[str, object] = {"__name__": "readme"}
    for text in [text for language, text in blocks if language == "python"]:
        exec(compile(text, str(page), "exec"), names)
    for command in _commands(blocks):
        assert main(shlex.split(command)[1:]) == 0, command


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.parent.name)
def test_a_room_names_its_files(page: Path) -> None:
    text = page.read_text()
    files = [path.name for path in page.parent.glob("*.py") if path.name != "__init__.py"]
    assert [name for name in files if f"`{name}`" not in text] == []
