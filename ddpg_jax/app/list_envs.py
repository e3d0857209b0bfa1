"""Lists the environments that can be named on this machine, and those that extras would add: the command `envs`."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ddpg_jax.envs.choosing import device_env
from ddpg_jax.envs.extras import EXTRAS, ROBOTICS, command_for, installed, missing
from ddpg_jax.envs.host import make_host
from ddpg_jax.envs.host.make import extra_of, import_module, import_modules, keywords_of, parameters_of, register
from ddpg_jax.envs.registry import DEVICE, FAMILIES, Family, family_of, make_device
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.types import NO_OPTIONS, EnvOptions, EnvSpec

ADDS = {
    "mujoco": "HalfCheetah-v5 Hopper-v5 Walker2d-v5 Ant-v5 Humanoid-v5 Reacher-v5 Pusher-v5 Swimmer-v5 InvertedPendulum-v5 ...",
    "box2d": "LunarLanderContinuous-v3 BipedalWalker-v3 BipedalWalkerHardcore-v3",
    "goals": "PointMaze AntMaze Fetch HandReach HandManipulate AdroitHand (gymnasium-robotics)",
    "gymnax": "gymnax/Pendulum-v1 gymnax/Reacher-misc gymnax/Swimmer-misc ...",
    "brax": "brax/ant brax/halfcheetah brax/hopper brax/humanoid brax/walker2d ...",
    "playground": "playground/CheetahRun playground/WalkerWalk playground/HumanoidStand ... (the dm_control suite)",
}
"""Extra -> the environments that it adds, shown if it is not installed."""

UNUSABLE = ("gymnasium.envs.phys2d", "gymnasium.envs.tabular")
"""Modules of Gymnasium's functional environments, which are discrete or lack a time limit."""


HEADER = ("name", "runs on", "observations", "actions", "bounds", "limit", "solved at")


class Row(NamedTuple):
    """An environment and where it runs."""

    name: str
    runs_on: str
    spec: EnvSpec


def overview(options: EnvOptions) -> str:
    """Returns a line for every installed environment or family of them, and one for every extra that is not installed."""
    with _silence():
        import_modules(options.imports)
        rows = [*device_rows(DEVICE), *host_rows(name for name in host_names() if not name.startswith(ROBOTICS))]
        lines = [table(rows), ""]
        if installed(EXTRAS["goals"]):
            import_module("envs", EXTRAS["goals"])
            for family in ROBOTICS:
                found = [name for name in host_names() if name.startswith(family)]
                lines.append(f"{family:16s} {len(found)} names, such as {found[0]}: see ddpg-jax envs {family}")
        for prefix, family in FAMILIES.items():
            if installed(EXTRAS[family.extra]):
                lines.append(f"{prefix + '/':16s} {_names_of(family, prefix)}")
    absent = [extra for extra, module in EXTRAS.items() if not installed(module)]
    lines += [f"extra {extra} adds {ADDS[extra]}: {command_for(extra)}" for extra in absent]
    return "\n".join(lines).rstrip()


def _names_of(family: Family, prefix: str) -> str:
    try:
        found = family.names()
    except Exception as error:  # the library may not support this version of JAX
        return f"cannot be imported: {one_line(error)}"
    return f"{len(found)} names, such as {found[0]}: see ddpg-jax envs {prefix}/"


def about(name: str, options: EnvOptions) -> Iterator[str]:
    """Yields a description of one environment, or a line for each whose name begins with `name`; those of a family one by one.

    Raises:
        ConfigError: there is none, or it cannot be made with these options.
    """
    prefix, slash, own = name.partition("/")
    if slash and not own and prefix in FAMILIES:
        yield from _family(prefix)
    else:
        yield _about(name, options)


def _about(name: str, options: EnvOptions) -> str:
    import gymnasium

    with _silence():
        import_modules(options.imports)
        begins = any(family.startswith(name) for family in ROBOTICS) and installed(EXTRAS["goals"])
        if begins or any(name.startswith(family) for family in ROBOTICS):
            import_module(f"env={name}", EXTRAS["goals"])
        known = name in DEVICE or ":" in name or name in gymnasium.registry
        some = [] if known else [each for each in (*DEVICE, *host_names()) if each.startswith(name)]
        rows = [*device_rows(each for each in some if each in DEVICE), *host_rows(each for each in some if each not in DEVICE)]
        if rows and (options.env_kwargs, options.wrappers) != (NO_OPTIONS.env_kwargs, NO_OPTIONS.wrappers):
            raise ConfigError(f"env_kwargs and wrappers need one environment, but {len(rows)} begin with {name}; name one")
        return table(rows) if rows else details(some[0] if some else name, options)  # which reports what is wrong with it


def _family(prefix: str) -> Iterator[str]:
    """Yields a line for each environment of a family, each of which may take seconds to build."""
    family = FAMILIES[prefix]
    if not installed(EXTRAS[family.extra]):
        raise ConfigError(missing(f"env={prefix}/", family.extra))
    with _silence():
        names = family.names()
    widths = [max(len(name) for name in names), 7, 12, 8, 8, 6, 9]
    yield _line(HEADER, widths)
    for name in names:
        try:
            with _silence():
                cells = _cells(Row(name, "device", make_device(name).spec))
        except ConfigError as error:
            cells = (str(error),)
        yield _line(cells, widths)


