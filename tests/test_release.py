"""What is released: one version everywhere, and archives of the package without results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ddpg_jax as dj

ROOT = Path(__file__).parent.parent


def test_the_version_and_its_date_are_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    released = re.findall(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    version, date = released[0]
    assert version == dj.__version__ == zenodo["version"]
    assert f"\nversion: {version}\n" in citation
    assert f'\ndate-released: "{date}"\n' in citation
    assert zenodo["publication_date"] == date
    assert f"git tag -a v{version}" in (ROOT / "CONTRIBUTING.md").read_text()


def test_archives_have_the_package_and_no_results(tmp_path: Path) -> None:
    """Built as `python -m build` builds them, except that nothing is downloaded."""
    pytest.importorskip("hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    wheel, sdist = next(tmp_path.glob("*.whl")), next(tmp_path.glob("*.tar.gz"))
    modules = {
        str(path.relative_to(ROOT)) for path in (ROOT / "ddpg_jax").rglob("*") if path.suffix in (".py", ".md", ".typed")
    }
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert in_wheel == modules
    assert modules | {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "tests/test_release.py"} <= in_sdist
    assert not [
        name for name in in_sdist if name.startswith(("benchmarks/results", "runs/")) or name.endswith((".csv", ".png"))
    ]
    assert sum(path.stat().st_size for path in (wheel, sdist)) < 2e6
