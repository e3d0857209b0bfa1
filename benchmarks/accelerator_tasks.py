"""Carries out the tasks of a job of `benchmarks.accelerator`.

Before anything is timed, the programs of all tasks are compiled side by side, which takes most of the time; those that are not
ready after `COMPILING` seconds are timed last. What a task has measured is printed at once, as a line of JSON; a task that
fails says why, and the next one is tried.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator import USELESS
from benchmarks.turns import ANSWER
from ddpg_jax.envs.registry import make_device
from ddpg_jax.errors import one_line

SIDE_BY_SIDE = 8
"""Programs that are compiled at a time. Each keeps several cores busy for a part of its time."""
COMPILING = 75.0
"""Seconds after which tasks begin to be timed though programs of later ones are still being compiled; their rows say so."""


class Task(NamedTuple):
    """A measurement."""

    name: str
    measure: Callable[[Any], dict[str, Any]]
    """Takes what `prepare` gave."""
    prepare: Callable[[], Any] = lambda: None
    """What is done before, beside that of other tasks, and not timed."""


Tasks = Iterator[Task]


def say(**what: Any) -> None:
    print(ANSWER, json.dumps(what, default=str), flush=True)


def work(tasks: list[Task], side_by_side: int = SIDE_BY_SIDE, patience: float = COMPILING) -> None:
    """Prepares so many tasks at a time, or with 0 each when it is its turn; does one after the other, and says what came of it.

    Those that are not prepared after so many seconds come last.
    """
    prepared = {}
    if side_by_side:
        pool = ThreadPoolExecutor(side_by_side)
        prepared = {task.name: pool.submit(task.prepare) for task in tasks}
        wait(prepared.values(), patience)
        tasks = sorted(tasks, key=lambda task: not prepared[task.name].done())
    for task in tasks:
        row = carry_out(task, prepared.pop(task.name).result if side_by_side else task.prepare)
        late = [name for name, future in prepared.items() if not future.done()]
        say(row={"name": task.name, **row, **({"meanwhile": f"{', '.join(late)} still compiling"} if late else {})})


def carry_out(task: Task, prepare: Callable[[], Any]) -> dict[str, Any]:
    """What a task has measured, or why it failed. What was prepared is let go of."""
    try:
        ready, since = prepare(), time.perf_counter()
        return {**task.measure(ready), "task_seconds": time.perf_counter() - since}
    except Exception as error:
        traceback.print_exc()
        return {"failed": one_line(error)}


def end_with_who_asked() -> None:
    """Ends this process when its standard input is closed, so that nothing outlives who asked for it."""

    def wait_for_end() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()


def check_device(platform: str) -> None:
    """Ends this process, and with it all jobs, if there is nothing here to measure, or nothing to measure it with.

    It compiles what a GPU needs `libdevice` and `ptxas` of CUDA for, which not all machines have where XLA looks for them.
    """
    why = "JAX finds no accelerator here; `nvidia-smi` and JAX's first warning may say why" if platform == "cpu" else ""
    try:
        make_device("Pendulum-v1")  # once, before several threads ask for it
        jax.jit(lambda x: jnp.arctan2(jnp.sin(x), x) @ x)(jnp.ones((16, 16))).block_until_ready()
    except Exception as error:
        why = one_line(error)
    if why:
        print(why, file=sys.stderr)
        sys.exit(USELESS)
