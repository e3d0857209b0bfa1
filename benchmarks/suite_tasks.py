"""The experiments of `benchmarks.suite` as plain data: tasks with the levels that others publish, pilots, and ablations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ddpg_jax as dj
from benchmarks.suite_levels import LEVELS, Level
from ddpg_jax.experiment.values import plain

OVER_THE_RUN = "over the run"
"""As the value of a field: the number of steps of the task."""

FAMILY: dict[str, Any] = {"preset": "mujoco"}
"""What one preset for all environments sets, chosen by the pilots and the ablation below; a value may be `OVER_THE_RUN`."""

PILOT_BASE: dict[str, Any] = {
    "preset": "fujimoto-ourddpg",
    "batch_size": 64,
    "layer_norm": True,
    "n_step": 3,
    "normalize_obs": True,
}
"""What the variants of the pilots differ from. It stays when FAMILY changes, so that their results do."""

RATES: dict[str, Any] = {"actor_lr": 1e-3, "critic_lr": 1e-3}

FIRST_FAMILY: dict[str, Any] = {**PILOT_BASE, **RATES}
"""What the family was before the ablation, of what was trained with it."""


@dataclasses.dataclass(frozen=True)
class Task:
    """An experiment with its seeds, or a chunk of them: some that follow each other, trained in one sweep."""

    name: str
    """Of its run folders and its results."""
    env: str
    steps: int
    given: Mapping[str, Any]
    """Fields of `Experiment` and `Hyperparams`, except for those that stand here by themselves."""
    seeds: int = 10
    """How many."""
    first: int = 0
    """The first of the seeds."""
    eval_every: int = 10_000
    published: Level | None = None
    note: str = ""
    """What sets this task apart from the others, for its results."""
    pilot: str = ""
    """Of a variant: the pilot that it belongs to."""
    variant: str = ""
    changed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of a variant: what differs from the pilot's base."""

    @property
    def stem(self) -> str:
        """Of the names of its results."""
        return f"pilot_{self.pilot}" if self.pilot else f"suite_{self.name}"

    @property
    def part(self) -> str:
        """Which part of the results its sweep is: the variant of a pilot, or the seeds of a chunk."""
        return self.variant if self.pilot else f"seeds_{self.first}-{self.first + self.seeds - 1}"

    @property
    def place(self) -> str:
        """The run folder of its sweep, within that of all."""
        return self.name if self.pilot else f"{self.name}/{self.part}"

    @property
    def all_seeds(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.first, self.first + self.seeds))

    def chunk(self, first: int, seeds: int) -> Task:
        """Some of its seeds.

        >>> Task("hop", "Hopper-v5", 1_000_000, FAMILY).chunk(first=4, seeds=2).place
        'hop/seeds_4-5'
        """
        return dataclasses.replace(self, first=first, seeds=seeds)

    @property
    def fields(self) -> dict[str, Any]:
        """All fields that are given to the sweep, except for the environment and the seeds."""
        values = {**self.given, "steps": self.steps, "eval_every": self.eval_every, "eval_episodes": 10}
        return {name: self.steps if value == OVER_THE_RUN else value for name, value in values.items()}

    @property
    def command(self) -> list[str]:
        """The words behind `ddpg-jax` that train it, except for the run folder."""
        words = ["sweep", self.env, "--seed", str(self.first), "--seeds", str(self.seeds)]
        for name, value in self.fields.items():
            text = str(plain(value))
            words += [f"--{name.replace('_', '-')}", text.lower() if isinstance(value, bool) else text]
        return words

    def configure(self) -> tuple[dj.Experiment, dj.Hyperparams]:
        """The whole experiment, its preset resolved."""
        return dj.configure({"env": self.env, "seed": self.first, **self.fields})


