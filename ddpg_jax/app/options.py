"""Defines the options of the command line: every field of `Experiment` and `Hyperparams` is one.

They are parsed with argparse rather than from type hints, because values go through `experiment.coerce`, the one place that
knows what a field allows: the same words then serve the command line, grids and Python.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import FIELDS, NUMBERS, STRUCTURE
from ddpg_jax.experiment.values import plain

ENVIRONMENT = ("imports", "env_kwargs", "wrappers")
"""Fields of one environment."""


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        option = re.match(r"argument --([\w-]+).*: expected one argument", message)
        if option is None:
            raise ConfigError(f"{message}; see {self.prog} --help")
        name = option[1].replace("-", "_")
        allowed = ("true", "false") if isinstance(STRUCTURE.get(name), bool) else name in FIELDS and FIELDS[name].allowed()
        raise ConfigError(f"--{option[1]} needs a value" + (f"; allowed are {', '.join(allowed)}" if allowed else ""))


def joined(arguments: list[str]) -> list[str]:
    """Joins `--field -1e-3`, which argparse would take for two options, with `=`, and `--env-kwargs a=1 b=2` with commas."""
    words: list[str] = []
    for word in arguments:
        if re.match(r"--.*=--$", word):  # argparse makes a list of it
            raise ConfigError(f"{word} is not allowed; an option needs a value")
        if words and words[-1].startswith("--") and "=" not in words[-1] and re.match(r"-[\d.]", word):
            words[-1] += f"={word}"
        elif len(words) > 1 and words[-2] == "--env-kwargs" and re.match(r"[^\W\d]\w*=", word):
            words[-1] += f",{word}"
        else:
            words.append(word)
    return words


def make_parser() -> Parser:
    """Returns the parser of all commands; `command` is the one that was named."""
    parser = Parser(
        prog="ddpg-jax",
        description="Deep Deterministic Policy Gradient in JAX: whole training runs as one compiled program.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    _training(commands)
    _reading(commands)
    _looking_up(commands)
    return parser


def _training(commands: Any) -> None:
    train = commands.add_parser("train", help="train one policy", allow_abbrev=False)
    sweep = commands.add_parser("sweep", help="train seeds x hyperparameter points at once", allow_abbrev=False)
    for parser in (train, sweep):
        parser.add_argument("env", metavar="ENV", help="an environment; see ddpg-jax envs")
    points = sweep.add_argument_group("the points")
    points.add_argument("--seeds", default="1", metavar="N", help="seeds at every point, from --seed on (1)")
    points.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=V1,V2,...", help="values of a field; all combinations"
    )
    points.add_argument(
        "--sample", action="append", default=[], metavar="FIELD=log:LOW:HIGH", help="a random value, or uniform:LOW:HIGH"
    )
    points.add_argument("--points", metavar="N", help="how many points --sample draws")
    for parser in (train, sweep):
        _fields(parser)
        _job(parser)
    several = sweep.add_argument_group(
        "several processes", "The same command in each, on one host or many; DIR must be on a file system that all share."
    )
    several.add_argument("--distributed", action="store_true", help="have JAX detect them (Slurm, Open MPI, Kubernetes)")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="or: the host of process 0, and a free port of it")
    several.add_argument("--num-processes", metavar="N", help="how many there are")
    several.add_argument("--process-id", metavar="K", help="which of them this is, from 0 to N - 1")


def _reading(commands: Any) -> None:
    evaluate = commands.add_parser("eval", help="evaluate the policy of a run folder", allow_abbrev=False)
    evaluate.add_argument("dir", type=Path, metavar="DIR")
    evaluate.add_argument("--episodes", default="20", metavar="N", help="whole episodes without noise (20)")
    evaluate.add_argument("--seed", default="0", metavar="K", help="seed of the start states (0)")
    evaluate.add_argument("--member", metavar="M", help="member of a sweep (the one with the best last return)")
    evaluate.add_argument(
        "--video",
        type=Path,
        metavar="FILE",
        help="also write one episode as a .gif, .webp, animated .png, or .mp4 (extra video)",
    )

    plot = commands.add_parser("plot", help="draw the learning curves of run folders", allow_abbrev=False)
    plot.add_argument("dirs", type=Path, nargs="+", metavar="DIR")
    plot.add_argument("--out", type=Path, metavar="FILE", default=Path("learning_curves.png"), help="(learning_curves.png)")


def _looking_up(commands: Any) -> None:
    bench = commands.add_parser("bench", help="speed on this machine, as a table and as JSON", allow_abbrev=False)
    bench.add_argument("--out", type=Path, metavar="FILE", default=Path("bench.json"), help="(bench.json)")
    bench.add_argument("--quick", action="store_true", help="fewer repetitions")

    cite = commands.add_parser("cite", help="BibTeX for what a run or a preset uses", allow_abbrev=False)
    cite.add_argument("what", metavar="DIR|PRESET", help="a run folder, a preset, or a JSON file of fields")
    presets = commands.add_parser("presets", help="named settings", allow_abbrev=False)
    envs = commands.add_parser("envs", help="environments that can be named", allow_abbrev=False)
    envs.add_argument("name", nargs="?", metavar="NAME", help="all about this one, or all whose names begin so")
    for parser, names in ((cite, ["imports"]), (presets, ["imports"]), (envs, ENVIRONMENT)):
        for name in names:
            _field(parser, name)


def _fields(parser: Parser) -> None:
    fields = parser.add_argument_group("fields of the experiment and its numbers")
    for name in FIELDS:
        if name != "env":
            _field(fields, name)


def _field(parser: Any, name: str) -> None:
    """Adds an option for a field; some may be given several times."""
    field, default = FIELDS[name], {**STRUCTURE, **NUMBERS}[name]
    about = re.split(r"(?<! al)\. ", field.help.rstrip("."))[0].replace("%", "%%")
    allowed = f" [{', '.join(field.choices)}]" if field.choices and not field.table else ""
    shown = f" ({plain(default)})" if default != () else ""
    names = [f"--{name.replace('_', '-')}", *(["--import"] if name == "imports" else [])]
    action = "append" if field.repeated else "store"
    parser.add_argument(*names, dest=name, action=action, metavar="VALUE", help=f"{about}{allowed}{shown}")


def _job(parser: Parser) -> None:
    job = parser.add_argument_group("the job")
    job.add_argument("--out", type=Path, metavar="DIR", help="the run folder (runs/ENV-PRESET-seedK-HASH)")
    job.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    job.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    job.add_argument("--checkpoint-seconds", default="30", metavar="S", help="least time between checkpoints (30)")
    job.add_argument("--track", choices=("tensorboard", "wandb"), help="also log there (extra track)")


def check_file(name: str, path: Path) -> None:
    """Checks that a file can be written where an option says, before any work is done.

    Raises:
        ConfigError: it is a folder, or in a folder that does not exist, or may not be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{name}={path} is not allowed; it must be a file, in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{name}={path} is not allowed; it must be a file that may be written")


def _version() -> str:
    from ddpg_jax import __version__

    return f"ddpg-jax {__version__}"
