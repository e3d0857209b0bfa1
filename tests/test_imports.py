"""Imports run one way: the table is the architecture, and this is what keeps it."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ddpg_jax"

PURE = {"jax", "flax", "optax", "chex", "numpy"}

ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "networks": {"types"},
    "losses": {"types"},
    "schedules": {"types"},
    "optimization": {"types", "schedules"},
    "exploration": {"types", "schedules"},
    "diagnostics": {"types", "normalization"},
    "normalization": {"types"},
    "agent": {"types", "networks", "losses", "optimization", "diagnostics"},
    "sum_tree": {"types"},
    "replay": {"types", "losses", "schedules", "sum_tree"},
    "hindsight": {"types", "replay"},
    "training": {"types", "replay"},
    "policy": {"types", "networks", "normalization", "envs"},
    "placement": {"types"},
    "presets": {"types"},
    "reading": {"types"},
    "experiment": {"types", "reading", "networks", "schedules", "exploration", "replay", "hindsight", "placement", "presets"},
    "building": {
        "types",
        "losses",
        "schedules",
        "optimization",
        "exploration",
        "replay",
        "hindsight",
        "agent",
        "diagnostics",
        "normalization",
        "experiment",
    },
    "bibliography": set(),
    "citations": {"bibliography", "experiment", "envs"},
    "flatten": {"types"},
    "program": {"types", "training", "experiment", "building", "placement"},
    "driving": {"experiment", "building", "program", "training"},
    "statistics": set(),
    "sweeping": {"types", "reading", "experiment", "program", "placement", "statistics"},
    "api": {"types", "experiment", "program", "placement", "driving", "policy", "envs", "sweeping"},
}
"""Module -> modules of this package that it may import. `envs` may import types, flatten and itself; `app` anything."""

THIRD_PARTIES = {"envs": {"gymnasium", "gymnasium_robotics", "gymnax", "brax", "mujoco_playground"}}
"""What adapters may import besides, inside functions only."""


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | (
                {f"ddpg_jax.{alias.name}" for alias in node.names} if node.module == "ddpg_jax" else set()
            )
    return found - {"ddpg_jax"}


def _unit(module: str) -> str:
    return module.split(".")[1] if module.startswith("ddpg_jax.") else ""


def _files() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "app"]


def test_modules_import_only_what_the_table_allows() -> None:
    for path in _files():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        own = {_unit(module) for module in _imports(path) if module.startswith("ddpg_jax.")}
        allowed = {"types", "envs", "flatten"} if parts[0] == "envs" else ALLOWED[parts[0]]
        assert own <= allowed, f"{path.name} imports {own - allowed}"


def test_third_parties_are_imported_by_adapters_only_and_lazily() -> None:
    standard = set(sys.stdlib_module_names) | PURE
    for path in _files():
        place = path.relative_to(PACKAGE).parts[0]
        roots = {module.split(".")[0] for module in _imports(path)} - {"ddpg_jax"}
        extra = roots - standard
        assert extra <= THIRD_PARTIES.get(place, set()), f"{path} imports {extra}"
        at_import = {module.split(".")[0] for module in _imports(path, top_level_only=True)} - {"ddpg_jax"}
        assert at_import <= standard, f"{path} imports {at_import - standard} when it is imported"


def test_nothing_imports_the_app() -> None:
    for path in [*_files()]:
        if path.name != "__main__.py":
            assert not any(module.startswith("ddpg_jax.app") for module in _imports(path)), path


def test_importing_the_core_loads_no_environment_plotting_or_logging_package() -> None:
    heavy = (
        "gymnasium",
        "gymnasium_robotics",
        "gymnax",
        "brax",
        "mujoco_playground",
        "matplotlib",
        "orbax.checkpoint",
        "scipy.stats",
        "tensorboardX",
        "wandb",
        "pygame",
        "mujoco",
        "torch",
    )
    code = f"import sys, ddpg_jax; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
