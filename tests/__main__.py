"""All checks: `python -m tests` runs lint, types and tests, and fails if one of them does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", sys.executable),
)
NOTHING_COLLECTED = 5
LONG = ("test_readme", "test_parts", "test_sweep", "test_resume")
"""Take minutes, and come first, so that no worker is left alone with one in the end."""
AS_SHIPPED = ("test_sweep", "test_resume", "test_training", "test_processes", "test_update_oracle", "test_lqr")
"""They compare bits, or learn, or do what users do: their programs are compiled as everybody's are."""
QUICKLY = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
"""For those of all others, which compile for most of their time."""
WORKERS = max(2, (os.cpu_count() or 2) // 2)


def run_file(path: str, cache: str) -> bool:
    """Runs the tests of a file in a process of its own, and shows what it said. Programs come from the `cache` that all share.

    XLA sometimes ends a process that has compiled hundreds of programs with a segmentation fault. What a signal ended is run
    once more.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", path]
    env = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **os.environ}
    if Path(path).stem not in AS_SHIPPED:
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {QUICKLY}"
    for attempt in (1, 2):
        since = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
        ok = done.returncode in (0, NOTHING_COLLECTED)
        shown = done.stdout.strip().splitlines()[-1:] if ok else [done.stdout, done.stderr]
        print(f"{path} ({time.monotonic() - since:.0f} s)", *shown, sep="\n  ", flush=True)
        if done.returncode >= 0 or attempt == 2:
            return ok
        print(f"{path} was ended by signal {-done.returncode}; once more", flush=True)
    return False


def main() -> int:
    """The exit status."""
    for check in CHECKS:
        print("+", *check, flush=True)
        status = subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode
        if status:
            return status
    files = sorted(ROOT.glob("tests/**/test_*.py"), key=lambda path: (path.stem not in LONG, -path.stat().st_size))
    paths = [str(path.relative_to(ROOT)) for path in files]
    paths.append("ddpg_jax")  # the examples in its docstrings
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(WORKERS) as pool:
        results = dict(zip(paths, pool.map(lambda path: run_file(path, cache), paths), strict=True))
    failed = [path for path, ok in results.items() if not ok]
    print("FAILED: " + ", ".join(failed) if failed else f"all {len(results)} passed")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
