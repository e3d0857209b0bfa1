"""Implements `train` and `sweep`, which perform whole runs in one call from Python."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ddpg_jax.agent.policy import Policy
from ddpg_jax.data.demonstrations import load_store
from ddpg_jax.envs.choosing import device_env
from ddpg_jax.envs.host import from_function, generators_kept, make_host
from ddpg_jax.envs.make import as_env
from ddpg_jax.envs.spaces import check_same_spaces
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.build import ENV_FIELDS, env_options, network_fields
from ddpg_jax.experiment.experiment import STRUCTURE, Experiment, configure
from ddpg_jax.experiment.grid import Point, grid_points
from ddpg_jax.experiment.validate import check_demonstrations
from ddpg_jax.experiment.values import integer, plain, to_python
from ddpg_jax.running.blocks import Evolve, nobody_changes, run_blocks
from ddpg_jax.running.clock import learns
from ddpg_jax.running.evaluation import play
from ddpg_jax.running.groups import check_groups, check_read, fit_to_memory, make_groups
from ddpg_jax.running.hardware import check_settings, idle_cores, use_all_cores
from ddpg_jax.running.members import Change
from ddpg_jax.running.population import check_alone, check_together, make_population
from ddpg_jax.running.program import Member, Program
from ddpg_jax.running.results import Stop, Sweep
from ddpg_jax.running.rows import measurement, result_of
from ddpg_jax.running.stops import Referee, make_pruning, parse_until
from ddpg_jax.running.timetable import beginnings, happened, make_timetable
from ddpg_jax.types import Env, EnvSpec, Episodes, Hyperparams, Params


@dataclasses.dataclass(frozen=True)
class Run:
    """Holds a finished training run."""

    experiment: Experiment
    hyper: Hyperparams
    rows: list[dict[str, Any]]
    """One row for each evaluation, with the columns of metrics.csv."""
    policy: Policy

    def __repr__(self) -> str:
        last, x = self.rows[-1], self.experiment
        untrained = "" if learns(x) else ", without an update"
        return f"<Run of {x.env}, seed {x.seed}: return {result_of(last):.4g} after {last['step']:,} steps{untrained}>"

    @property
    def returns(self) -> np.ndarray:
        """Returns the mean return without noise at each evaluation, `[evaluations]`; without evaluations, that of training."""
        return np.array([result_of(row) for row in self.rows])

    def column(self, name: str) -> np.ndarray:
        """Returns a measurement other than the return: a column of metrics.csv such as `q_mean`, `[evaluations]`.

        Raises:
            ConfigError: there is no such measurement.
        """
        return np.array(list(map(measurement(name, self.rows[0], "this run"), self.rows)))

    @property
    def steps(self) -> np.ndarray:
        """Returns the step of each evaluation, `[evaluations]`."""
        return np.array([row["step"] for row in self.rows])


OnEvaluation: TypeAlias = Callable[[int, int, dict[str, Any], Policy], Any]
"""`(member, step, row, policy) -> Any`: inspects a member after an evaluation; the member stops if it returns False. The row
has the columns of metrics.csv."""


def train(env: Any = "Pendulum-v1", *, on_evaluation: OnEvaluation | None = None, until: Any = None, **fields: Any) -> Run:
    """Trains one policy, and returns it with its learning curve. No files are written.

    Args:
        env: a name (see `ddpg-jax envs`), an `Env` written in JAX, or a function that makes a Gymnasium environment.
        on_evaluation: `(member, step, row, policy)`, called after each evaluation; training stops if it returns False.
        until: a return, such as `-200`, at which training stops; `(-200, 3)` if three evaluations in a row must reach it.
        **fields: fields of `Experiment` and `Hyperparams`, on top of their preset.

    Raises:
        ConfigError: a field is not known, its value is not allowed, or DDPG does not support the environment.
        EnvironmentFailure: the environment raised an error or returned a number that is not finite.

    >>> import ddpg_jax as dj
    >>> run = dj.train("Pendulum-v1", steps=2_000, seed=0)
    >>> run.steps.tolist(), run.returns.shape
    ([1000, 2000], (2,))
    """
    if "seeds" in fields:
        raise ConfigError(f"seeds={fields['seeds']} is not allowed in train, which trains one seed; use dj.sweep(..., seeds=N)")
    groups = make_groups([{}], 1, {**fields, "env": env if isinstance(env, str) else _name(env)})
    check_read(groups, fields)
    experiment, members = groups[0]
    referee = Referee(groups, until=parse_until(until))
    use_all_cores()  # for sweeps that follow, since it cannot be done later
    done = _train_all(experiment, _prepare(experiment, members, _given(env)), on_evaluation, referee=referee)
    return Run(experiment, members[0].hyper, done.rows, done.policies[0])


def sweep(
    env: Any = "Pendulum-v1",
    seeds: int = 1,
    grid: Mapping[str, Sequence[Any]] | None = None,
    points: Iterable[Point] | None = None,
    *,
    on_evaluation: OnEvaluation | None = None,
    until: Any = None,
    prune: Any = None,
    prune_fraction: float | None = None,
    population: int | None = None,
    sample: Mapping[str, str] | None = None,
    exploit: Any = None,
    schedule: Any = None,
    **fields: Any,
) -> Sweep:
    """Trains seeds x points at once. No files are written.

    All values of `Hyperparams` and all seeds are trained in one compiled program; every combination of fields of `Experiment`
    in a grid needs a separate program. On a CPU, a sweep uses every core; if JAX was in use before this library, it may
    use fewer, and warns.

    Args:
        env: as in `train`.
        seeds: `S`, the number of seeds. They count up from the field `seed` and are the same at every point.
        grid: maps fields to lists of values; the points are all combinations of them.
        points: the points themselves, instead of a grid; all must have the same fields.
        on_evaluation: `(member, step, row, policy)`, called for each member after each evaluation; a member stops if it returns
            False, and the others continue.
        until: as in `train`, for each member.
        prune: successive halving: a number of rungs, or their steps, at which the worst points stop; see
            `running.stops.make_pruning`.
        prune_fraction: the fraction of points that stops at each rung, by default a half.
        population: population based training: the number of members, which learn from each other. Each has a seed of its own.
        sample: maps the fields that a population explores to `log:LOW:HIGH` or `uniform:LOW:HIGH`.
        exploit: how the members of a population learn from each other: a `dj.Exploit`, or a dict of its fields.
        schedule: hyperparameters that change during training, alike for all seeds: the `schedule.csv` of a population, its
            `Sweep.schedule()`, or pairs of a step and the values that hold from there on, such as
            `[(0, {"tau": 0.01}), (2000, {"tau": 0.005})]`.
        **fields: fields that all points share, except where a point overrides them.

    Raises:
        ConfigError: as for `train`; or the grid is empty, or the members do not fit in memory.
        EnvironmentFailure: as for `train`.

    >>> import ddpg_jax as dj
    >>> sweep = dj.sweep("probe/observation", seeds=2, grid={"tau": [0.01, 0.1]}, steps=600, warmup_steps=500, hidden=(8,))
    >>> sweep.points, sweep.returns.shape
    ([{'tau': 0.01}, {'tau': 0.1}], (2, 2, 1))
    """
    given = {**fields, "env": env if isinstance(env, str) else _name(env)}
    evolve: Evolve = nobody_changes
    if population is not None:
        alone = {"grid": grid, "points": points, "prune": prune, "until": until, "schedule": schedule}
        check_alone("population", population, {**alone, "seeds": None if seeds == 1 else seeds})
        groups, evolve = make_population(population, sample, given, exploit=exploit)
        chosen = [dict(member.swept) for member in groups[0].members]
    elif sample is not None or exploit is not None:
        raise ConfigError(f"{'exploit' if sample is None else 'sample'} needs population, a number of members")
    elif schedule is not None:
        check_alone("schedule", "", {"grid": grid, "points": points, "prune": prune})
        groups, evolve = make_timetable(schedule, seeds, given)
        chosen = [dict(groups[0].members[0].swept)]
    else:
        chosen = _points(env, grid, points)
        groups = make_groups(chosen, seeds, given)
    check_read(groups, fields)
    pruning = None if prune is None else make_pruning(prune, prune_fraction, groups)
    if prune is None and prune_fraction is not None:
        raise ConfigError(f"prune_fraction={prune_fraction} needs prune, the number of rungs or their steps")
    referee = Referee(groups, until=parse_until(until), pruning=pruning)
    use_all_cores()
    if line := idle_cores(sum(len(group.members) for group in groups)):
        warnings.warn(line, stacklevel=2)

    def make(experiment: Experiment, members: list[Member]) -> Program:
        return _prepare(experiment, members, _given(env))

    check_groups(groups, make)
    done: list[_Trained] = []
    for group in groups:
        for part, program in fit_to_memory(group, make, unit=seeds if pruning else 1):
            if population is not None:
                check_together(part, group, program.close)
            done.append(_train_all(part.experiment, program, on_evaluation, referee=referee, evolve=evolve))
    begin = beginnings(groups[0].members) if population is not None else []
    return _result(chosen, done, referee.stops, begin=begin, seed=groups[0].experiment.seed)


def evaluate(policy: Policy, env: Any = None, *, episodes: int = 20, seed: int = 0, **fields: Any) -> Episodes:
    """Plays whole episodes of a policy without noise; returns their returns, lengths and successes, `[episodes]` each.

    Args:
        policy: a policy, such as `Run.policy`, one of `Sweep.policies`, or what `load_policy` returns.
        env: as in `train`; by default, the environment that the policy was trained in, if it was given by name. Another one
            must have the same shapes and bounds.
        episodes: their number.
        seed: of the initial states.
        **fields: fields of `Experiment` that say what the environment is, such as `env_kwargs` and `backend`. By default, the
            environment of the training keeps its `env_kwargs`, `wrappers` and `imports` (these are imported), and one that is
            given as `env` has none; `backend` is auto.

    Raises:
        ConfigError: as for `train`; or the shapes or bounds of the environment differ, or the policy has diverged.
        EnvironmentFailure: as for `train`.

    >>> import ddpg_jax as dj
    >>> run = dj.train("Pendulum-v1", steps=1_000, warmup_steps=500)
    >>> played = dj.evaluate(run.policy, env_kwargs={"g": 5.0}, episodes=3)
    >>> played.returns.shape, played.lengths.tolist(), played.successes.tolist()  # Pendulum has no successes
    ((3,), [200, 200, 200], [nan, nan, nan])
    """
    made, env = ({}, env) if env is not None else (policy.options._asdict(), policy.spec.name)
    for name, value in fields.items():
        if name not in ENV_FIELDS:
            raise ConfigError(
                f"{name}={plain(value)} is not allowed in evaluate; it must be one of {', '.join(ENV_FIELDS[1:])}"
            )
    episodes = integer("episodes", episodes, low=1)
    experiment, _ = configure({**made, **fields, "env": env if isinstance(env, str) else _name(env), "seed": seed})
    check_settings()
    return play_policy(policy, experiment, _given(env), episodes=episodes, seed=experiment.seed)


def play_policy(
    policy: Policy, experiment: Experiment, env: Any = None, *, episodes: int, seed: int, name: str = "policy"
) -> Episodes:
    """Plays a policy, called `name` in messages, in the environment of an experiment or in `env`; see `evaluate`."""
    if not policy.is_finite():
        raise ConfigError(f"{name} has diverged, and its parameters are not finite; evaluate another one")
    found = find_env(experiment, env)
    check_same_spaces(found.spec, policy.spec)
    with generators_kept():  # a training may be under way
        is_shared = experiment.eval_env == "shared"
        return play(found, policy.unit_action, policy.params, episodes=episodes, seed=seed, shared=is_shared)


class _Trained(NamedTuple):
    """What a program has trained."""

    rows: list[dict[str, Any]]
    policies: dict[int, Policy]
    """Policies by the numbers of their members."""
    changes: list[Change]


def _result(points: list[Point], done: Sequence[_Trained], stops: dict[int, Stop], *, begin: list[Change], seed: int) -> Sweep:
    """Collects the results of all programs of a sweep, with the changes of a population after its beginnings."""
    policies = {number: policy for one in done for number, policy in one.policies.items()}
    rows = [row for one in done for row in one.rows]
    each = len(policies) // len(points)
    every = [policies[m] for m in range(len(policies))]
    changes = happened([change for one in done for change in one.changes], max(row["step"] for row in rows)) if begin else []
    return Sweep(points, list(range(seed, seed + each)), rows, every, stops, begin + changes)


def _points(env: Any, grid: Mapping[str, Sequence[Any]] | None, points: Iterable[Point] | None) -> list[Point]:
    """Returns the points of a sweep; one without fields if there is neither a grid nor a list of points."""
    if grid is not None and points is not None:
        raise ConfigError("points and grid cannot be combined; give one of them")
    if grid is not None and not grid:
        raise ConfigError("grid={} is not allowed; it must name at least one field, or be None")
    points = list(points) if isinstance(points, Iterable) and not isinstance(points, Mapping) else points
    if points is not None and not (isinstance(points, list) and all(isinstance(point, Mapping) for point in points)):
        raise ConfigError(
            f"points={points!r} is not allowed; it must be a list of dicts, each of which must map names of fields to values"
        )
    chosen = grid_points(grid) if grid is not None else [dict(point) for point in points] if points is not None else [{}]
    if not isinstance(env, str) and any("env" in point for point in chosen):
        raise ConfigError("env cannot be swept while the environment is given as an object; give all environments by name")
    return chosen


def _train_all(
    experiment: Experiment,
    program: Program,
    on_evaluation: OnEvaluation | None,
    *,
    referee: Referee,
    evolve: Evolve = nobody_changes,
) -> _Trained:
    """Trains all members of a program, and closes it."""
    decide = referee.judge(program.members)

    def judge(rows: list[dict[str, Any]], state: Any) -> Iterable[int]:
        yield from decide(rows, state)
        for m, member in enumerate(program.members):
            row = next((row for row in rows if row["member"] == member.number), None)
            if on_evaluation and row:
                policy = make_policy(experiment, program.spec, program.actor(state, m))
                if to_python(on_evaluation(member.number, row["step"], dict(row), policy)) is False:
                    yield m

    if line := program.time_limit_missing():
        warnings.warn(line, stacklevel=3)
    try:
        rows, state, changes = [], program.start(), []
        for tick in run_blocks(program, experiment, state, judge=judge, evolve=evolve):
            rows, state, changes = rows + tick.rows, tick.state, tick.journal.lineage or []
        actors = {member.number: program.actor(state, m) for m, member in enumerate(program.members)}
        policies = {number: make_policy(experiment, program.spec, actor) for number, actor in actors.items()}
        return _Trained(rows, policies, changes)
    except EnvironmentFailure as failure:
        raise EnvironmentFailure(f"env={experiment.env} {failure}") from failure.__cause__
    finally:
        program.close()


def make_program(experiment: Experiment, members: list[Member], env: Any = None) -> Program:
    """Makes the program that trains these members. `Program.save` keeps its environments if they can be shown to come back.

    Args:
        experiment: the structure of the run.
        members: the seeds and hyperparameters to train.
        env: replaces the environment that the experiment names: an `Env`, or a function that makes a Gymnasium environment.

    Raises:
        ConfigError: the environment is not known or not supported, or a setting of JAX would change the results.
        EnvironmentFailure: the environment failed in the trial of its first reset and step.
    """
    program = _prepare(experiment, members, env)
    program.keeps_environments()  # which can be shown only before they are in use
    return program


def _prepare(experiment: Experiment, members: list[Member], env: Any = None) -> Program:
    """Makes a program, as `make_program` does; whether it keeps its environments remains to be asked."""
    check_settings()
    shown = os.path.abspath(experiment.demonstrations)  # before an environment can change the current folder
    env = find_env(experiment, env)
    if experiment.eval_env == "shared" and env.outside is None:
        raise ConfigError(f"eval_env=shared is not allowed with env={experiment.env} on the device; it must be own")
    check_demonstrations(experiment)
    if not experiment.demonstrations:
        return Program(experiment, env, members)
    name = shown if os.path.exists(shown) else experiment.demonstrations  # else it may be a Minari id
    return Program(experiment, env, members, store=load_store(name, env.spec, hindsight=experiment.hindsight != "none"))


def find_env(experiment: Experiment, env: Any = None) -> Env:
    """Returns the environment of an experiment, or `env` in its place, as in `make_program`.

    Raises:
        ConfigError: the environment is not known or not supported.
        EnvironmentFailure: it failed in the trial of its first reset and step.
    """
    env = as_env(env)
    if env is None:
        options = env_options(experiment)
        in_jax = device_env(experiment.backend, experiment.env, options)
        return make_host(experiment.env, options, experiment.host_order) if in_jax is None else in_jax
    _check_no_options(experiment)
    lives = "device" if isinstance(env, Env) and env.outside is None else "host"
    if experiment.backend not in ("auto", lives):
        raise ConfigError(
            f"backend={experiment.backend} is not allowed with an environment that is given as an object for the {lives}; it "
            f"must be {lives} or auto"
        )
    return env if isinstance(env, Env) else from_function(env, experiment.env, experiment.host_order)


def make_policy(experiment: Experiment, spec: EnvSpec, actor_params: Params) -> Policy:
    """Makes the policy of a trained actor."""
    spec = spec._replace(goal=None)  # it asks an environment, and cannot be pickled
    return Policy(spec, actor_params, experiment.network, network_fields(experiment), env_options(experiment))


def _check_no_options(experiment: Experiment) -> None:
    """Raises ConfigError if options are set that only apply to an environment that is made by its name."""
    for name, value in env_options(experiment)._asdict().items():
        if value != STRUCTURE[name]:
            raise ConfigError(
                f"{name}={plain(value)} is not allowed with an environment that is given as an object; it must be "
                f"{plain(STRUCTURE[name]) or 'empty'}, or the environment must be given by name"
            )


def _given(env: Any) -> Any:
    """Returns the environment if it is given as an object, and None if it is given by name."""
    if env is None:
        raise ConfigError("env=None is not allowed; it must be a name, an Env written in JAX, or a function that makes one")
    return None if isinstance(env, str) else env


def _name(env: Any) -> str:
    """Returns the name of an environment that is given as an object."""
    env = as_env(env)
    if isinstance(env, Env):
        return env.spec.name
    registered = getattr(getattr(env, "spec", None), "id", None)  # set on environments that are already made
    return registered or getattr(env, "__name__", type(env).__name__)
