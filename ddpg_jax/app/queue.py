"""Decides which members each program of a run trains, and when each program is made."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
from collections.abc import Iterator

import jax

from ddpg_jax.api import make_program
from ddpg_jax.app.idle import idle_program
from ddpg_jax.app.processes import Processes
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.clock import step_at, total_iterations
from ddpg_jax.running.groups import Group, check_groups, fit_to_memory
from ddpg_jax.running.program import Member, Program

STATE_COPIES = 3
"""Copies of all states in memory while a checkpoint is written, beside the state itself: ours, and those that orbax makes."""


class ProgramQueue:
    """The programs of a run, one after the other; each is made when it is needed, as large as memory allows."""

    def __init__(self, groups: list[Group], recorded: list[list[int]], processes: Processes, *, unit: int = 1):
        """Takes up the programs that a manifest has recorded, by the numbers of their members; the others follow.

        Members that belong together, `unit` of them, stay in one program if they fit.
        """
        self._unit = unit
        self.planned = groups
        known = {member.number: (group.experiment, member) for group in groups for member in group.members}
        self.groups = [Group(known[own[0]][0], [known[m][1] for m in own]) for own in recorded]
        done = {m for own in recorded for m in own}
        again = [own for own, k in zip(self.groups, range(len(recorded)), strict=True) if _seen(recorded[:k], recorded[k])]
        self.steps = _steps(groups) + _steps(again)
        self._members = len(known)
        self.first_experiment = groups[0].experiment
        self._ahead = iter([Group(group.experiment, [m for m in group.members if m.number not in done]) for group in groups])
        self._fitting: Iterator[tuple[Group, Program]] = iter(())
        self._program: tuple[int, Program] | None = None
        self._processes = processes

    def steps_before(self, k: int) -> int:
        """Returns the steps of all members of the programs before the k-th."""
        return _steps(self.groups[:k])

    def check(self) -> None:
        """Checks that the programs can be made, and makes the first, unless the run is resumed."""
        if not self.groups:
            local_processes, state_copies = self._room()
            check_groups(self.planned, make_program, local_processes=local_processes, state_copies=state_copies)
            self.get(0)

    def get(self, k: int) -> Program | None:
        """Returns this process's share of the k-th program, or None after the last one, and closes the previous program."""
        if self._program and self._program[0] == k:
            return self._program[1]
        self.close()
        if k < len(self.groups):
            program = self._make(*self.groups[k])
        else:
            found = self._next()
            if found is None:
                return None
            group, program = found
            self.groups.append(group)
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
                local_processes, state_copies = self._room()
                room = {"local_processes": local_processes, "state_copies": state_copies}
                self._fitting = fit_to_memory(group, self._make, agree=self._agree, unit=self._unit, **room)

    def _room(self) -> tuple[int, int]:
        """Returns how many processes share the memory, and how many copies of all states it must hold for a checkpoint."""
        # The memory of an accelerator is shared with no other process and holds no copy for a checkpoint.
        return (self._processes.local, STATE_COPIES) if jax.default_backend() == "cpu" else (1, 0)

    def at_end(self, k: int) -> bool:
        """Returns True if the k-th program does not exist: all members have been trained."""
        return k >= len(self.groups) and len({m.number for own in self.groups for m in own.members}) == self._members

    def append(self, group: Group) -> Program:
        """Appends a program of members that go on, and returns it."""
        self.groups.append(group)
        self.steps += _steps([group])
        program = self.get(len(self.groups) - 1)
        assert program is not None
        return program

    def total(self) -> int:
        """Returns the number of programs, as far as it is known: a structure that is yet to come may need several."""
        return sum(self._programs_of(group) for group in self.planned)

    def _programs_of(self, group: Group) -> int:
        started = [own for own in self.groups if own.experiment == group.experiment]
        left = max(0, len(group.members) - sum(len(own.members) for own in started))
        return len(started) + math.ceil(left / len(started[-1].members)) if started else 1

    def _make(self, experiment: Experiment, members: list[Member]) -> Program:
        share = self._processes.share(members)
        return make_program(experiment, share) if share else idle_program()

    def _agree(self, fit: int) -> int:
        """Returns how many members fit in all processes, given how many fit in this one. Shares are equal: the least counts."""
        return self._processes.total * min(self._processes.gather(fit))

    def close(self) -> None:
        """Closes the current program."""
        if self._program:
            self._program[1].close()
            self._program = None
            _release_memory()


def _seen(earlier: list[list[int]], own: list[int]) -> bool:
    """Returns True if the members of a program have been in an earlier one."""
    return any(set(own) & set(other) for other in earlier)


def _release_memory() -> None:
    """Makes the C library return freed memory to the system, since the next program is sized by the memory that is left."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has this function; others keep little
        ctypes.CDLL(None).malloc_trim(0)


def _steps(groups: list[Group]) -> int:
    """Returns the steps that all members of the groups will have done at the end."""
    return sum(len(own.members) * step_at(own.experiment, total_iterations(own.experiment)) for own in groups)