def shrunk(task: Task, seeds: int | None, steps: int | None) -> Task:
    """The task with fewer seeds or steps, under a name of its own; its warm-up and its evaluations shrink along.

    >>> task = Task("hop", "Hopper-v5", 1_000_000, FAMILY)
    >>> trial = shrunk(task, seeds=2, steps=4_000)
    >>> trial.name, trial.seeds, trial.fields["warmup_steps"], trial.eval_every
    ('hop_2seeds_4000steps', 2, 1000, 1000)
    """
    name = task.name + (f"_{seeds}seeds" if seeds else "") + (f"_{steps}steps" if steps else "")
    pilot = task.pilot and name.replace(task.name, task.pilot, 1)
    trial = dataclasses.replace(task, name=name, pilot=pilot, seeds=seeds or task.seeds)
    if not steps:
        return trial
    experiment, _ = task.configure()
    warmup = max(min(experiment.warmup_steps, steps // 4), experiment.batch_size)
    given = {**task.given, "warmup_steps": warmup, "replay_capacity": min(experiment.replay_capacity, max(steps, warmup))}
    return dataclasses.replace(trial, steps=steps, given=given, eval_every=min(task.eval_every, max(1, steps // 4)))


def of_family(name: str, env: str, steps: int, *, first: int = 0, note: str = "", **more: Any) -> Task:
    """A task with the preset of the family; its replay is as long as the run, so it keeps all transitions, as 1e6 would."""
    eval_every = more.pop("eval_every", 10_000 if steps >= 1_000_000 else 5_000)
    given = {**FAMILY, "replay_capacity": min(steps, 1_000_000), **more}
    return Task(name, env, steps, given, first=first, eval_every=eval_every, published=LEVELS.get(name), note=note)


def of_preset(name: str, env: str, preset: str, note: str = "") -> Task:
    """A task of 1M steps with a preset, unchanged."""
    return Task(name, env, 1_000_000, {"preset": preset}, published=LEVELS[name], note=note)


WHERE_FALLS_END: dict[str, Any] = {
    "note": "Three-step returns, which the ablation on Hopper speaks for and the pilots on Reacher against.",
    "n_step": 3,
}

# The seeds on Hopper and HalfCheetah begin at 10, since the settings of the family were chosen there with the first ten.
#
# What ends soonest comes first: tasks of 300,000 steps, of which one or more end within a session of a few hours, so that a bad
# choice of FAMILY shows early, too. Those of 1M steps take several sessions: first those of the family, then what they are
# compared with, of which TD3 takes longest, with two critics and batches of 256. At the end is what asks for more than the
# settings of the family: goals to relabel, a long observation, an accelerator.
TASKS: tuple[Task, ...] = (
    of_family("reacher", "Reacher-v5", 300_000),
    of_family("inverted_double_pendulum", "InvertedDoublePendulum-v5", 300_000),
    of_family("lunar_lander", "LunarLanderContinuous-v3", 300_000),
    of_family("pusher", "Pusher-v5", 300_000),
    of_family("hopper", "Hopper-v5", 1_000_000, first=10, **WHERE_FALLS_END),
    of_family("halfcheetah", "HalfCheetah-v5", 1_000_000, first=10),
    of_family("walker2d", "Walker2d-v5", 1_000_000, **WHERE_FALLS_END),
    of_family("bipedal_walker", "BipedalWalker-v3", 1_000_000),
    of_family(
        "swimmer",
        "Swimmer-v5",
        1_000_000,
        note="A gamma of its own, .9999, where the published runs have .99: a stroke pays beyond the horizon of .99.",
        gamma=0.9999,
    ),
    of_preset(
        "halfcheetah_published",
        "HalfCheetah-v5",
        "fujimoto-ourddpg",
        "The preset unchanged: the settings of the repository since 2021.",
    ),
    of_preset("td3_halfcheetah", "HalfCheetah-v5", "td3"),
    of_preset("td3_hopper", "Hopper-v5", "td3"),
    of_preset("td3_bipedal_walker", "BipedalWalker-v3", "td3"),
    of_family("point_maze", "PointMaze_UMaze-v3", 300_000, note="Hindsight.", hindsight="future"),
    Task(
        "fetch_reach",
        "FetchReach-v4",
        50_000,
        {**FIRST_FAMILY, "replay_capacity": 50_000, "hindsight": "future", "warmup_steps": 1_000},
        eval_every=1_000,
        published=LEVELS["fetch_reach"],
        note="Hindsight; the settings that the pilots began with, rates of 1e-3, and a warm-up of 1,000 steps.",
    ),
    of_family("ant", "Ant-v5", 1_000_000),
    of_family("cheetah_run", "playground/CheetahRun", 500_000, note="On the device.", backend="device"),
    of_family("walker_walk", "playground/WalkerWalk", 500_000, note="On the device.", backend="device"),
)

FALLING: dict[str, Any] = {"lr_schedule": "cosine", "lr_final": 0.1, "lr_decay_updates": OVER_THE_RUN}

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "batch_128": {"batch_size": 128},
    "lr_1e-3": RATES,
    "lr_1e-3_no_layer_norm": {**RATES, "layer_norm": False},
    "lr_1e-3_n_step_1": {**RATES, "n_step": 1},
    "lr_1e-3_n_step_1_no_layer_norm": {**RATES, "n_step": 1, "layer_norm": False},
    "critic_lr_1e-3": {"critic_lr": 1e-3},
    "lr_1e-3_cosine": {**RATES, **FALLING},
    "lr_cosine": FALLING,
    "noise_.2": {"noise_sigma": 0.2},
    "noise_linear": {"noise_schedule": "linear", "noise_sigma_final": 0.02, "noise_decay_steps": OVER_THE_RUN},
    "tau_.002": {"tau": 0.002},
    "two_critics": {"num_critics": 2},
    "no_layer_norm": {"layer_norm": False},
    "gamma_.995": {"gamma": 0.995},
}


ABLATION_BASE: dict[str, Any] = {
    "preset": "fujimoto-ourddpg",
    **RATES,
    "batch_size": 64,
    "warmup_steps": 10_000,
}
"""Plain DDPG, to which the ablation adds one part at a time; `family` is three of them together, with which the suite began."""

ADDED: dict[str, dict[str, Any]] = {
    "mlp": {},
    "layer_norm": {"layer_norm": True},
    "residual": {"network": "residual", "actor_hidden": (64,), "critic_hidden": (128,)},
    "normalize_obs": {"normalize_obs": True},
    "adamw": {"actor_decay": 1e-2, "critic_decay": 1e-2},
    "categorical": {"critic": "categorical", "value_min": -50.0, "value_max": 400.0},
    "n_step": {"n_step": 3},
    "family": {"layer_norm": True, "normalize_obs": True, "n_step": 3},
}
"""Residual blocks are four times as wide inside as outside: the actor has half the weights of two layers of 256, and the critic
twice as many."""


CHOSEN: dict[str, Any] = {"preset": "mujoco"}
"""What the pilots after the choice of the preset differ from. It stays when FAMILY changes, so that their results do."""

PRECISE: dict[str, dict[str, Any]] = {
    "mujoco": {},
    "cosine": FALLING,
    "lr_3e-4": {"actor_lr": 3e-4, "critic_lr": 3e-4},
}
"""What might make policies of the preset mujoco precise: on Reacher they stay 2 cm away, and the double pendulum swings."""


CALMING: dict[str, dict[str, Any]] = {
    "layer_norm": {"layer_norm": True},
    "two_critics": {"num_critics": 2},
    "actor_lr_1e-4": {"actor_lr": 1e-4},
    "raw_obs": {"normalize_obs": False},
}
"""What might keep its values below all returns that there are, and its actors from saturating."""


def pilot(
    name: str,
    env: str,
    steps: int,
    *,
    seeds: int = 3,
    first: int = 0,
    base: Mapping[str, Any] = PILOT_BASE,
    variants: Mapping[str, Mapping[str, Any]] = VARIANTS,
) -> list[Task]:
    """A task for every variant."""
    base = {**base, "replay_capacity": steps}
    return [
        Task(
            f"pilot_{name}_{variant}",
            env,
            steps,
            {**base, **changed},
            seeds,
            first,
            eval_every=5_000,
            pilot=name,
            variant=variant,
            changed=changed,
        )
        for variant, changed in variants.items()
    ]


PILOTS: tuple[Task, ...] = (
    *pilot("hopper", "Hopper-v5", 300_000),
    *pilot("halfcheetah", "HalfCheetah-v5", 200_000),
    *pilot("bipedal_walker", "BipedalWalker-v3", 300_000),
    *pilot("reacher", "Reacher-v5", 150_000),
    *pilot("precise_reacher", "Reacher-v5", 100_000, seeds=2, base=CHOSEN, variants=PRECISE),
    *pilot(
        "precise_double_pendulum",
        "InvertedDoublePendulum-v5",
        100_000,
        seeds=2,
        first=4,  # one of the two swings in the end, and the actor of the other saturates
        base=CHOSEN,
        variants={**PRECISE, **CALMING},
    ),
    *pilot(
        "landing_lunar_lander",
        "LunarLanderContinuous-v3",
        200_000,
        seeds=2,
        first=8,  # one of the two lands after 120,000 steps, the other hovers
        base=CHOSEN,
        variants={"n_step": {"n_step": 3}, "lr_3e-4": PRECISE["lr_3e-4"]},
    ),
    *pilot("ablation_hopper", "Hopper-v5", 100_000, seeds=10, base=ABLATION_BASE, variants=ADDED),
    *pilot("ablation_bipedal_walker", "BipedalWalker-v3", 100_000, seeds=10, base=ABLATION_BASE, variants=ADDED),
)
