"""The command line. Every field of `Experiment` and `Hyperparams` is an option; what is wrong is said in one line.

Parsed with argparse rather than from type hints, because values go through `experiment.coerce`, the one place that knows
what a field allows: the same words then serve the command line, grids and Python.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import errno
import functools
import inspect
import itertools
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ddpg_jax.app.processes import Ended, Meeting, connected, detect
from ddpg_jax.envs.naming import import_modules
from ddpg_jax.experiment import CHOICES, NUMBERS, STRUCTURE, Experiment, coerce
from ddpg_jax.presets import PRESETS, read_preset
from ddpg_jax.sweeping import plain
from ddpg_jax.types import ConfigError, EnvironmentFailure, EnvOptions, Hyperparams

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk without space."""


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; gives the exit status."""
    try:
        return _main(sys.argv[1:] if arguments is None else list(arguments))
    except (ConfigError, EnvironmentFailure) as error:
        return _fail(" ".join(str(error).split()))
    except Ended as ended:
        return _fail(str(ended), ended.status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        what = f"{error.filename}: " if error.filename else "a file: "
        cure = "; free some space there" if error.errno in FULL else ""
        return _fail(f"cannot read or write {what}{error.strerror or error}{cure}")
    except RecursionError:
        return _fail("an option or a file is nested too deeply to be read")
    except (MemoryError, RuntimeError) as error:  # XLA has a RuntimeError of its own for it
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail("out of memory; lower batch_size, hidden, replay_capacity, eval_episodes or the number of members", 1)
    except KeyboardInterrupt:
        return 130


def _fail(line: str, status: int = 2) -> int:
    print(f"ddpg-jax: {line}", file=sys.stderr)
    return status


def _main(arguments: list[str]) -> int:
    parser = _parser()
    options, rest = parser.parse_known_args(_joined(arguments))
    options.arguments = arguments
    if rest:
        known = (
            [f"--{name.replace('_', '-')}" for name in (*STRUCTURE, *NUMBERS)] if options.command in ("train", "sweep") else []
        )
        close = difflib.get_close_matches(rest[0].split("=")[0], known, n=3, cutoff=0.5)
        hint = f"; nearest are {', '.join(close)}" if close else f"; see ddpg-jax {options.command} --help"
        raise ConfigError(f"{rest[0]} is no option of {options.command}{hint}")
    return options.run(options)


def _joined(arguments: list[str]) -> list[str]:
    """`--field -1e-3` as `--field=-1e-3`, which argparse would take for an option, and `--env-kwargs a=1 b=2` as `a=1,b=2`."""
    joined: list[str] = []
    for word in arguments:
        if re.match(r"--.*=--$", word):  # argparse makes a list of it
            raise ConfigError(f"{word} is not allowed; an option needs a value")
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-[\d.]", word):
            joined[-1] += f"={word}"
        elif len(joined) > 1 and joined[-2] == "--env-kwargs" and re.match(r"[^\W\d]\w*=", word):
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined


def _parser() -> Parser:
    parser = Parser(
        prog="ddpg-jax",
        description="Deep Deterministic Policy Gradient in JAX: whole training runs as one compiled program.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    train = commands.add_parser("train", help="train one policy", allow_abbrev=False)
    train.add_argument("env", metavar="ENV", help="an environment; see ddpg-jax envs")
    _fields(train)
    _job(train)
    train.set_defaults(run=_train)

    sweep = commands.add_parser("sweep", help="train seeds x hyperparameter points at once", allow_abbrev=False)
    sweep.add_argument("env", metavar="ENV", help="an environment; see ddpg-jax envs")
    points = sweep.add_argument_group("the points")
    points.add_argument("--seeds", default="1", metavar="N", help="seeds at every point, from --seed on (1)")
    points.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=V1,V2,...", help="values of a field; all combinations"
    )
    points.add_argument(
        "--sample", action="append", default=[], metavar="FIELD=log:LOW:HIGH", help="a random value, or uniform:LOW:HIGH"
    )
    points.add_argument("--points", metavar="N", help="how many points --sample draws")
    _fields(sweep)
    _job(sweep)
    several = sweep.add_argument_group(
        "several processes", "The same command in each, on one host or many; DIR must be on a file system that all share."
    )
    several.add_argument("--distributed", action="store_true", help="have JAX detect them (Slurm, Open MPI, Kubernetes)")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="or: the host of process 0, and a free port of it")
    several.add_argument("--num-processes", metavar="N", help="how many there are")
    several.add_argument("--process-id", metavar="K", help="which of them this is, from 0 to N - 1")
    sweep.set_defaults(run=_sweep)

    evaluate = commands.add_parser("eval", help="evaluate the policy of a run folder", allow_abbrev=False)
    evaluate.add_argument("dir", type=Path, metavar="DIR")
    evaluate.add_argument("--episodes", default="20", metavar="N", help="whole episodes without noise (20)")
    evaluate.add_argument("--seed", default="0", metavar="K", help="of the start states (0)")
    evaluate.add_argument("--member", metavar="M", help="of a sweep; the one with the best last return if not given")
    evaluate.add_argument("--video", type=Path, metavar="FILE", help="also write one episode as a .gif, .webp or animated .png")
    evaluate.set_defaults(run=_eval)

    plot = commands.add_parser("plot", help="draw the learning curves of run folders", allow_abbrev=False)
    plot.add_argument("dirs", type=Path, nargs="+", metavar="DIR")
    plot.add_argument("--out", type=Path, metavar="FILE", default=Path("learning_curves.png"), help="(learning_curves.png)")
    plot.set_defaults(run=_plot)

    bench = commands.add_parser("bench", help="speed on this machine, as a table and as JSON", allow_abbrev=False)
    bench.add_argument("--out", type=Path, metavar="FILE", default=Path("bench.json"), help="(bench.json)")
    bench.add_argument("--quick", action="store_true", help="fewer repetitions")
    bench.set_defaults(run=_bench)

    cite = commands.add_parser("cite", help="BibTeX for what a run or a preset uses", allow_abbrev=False)
    cite.add_argument("what", metavar="DIR|PRESET", help="a run folder, a preset, or a JSON file of fields")
    _field(cite, "imports", STRUCTURE["imports"])
    cite.set_defaults(run=_cite)

    presets = commands.add_parser("presets", help="named settings", allow_abbrev=False)
    _field(presets, "imports", STRUCTURE["imports"])
    presets.set_defaults(run=_presets)

    envs = commands.add_parser("envs", help="environments that can be named", allow_abbrev=False)
    envs.add_argument("name", nargs="?", metavar="NAME", help="all about this one, or all whose names begin so")
    for name in EnvOptions._fields:
        _field(envs, name, STRUCTURE[name])
    envs.set_defaults(run=_envs)
    return parser


def _fields(parser: Parser) -> None:
    fields = parser.add_argument_group("fields of the experiment and its numbers")
    for name, default in {**STRUCTURE, **NUMBERS}.items():
        if name != "env":
            _field(fields, name, default)


def _field(parser: Any, name: str, default: Any) -> None:
    """An option for a field; those of the environment may be given several times."""
    about = re.split(r"(?<! al)\. ", _documentation()[name].rstrip("."))[0].replace("%", "%%")
    allowed = f" [{', '.join(CHOICES[name])}]" if name in CHOICES else ""
    shown = f" ({plain(default)})" if default != () else ""
    names = [f"--{name.replace('_', '-')}", *(["--import"] if name == "imports" else [])]
    action = "append" if name in EnvOptions._fields else "store"
    parser.add_argument(*names, dest=name, action=action, metavar="VALUE", help=f"{about}{allowed}{shown}")


def _job(parser: Parser) -> None:
    job = parser.add_argument_group("the job")
    job.add_argument("--out", type=Path, metavar="DIR", help="the run folder (runs/ENV-PRESET-seedK-HASH)")
    job.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    job.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    job.add_argument("--checkpoint-seconds", default="30", metavar="S", help="least time between checkpoints (30)")
    job.add_argument("--track", choices=("tensorboard", "wandb"), help="also log there (extra track)")


@functools.cache
def _documentation() -> dict[str, str]:
    """What stands under each field in the source of the two classes: said once, shown here."""
    texts: dict[str, str] = {}
    for kind in (Experiment, Hyperparams):
        (body,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                texts[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return texts


@contextmanager
def stoppable() -> Iterator[None]:
    """Has Ctrl-C end the process at once while modules are imported: an exception would be lost there now and then."""
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _train(options: argparse.Namespace) -> int:
    with stoppable():
        from ddpg_jax.app.training import use_compilation_cache
        from ddpg_jax.sweeping import make_legs

    use_compilation_cache()
    return _work(make_legs([{}], 1, _given(options)), options)


def _sweep(options: argparse.Namespace) -> int:
    with stoppable():
        from ddpg_jax.app.training import use_compilation_cache
        from ddpg_jax.placement import use_all_cores
        from ddpg_jax.sweeping import grid_points, make_legs, parse_grid, random_points

    given = _given(options)
    seeds = _whole("seeds", options.seeds)
    if options.sample and options.grid:
        raise ConfigError("--sample and --grid exclude each other; give one of them")
    if options.sample:
        if options.points is None:
            raise ConfigError("--sample needs --points N, the number of points to draw")
        ranges = {name: ",".join(values) for name, values in parse_grid(options.sample).items()}
        points = random_points(ranges, _whole("points", options.points), seed=coerce("seed", given.get("seed", 0)))
    elif options.points is not None:
        raise ConfigError("--points is the number of points that --sample draws; give --sample FIELD=log:LOW:HIGH, too")
    else:
        points = grid_points(parse_grid(options.grid))
    points = [point for h, point in enumerate(points) if point not in points[:h]]  # equal ones would pass for more seeds
    legs = make_legs(points, seeds, given)
    meeting = _meeting(options)
    use_compilation_cache()
    use_all_cores()
    return _work(legs, options, meeting)


def _meeting(options: argparse.Namespace) -> Meeting | None:
    """Where the processes of a sweep find each other, or None if there is one."""
    words = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed and words != (None, None, None):
        raise ConfigError("--distributed and --coordinator, --num-processes, --process-id exclude each other; give one of them")
    if options.distributed:
        return detect()
    if words == (None, None, None):
        return None
    if None in words:
        raise ConfigError("--coordinator, --num-processes and --process-id must be given together, or --distributed alone")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 2**16:
        raise ConfigError(f"coordinator={options.coordinator} is not allowed; it must be HOST:PORT with a port below 65536")
    count = _whole("num_processes", options.num_processes)
    if not options.process_id.isdecimal() or len(options.process_id) > 9 or int(options.process_id) >= count:
        raise ConfigError(f"process_id={options.process_id} is not allowed; it must be a whole number from 0 to {count - 1}")
    return Meeting(host.strip("[]"), int(port), count, int(options.process_id))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that the user has named, checked by themselves."""
    given = {name: getattr(options, name) for name in (*STRUCTURE, *NUMBERS)}
    given = {name: value for name, value in given.items() if value is not None}
    _import(options)
    if given.get("preset", "").endswith(".json"):
        given = {**read_preset(given["preset"]), **{name: value for name, value in given.items() if name != "preset"}}
    return {name: coerce(name, value) for name, value in given.items()}


