"""All checks: `python -m tests` runs lint, types and tests, and fails if one of them does."""

import subprocess
import sys

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", sys.executable),
    ("pytest", "-q", "-n", "2", "--dist", "loadfile"),
)

if __name__ == "__main__":
    for check in CHECKS:
        print("+", *check, flush=True)
        status = subprocess.run([sys.executable, "-m", *check]).returncode
        if status:
            raise SystemExit(status)
