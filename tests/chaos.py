"""Kills, damages and misuses runs at random: `python -m tests.chaos --minutes 10 --seed 3`.

Whatever happens to a run, resuming it gives the results of a run that nothing happened to, or one sentence and exit status 2;
never a traceback, and never other results without a word. A failure names the seed and the number of its action, which `--only`
repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.runs import assert_same_run, command, rows, run, start

MAY_SAY = ("is missing the rows", "cannot be read", "is missing, and")
"""Words of a run that goes on although rows or policies are lost, and says so."""


class Said(NamedTuple):
    """What a command gave."""

    status: int
    out: str
    err: str


def say(*arguments: str) -> Said:
    """Runs a command in this process, which must end in an exit status and say at most one line about what is wrong.

    Raises:
        AssertionError: it does not.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(*arguments)
    said = Said(status, out.getvalue(), err.getvalue())
    complaints = [line for line in said.err.splitlines() if line.startswith("ddpg-jax: ")]
    assert status in (0, 2), said
    assert "Traceback" not in said.err, said
    assert len(complaints) == (status == 2), said
    return said


def kill(rng: random.Random, whole: Path, folder: Path) -> None:
    """Kills a run at a random moment, sometimes twice, and resumes it to the end."""
    for resumed in range(rng.choice((1, 1, 2))):
        has_begun = (folder / "manifest.json").exists()
        with start(*command(folder, *(("--resume",) if resumed and has_begun else ()))) as process:
            with contextlib.suppress(Exception):
                process.wait(timeout=rng.uniform(1.0, 8.0))
            process.kill()
    say(*command(folder, *(("--resume",) if (folder / "manifest.json").exists() else ())))
    assert_same_run(folder, whole)


def flip(rng: random.Random, data: bytearray) -> None:
    """Changes one to four bits."""
    for _ in range(rng.randint(1, 4) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def digits(rng: random.Random, data: bytearray) -> None:
    """Changes one digit, which leaves a text as readable as it was."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if places:
        data[rng.choice(places)] = ord(rng.choice("0123456789"))


def truncate(rng: random.Random, data: bytearray) -> None:
    """Removes the end."""
    del data[rng.randrange(len(data) + 1) :]


def scramble(rng: random.Random, data: bytearray) -> None:
    """Replaces a stretch with noise."""
    at = rng.randrange(len(data) + 1)
    data[at : at + 50] = rng.randbytes(50)


def damage(rng: random.Random, whole: Path, folder: Path) -> None:
    """Damages a file of a run, finished or as if it had been killed, and gives it to a command that reads it."""
    shutil.copytree(whole, folder)
    if rng.random() < 0.5:
        shutil.rmtree(folder / "checkpoints" / "600")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    plain = [path for path in files if path.suffix in (".json", ".csv", ".npz")]
    path = rng.choice(rng.choice((files, plain)))
    how = rng.choice((flip, digits, truncate, scramble, None))
    data = bytearray(path.read_bytes())
    if how:
        how(rng, data)
        path.write_bytes(data)
    else:
        path.unlink()
    before = f"{how.__name__ if how else 'unlink'} {path.relative_to(folder)}"
    commands: dict[str, Callable[[], object]] = {
        "eval": lambda: _same_evaluation(whole, folder),
        "resume": lambda: _same_run_or_words(whole, folder),
        "plot": lambda: say("plot", str(folder), "--out", str(folder / "x.png")),
    }
    name = rng.choice(("eval", "resume", "resume", "plot"))
    try:
        commands[name]()
    except BaseException as error:
        error.add_note(f"after {before}, in {name}")
        raise


def _same_evaluation(whole: Path, folder: Path) -> None:
    words = ("--episodes", "1")
    told = say("eval", str(folder), *words)
    if told.status == 0:
        assert told.out == say("eval", str(whole), *words).out


def _same_run_or_words(whole: Path, folder: Path) -> None:
    told = say(*command(folder, "--resume"))
    if told.status == 0 and not any(words in told.err for words in MAY_SAY):
        assert rows(folder) == rows(whole)
        for name in ("policy.json", "actor.npz"):
            assert (folder / "policy" / name).read_bytes() == (whole / "policy" / name).read_bytes()


VALUES = (
    "", " ", "nan", "inf", "-1", "0", "1e400", "9" * 5000, "1_0", "٣", "\udce9", "[[[[", "{" * 2000, '{"a": NaN}', "a=b,c",
    "x" * 300, "../..", "/dev/null", "/proc/self/mem", "a:b:c", "--seed", "log:1:0", "true", "256-0", "\n", "\x1b[2J",
)  # fmt: skip
OPTIONS = ("steps", "seed", "env-kwargs", "wrappers", "hidden", "gamma", "preset", "out", "import", "backend", "tau", "grid")


def hostile(rng: random.Random, whole: Path, folder: Path) -> None:
    """Gives nonsense to a command. Its folder is never one in which training could begin."""
    del whole
    folder.mkdir()
    (folder / "mine.txt").write_text("not a run")
    verb = rng.choice(("train", "train", "sweep", "eval", "plot", "cite", "envs"))
    words = [verb, rng.choice(("Pendulum-v1", *VALUES))] if rng.random() < 0.9 else [verb]
    for _ in range(rng.randint(0, 4)):
        words += [f"--{rng.choice(OPTIONS)}", rng.choice(VALUES)]
    words += ["--out", str(folder / ("x.png" if verb == "plot" else ""))] if verb in ("train", "sweep", "plot") else []
    try:
        say(*(word for word in words if "\0" not in word))
    except BaseException as error:
        error.add_note(f"given {words!r}")
        raise
    assert (folder / "mine.txt").read_text() == "not a run"


ACTIONS = (damage, damage, damage, hostile, hostile, kill)


def act(seed: int, number: int, whole: Path, root: Path, actions: tuple[Callable[..., None], ...] = ACTIONS) -> str:
    """Does an action, and returns its name; the same seed and number always do the same."""
    rng = random.Random(f"{seed}/{number}")
    action = rng.choice(actions)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        try:
            action(rng, whole, Path(folder) / "run")
        except BaseException as error:
            error.add_note(f"python -m tests.chaos --seed {seed} --only {number}")
            raise
    return action.__name__


def main() -> int:
    """Acts until the time is over; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="do the action of this number alone")
    options = parser.parse_args()
    end, failures, done = time.monotonic() + 60 * options.minutes, 0, dict.fromkeys((f.__name__ for f in ACTIONS), 0)
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CACHE_HOME"] = root
        whole, number = Path(root) / "whole", options.only or 0
        assert say(*command(whole)).status == 0
        while time.monotonic() < end:
            try:
                done[act(options.seed, number, whole, Path(root))] += 1
            except Exception:
                failures += 1
                print(traceback.format_exc(), file=sys.stderr)
            number += 1
            if options.only is not None:
                break
    print(f"{sum(done.values())} actions as they should be ({done}), {failures} not")
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
