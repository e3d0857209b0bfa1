"""Asks Optuna for points, tells it what they have reached, and keeps all of it in a journal on disk (extra `tune`)."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.app.hold import locked_file
from ddpg_jax.envs.extras import missing
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.grid import Point, Range

SAMPLERS = ("tpe", "random", "qmc", "cmaes")
"""Ways to choose points: tree-structured Parzen estimators (Bergstra et al. 2011), uniformly at random, a Sobol sequence, and
the evolution strategy CMA-ES (Hansen 2016)."""
PACKAGES = {"tpe": ("optuna",), "random": ("optuna",), "qmc": ("optuna", "scipy"), "cmaes": ("optuna", "cmaes")}


def check_installed(sampler: str) -> None:
    """Checks that a sampler can be used.

    Raises:
        ConfigError: there is no sampler of this name, or its packages are not installed.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler={sampler} is not allowed; it must be one of {', '.join(SAMPLERS)}")
    if any(importlib.util.find_spec(package) is None for package in PACKAGES[sampler]):
        raise ConfigError(missing(f"sampler={sampler}", "tune"))


class Finished(NamedTuple):
    """A point that was trained."""

    number: int
    """The number of its trial in the study. Trials that were interrupted have numbers, too, so that some may be missing."""
    point: Point
    value: float
    """IQM over seeds of the final returns; NaN if a seed has diverged."""
    returns: list[float]
    """The final return of each seed."""
    curve: dict[int, float]
    """Maps the step of each evaluation to the mean return over seeds."""


class Study:
    """Points that were asked for, and what they have reached. Several processes may share one study.

    The points depend only on what is finished: each batch is drawn by a new sampler, whose seed is made of that of the study,
    the number of finished points, and the number of this process among those at work. Hence one process that is interrupted and
    resumed asks for the same points as one that is not.
    """

    def __init__(self, folder: Path, ranges: Mapping[str, Range], *, sampler: str, seed: int):
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._sampler, self._seed = optuna, sampler, seed
        self._ranges = {name: _distribution(field) for name, field in ranges.items()}
        self._workers = folder / "workers"
        self._workers.mkdir(exist_ok=True)
        self.worker, self._lock = self._enter()
        storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
        self._study = optuna.create_study(study_name="ddpg-jax", storage=storage, direction="maximize", load_if_exists=True)
        self._give_up_lost()

    def _enter(self) -> tuple[int, Any]:
        """Takes the first number that no process at work has, and locks its file until this process ends."""
        for number in range(1_000):
            if (lock := locked_file(self._workers / str(number))) is not None:
                return number, lock
        raise ConfigError(f"{self._workers} holds the files of 1,000 processes at work; wait for some of them")

    def _give_up_lost(self) -> None:
        """Fails the trials of processes that have died, so that their points can be asked for again."""
        for trial in self._in_state("RUNNING"):
            if "worker" in trial.user_attrs and not self._at_work(trial):
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)

    def _at_work(self, trial: Any) -> bool:
        """Returns True if another process is training a point."""
        number = trial.user_attrs.get("worker", self.worker)
        if number == self.worker or (lock := locked_file(self._workers / str(number))) is None:
            return number != self.worker
        lock.close()
        return False

    def _in_state(self, *names: str) -> list[Any]:
        states = tuple(self._optuna.trial.TrialState[name] for name in names)
        return self._study.get_trials(deepcopy=False, states=states)

    @property
    def finished(self) -> list[Finished]:
        """The points that were trained, in the order of their numbers."""
        return [
            Finished(
                trial.number,
                dict(trial.params),
                math.nan if trial.value is None or trial.state.name == "PRUNED" else trial.value,
                trial.user_attrs["returns"],
                dict(trial.intermediate_values),
            )
            for trial in self._in_state("COMPLETE", "PRUNED")
        ]

    @property
    def elsewhere(self) -> int:
        """The number of points that other processes are training."""
        return sum(self._at_work(trial) for trial in self._in_state("RUNNING"))

    def ask(self, count: int) -> list[Any]:
        """Asks for points, and returns their trials, whose `params` are the points."""
        done = len(self._in_state("COMPLETE", "PRUNED"))
        seed = int(np.random.SeedSequence([self._seed, done, self.worker]).generate_state(1)[0])
        self._study.sampler = self._make_sampler(seed)
        trials = []
        for _ in range(count):
            trials.append(self._study.ask(self._ranges))
            trials[-1].set_user_attr("worker", self.worker)
        return trials

    def _make_sampler(self, seed: int) -> Any:
        samplers = self._optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parts of them are called experimental
            if self._sampler == "tpe":
                return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            if self._sampler == "cmaes":
                return samplers.CmaEsSampler(seed=seed)
            if self._sampler == "qmc":  # the sequence is that of the study: all its batches share one seed
                return samplers.QMCSampler(seed=self._seed, scramble=True)
            return samplers.RandomSampler(seed=seed)

    def tell(self, trial: Any, returns: Sequence[float], *, value: float, curve: Mapping[int, float]) -> None:
        """Records what a point has reached.

        Args:
            trial: of the point.
            returns: the final return of each seed.
            value: their IQM. If it is not finite, the sampler learns that the point is worse than all others.
            curve: maps the step of each evaluation to the mean return over seeds.
        """
        trial.set_user_attr("returns", [float(x) for x in returns])
        for step, mean in curve.items():
            if math.isfinite(mean):
                trial.report(mean, step)
        states = self._optuna.trial.TrialState
        if math.isfinite(value):
            self._study.tell(trial, float(value), state=states.COMPLETE)
        else:
            self._study.tell(trial, state=states.PRUNED)

    def give_back(self, trials: Sequence[Any]) -> None:
        """Fails trials that were not trained to the end."""
        for trial in trials:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def importances(self) -> dict[str, float]:
        """Returns the share of each field in the variation among the best points (PED-ANOVA, Watanabe et al. 2023).

        It is empty for fewer than ten points, of which too little can be said, and if all have reached the same return.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = self._optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
            if len({trial.value for trial in self._in_state("COMPLETE")}) < 10:
                return {}
            return dict(self._optuna.importance.get_param_importances(self._study, evaluator=evaluator))


def _distribution(field: Range) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if field.whole:
        return IntDistribution(int(field.low), int(field.high), log=field.log)
    return FloatDistribution(field.low, field.high, log=field.log)
