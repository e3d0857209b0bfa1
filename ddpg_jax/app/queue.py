"""The programs of a run, which members each trains, and when each is made."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
from collections.abc import Iterator

import jax

from ddpg_jax.api import make_program
from ddpg_jax.app.processes import Processes, idle_program
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.groups import Group, check_groups, fit_to_memory
from ddpg_jax.running.program import Member, Program, total_iterations

COPIES = 3
"""How often the state of all members lies in memory besides while a checkpoint is written: ours, and those that orbax makes."""


class Programs:
    """The programs of a run, one after the other; each is made when its turn comes, as large as memory allows."""

    def __init__(self, groups: list[Group], recorded: list[list[int]], processes: Processes):
        self._groups = groups
        known = {member.number: (group.experiment, member) for group in groups for member in group.members}
        self.parts = [Group(known[part[0]][0], [known[m][1] for m in part]) for part in recorded]
        done = {m for part in recorded for m in part}
        self.steps = _steps(groups)
        self._ahead = iter([Group(group.experiment, [m for m in group.members if m.number not in done]) for group in groups])
        self._fitting: Iterator[tuple[Group, Program]] = iter(())
        self._program: tuple[int, Program] | None = None
        self._processes = processes

    def steps_before(self, k: int) -> int:
        """Steps of all members of the programs before the k-th."""
        return _steps(self.parts[:k])

    def check(self) -> None:
        """Asks whether the programs can be made, and makes the first, unless earlier work is known."""
        if not self.parts:
            check_groups(self._groups, make_program, **self._room())
            self.get(0)

    def get(self, k: int) -> Program | None:
        """This process's part of the k-th program, or None behind the last one. The one before is closed."""
        if self._program and self._program[0] == k:
            return self._program[1]
        self.close()
        if k < len(self.parts):
            program = self._make(*self.parts[k])
        else:
            found = self._next()
            if found is None:
                return None
            part, program = found
            self.parts.append(part)
        self._program = k, program
        return program

    def _next(self) -> tuple[Group, Program] | None:
        while True:
            for found in self._fitting:
                return found
            group = next(self._ahead, None)
            if group is None:
                return None
            if group.members:
                self._fitting = fit_to_memory(group, self._make, agree=self._agree, **self._room())

    def _room(self) -> dict[str, int]:
        """Returns how many processes share the memory, and how many copies of all states it must hold for a checkpoint."""
        # Not on a CPU, the memory is that of a device, which no neighbour and no copy for a checkpoint shares.
        cpu = jax.default_backend() == "cpu"
        return {"local_processes": self._processes.neighbours if cpu else 1, "state_copies": COPIES if cpu else 0}

    def total(self) -> int:
        """How many programs there are in all, as far as it is known: a structure that is yet to come may not fit at once."""
        return sum(self._of_group(group) for group in self._groups)

    def _of_group(self, group: Group) -> int:
        parts = [part for part in self.parts if part.experiment == group.experiment]
        left = len(group.members) - sum(len(part.members) for part in parts)
        return len(parts) + math.ceil(left / len(parts[-1].members)) if parts else 1

    def _make(self, experiment: Experiment, members: list[Member]) -> Program:
        mine = self._processes.share(members)
        return make_program(experiment, mine) if mine else idle_program()

    def _agree(self, fit: int) -> int:
        """How many members fit in all processes, if so many fit in this one: shares are equal, so the least counts."""
        return self._processes.total * min(self._processes.gather(fit))

    def close(self) -> None:
        """Closes the program that is open."""
        if self._program:
            self._program[1].close()
            self._program = None
            _give_back()


def _give_back() -> None:
    """Has the C library return what the last program has freed: the next one's members are counted by what memory is left."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # glibc's; others keep little
        ctypes.CDLL(None).malloc_trim(0)


def _steps(groups: list[Group]) -> int:
    """Steps that all their members will have done at the end."""
    return sum(len(group.members) * total_iterations(group.experiment) * group.experiment.num_envs for group in groups)
