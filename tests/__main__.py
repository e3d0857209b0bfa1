"""All checks: `python -m tests` runs lint, types and tests, and fails if one of them does."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", sys.executable),
)
NOTHING_COLLECTED = 5
LONG = ("test_parts", "test_readme", "test_resume", "test_sweep", "test_host", "test_suite")
"""The files that take longest. Each has a process of its own, and they come first, so that the workers finish together."""
AS_SHIPPED = ("test_training", "test_update_oracle", "test_lqr")
"""The files whose programs are compiled as users compile them: they compare bits and values, and they learn."""
QUICKLY = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
"""The flags for all others. Their programs are compiled in half the time, and run so briefly that slower code costs nothing."""
KNOWN = version("jaxlib").startswith("0.10.")
"""Whether this version of XLA knows the flags; it ends a process that gives one that it does not know."""
WORKERS = max(2, (os.cpu_count() or 2) // 2)


def groups() -> list[list[str]]:
    """Returns the files that share a process: the rest of a folder does, because every process imports JAX anew."""

    def group(path: Path) -> tuple[bool, str, bool]:
        own = path.stem in LONG
        return not own, path.stem if own else str(path.parent), path.stem in AS_SHIPPED

    def cost(paths: list[Path]) -> tuple[bool, int]:
        return paths[0].stem not in LONG, -sum(path.stat().st_size for path in paths)

    files = sorted(ROOT.glob("tests/**/test_*.py"), key=lambda path: (group(path), path))
    together = sorted(([*paths] for _, paths in itertools.groupby(files, group)), key=cost)
    return [*([str(path.relative_to(ROOT)) for path in paths] for paths in together), ["ddpg_jax"]]  # with its docstrings


def run_files(paths: list[str], cache: str) -> bool:
    """Runs the tests of some files in one process, and shows its result. All processes share the compiled programs in `cache`.

    XLA sometimes ends a process that has compiled hundreds of programs with a segmentation fault. What a signal ended is run
    once more.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *paths]
    env = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **os.environ}
    if KNOWN and Path(paths[0]).stem not in AS_SHIPPED:
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {QUICKLY}"
    for attempt in (1, 2):
        since = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
        ok = done.returncode in (0, NOTHING_COLLECTED)
        shown = done.stdout.strip().splitlines()[-1:] if ok else [done.stdout, done.stderr]
        print(f"{' '.join(paths)} ({time.monotonic() - since:.0f} s)", *shown, sep="\n  ", flush=True)
        if done.returncode >= 0 or attempt == 2:
            return ok
        print(f"They were ended by signal {-done.returncode} and run once more.", flush=True)
    return False


def main() -> int:
    """Returns the exit status."""
    for check in CHECKS:
        print("+", *check, flush=True)
        status = subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode
        if status:
            return status
    todo = groups()
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(lambda paths: run_files(paths, cache), todo))
    failed = [path for paths, ok in zip(todo, results, strict=True) if not ok for path in paths]
    print("FAILED: " + ", ".join(failed) if failed else f"all {len(todo)} groups passed")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
