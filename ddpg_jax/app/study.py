"""Asks Optuna for points, tells it what they have reached, and keeps all of it in a journal on disk (extra `tune`)."""

from __future__ import annotations

import importlib.util
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.app.hold import locked_file
from ddpg_jax.app.study_journal import open_journal
from ddpg_jax.envs.extras import missing
from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.grid import Point, Range

SAMPLERS = ("tpe", "random", "qmc", "cmaes")
"""Ways to choose points: tree-structured Parzen estimators (Bergstra et al. 2011), uniformly at random, a Sobol sequence, and
the evolution strategy CMA-ES (Hansen 2016)."""
TRAINED = "trained"
"""The attribute of the last trial of a batch, with the values of all its trials."""
ASIDE = "aside"
"""The attribute of trials that were set aside."""
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


class Reached(NamedTuple):
    """What a point has reached."""

    returns: list[float]
    """The final return of each seed."""
    value: float
    """Their IQM. If it is not finite, the sampler learns that the point is worse than all others."""
    curve: Mapping[int, float]
    """Maps the step of each evaluation to the mean return over seeds, as long as that is finite."""


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

    The points of one process depend only on what is finished or set aside: a new sampler draws each batch, with a seed made of
    that of the study, the number of those points, and the number of the process among those at work; `qmc` takes the first free
    places of one sequence. Hence a process that is interrupted and resumed asks for the same points as one that is not, except
    with CMA-ES, whose draws also depend on the numbers of trials.
    """

    def __init__(self, folder: Path, ranges: Mapping[str, Range], *, sampler: str, seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._sampler, self._seed = optuna, sampler, seed
        self._ranges, self._distributions = ranges, {name: _distribution(field) for name, field in ranges.items()}
        self._workers = folder / "workers"
        self._workers.mkdir(exist_ok=True)
        self.worker, self._lock = self._enter()
        storage = open_journal(folder / "study.journal")
        self._study = optuna.create_study(study_name="ddpg-jax", storage=storage, direction="maximize", load_if_exists=True)
        self._give_up_lost()

    def _enter(self) -> tuple[int, Any]:
        """Takes the first number that no process at work has, and locks its file until this process ends."""
        for number in range(1_000):
            if (lock := locked_file(self._workers / str(number))) is not None:
                return number, lock
        raise ConfigError(f"{self._workers} holds the files of 1,000 processes at work; wait for some of them")

    def _give_up_lost(self) -> None:
        """Ends the trials of processes that have died: those that were trained count, and the others can be asked for again."""
        lost = [trial for trial in self._in_state("RUNNING") if "worker" in trial.user_attrs and not self._at_work(trial)]
        values = {int(number): value for trial in lost for number, value in trial.user_attrs.get(TRAINED, {}).items()}
        for trial in lost:
            self._end(trial.number, values.get(trial.number))

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
    def taken(self) -> int:
        """The number of points that were trained, or that other processes are training."""
        trials = self._in_state("COMPLETE", "PRUNED", "RUNNING")  # in one look, since others finish meanwhile
        return sum(trial.state.name != "RUNNING" or self._at_work(trial) for trial in trials)

    def ask(self, count: int) -> list[Any]:
        """Asks for points, and returns their trials, whose `params` are the points."""
        done = len(self._in_state("COMPLETE", "PRUNED")) + len(self._set_aside())
        seed = int(np.random.SeedSequence([self._seed, done, self.worker]).generate_state(1)[0])
        self._study.sampler = self._make_sampler(seed)
        places = self._free_places(count) if self._sampler == "qmc" else [-1] * count
        trials = []
        for place in places:
            if place >= 0:
                self._study.sampler = self._at_place(place)
            trials.append(self._study.ask(self._distributions))
            trials[-1].set_user_attr("worker", self.worker)
            if place >= 0:
                trials[-1].set_user_attr("place", place)
        return trials

    def _free_places(self, count: int) -> list[int]:
        """Returns the first places of the sequence at which no point was trained or is being trained."""
        not_free = [*self._in_state("COMPLETE", "PRUNED", "RUNNING"), *self._set_aside()]
        taken = {trial.user_attrs.get("place") for trial in not_free}
        return list(itertools.islice((place for place in itertools.count() if place not in taken), count))

    def _at_place(self, place: int) -> Any:
        """Returns a sampler of the point at a place of the Sobol sequence of this study."""
        from scipy.stats.qmc import Sobol

        engine = Sobol(len(self._ranges), rng=self._seed)
        if place:
            engine.fast_forward(place)
        shares = engine.random(1)[0]
        point = {name: own.at([share])[0] for (name, own), share in zip(self._ranges.items(), shares, strict=True)}
        return _quietly(self._optuna.samplers.PartialFixedSampler, point, self._optuna.samplers.RandomSampler())

    def _make_sampler(self, seed: int) -> Any:
        samplers = self._optuna.samplers
        if self._sampler == "tpe":
            return _quietly(samplers.TPESampler, seed=seed, multivariate=True, constant_liar=True)
        if self._sampler == "cmaes":
            return _quietly(samplers.CmaEsSampler, seed=seed)
        return samplers.RandomSampler(seed=seed)

    def tell(self, trials: Sequence[Any], reached: Sequence[Reached]) -> None:
        """Records what the points of a batch have reached. Whenever a process is killed, all of them count, or none.

        Args:
            trials: of the points.
            reached: by each of them.
        """
        for trial, one in zip(trials, reached, strict=True):
            trial.set_user_attr("returns", [float(x) for x in one.returns])
            for step, mean in one.curve.items():
                trial.report(mean, step)
        values = [float(one.value) for one in reached]
        # From this line of the journal on, the batch counts. The trial that has it is the last to end.
        trials[-1].set_user_attr(TRAINED, {str(trial.number): value for trial, value in zip(trials, values, strict=True)})
        for trial, value in zip(trials, values, strict=True):
            self._end(trial.number, value)

    def _end(self, number: int, value: float | None) -> None:
        """Ends a trial: with a value, as pruned if that is not finite, or as failed without one."""
        states = self._optuna.trial.TrialState
        if value is not None and math.isfinite(value):
            self._study.tell(number, value, state=states.COMPLETE, skip_if_finished=True)
        else:
            self._study.tell(number, state=states.FAIL if value is None else states.PRUNED, skip_if_finished=True)

    def give_back(self, trials: Sequence[Any]) -> None:
        """Marks trials that were not trained to the end as failed."""
        if TRAINED not in trials[-1].user_attrs:  # otherwise the next process at work ends them
            for trial in trials:
                self._end(trial.number, None)

    def set_aside(self, trials: Sequence[Any]) -> None:
        """Marks trials as failed, and not to be asked for again: their points are refused, or an environment failed on them."""
        for trial in trials:
            trial.set_user_attr(ASIDE, True)
        self.give_back(trials)

    def _set_aside(self) -> list[Any]:
        return [trial for trial in self._in_state("FAIL") if ASIDE in trial.user_attrs]

    def importances(self) -> dict[str, float]:
        """Returns the share of each field in the variation among the best points (PED-ANOVA, Watanabe et al. 2023).

        It is empty if the points that have not diverged have reached fewer than ten different returns, which say too little.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = self._optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
            if len({trial.value for trial in self._in_state("COMPLETE")}) < 10:
                return {}
            return dict(self._optuna.importance.get_param_importances(self._study, evaluator=evaluator))


def _quietly(make: Any, *given: Any, **more: Any) -> Any:
    """Makes a sampler without the warning that it is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*given, **more)


def _distribution(field: Range) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if field.whole:
        return IntDistribution(int(field.low), int(field.high), log=field.log)
    return FloatDistribution(field.low, field.high, log=field.log)