def details(name: str, options: EnvOptions) -> str:
    """Describes an environment with these options, one line for each property.

    Raises:
        ConfigError: see `make_host`.
    """
    import gymnasium

    env = device_env("auto", name, options)
    spec = env.spec if env else _host_spec(name, options)
    goals = f"; observation, achieved goal and desired goal, the goals of {spec.goal.dim}" if spec.goal else ""
    lines = {
        "runs on": _runs_on(name),
        "observations": f"{spec.obs_shape}{goals}",
        "actions": f"{spec.action_shape}, from {_numbers(spec.action_low)} to {_numbers(spec.action_high)}",
        "time limit": f"{spec.max_steps} steps" if spec.max_steps else "none: set one with --env-kwargs max_episode_steps=N",
        "solved at": "" if spec.reward_threshold is None else f"a mean return of {spec.reward_threshold:g}",
        "env_kwargs": "",
        "device kwargs": ", ".join(_device_keywords(name)),
    }
    id = name.rpartition(":")[2]
    if id in gymnasium.registry:
        allowed, others = keywords_of(register(name))
        shown = [word if value is inspect.Parameter.empty else f"{word}={value}" for word, value in allowed.items()]
        lines["env_kwargs"] = ", ".join([*shown, "..."] if others else shown)
        extra = extra_of(gymnasium.registry[id].entry_point) or ("goals" if id.startswith(ROBOTICS) else None)
        lines["extra"] = extra or ""
    family = family_of(name)
    if family:
        lines["extra"] = family.extra
    return "\n".join([name, *(f"  {what:14s} {text}" for what, text in lines.items() if text)])


def device_rows(names: Iterable[str]) -> list[Row]:
    """Returns rows of environments written in JAX, without those that need keyword arguments or cannot be made."""
    rows = []
    for name in names:
        with contextlib.suppress(ConfigError):
            rows.append(Row(name, _runs_on(name), make_device(name).spec))
    return rows


def host_names() -> list[str]:
    """Returns the environments of Gymnasium whose extra is installed, each in its highest version."""
    import gymnasium

    latest: dict[tuple[str | None, str], int] = {}
    for spec in gymnasium.registry.values():
        key = (spec.namespace, spec.name)
        latest[key] = max(latest.get(key, 0), spec.version or 0)
    return [
        name
        for name, spec in gymnasium.registry.items()
        if name not in DEVICE
        and (spec.version or 0) == latest[spec.namespace, spec.name]
        and not str(spec.entry_point).startswith(UNUSABLE)
        and installed(EXTRAS.get(extra_of(spec.entry_point) or "", "gymnasium"))
    ]


def host_rows(names: Iterable[str]) -> list[Row]:
    """Makes environments of Gymnasium and returns their rows, without those that DDPG cannot train on."""
    rows = []
    for name in names:
        with contextlib.suppress(ConfigError):
            rows.append(Row(name, "host", _host_spec(name, NO_OPTIONS)))
    return rows


def table(rows: list[Row]) -> str:
    """Formats rows as a table with a header."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    return "\n".join(_line(line, widths) for line in cells)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=False)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    spec = row.spec
    threshold = "" if spec.reward_threshold is None else f"{spec.reward_threshold:g}"
    shapes = f"{spec.obs_shape}", f"{spec.action_shape}"
    bounds = f"{_numbers(spec.action_low)} to {_numbers(spec.action_high)}"
    return row.name, row.runs_on, *shapes, bounds, str(spec.max_steps or "none"), threshold


def _numbers(bound: tuple[float, ...]) -> str:
    """Formats a bound: as one number if all dimensions have the same."""
    return f"{bound[0]:g}" if len(set(bound)) == 1 else f"({', '.join(f'{x:g}' for x in bound)})"


def _runs_on(name: str) -> str:
    import gymnasium

    if family_of(name):
        return "device"
    known = (("device", DEVICE), ("host", gymnasium.registry))
    return ", ".join(place for place, names in known if name.rpartition(":")[2] in names)


def _host_spec(name: str, options: EnvOptions) -> EnvSpec:
    env = make_host(name, options)
    assert env.outside is not None
    env.outside.close(())
    return env.spec


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses warnings of environments that are only listed; MuJoCo would also write a file to the current folder."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if installed("mujoco"):
            mujoco: Any = import_module("envs", "mujoco")
            stack.callback(mujoco.set_mju_user_warning, mujoco.get_mju_user_warning())
            mujoco.set_mju_user_warning(lambda line: None)
        yield


def _device_keywords(name: str) -> list[str]:
    """Returns the names of what the environment written in JAX takes, and an ellipsis if it takes any others."""
    named, others = parameters_of(DEVICE[name]) if name in DEVICE else ([], False)
    return [*(p.name for p in named), *(["..."] if others else [])]
