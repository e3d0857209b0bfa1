"""Makes Gymnasium environments by name, with modules to import, keyword arguments, wrappers and extras.

Every mistake in a name or an option is reported in one sentence.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

from ddpg_jax.envs.extras import EXTRAS, ROBOTICS, installed, missing
from ddpg_jax.envs.host.lanes import LEARNING
from ddpg_jax.envs.registry import DEVICE, in_jax, nearest
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.types import NO_OPTIONS, EnvOptions


def maker(name: str, options: EnvOptions = NO_OPTIONS, **more: Any) -> Callable[[], Any]:
    """Returns a function that makes the Gymnasium environment of this name.

    Args:
        name: a registered id, or `module:id`, which imports the module first.
        options: modules, keyword arguments and wrappers.
        **more: further keyword arguments, such as `render_mode`.

    Raises:
        ConfigError: there is no environment of this name, it does not take the keyword arguments, or a wrapper does not exist.
            The returned function raises it if an extra is missing, or if an environment or a wrapper cannot be made.

    >>> maker("Pendulum-v1", EnvOptions(env_kwargs='{"max_episode_steps": 50}'))().spec.max_episode_steps
    50
    """
    known = register(name, options.imports)
    check_keywords(name, known, json.loads(options.env_kwargs))
    wrappers = [(word, find_wrapper(word)) for word in options.wrappers]

    def make() -> Any:
        env = _make(name, known, {**json.loads(options.env_kwargs), **more})
        for word, wrapper in wrappers:
            env = _wrap(env, word, wrapper, name=name)
        return env

    return make


def register(name: str, imports: tuple[str, ...] = ()) -> str:
    """Imports the modules that register an environment, and returns its name without the module.

    Modules are also found in the current folder.

    Raises:
        ConfigError: a module cannot be imported, or afterwards no environment of this name is registered.
    """
    import gymnasium

    module, _, known = name.rpartition(":")
    import_modules(imports)
    if module:
        import_module(f"env={name}", module)
    if known.startswith(ROBOTICS) and known not in gymnasium.registry:
        import_module(f"env={name}", "gymnasium_robotics")
    if known not in gymnasium.registry:
        raise ConfigError(f"env={name} is not known; {nearest(known, [*gymnasium.registry, *DEVICE])}")
    return known


def uses_jax(name: str, options: EnvOptions = NO_OPTIONS) -> bool:
    """Returns True if the module of an environment on the host, or of one of its wrappers, has imported JAX.

    Such an environment may compute with JAX in its steps. Modules that its module imports are not searched.
    """
    if in_jax(name):
        return False
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    try:
        spec = gymnasium.registry[register(name, options.imports)]
        creators: list[Any] = [load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point]
        creators += [getattr(wrapper, "func", wrapper) for wrapper in map(find_wrapper, options.wrappers)]
    except Exception:  # a missing package or a wrong name, which is reported when the environment is made
        return False
    modules = [sys.modules.get(getattr(creator, "__module__", "")) for creator in creators]
    values = (value for module in modules for value in vars(module).values()) if all(modules) else ()
    return any((getattr(value, "__module__", None) or getattr(value, "__name__", "")).startswith("jax") for value in values)


def import_modules(imports: tuple[str, ...]) -> None:
    """Imports the modules of the field `imports`.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    for module in imports:
        import_module(f"imports={module}", module)


def import_module(asked: str, module: str) -> Any:
    """Imports a module, which may also be in the current folder, as Python itself would find it.

    Raises:
        ConfigError: it cannot be imported. The message begins with the option `asked` and names the extra that installs it.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # any error that an import causes
        extra = next((extra for extra, installs in EXTRAS.items() if installs == module), None)
        if extra and not installed(module):
            raise ConfigError(missing(asked, extra)) from error
        raise ConfigError(f"{asked} needs the module {module}, which cannot be imported: {one_line(error)}") from error


def extra_of(entry_point: Any) -> str | None:
    """Returns the extra that one of Gymnasium's own environments needs, judging by its module, or None."""
    return next((extra for extra in EXTRAS if str(entry_point).startswith(f"gymnasium.envs.{extra}")), None)


def check_time_limit(name: str, keywords: dict[str, Any]) -> None:
    """Checks that `max_episode_steps`, if given, is a time limit.

    Raises:
        ConfigError: it is not a whole number of at least 1.
    """
    limit = keywords.get("max_episode_steps", 1)
    if type(limit) is not int or limit < 1:
        raise ConfigError(
            f"env_kwargs=max_episode_steps={limit} is not allowed with env={name}; it must be a whole number of at least 1"
        )


def check_keywords(name: str, known: str, keywords: dict[str, Any]) -> None:
    """Checks keyword arguments against the signature of the environment, to the extent that it has one.

    Raises:
        ConfigError: the environment does not take one of them.
    """
    check_time_limit(name, keywords)
    allowed, others = keywords_of(known)
    wrong = [word for word in keywords if word not in allowed]
    if wrong and not others:
        near = difflib.get_close_matches(wrong[0], allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"env_kwargs={json.dumps(keywords)} is not allowed with env={name}; it may contain only {', '.join(allowed)}{hint}"
        )


