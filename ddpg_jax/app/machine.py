"""What a result must say of the machine that it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import jax

from ddpg_jax.app.folder import versions


def machine() -> dict[str, Any]:
    """Hardware, versions and date, as plain JSON."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