def _import(options: argparse.Namespace) -> None:
    """Imports what the user has named; it may add presets."""
    import_modules(coerce("imports", options.imports or ()))


def _work(legs: Any, options: argparse.Namespace, meeting: Meeting | None = None) -> int:
    from ddpg_jax.app.training import Options, Stopped, train

    seconds = _at_least("checkpoint_seconds", options.checkpoint_seconds, 0.0)
    if options.resume and options.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other; give one of them")
    job = Options(options.out, options.resume, options.overwrite, seconds, options.track)
    try:
        with connected(meeting) as processes:
            line = train(legs, job, processes)
    except Stopped as stop:
        again = shlex.join([word for word in options.arguments if word not in ("--resume", "--overwrite")])
        print(f"ddpg-jax: {stop}; go on with: ddpg-jax {again} --resume", file=sys.stderr)
        return stop.status
    if processes.first:
        print(line)
    return 0


def _eval(options: argparse.Namespace) -> int:
    from ddpg_jax.app.evaluation import check_film, evaluate, film, policy_folder
    from ddpg_jax.app.training import use_compilation_cache

    episodes, seed = coerce("eval_episodes", options.episodes), coerce("seed", options.seed)
    policy = policy_folder(options.dir, options.member)
    if options.video:
        check_film(options.dir, policy, options.video)
    use_compilation_cache()
    returns, lengths = evaluate(options.dir, policy, episodes, seed)
    member = f"{policy.name}: " if policy.name.startswith("member_") else ""
    print(
        member + f"return {returns.mean():.2f} +- {returns.std():.2f} (standard deviation), "
        f"from {returns.min():.2f} to {returns.max():.2f}; length {lengths.mean():.1f}; {episodes} episodes"
    )
    if options.video:
        print(f"{film(options.dir, policy, options.video, seed)} frames in {options.video}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from ddpg_jax.app.plot import plot

    plot(options.dirs, options.out)
    print(options.out)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from ddpg_jax.app.bench import bench

    if options.out.is_dir() or not options.out.parent.is_dir():
        raise ConfigError(f"out={options.out} is not allowed; it must be a file, in a folder that is there")
    print(bench(options.out, options.quick))
    return 0


def _cite(options: argparse.Namespace) -> int:
    from ddpg_jax.app.cite import cite

    _import(options)
    print(cite(options.what), end="")
    return 0


def _presets(options: argparse.Namespace) -> int:
    _import(options)
    for name, preset in PRESETS.items():
        print(f"{name:18s} {preset.source}")
        if preset.values:
            print(" " * 18, " ".join(f"--{field.replace('_', '-')} {plain(value)}" for field, value in preset.values.items()))
        for deviation in preset.deviations:
            print(" " * 18, f"differs: {deviation}")
    return 0


def _envs(options: argparse.Namespace) -> int:
    from ddpg_jax.app.environments import about, overview

    given = {name: coerce(name, getattr(options, name) or STRUCTURE[name]) for name in EnvOptions._fields}
    asked = EnvOptions(**given)
    if (asked.env_kwargs, asked.wrappers) != (STRUCTURE["env_kwargs"], STRUCTURE["wrappers"]) and not options.name:
        raise ConfigError("--env-kwargs and --wrappers are of one environment; name it")
    for text in about(options.name, asked) if options.name else [overview(asked)]:
        print(text, flush=True)
    return 0


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise ConfigError(f"{name}={text} is not allowed; it must be a whole number of at least 1")
    return int(text)


def _at_least(name: str, text: str, low: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= low:
        raise ConfigError(f"{name}={text} is not allowed; it must be a number of at least {low:g}")
    return value


def _version() -> str:
    from ddpg_jax import __version__

    return f"ddpg-jax {__version__}"