def keywords_of(known: str) -> tuple[dict[str, Any], bool]:
    """Returns the keyword arguments of a registered environment with their defaults, and True if it also takes others."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    spec = gymnasium.registry[known]
    try:
        creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        named, others = parameters_of(creator)
    except Exception:  # no signature, or a missing package, which `_make` reports
        return {}, True
    own = {p.name: spec.kwargs.get(p.name, p.default) for p in named}
    return {**own, "max_episode_steps": spec.max_episode_steps}, others


def parameters_of(call: Callable[..., Any]) -> tuple[list[inspect.Parameter], bool]:
    """Returns the parameters of a function that can be given by their names, and True if it also takes others."""
    parameters = inspect.signature(call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def find_wrapper(word: str) -> Callable[[Any], Any]:
    """Finds a wrapper by its name in `gymnasium.wrappers`, or as `module:Wrapper`, with its keyword arguments if it has any.

    Raises:
        ConfigError: there is no such wrapper, or it learns, which it would do separately in training and in evaluation.

    >>> find_wrapper("FrameStackObservation(stack_size=4)").keywords
    {'stack_size': 4}
    """
    import gymnasium

    named, keywords = _parse_wrapper(word)
    if named in LEARNING:
        raise ConfigError(
            f"wrappers={word} is not allowed, because evaluation would not see what training has learned; it must be "
            f"replaced by {LEARNING[named]}=true"
        )
    place, _, short = named.rpartition(":")
    module = import_module(f"wrappers={word}", place) if place else gymnasium.wrappers
    try:
        found = getattr(module, short, None)
    except Exception as error:  # Gymnasium loads its wrappers lazily
        raise ConfigError(f"wrappers={word} cannot be loaded: {one_line(error)}") from error
    if found is None or not callable(found):
        there = [n for n in getattr(module, "__all__", vars(module)) if n[:1].isupper() and n not in LEARNING]
        raise ConfigError(f"wrappers={word} is not in {module.__name__}; {nearest(short, there)}")
    return functools.partial(found, **keywords) if keywords else found


def _parse_wrapper(word: str) -> tuple[str, dict[str, Any]]:
    """Splits `Wrapper(name=value, ...)` into the name of the wrapper and its keyword arguments, which are literals.

    Raises:
        ConfigError: it is not written so.
    """
    named, bracket, _ = word.partition("(")
    if not bracket:
        return word, {}
    try:
        call: Any = ast.parse(f"wrapper{word[len(named) :]}", mode="eval").body
        if call.func.id != "wrapper" or call.args:
            raise ValueError
        return named, {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"wrappers={word} is not allowed; arguments must be name=value with literals of Python, as in "
            "FrameStackObservation(stack_size=4)"
        ) from error


def _wrap(env: Any, word: str, wrapper: Callable[[Any], Any], *, name: str) -> Any:
    import gymnasium

    try:
        wrapped = wrapper(env)
    except Exception as error:
        needs = [p.name for p in _required(wrapper)][1:]
        what = f"it needs {', '.join(needs)} in addition to the environment" if needs else one_line(error)
        raise ConfigError(
            f"wrappers={word} cannot be applied to env={name}: {what}; it must take the environment and arguments that are "
            "written as in FrameStackObservation(stack_size=4) (for other wrappers register the environment with "
            "additional_wrappers, or pass a function that makes it)"
        ) from error
    if not isinstance(wrapped, gymnasium.Env):
        raise ConfigError(
            f"wrappers={word} returns {type(wrapped).__name__} instead of env={name}; it must return a gymnasium.Env"
        )
    return wrapped


def _required(call: Callable[..., Any]) -> list[inspect.Parameter]:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        return [p for p in inspect.signature(call).parameters.values() if p.default is p.empty and p.kind not in several]
    except (TypeError, ValueError):
        return []


def _make(name: str, known: str, keywords: dict[str, Any]) -> Any:
    import gymnasium

    spec = gymnasium.registry[known]
    try:
        with warnings.catch_warnings(record=True) as warned:  # shown only if the environment can be made
            env = gymnasium.make(known, disable_env_checker=True, **keywords)  # `Lane` checks instead
    except Exception as error:
        extra = extra_of(spec.entry_point)
        if extra and not installed(EXTRAS[extra]):
            raise ConfigError(missing(f"env={name}", extra)) from error
        if isinstance(error, TypeError) and keywords.keys() - {"render_mode"}:
            raise ConfigError(
                f"env_kwargs={json.dumps(keywords)} is not allowed with env={name}: {one_line(error)}; it may contain "
                f"only {', '.join(keywords_of(known)[0])}"
            ) from error
        given = f" with env_kwargs={json.dumps(keywords)}" if keywords else ""
        raise ConfigError(f"env={name} cannot be made{given}: {one_line(error)}") from error
    for warning in warned:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return env
