"""Collects the wheels that a machine with an accelerator and without a network lacks, and tries them.

    python -m benchmarks.accelerator_pack WHEELS
    python -m benchmarks.accelerator_pack WHEELS --try PYTHON --out RESULTS

The machine is expected to have Python 3.12 on Linux x86-64, JAX with CUDA, flax, optax, chex, orbax-checkpoint, scipy,
matplotlib, rich, pytest, hypothesis, imageio and jinja2, as images for machine learning do. `--try` takes an interpreter that
has these and nothing more, such as that of

    python3.12 -m venv bare
    bare/bin/pip install "jax[cuda13]" flax optax chex orbax-checkpoint scipy matplotlib rich pytest hypothesis imageio jinja2

unpacks the wheels beside it, and rehearses all stages there.

On a rented machine, where every second counts, run all of this at once, from the folder of this repository with the wheels in
`.whl`, which git ignores; OUT is the folder that comes back:

    mkdir -p /tmp/kept OUT; cp /tmp/kept/*.json OUT 2>/dev/null
    [ -e /tmp/site/brax ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .whl/*.whl || exit 9
    export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=/tmp/jax
    (while sleep 5; do cp OUT/*.json /tmp/kept; done) >/dev/null 2>&1 &
    timeout 575 python3 -m benchmarks.accelerator --minutes 9.2 --rest --out OUT 2>&1 | tee OUT/log.txt
    kill $!; cp OUT/*.json /tmp/kept

XLA needs `ptxas`, `nvlink` and `libdevice.10.bc` of CUDA; where it does not find them, the first job says so and all ends. They
may be put on PATH, and the last into the folder that the command is run in.

On the same machine, the same commands with the minutes that are left go on where this ended, even if it was killed, and compile
nothing twice. Afterwards, put OUT/*.json into `benchmarks/results`; `python -m benchmarks.tables` makes their page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    "gymnasium==1.4.0",
    "farama-notifications==0.0.6",
    "brax==0.14.2",
    "jaxopt==0.8.5",
    "ml_collections==1.1.0",
    "mujoco==3.17.0",
    "mujoco-mjx==3.17.0",
    "trimesh==5.2.0",
    "glfw==2.11.0",
    "pyopengl==3.1.10",
)
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
LARGEST = 64 * 2**20
"""Bytes that all wheels together may have."""


def collect(folder: Path) -> None:
    """Downloads the wheels, without what they need, which the machine has."""
    tags = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", *tags]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, "-d", str(folder), *PACKAGES], check=True)


def check(folder: Path) -> int:
    """Returns the bytes of the wheels.

    Raises:
        SystemExit: a package is missing or there twice, or they are too large.
    """
    found = sorted(path.name.split("-")[0].lower().replace("_", "-") for path in folder.glob("*.whl"))
    wanted = sorted(package.split("==")[0].lower().replace("_", "-") for package in PACKAGES)
    if found != wanted:
        raise SystemExit(f"{folder} holds wheels of {', '.join(found)}; it must hold one each of {', '.join(wanted)}")
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    if size > LARGEST:
        raise SystemExit(f"the wheels have {size / 2**20:.1f} MiB; they may have {LARGEST / 2**20:.0f}")
    return size


def rehearse(folder: Path, python: str, out: Path) -> int:
    """Rehearses all stages with an interpreter that has the wheels besides its own packages; returns the exit status."""
    with tempfile.TemporaryDirectory() as site:
        wheels = map(str, folder.glob("*.whl"))
        install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site, *wheels]
        subprocess.run(install, check=True)
        own = {"PYTHONPATH": os.pathsep.join([site, str(Path(__file__).parent.parent)])}
        command = [python, "-m", "benchmarks.accelerator", "--rehearse", "--out", str(out)]
        return subprocess.run(command, env={**os.environ, **own}).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheels are put")
    parser.add_argument("--try", dest="python", help="interpreter to rehearse with")
    parser.add_argument("--out", type=Path, default=Path("rehearsal"), help="folder of the rehearsal's results")
    options = parser.parse_args()
    if not any(options.folder.glob("*.whl")):
        collect(options.folder)
    print(f"{len(PACKAGES)} wheels, {check(options.folder) / 2**20:.1f} MiB")
    return rehearse(options.folder, options.python, options.out) if options.python else 0


if __name__ == "__main__":
    sys.exit(main())
