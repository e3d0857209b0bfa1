"""The options of the command line: every field of `Experiment` and `Hyperparams` is one, explained where it is defined.

Parsed with argparse rather than from type hints, because values go through `experiment.coerce`, the one place that knows
what a field allows: the same words then serve the command line, grids and Python.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import itertools
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import CHOICES, NUMBERS, STRUCTURE, Experiment
from ddpg_jax.experiment.grid import plain
from ddpg_jax.types import EnvOptions, Hyperparams


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        option = re.match(r"argument --([\w-]+).*: expected one argument", message)
        if option is None:
            raise ConfigError(f"{message}; see {self.prog} --help")
        name = option[1].replace("-", "_")
        allowed = ("true", "false") if isinstance(STRUCTURE.get(name), bool) else CHOICES.get(name)
        raise ConfigError(f"--{option[1]} needs a value" + (f"; allowed are {', '.join(allowed)}" if allowed else ""))


def joined(arguments: list[str]) -> list[str]:
    """`--field -1e-3` as `--field=-1e-3`, which argparse would take for an option, and `--env-kwargs a=1 b=2` as `a=1,b=2`."""
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
    """All commands with their options; `command` is the one that was named."""
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

    evaluate = commands.add_parser("eval", help="evaluate the policy of a run folder", allow_abbrev=False)
    evaluate.add_argument("dir", type=Path, metavar="DIR")
    evaluate.add_argument("--episodes", default="20", metavar="N", help="whole episodes without noise (20)")
    evaluate.add_argument("--seed", default="0", metavar="K", help="of the start states (0)")
    evaluate.add_argument("--member", metavar="M", help="of a sweep; the one with the best last return if not given")
    evaluate.add_argument("--video", type=Path, metavar="FILE", help="also write one episode as a .gif, .webp or animated .png")

    plot = commands.add_parser("plot", help="draw the learning curves of run folders", allow_abbrev=False)
    plot.add_argument("dirs", type=Path, nargs="+", metavar="DIR")
    plot.add_argument("--out", type=Path, metavar="FILE", default=Path("learning_curves.png"), help="(learning_curves.png)")

    bench = commands.add_parser("bench", help="speed on this machine, as a table and as JSON", allow_abbrev=False)
    bench.add_argument("--out", type=Path, metavar="FILE", default=Path("bench.json"), help="(bench.json)")
    bench.add_argument("--quick", action="store_true", help="fewer repetitions")

    cite = commands.add_parser("cite", help="BibTeX for what a run or a preset uses", allow_abbrev=False)
    cite.add_argument("what", metavar="DIR|PRESET", help="a run folder, a preset, or a JSON file of fields")
    _field(cite, "imports", STRUCTURE["imports"])

    presets = commands.add_parser("presets", help="named settings", allow_abbrev=False)
    _field(presets, "imports", STRUCTURE["imports"])

    envs = commands.add_parser("envs", help="environments that can be named", allow_abbrev=False)
    envs.add_argument("name", nargs="?", metavar="NAME", help="all about this one, or all whose names begin so")
    for name in EnvOptions._fields:
        _field(envs, name, STRUCTURE[name])
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


def check_file(name: str, path: Path) -> None:
    """Asks whether a file can be written where an option says, before any work is done.

    Raises:
        ConfigError: it is a folder, or in none, or may not be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{name}={path} is not allowed; it must be a file, in a folder that is there")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{name}={path} is not allowed; it must be a file that may be written")


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


def _version() -> str:
    from ddpg_jax import __version__

    return f"ddpg-jax {__version__}"
