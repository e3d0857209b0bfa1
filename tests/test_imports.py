"""Imports run one way: the table is the architecture, and this is what keeps it."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ddpg_jax"

PURE = {"jax", "flax", "optax", "chex", "numpy"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "fields": set(),
    "files": set(),
    "hyperparams": {"fields"},
    "registry": {"errors"},
    "types": {"hyperparams"},
    "schedules": {"types"},
    "flatten": {"types"},
    "exploration": {"types", "registry", "schedules"},
    "envs": {"types", "errors", "flatten", "registry"},
    "agent": {"types", "errors", "files", "registry", "schedules", "envs"},
    "replay": {"types", "errors", "registry", "schedules"},
    "data": {"types", "errors", "files", "envs", "replay"},
    "export": {"types", "errors", "files", "agent", "envs", "__version__"},
    "training": {"types", "flatten", "replay"},
    "experiment": {"types", "errors", "fields", "hyperparams", "registry", "schedules", "exploration", "agent", "replay"},
    "running": {"types", "errors", "flatten", "experiment", "training"},
    "api": {"types", "errors", "agent", "data", "envs", "experiment", "running"},
}
"""Folder or module -> those that it may import besides itself, all of them above it; `app` may import anything."""

THIRD_PARTIES = {
    "envs": {"gymnasium", "gymnasium_robotics", "gymnax", "brax", "mujoco_playground"},
    "data": {"minari", "orbax"},
    "export": {"onnx", "onnxruntime"},
}
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


def test_the_table_has_an_order() -> None:
    above: set[str] = {"__version__"}
    for room, others in ALLOWED.items():
        assert others <= above, f"{room} may import {others - above}, which are not above it"
        above.add(room)


def test_modules_import_only_what_the_table_allows() -> None:
    for path in _files():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__", "public"):
            continue
        own = {_unit(module) for module in _imports(path) if module.startswith("ddpg_jax.")}
        allowed = ALLOWED[parts[0]] | {parts[0]}
        assert own <= allowed, f"{path} imports {own - allowed}"


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
    for path in _files():
        if path.name != "__main__.py":
            assert not any(module.startswith("ddpg_jax.app") for module in _imports(path)), path


def test_importing_the_core_loads_no_environment_plotting_or_logging_package() -> None:
    heavy = (
        "gymnasium",
        "gymnasium_robotics",
        "gymnax",
        "brax",
        "mujoco_playground",
        "minari",
        "h5py",
        "onnx",
        "onnxruntime",
        "matplotlib",
        "orbax.checkpoint",
        "scipy.stats",
        "tensorboardX",
        "wandb",
        "pygame",
        "mujoco",
        "torch",
    )
    code = f"import sys, ddpg_jax.public; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_wrong_options_do_not_wait_for_jax() -> None:
    for words in (["--help"], ["train", "--help"], ["presets"], ["train", "Pendulum-v1", "--stepps", "3"]):
        code = f"import sys\nfrom ddpg_jax.app.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        code += "print('jax' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False", words
