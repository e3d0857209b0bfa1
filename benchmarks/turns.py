"""Processes that keep running and take turns, so that other work on the machine affects all that are compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

ANSWER = "answer:"
"""In front of what a process says; all other lines are its libraries'."""


class Process:
    """A module of this package as a process of its own, which answers once when it is ready and then after every turn."""

    def __init__(self, module: str, *options: Any):
        self._command = [sys.executable, "-m", module, *map(str, options)]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def begin(self, turn: str = "") -> None:
        """Asks for the turn of that name, and does not wait for it."""
        assert self._process.stdin
        self._process.stdin.write(f"{turn}\n")

    def answer(self) -> Any:
        """What it says next."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise SystemExit(f"{' '.join(self._command)} has ended with status {self._process.wait()}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def take_turns(ready: Any, turns: Mapping[str, Callable[[], Any]]) -> None:
    """What such a process does: says that it is ready, and for each line that it reads what the turn of that name gives."""
    print(ANSWER, json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(ANSWER, json.dumps(turns[line.strip()]()), flush=True)


def advancing(program: Any, state: Any, begin: int) -> Callable[[int], float]:
    """`(steps) -> updates per second`, summed over members: takes a program on from `state`, that of vector step `begin`."""
    members = len(program.members)
    active, held = np.ones(members, bool), [state, begin]

    def turn(steps: int) -> float:
        since, begin = time.perf_counter(), held[1]
        held[:] = program.advance(held[0], begin, begin + steps, active=active)[0], begin + steps
        return members * steps / (time.perf_counter() - since)

    return turn
