"""What demonstrations give: steps to success with and without them, and policies that are learned without any steps.

    python -m benchmarks.demonstrations                       # reach and pendulum, a quarter of an hour on two cores
    python -m benchmarks.demonstrations --only cheetah        # or: maze, half_cheetah, reach, pendulum; half an hour each
    python -m benchmarks.demonstrations --only reach --again  # measures again what is there

Each variant is a sweep over seeds, ten by default, which are the same for all, and is written to
`benchmarks/results/demonstrations_KIND.json` as soon as it is measured; variants that are there are skipped, so that a
benchmark that was stopped goes on. Networks are 64-64, except on HalfCheetah-v5. The warm-up of point-reach has 250 steps.

- reach, maze, cheetah: steps to the first evaluation at which the policy is good enough, online, without demonstrations or with
  those of a policy that was trained with another seed. On point-reach and PointMaze_UMaze-v3, 20 episodes are shown, and a
  policy is good enough if 90 % of its episodes end at the goal; on HalfCheetah-v5, 100 episodes of a half-trained policy are
  shown, and a return of 5,000 is enough. A seed that does not get there counts with twice the length of a run.
- pendulum, half_cheetah: the return of TD3+BC, offline, against that of the demonstrator, which was trained to the end or
  halfway. The data are 50 of its episodes for pendulum and 100 for half_cheetah, with noise of 0.1. All policies are compared
  without noise, over 100 and 20 episodes with the same seeds.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ddpg_jax as dj
from benchmarks.parts import score, share_at_goal
from benchmarks.suite_tasks import FIRST_FAMILY
from ddpg_jax.app.record import mu
from ddpg_jax.data.collect import collect, greedy, noisy
from ddpg_jax.data.npz_file import write_npz
from ddpg_jax.envs.choosing import device_env
from ddpg_jax.envs.host import make_host
from ddpg_jax.envs.host.make import maker
from ddpg_jax.running.hardware import use_all_cores
from ddpg_jax.types import EnvOptions

RESULTS = Path(__file__).parent / "results"
DEMONSTRATOR_SEED = 1_000

SHARE: dict[str, dict[str, Any]] = {
    "half": {},
    "half, cloned": {"bc_weight": 10.0, "pretrain_updates": 5_000},
    "half, filtered": {"bc_weight": 1.0, "pretrain_updates": 1_000, "q_filter": True},
}
"""Ways to use demonstrations: a share of the batches (Ball et al. 2023), and besides, clones of all of them, or with the
Q-filter of those that the critic values more (Nair et al. 2018)."""


class Task(NamedTuple):
    """Describes an environment in which the steps to success are counted."""

    env: str
    fields: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    """Name -> fields; those without `shown` learn without demonstrations."""
    demonstrator: dict[str, Any]
    """The fields with which the demonstrator is trained."""
    episodes: int
    measure: Callable[[dict[str, Any], dj.Policy], float]
    enough: float
    """The measure from which on a policy is good enough."""


def returned(row: dict[str, Any], policy: dj.Policy) -> float:
    """The mean return of the evaluation; where an episode ends with the only reward, the share of successes."""
    del policy
    return row["eval_return_mean"]


SHARES: list[Any] = []


def at_goal(row: dict[str, Any], policy: dj.Policy) -> float:
    """The share of 100 episodes of point-reach that end at the goal; the policies all have the same network."""
    del row
    if not SHARES:
        SHARES.append(share_at_goal(policy.unit_action))
    return float(SHARES[0](policy.params))


HINDSIGHT = {"hindsight": "future"}
SMALL = {"hidden": (64, 64)}
REACH = {**SMALL, "gamma": 0.95, "exploration": "gaussian", "epsilon_uniform": 0.2, "warmup_steps": 250}
MAZE = {
    **SMALL,
    "env_kwargs": "continuing_task=false",
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.005,
    "gamma": 0.98,
    "exploration": "gaussian",
    "noise_sigma": 0.2,
    "epsilon_uniform": 0.2,
    "warmup_steps": 1_000,
    "replay_capacity": 100_000,
}
CHEETAH = {**FIRST_FAMILY, "warmup_steps": 10_000, "replay_capacity": 200_000}
FILTERED = {
    "demo_fraction": 0.1,
    "bc_weight": 1.0,
    "q_filter": True,
    "bc_alpha": 2.5,
    "pretrain_updates": 20_000,
    "warmup_steps": 1_000,
}
"""For demonstrations of a policy that is not good enough: few of them in a batch, as long as the critic values them more."""
TASKS: dict[str, Task] = {
    "reach": Task(
        "point-reach",
        {**REACH, "steps": 10_000, "eval_every": 250, "eval_episodes": 1},
        {
            "hindsight": HINDSIGHT,
            **{f"hindsight, {name}": {**HINDSIGHT, **fields, "shown": True} for name, fields in SHARE.items()},
            "half": {"shown": True},
        },
        {**HINDSIGHT, "steps": 8_000, "eval_every": 8_000},
        20,
        at_goal,
        0.9,
    ),
    "maze": Task(
        "PointMaze_UMaze-v3",
        {**MAZE, "steps": 60_000, "eval_every": 1_000, "eval_episodes": 20},
        {
            "hindsight": HINDSIGHT,
            **{f"hindsight, {name}": {**HINDSIGHT, **fields, "shown": True} for name, fields in SHARE.items()},
        },
        {**HINDSIGHT, "steps": 60_000},
        20,
        returned,
        0.9,
    ),
    "cheetah": Task(
        "HalfCheetah-v5",
        {**CHEETAH, "steps": 200_000, "eval_every": 5_000},
        {"alone": {}, "half": {"shown": True}, "tenth, filtered": {"shown": True, **FILTERED}},
        {"steps": 50_000},
        100,
        returned,
        5_000.0,
    ),
}


def steps_to(name: str, task: Task, seeds: int, steps: int) -> dict[str, Any]:
    """The steps to success of a variant, one for each seed."""
    fields = {**task.fields, **task.variants[name], "steps": steps}
    reached: dict[int, float] = {}

    def look(member: int, step: int, row: dict[str, Any], policy: dj.Policy) -> bool:
        if task.measure(row, policy) >= task.enough:
            reached[member] = float(step)
        return member not in reached

    with tempfile.TemporaryDirectory() as folder:
        if fields.pop("shown", False):
            fields["demonstrations"] = str(Path(folder) / "shown.npz")
            write_npz(Path(fields["demonstrations"]), demonstrations(task))
        dj.sweep(task.env, seeds=seeds, on_evaluation=look, **fields)
    return score([reached.get(m, 2.0 * steps) for m in range(seeds)])


def demonstrations(task: Task) -> list[Any]:
    """Noise-free episodes of a demonstrator, of which all variants see the same."""
    fields = {"env_kwargs": "{}", **task.fields, **task.demonstrator}
    policy = trained(task.env, tuple(fields.items()))
    return shown(task.env, greedy(mu(policy)), task.episodes, dj.configure(fields)[0].env_kwargs)


@functools.cache
def trained(env: str, fields: tuple[tuple[str, Any], ...]) -> dj.Policy:
    """A policy of the seed of demonstrators."""
    return dj.train(env, seed=DEMONSTRATOR_SEED, **dict(fields)).policy


class Offline(NamedTuple):
    """Describes data of which policies are learned without any steps."""

    env: str
    fields: dict[str, Any]
    """Of TD3+BC."""
    demonstrator: dict[str, Any]
    """The fields with which the demonstrators are trained."""
    steps: dict[str, int]
    """For how many steps they are trained, by their names."""
    episodes: int
    """Noisy ones of a demonstrator, which are the data."""
    compared: int
    """Noise-free episodes of each policy."""
    updates: int


OFFLINE = {
    "pendulum": Offline("Pendulum-v1", SMALL, SMALL, {"half trained": 3_000, "trained": 15_000}, 50, 100, 10_000),
    "half_cheetah": Offline("HalfCheetah-v5", {"batch_size": 64}, CHEETAH, {"half trained": 50_000}, 100, 20, 30_000),
}


def offline(task: Offline, name: str, seeds: int, updates: int) -> dict[str, Any]:
    """The returns of TD3+BC, one for each seed, beside those of the data and of the demonstrator without noise."""
    steps = task.steps[name]
    policy = trained(task.env, tuple({**task.demonstrator, "steps": steps, "eval_every": steps}.items()))
    episodes = shown(task.env, noisy(mu(policy), 0.1), task.episodes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.npz"
        write_npz(path, episodes)
        fields = {**task.fields, "steps": 0, "updates": updates, "eval_every": updates, "eval_episodes": 1}
        sweep = dj.sweep(task.env, seeds=seeds, preset="td3-bc", demonstrations=str(path), **fields)
    own, *others = (mean_return(shown(task.env, greedy(mu(one)), task.compared)) for one in [policy, *sweep.policies])
    return {**score(others), "data": mean_return(episodes), "demonstrator": own}


def shown(name: str, act: Any, episodes: int, env_kwargs: str = "{}") -> list[Any]:
    """Episodes of an environment, on the device if it is written in JAX."""
    options = EnvOptions(env_kwargs=env_kwargs)
    if (device := device_env("auto", name, options)) is not None:
        return collect(device, act, episodes=episodes, seed=0)
    return collect(make_host(name, options), act, episodes=episodes, seed=0, make=maker(name, options))


def mean_return(episodes: list[Any]) -> float:
    return float(np.mean([episode.reward.sum() for episode in episodes]))


def measures(kind: str) -> tuple[Callable[[str, int, int], dict[str, Any]], list[str], int]:
    """What is measured, of which variants, and how long a run is."""
    if kind in OFFLINE:
        data = OFFLINE[kind]
        return lambda name, seeds, updates: offline(data, name, seeds, updates), list(data.steps), data.updates
    task = TASKS[kind]
    return lambda name, seeds, steps: steps_to(name, task, seeds, steps), list(task.variants), task.fields["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*TASKS, *OFFLINE))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="instead of the usual number")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    use_all_cores()
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    for kind in [options.only] if options.only else ["reach", "pendulum"]:
        measure, names, usual = measures(kind)
        steps, path = options.steps or usual, RESULTS / f"demonstrations_{kind}.json"
        command = f"python -m benchmarks.demonstrations --only {kind} --seeds {options.seeds} --steps {steps}"
        about = {"command": command, "steps": steps, **machine()}
        kept = json.loads(path.read_text()) if path.exists() and not options.again else {"rows": {}, **about}
        if kept["command"] != command:
            raise SystemExit(f"{path} is of `{kept['command']}`; move it away, or measure it again with --again")
        rows = kept["rows"]
        for name in names:
            if name not in rows:
                own = {} if all(kept[word] == here for word, here in about.items()) else {"about": about}
                rows[name] = {**measure(name, options.seeds, steps), **own}
            beside = "".join(f"  {word} {x:.1f}" for word, x in rows[name].items() if word in ("data", "demonstrator"))
            low, high = rows[name]["low"], rows[name]["high"]
            print(f"{kind:10s} {name:24s} {rows[name]['iqm']:9.1f} [{low:.1f}, {high:.1f}]{beside}", flush=True)
            path.write_text(as_json(kept))


if __name__ == "__main__":
    main()
