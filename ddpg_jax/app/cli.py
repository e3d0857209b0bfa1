"""Runs the commands of the command line, and reports errors in one line. `options` defines their options.

Each command imports what it needs when it runs, so that help and wrong options do not wait for JAX.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddpg_jax.app.interrupts import raise_as_usual
from ddpg_jax.app.options import ELSEWHERE, ENVIRONMENT, EXPORTS, at_least, check_file, joined, make_parser, read_meeting, whole
from ddpg_jax.app.stderr import tell
from ddpg_jax.errors import ConfigError, EnvironmentFailure, lacks_memory
from ddpg_jax.experiment.experiment import FIELDS, STRUCTURE, coerce, nearest_fields
from ddpg_jax.experiment.presets import PRESETS, read_preset
from ddpg_jax.experiment.values import plain

if TYPE_CHECKING:
    from ddpg_jax.app.processes import Meeting

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space is left on a disk
OUT_OF_MEMORY = "out of memory; lower batch_size, hidden, replay_capacity, eval_episodes or the number of members"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit status."""
    try:
        return _main(sys.argv[1:] if arguments is None else list(arguments))
    except (ConfigError, EnvironmentFailure) as error:
        return _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if lacks_memory(error):
            return _fail(OUT_OF_MEMORY, 1)
        what = f"{error.filename}: " if error.filename else "a file: "
        cure = "; free some space there" if error.errno in FULL else ""
        return _fail(f"cannot read or write {what}{error.strerror or error}{cure}")
    except RecursionError:
        return _fail("an option or a file is nested too deeply to be read")
    except (MemoryError, RuntimeError) as error:  # XLA raises a RuntimeError if memory runs out
        if not (isinstance(error, MemoryError) or lacks_memory(error) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        return _fail(OUT_OF_MEMORY, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(line: str, status: int = 2) -> int:
    tell(f"ddpg-jax: {line}")
    return status


def _main(arguments: list[str]) -> int:
    if not arguments:
        raise ConfigError(f"a command is missing; it must be one of {', '.join(COMMANDS)}, which ddpg-jax --help explains")
    options, rest = make_parser().parse_known_args(joined(arguments))
    options.arguments = arguments
    if rest:
        raise ConfigError(f"{rest[0]} is not an option of {options.command}; {_hint(options.command, *rest[0].split('=', 1))}")
    return COMMANDS[options.command](options)


def _hint(command: str, option: str, *value: str) -> str:
    """Suggests what may have been meant by an option that a command does not have."""
    if value and command == "sweep" and option in FIELDS:
        return f"write --grid {option}={value[0]}, one --grid for each field"
    if command in ("train", "tune") and _takes("sweep", option):
        return "ddpg-jax sweep has it, and trains many policies at once"
    close = nearest_fields(option.lstrip("-").replace("-", "_")) if command in ("train", "sweep", "tune") else ()
    names = ", ".join(f"--{name.replace('_', '-')}" for name in close)
    return f"the nearest are {names}" if names else f"see ddpg-jax {command} --help"


def _takes(command: str, option: str) -> bool:
    try:
        return not make_parser().parse_known_args([command, "ENV", f"{option}=1"])[1]
    except ConfigError:  # the option takes no value
        return True


def _train(options: argparse.Namespace) -> int:
    from ddpg_jax.app.machine import use_compilation_cache
    from ddpg_jax.envs.host.make import uses_jax
    from ddpg_jax.experiment.build import env_options
    from ddpg_jax.experiment.validate import layer_sizes
    from ddpg_jax.running.groups import check_read, make_groups
    from ddpg_jax.running.hardware import spare_threads, use_one_core

    given = _given(options)
    groups = make_groups([{}], 1, given)
    check_read(groups, {} if options.resume else given)
    use_compilation_cache()
    experiment = groups[0].experiment
    if uses_jax(experiment.env, env_options(experiment)):
        spare_threads(1)
    use_one_core(max(experiment.batch_size, experiment.num_envs), layer_sizes(experiment))
    return _work(groups, options)


def _sweep(options: argparse.Namespace) -> int:
    from ddpg_jax.app.processes import listen

    meeting = read_meeting(options)
    with listen(meeting) or contextlib.nullcontext() as server:
        from ddpg_jax.app.points import read_points
        from ddpg_jax.running.groups import check_read

        given = _given(options)
        groups, evolution = read_points(options, given)
        check_read(groups, {} if options.resume else given)
        _configure(groups)
        return _work(groups, options, meeting, server=server, evolution=evolution)


def _configure(groups: Any) -> None:
    """Configures JAX to train many members on all cores."""
    from ddpg_jax.app.machine import use_compilation_cache
    from ddpg_jax.envs.host.make import uses_jax
    from ddpg_jax.experiment.build import env_options
    from ddpg_jax.running.hardware import cores, spare_threads, use_all_cores

    use_compilation_cache()
    use_all_cores()
    if any(uses_jax(group.experiment.env, env_options(group.experiment)) for group in groups):
        spare_threads(cores())


def _tune(options: argparse.Namespace) -> int:
    from ddpg_jax.app.machine import check_jax
    from ddpg_jax.app.points import read_ranges
    from ddpg_jax.app.stopping import Stopped
    from ddpg_jax.app.tune import Plan, tune

    if not options.sample:
        raise ConfigError("tune needs the range of at least one field; give --sample FIELD=log:LOW:HIGH")
    plan = Plan(_given(options), read_ranges(options), whole("seeds", options.seeds), options.sampler)
    sizes = {"points": whole("points", options.points), "batch": whole("batch", options.batch)}
    _configure(plan.groups(plan.trial_points()))
    check_jax()
    raise_as_usual()
    try:
        print(tune(plan, **sizes, out=options.out, resume=options.resume))
    except Stopped as stop:
        return _stopped(stop, options)
    return 0


def _stopped(stop: Any, options: argparse.Namespace) -> int:
    """Reports that a signal or the time limit has stopped a command that can be resumed."""
    again = shlex.join([word for word in options.arguments if word not in ("--resume", "--overwrite")])
    return _fail(f"{stop}; go on with: ddpg-jax {again} --resume", stop.status)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields that the user has given, after it has checked each of them."""
    given = {name: getattr(options, name) for name in FIELDS}
    given = {name: value for name, value in given.items() if value is not None}
    _import(options.imports)
    if given.get("preset", "").endswith(".json"):
        given = {**read_preset(given["preset"]), **{name: value for name, value in given.items() if name != "preset"}}
        _import(given.get("imports"))
    read = {name: coerce(name, value) for name, value in given.items()}
    _tell_files(str(given.get("env_kwargs", "")), read.get("env_kwargs", ""))
    return read


def _tell_files(given: str, read: str) -> None:
    """Reports which keyword arguments of an environment were taken for files of the current folder."""
    folder = os.getcwd()
    names = {os.path.basename(path) for path in re.findall(r'"([^"]+)"', read) if os.path.dirname(path) == folder}
    for name in sorted(name for name in names if re.search(rf"(?<![\w/\\]){re.escape(name)}", given)):
        tell(f"env_kwargs: {name} is taken to be the file of that name in {folder}")


def _import(modules: Any) -> None:
    """Imports the modules of the user, if there are any, which may register presets and other parts."""
    if modules:
        from ddpg_jax.envs.host.make import import_modules

        import_modules(coerce("imports", modules))


def _work(
    groups: Any, options: argparse.Namespace, meeting: Meeting | None = None, *, server: Any = None, evolution: Any = None
) -> int:
    from ddpg_jax.app.job import train
    from ddpg_jax.app.machine import check_jax
    from ddpg_jax.app.processes import Ended, connected
    from ddpg_jax.app.start import Options
    from ddpg_jax.app.stopping import Stopped

    check_jax()
    raise_as_usual()
    seconds = at_least("checkpoint_seconds", options.checkpoint_seconds, 0.0)
    if options.resume and options.overwrite:
        raise ConfigError("--resume and --overwrite cannot be combined; give one of them")
    job = Options(options.out, options.resume, options.overwrite, seconds, options.track, _stopping(groups, options), evolution)
    try:
        with connected(meeting, server) as processes:
            line = train(groups, job, processes)
    except Ended as ended:
        return _fail(str(ended), ended.status)
    except Stopped as stop:
        return _stopped(stop, options)
    if processes.first:
        print(line)
    return 0


def _stopping(groups: Any, options: argparse.Namespace) -> Any:
    """Returns when the run, or members of it, stop before the end."""
    from ddpg_jax.app.stopping import Stopping
    from ddpg_jax.running.stops import make_pruning, parse_until

    hours = None if options.hours is None else at_least("hours", options.hours, 0.0)
    prune, fraction = getattr(options, "prune", None), getattr(options, "prune_fraction", None)
    if prune is None and fraction is not None:
        raise ConfigError(f"--prune-fraction {fraction} needs --prune RUNGS")
    if prune == "none" and not options.resume:
        raise ConfigError("--prune none lets the pruned points of a run go on, which needs --resume; give both")
    pruning = None if prune in (None, "none") else make_pruning(prune, fraction, groups)
    return Stopping(hours, parse_until(options.until), pruning, prune or "")


def _eval(options: argparse.Namespace) -> int:
    from ddpg_jax.app.evaluation import check_film, describe_member, evaluate, film, policy_folder, recorded
    from ddpg_jax.app.machine import check_jax, use_compilation_cache
    from ddpg_jax.app.report import described_success, readable
    from ddpg_jax.running.results import plural
    from ddpg_jax.running.rows import success_rate

    episodes, seed = whole("episodes", options.episodes), coerce("seed", options.seed)
    folder = options.dir.absolute()  # an environment may change the current one
    video = options.video and options.video.absolute()
    policy = policy_folder(folder, options.member, _kind(options))
    changes = {name: value for name in ELSEWHERE if (value := getattr(options, name)) is not None}
    experiment = recorded(folder, policy, changes)
    check_jax()
    raise_as_usual()
    if options.video:
        check_film(experiment, options.video)
    use_compilation_cache()
    found = evaluate(experiment, policy, episodes, seed=seed)
    about = [describe_member(folder, policy)] if policy.name.startswith("member_") else []
    about += [f"{name}={plain(getattr(experiment, name))}" for name in changes]
    print(
        (f"{', '.join(about)}: " if about else "")
        + f"return {readable(found.returns.mean())} +- {readable(found.returns.std())} (standard deviation), "
        f"from {readable(found.returns.min())} to {readable(found.returns.max())}; length {found.lengths.mean():.1f}; "
        f"{plural(episodes, 'episode')}{described_success(success_rate(found.successes))}"
    )
    if video:
        print(f"{film(experiment, policy, video, seed=seed)} frames in {options.video}")
    return 0


def _kind(options: argparse.Namespace) -> str:
    """Returns which of the policies of a run is asked for, by the name of its folder."""
    return "policy_best" if options.best else "policy"


def _export(options: argparse.Namespace) -> int:
    from ddpg_jax.app.card import card_path, model_card
    from ddpg_jax.app.export import export
    from ddpg_jax.app.machine import check_jax
    from ddpg_jax.files import write_text

    _import(options.imports)
    ending = options.out.suffix.removeprefix(".")
    to = options.to or (ending if ending in EXPORTS else "onnx")
    if ending in EXPORTS and ending != to:
        raise ConfigError(f"--to {to} is not allowed with out={options.out}, whose ending means {ending}; change --to or --out")
    card = card_path(options.dir, options.out) if options.card else None
    check_jax()
    done = export(options.dir, to, options.out, member=options.member, kind=_kind(options))
    compared = f"differ from the policy's by at most {done.difference:.0e} of half the action range"
    print(f"{options.out}: run with {done.program}, its actions {compared}")
    if card:
        write_text(card, model_card(options.dir, done, to=to))
        print(card)
    return 0


def _record(options: argparse.Namespace) -> int:
    from ddpg_jax.app.evaluation import policy_folder
    from ddpg_jax.app.machine import check_jax
    from ddpg_jax.app.record import mu, play, record, replay, target_of
    from ddpg_jax.app.report import described_episodes
    from ddpg_jax.data.collect import greedy, noisy, uniform

    given = [name for name in ("noise", "random", "replay") if getattr(options, name)]
    given = ["best", *given] if options.best and not options.noise else given
    given += [name for name in ("episodes", "seed") if options.replay and getattr(options, name) is not None]
    episodes, seed = whole("episodes", options.episodes or "20"), coerce("seed", options.seed or "0")
    if len(given) > 1:
        raise ConfigError(f"--{given[0]} and --{given[1]} cannot be combined; give one of them")
    sigma = at_least("noise", options.noise or "0", 0.0)
    folder = options.dir.absolute()  # an environment may change the current one
    at, target = policy_folder(folder, options.member, _kind(options)), target_of(options.out)
    own = "the best policy" if options.best else "the policy"
    check_jax()
    raise_as_usual()
    if options.replay:
        source, describes = replay(folder, at), "The replay"
    elif options.random:
        source = play(lambda policy: uniform(policy.spec.action_dim), episodes=episodes, seed=seed)
        describes = "Episodes of uniformly random actions"
    elif sigma:
        source = play(lambda policy: noisy(mu(policy), sigma), episodes=episodes, seed=seed)
        describes = f"Episodes of {own} with Gaussian noise of {sigma:g} of half the action range"
    else:
        source = play(lambda policy: greedy(mu(policy)), episodes=episodes, seed=seed)
        describes = f"Episodes of {own} without noise"
    found = record(folder, at, target, source=source, describes=describes)
    print(f"{options.out}: {described_episodes([episode.reward for episode in found])}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from ddpg_jax.app.plot import plot

    plot(options.dirs, options.out, options.column)
    print(options.out)
    return 0


def _report(options: argparse.Namespace) -> int:
    from ddpg_jax.app.review import write_report

    write_report(options.dirs, options.out)
    print(options.out)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from ddpg_jax.app.bench import bench
    from ddpg_jax.app.machine import check_jax

    check_file("out", options.out)
    check_jax()
    print(bench(options.out, options.quick))
    return 0


def _cite(options: argparse.Namespace) -> int:
    from ddpg_jax.app.cite import cite

    _import(options.imports)
    print(cite(options.what), end="")
    return 0


def _presets(options: argparse.Namespace) -> int:
    _import(options.imports)
    for name, preset in PRESETS.items():
        print(f"{name:18s} {preset.source}")
        if preset.values:
            print(" " * 18, " ".join(f"--{field.replace('_', '-')} {plain(value)}" for field, value in preset.values.items()))
        for deviation in preset.deviations:
            print(" " * 18, f"differs: {deviation}")
    return 0


def _envs(options: argparse.Namespace) -> int:
    from ddpg_jax.app.list_envs import about, overview
    from ddpg_jax.types import EnvOptions

    given = {name: coerce(name, getattr(options, name) or STRUCTURE[name]) for name in ENVIRONMENT}
    asked = EnvOptions(**given)
    if (asked.env_kwargs, asked.wrappers) != (STRUCTURE["env_kwargs"], STRUCTURE["wrappers"]) and not options.name:
        raise ConfigError("--env-kwargs and --wrappers need the name of one environment; give NAME")
    for text in about(options.name, asked) if options.name else [overview(asked)]:
        print(text, flush=True)
    return 0


COMMANDS = {
    "train": _train,
    "sweep": _sweep,
    "tune": _tune,
    "eval": _eval,
    "export": _export,
    "record": _record,
    "plot": _plot,
    "report": _report,
    "bench": _bench,
    "cite": _cite,
    "presets": _presets,
    "envs": _envs,
}
