"""Shared by all tests, and by the examples in docstrings and README."""

from __future__ import annotations

import gc
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import jax
import pytest

from ddpg_jax.running import blocks, compiled

jax.config.update("jax_numpy_rank_promotion", "raise")  # [B] against [B, 1] is a bug, not a convenience

pytest.register_assert_rewrite("tests.runs")

hypothesis.settings.register_profile("same_every_time", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same_every_time")


@pytest.fixture(scope="module", autouse=True)
def no_more_programs_than_a_file_needs() -> Iterator[None]:
    """Lets go of compiled programs: each takes memory maps, of which Linux grants a process 65,530, and XLA crashes without."""
    yield
    for functions in (compiled.functions_of,):
        functions.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs that the tests of the command line have compiled, each once; not those of the person who runs them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def command_line(cache: Path) -> Iterator[None]:
    """Has the command line use `cache` and no screen, and leaves JAX as it was for the tests of other files.

    Every piece is a whole block, so that a slow machine has the checkpoints of a fast one."""
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        patch.setenv("PJRT_NPROC", str(os.cpu_count()))  # else a run sets it, for all processes of later tests
        patch.setattr(blocks, "FIRST_PIECE", blocks.BLOCK_UPDATES)
        patch.setattr(blocks, "PIECE_SECONDS", math.inf)
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs that `whole_run` has made."""
    return {"": tmp_path_factory.mktemp("whole")}


@pytest.fixture
def whole_run(made: dict[str, Path], command_line: None) -> Callable[..., Path]:
    """`(backend) -> folder` of a tiny run that nothing interrupted, to read and not to change."""
    from tests.runs import command, run

    def get(backend: str = "device") -> Path:
        if backend not in made:
            assert run(*command(made[""] / backend, backend=backend)) == 0
            made[backend] = made[""] / backend
        return made[backend]

    return get


@pytest.fixture
def copy_of(whole_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`(backend) -> folder`, a copy of the whole run that a test may change."""
    return lambda backend="device": Path(shutil.copytree(whole_run(backend), tmp_path / f"copy-{backend}"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`(looks) -> None`: time stands still for so many looks at the clock, and then years have passed."""
    from ddpg_jax.app import cli

    real = cli._stopping
    ticks: list[Iterator[float]] = []

    def stopping(groups: Any, options: Any) -> Any:
        return real(groups, options)._replace(clock=lambda: next(ticks[-1]))

    monkeypatch.setattr(cli, "_stopping", stopping)
    return lambda looks: ticks.append(itertools.chain(itertools.repeat(0.0, looks), itertools.repeat(1e9)))
