"""Defines the options of the command line, one of which exists for every field of `Experiment` and `Hyperparams`.

argparse passes values on as text. Only `experiment.coerce` knows which values a field allows, so that the command line,
grids and Python accept the same ones.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, STRUCTURE
from ddpg_jax.experiment.values import plain

if TYPE_CHECKING:
    from ddpg_jax.app.processes import Meeting

ENVIRONMENT = ("imports", "env_kwargs", "wrappers")
"""Fields that describe an environment."""
EXPORTS = ("onnx", "stablehlo", "npz")
"""Formats of exported policies."""
ELSEWHERE = ("env", "backend", *ENVIRONMENT)
"""Fields of the environment in which a policy is evaluated, if it is not that of its training."""


class Parser(argparse.ArgumentParser):
    """Parses arguments, and raises ConfigError with one line if they are wrong."""

    def error(self, message: str) -> NoReturn:
        option = re.match(r"argument --([\w-]+).*: expected one argument", message)
        if option is None:
            raise ConfigError(f"{message}; see {self.prog} --help")
        name = option[1].replace("-", "_")
        allowed = ("true", "false") if isinstance(STRUCTURE.get(name), bool) else name in FIELDS and FIELDS[name].allowed()
        raise ConfigError(f"--{option[1]} needs a value" + (f"; allowed are {', '.join(allowed)}" if allowed else ""))


def joined(arguments: list[str]) -> list[str]:
    """Joins `--field -1e-3`, which argparse would read as two options, with `=`, and `--env-kwargs a=1 b=2` with commas."""
    words: list[str] = []
    for word in arguments:
        if re.match(r"--.*=--$", word):  # argparse would return a list
            raise ConfigError(f"{word} is not allowed; an option needs a value")
        if words and words[-1].startswith("--") and "=" not in words[-1] and re.match(r"-[\d.]", word):
            words[-1] += f"={word}"
        elif len(words) > 1 and words[-2] == "--env-kwargs" and re.match(r"[^\W\d]\w*=", word):
            words[-1] += f",{word}"
        else:
            words.append(word)
    return words


def make_parser() -> Parser:
    """Makes the parser of all commands; the result stores the name of the command as `command`."""
    parser = Parser(
        prog="ddpg-jax",
        description="Deep Deterministic Policy Gradient in JAX: whole training runs as one compiled program.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    _training(commands)
    _tuning(commands)
    _reading(commands)
    _looking_up(commands)
    return parser


def _training(commands: Any) -> None:
    train = commands.add_parser("train", help="train one policy", allow_abbrev=False)
    sweep = commands.add_parser("sweep", help="train seeds x hyperparameter points at once", allow_abbrev=False)
    for parser in (train, sweep):
        parser.add_argument("env", metavar="ENV", help="name of an environment; see ddpg-jax envs")
    points = sweep.add_argument_group("the points")
    points.add_argument("--seeds", default="1", metavar="N", help="number of seeds at every point, counting up from --seed (1)")
    points.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=V1,V2,...", help="values of a field; all combinations are trained"
    )
    points.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="FIELD=log:LOW:HIGH",
        help="draw values of a field at random; also uniform:LOW:HIGH",
    )
    points.add_argument("--points", metavar="N", help="number of points that --sample draws")
    points.add_argument(
        "--prune",
        metavar="RUNGS",
        help="stop the worst points early (successive halving): a number of rungs, or their steps, such as 2000,4000; none, "
        "with --resume, lets pruned points go on",
    )
    points.add_argument("--prune-fraction", metavar="F", help="fraction of the points that stops at each rung (0.5)")
    _population(points)
    for parser in (train, sweep):
        _fields(parser)
        _job(parser)
    several = sweep.add_argument_group(
        "several processes",
        "Run the same command in each, on one host or several; DIR must be on a shared file system.",
    )
    several.add_argument(
        "--distributed", action="store_true", help="let JAX detect the processes (Slurm, Open MPI, Kubernetes)"
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="instead of --distributed: the host of process 0, and a free port on it"
    )
    several.add_argument("--num-processes", metavar="N", help="number of processes")
    several.add_argument("--process-id", metavar="K", help="number of this process, from 0 to N - 1")


def _tuning(commands: Any) -> None:
    tune = commands.add_parser("tune", help="let Optuna choose hyperparameter points", allow_abbrev=False)
    tune.add_argument("env", metavar="ENV", help="name of an environment; see ddpg-jax envs")
    study = tune.add_argument_group("the study")
    study.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="FIELD=log:LOW:HIGH",
        help="choose values of a field from this range; also uniform:LOW:HIGH",
    )
    study.add_argument("--points", default="64", metavar="N", help="number of points in the whole study (64)")
    study.add_argument("--batch", default="8", metavar="B", help="points that are chosen and trained together (8)")
    study.add_argument("--seeds", default="1", metavar="N", help="number of seeds at every point, counting up from --seed (1)")
    study.add_argument("--sampler", default="tpe", metavar="NAME", help="how points are chosen: tpe, random, qmc, cmaes (tpe)")
    study.add_argument("--out", type=Path, metavar="DIR", help="the folder of the study (runs/tune-ENV-seedK)")
    study.add_argument(
        "--resume", action="store_true", help="continue the study in the folder, or work on it beside other processes"
    )
    _fields(tune)


def _population(points: Any) -> None:
    points.add_argument(
        "--population",
        metavar="N",
        help="population based training: N members, each at a point that --sample draws, learn from each other",
    )
    points.add_argument(
        "--exploit",
        nargs="?",
        const="",
        metavar="NAME=VALUE,...",
        help="how members learn from each other (every=a twentieth of the run,fraction=0.2,perturb=0.8:1.25,resample=0,"
        "replay=copy)",
    )
    points.add_argument(
        "--schedule",
        metavar="FILE",
        help="train with the changing hyperparameters of a population's best member, read from the population's schedule.csv",
    )


def _reading(commands: Any) -> None:
    evaluate = commands.add_parser("eval", help="evaluate the policy of a run folder", allow_abbrev=False)
    evaluate.add_argument("dir", type=Path, metavar="DIR")
    evaluate.add_argument("--episodes", default="20", metavar="N", help="number of episodes, without noise (20)")
    evaluate.add_argument("--seed", default="0", metavar="K", help="seed of the initial states (0)")
    evaluate.add_argument("--best", action="store_true", help="evaluate the policy of the best evaluation, not the last one")
    evaluate.add_argument("--member", metavar="M", help="member of a sweep (the one with the best final return)")
    other = evaluate.add_argument_group("an environment other than that of the run, with the same shapes and bounds")
    for name in ELSEWHERE:
        _field(other, name, default="as in the run")
    evaluate.add_argument(
        "--video",
        type=Path,
        metavar="FILE",
        help="also write one episode as a .gif, .webp, animated .png, or .mp4 (extra video)",
    )

    export = commands.add_parser("export", help="write a policy as a file for other programs", allow_abbrev=False)
    export.add_argument("dir", type=Path, metavar="DIR", help="a run folder, or a saved policy")
    export.add_argument("--to", choices=EXPORTS, help="the format (that of the file's ending, else onnx)")
    export.add_argument("--out", type=Path, metavar="FILE", required=True)
    export.add_argument("--member", metavar="M", help="member of a sweep (the one with the best final return)")
    export.add_argument("--best", action="store_true", help="the policy of the best evaluation, not the last one")
    export.add_argument("--card", action="store_true", help="also write a model card, FILE with the ending .md")
    _field(export, "imports")

    record = commands.add_parser("record", help="write episodes of a policy as a dataset", allow_abbrev=False)
    record.add_argument("dir", type=Path, metavar="DIR", help="a run folder")
    record.add_argument("--episodes", metavar="N", help="number of episodes (20)")
    record.add_argument(
        "--out", metavar="DATASET", required=True, help="a Minari id, such as pend/mine-v0, a new folder, or FILE.npz"
    )
    record.add_argument("--seed", metavar="K", help="seed of initial states and noise (0)")
    record.add_argument("--member", metavar="M", help="member of a sweep (the one with the best final return)")
    record.add_argument("--best", action="store_true", help="the policy of the best evaluation, not the last one")
    record.add_argument("--noise", metavar="SIGMA", help="add Gaussian noise, in units of half the action range (0)")
    record.add_argument("--random", action="store_true", help="draw actions uniformly instead")
    record.add_argument("--replay", action="store_true", help="instead of playing, write the replay of the newest checkpoint")

    plot = commands.add_parser("plot", help="draw the learning curves of run folders", allow_abbrev=False)
    plot.add_argument("dirs", type=Path, nargs="+", metavar="DIR")
    plot.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("learning_curves.png"), help="the figure (learning_curves.png)"
    )
    plot.add_argument("--column", metavar="NAME", help="a column of metrics.csv, such as eval_success_rate (the return)")

    page = commands.add_parser("report", help="write a page about run folders for a reviewer", allow_abbrev=False)
    page.add_argument("dirs", type=Path, nargs="+", metavar="DIR")
    page.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("report.html"), help="the page, .html or .md (report.html)"
    )


def _looking_up(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure the speed of this machine, as a table and as JSON", allow_abbrev=False)
    bench.add_argument("--out", type=Path, metavar="FILE", default=Path("bench.json"), help="the JSON file (bench.json)")
    bench.add_argument("--quick", action="store_true", help="use fewer repetitions")

    cite = commands.add_parser("cite", help="print BibTeX for what a run or a preset uses", allow_abbrev=False)
    cite.add_argument("what", metavar="DIR|PRESET", help="a run folder, a preset, or a JSON file of fields")
    presets = commands.add_parser("presets", help="list the presets, which are named settings", allow_abbrev=False)
    envs = commands.add_parser("envs", help="list environments, or describe one", allow_abbrev=False)
    envs.add_argument("name", nargs="?", metavar="NAME", help="describe this environment, or all whose names begin with NAME")
    for parser, names in ((cite, ["imports"]), (presets, ["imports"]), (envs, ENVIRONMENT)):
        for name in names:
            _field(parser, name)


def _fields(parser: Parser) -> None:
    fields = parser.add_argument_group("fields of the experiment and its numbers")
    for name in FIELDS:
        if name != "env":
            _field(fields, name)


def _field(parser: Any, name: str, *, default: Any = None) -> None:
    """Adds the option of a field. Those of repeated fields can be given several times."""
    field, default = FIELDS[name], {**STRUCTURE, **NUMBERS}[name] if default is None else default
    about = re.split(r"(?<! al)\. ", field.help.rstrip("."))[0].replace("%", "%%")
    allowed = f" [{', '.join(field.choices)}]" if field.choices and not field.table else ""
    shown = f" ({plain(default)})" if default != () else ""
    names = [f"--{name.replace('_', '-')}", *(["--import"] if name == "imports" else [])]
    action = "append" if field.repeated else "store"
    parser.add_argument(*names, dest=name, action=action, metavar="VALUE", help=f"{about}{allowed}{shown}")


def _job(parser: Parser) -> None:
    job = parser.add_argument_group("the job")
    job.add_argument("--out", type=Path, metavar="DIR", help="the run folder (runs/ENV-PRESET-seedK-HASH)")
    job.add_argument("--resume", action="store_true", help="continue the run in the folder")
    job.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    job.add_argument("--checkpoint-seconds", default="30", metavar="S", help="minimum seconds between checkpoints (30)")
    job.add_argument("--hours", metavar="H", help="stop after this wall time, with a checkpoint and exit status 0")
    job.add_argument(
        "--until",
        metavar="RETURN[:K]",
        help="stop a member once an evaluation, or K of them in a row, have a mean return of at least RETURN",
    )
    job.add_argument("--track", choices=("tensorboard", "wandb"), help="also log to this tracker (needs the extra track)")


def check_file(name: str, path: Path) -> None:
    """Checks that a file can be written where an option says, before any work is done.

    Raises:
        ConfigError: the path is a folder, its folder does not exist, or it is not writable.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{name}={path} is not allowed; it must be a file in an existing folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{name}={path} is not allowed; it must be a writable file")


