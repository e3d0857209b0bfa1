"""The page for a reviewer: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from ddpg_jax.app import figures
from tests.runs import TINY, command, manifest, run

pytestmark = pytest.mark.usefixtures("command_line")


class Page(HTMLParser):
    """Collects the words of a page, its elements and everything that it refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "style")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def folders(command_line: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("report")
    assert run(*command(root / "a")) == 0
    grid = ["--grid", "critic_lr=1e-4,1e-3", "--seeds", "2", "--prune", "400,"]
    assert run("sweep", "Pendulum-v1", *grid, *TINY, "--out", str(root / "b")) == 0
    return [root / "a", root / "b"]


def test_the_page_tells_all_and_asks_for_nothing(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert run("report", *map(str, folders), "--out", str(out)) == 0
    text = out.read_text()
    page = Page(text)
    words = " ".join(page.words)
    for word in (
        *("What was run", "IQM", "95 % interval", "pruned at 400", "400 (pruned)", "probability that the row is better"),
        *("optimality gap", "hidden=16-16", manifest(folders[1])["command"], "@article{lillicrap2015", "agarwal2021"),
        *("jamieson2016", "critic_lr=0.001", "finished", "jax "),
    ):
        assert word in words, word
    assert page.tags.count("img") == 2, "the curves and the profile"
    assert all(target.startswith("data:image/png;base64,") for target in page.targets)
    assert all(base64.b64decode(target.partition(",")[2]).startswith(b"\x89PNG") for target in page.targets)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert """content="default-src 'none'""" in text, "and the browser is told so"


def test_the_page_as_markdown_has_its_figures_beside_it(folders: list[Path], tmp_path: Path) -> None:
    assert run("report", str(folders[1]), "--out", str(tmp_path / "r.md")) == 0
    text = (tmp_path / "r.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert pictures == ["r_curves.png", "r_profile_0.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert all(
        line.count("|") == text.splitlines()[i - 1].count("|") for i, line in enumerate(text.splitlines()) if "| ---" in line
    )


def test_what_is_no_page_is_refused(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", str(folders[0]), "--out", str(tmp_path / "r.pdf")) == 2
    assert "must end in .html or .md" in capsys.readouterr().err
    assert run("report", str(tmp_path / "nothing"), "--out", str(tmp_path / "r.html")) == 2
    assert run("report", str(folders[0]), str(folders[0]), "--out", str(tmp_path / "r.html")) == 2
    again = ["sweep", "Pendulum-v1", *TINY, "--seeds", "2", "--steps", "400", "--backend", "device"]
    assert run(*again, "--out", str(tmp_path / "again")) == 0
    capsys.readouterr()
    assert run("report", str(folders[0]), str(tmp_path / "again"), "--out", str(tmp_path / "r.html")) == 2
    assert "both hold seed 0" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_returns_of_training_are_called_so(tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert run(*command(out, "--eval-episodes", "0", "--steps", "400")) == 0
    assert run("report", str(out), "--out", str(tmp_path / "my page.md")) == 0
    text = (tmp_path / "my page.md").read_text()
    assert "Returns are those of training, with noise" in text
    assert "(my%20page_curves.png)" in text
    assert run("export", str(out), "--to", "npz", "--out", str(tmp_path / "p.npz"), "--card") == 0
    assert "It was not evaluated" in (tmp_path / "p.md").read_text()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[Any, dict[str, Any]]]]:
    """What was given to `Axes.plot`."""
    lines: list[tuple[Any, dict[str, Any]]] = []
    real = Axes.plot

    def plot(axes: Any, *arguments: Any, **named: Any) -> Any:
        lines.append((arguments, named))
        return real(axes, *arguments, **named)

    monkeypatch.setattr(Axes, "plot", plot)
    return lambda: lines


def test_of_many_points_the_best_and_the_median_have_colours(drawn: Any, tmp_path: Path) -> None:
    """Ten points that end at 0 .. 9, of which the highest was pruned and has a cross."""
    curves = {f"p{k}": np.array([[[0.0, 0.0], [100.0, float(k)]]]) for k in range(10)}
    figures.learning_curves({"E": curves}, tmp_path / "f.png", pruned={("E", "p9")})
    labels = [named["label"] for _, named in drawn() if named.get("label")]
    coloured = [label for label in labels if "other" not in label and "pruned" not in label]
    assert coloured == ["p8 (highest, 1 seed)", "p7 (second, 1 seed)", "p6 (third, 1 seed)", "p3 (median, 1 seed)"]
    assert sum(named.get("color") == figures.GREY and "label" in named for _, named in drawn()) == 6
    crosses = [arguments[:2] for arguments, _ in drawn() if arguments[2:] == ("x",) and len(arguments[0])]
    assert [(float(x[0]), float(y[0])) for x, y in crosses] == [(100.0, 9.0)]
    drawn().clear()
    figures.learning_curves({"E": dict(list(curves.items())[:8])}, tmp_path / "f.png")
    assert [named["label"] for _, named in drawn()] == [f"p{k} (1 seed)" for k in range(8)], "eight can be told apart"


def test_sensitivity_has_ticks_where_values_were_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes: list[Any] = []
    real = figures._scale
    monkeypatch.setattr(figures, "_scale", lambda one, values: (real(one, values), axes.append(one)))
    final = {(lr, n): np.array([n]) for lr in (1e-4, 3e-4, 1e-2) for n in (1.0, 2.0, 4.0)}
    figures.sensitivity(["critic_lr", "n_step"], final, "title", path=tmp_path / "s.png", pruned={(1e-4, 1.0)})
    learning, steps = axes
    assert (learning.get_xscale(), steps.get_xscale()) == ("log", "linear")
    assert [label.get_text() for label in learning.get_xticklabels()] == ["0.0001", "0.0003", "0.01"]
    assert steps.get_xticks().tolist() == [1.0, 2.0, 4.0]