def _version() -> str:
    from ddpg_jax import __version__

    return f"ddpg-jax {__version__}"


def whole(name: str, text: str) -> int:
    """Reads a whole number of at least 1."""
    if digits(text) < 1:
        raise ConfigError(f"{name}={text} is not allowed; it must be a whole number of at least 1")
    return int(text)


def digits(text: str) -> int:
    """Reads a whole number, or returns -1. It skips numbers too long for `int`, which raises an error of its own."""
    return int(text) if text.isdecimal() and len(text) <= 18 else -1


def at_least(name: str, text: str, low: float) -> float:
    """Reads a number of at least `low`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= low:
        raise ConfigError(f"{name}={text} is not allowed; it must be a number of at least {low:g}")
    return value


def read_meeting(options: argparse.Namespace) -> Meeting | None:
    """Returns the address at which the processes of a sweep meet, or None if there is only one process.

    Raises:
        ConfigError: the options do not go together, or have other forms.
    """
    from ddpg_jax.app.processes import Meeting, detect

    words = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed and words != (None, None, None):
        raise ConfigError("--distributed cannot be combined with --coordinator, --num-processes or --process-id")
    if options.distributed:
        return detect()
    if words == (None, None, None):
        return None
    if None in words:
        raise ConfigError("--coordinator, --num-processes and --process-id must be given together, or --distributed alone")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not 0 < digits(port) < 2**16:
        raise ConfigError(f"coordinator={options.coordinator} is not allowed; it must be HOST:PORT with a port below 65536")
    count = whole("num_processes", options.num_processes)
    if not 0 <= digits(options.process_id) < count:
        raise ConfigError(f"process_id={options.process_id} is not allowed; it must be a whole number from 0 to {count - 1}")
    return Meeting(host.strip("[]"), int(port), count, int(options.process_id))
