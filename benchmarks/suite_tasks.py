"""The experiments of `benchmarks.suite` as plain data: tasks with the levels that others publish, pilots, and ablations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import ddpg_jax as dj
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


class Level(NamedTuple):
    """What others report, for the dashed line of a figure."""

    value: float | None
    """None where the level is no return; then `protocol` says it in words."""
    protocol: str
    source: str


@dataclasses.dataclass(frozen=True)
class Task:
    """An experiment with its seeds, or a chunk of them: some that follow each other, trained in one sweep."""

    name: str
    """Of its run folders and its results."""
    env: str
    steps: int
    given: Mapping[str, Any]
    """Fields of `Experiment` and `Hyperparams`, but for those that stand here by themselves."""
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
        """All fields that are given to the sweep, but for the environment and the seeds."""
        values = {**self.given, "steps": self.steps, "eval_every": self.eval_every, "eval_episodes": 10}
        return {name: self.steps if value == OVER_THE_RUN else value for name, value in values.items()}

    @property
    def command(self) -> list[str]:
        """The words behind `ddpg-jax` that train it, but for the run folder."""
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


def of_family(name: str, env: str, steps: int, *, published: Level | None = None, note: str = "", **more: Any) -> Task:
    """A task with the preset of the family; its replay is as long as the run, so it keeps all transitions, as 1e6 would."""
    eval_every = more.pop("eval_every", 10_000 if steps >= 1_000_000 else 5_000)
    given = {**FAMILY, "replay_capacity": min(steps, 1_000_000), **more}
    return Task(name, env, steps, given, eval_every=eval_every, published=published, note=note)


def td3(name: str, env: str, published: Level) -> Task:
    """A task with the preset td3, unchanged."""
    return Task(name, env, 1_000_000, {"preset": "td3"}, published=published)


TIANSHOU = "Tianshou, examples/mujoco/README.md"
TIANSHOU_PROTOCOL = "{} in 1M steps on {}, 10 seeds, highest mean over time, 10 episodes without noise"
FUJIMOTO = "Fujimoto et al. 2018 (TD3), table 1"
FUJIMOTO_PROTOCOL = "{} in 1M steps on {}-v1, 10 seeds, highest mean over time, 10 episodes without noise"
ZOO = "rl-baselines3-zoo, benchmark.md"
ZOO_PROTOCOL = "{} after {} steps on {}, one run, the trained policy without noise"
CLEANRL = "CleanRL, ddpg_continuous_action_jax"

WHERE_FALLS_END: dict[str, Any] = {
    "note": "Three-step returns, which the ablation on Hopper speaks for and the pilots on Reacher against.",
    "n_step": 3,
}

HALF_CHEETAH = Level(11719.0, TIANSHOU_PROTOCOL.format("DDPG", "HalfCheetah-v3"), TIANSHOU)

# What ends soonest comes first: tasks of 300,000 steps, of which one or more end within a session of a few hours, so that a bad
# choice of FAMILY shows early, too. Those of 1M steps take several sessions: first those of the family, then what they are
# compared with, of which TD3 takes longest, with two critics and batches of 256. At the end is what asks for more than the
# settings of the family: goals to relabel, a long observation, an accelerator.
TASKS: tuple[Task, ...] = (
    of_family(
        "reacher", "Reacher-v5", 300_000, published=Level(-3.3, TIANSHOU_PROTOCOL.format("DDPG", "Reacher-v2"), TIANSHOU)
    ),
    of_family(
        "inverted_double_pendulum",
        "InvertedDoublePendulum-v5",
        300_000,
        published=Level(9355.0, FUJIMOTO_PROTOCOL.format("DDPG", "InvertedDoublePendulum"), FUJIMOTO),
    ),
    of_family(
        "lunar_lander",
        "LunarLanderContinuous-v3",
        300_000,
        published=Level(230.0, ZOO_PROTOCOL.format("DDPG", "300k", "LunarLanderContinuous-v2"), ZOO),
    ),
    of_family("pusher", "Pusher-v5", 300_000, published=Level(-38.6, "DDPG, return while training, with its noise", CLEANRL)),
    of_family(
        "hopper",
        "Hopper-v5",
        1_000_000,
        published=Level(2197.0, TIANSHOU_PROTOCOL.format("DDPG", "Hopper-v3"), TIANSHOU),
        **WHERE_FALLS_END,
    ),
    of_family("halfcheetah", "HalfCheetah-v5", 1_000_000, published=HALF_CHEETAH),
    of_family(
        "walker2d",
        "Walker2d-v5",
        1_000_000,
        published=Level(3098.0, FUJIMOTO_PROTOCOL.format("OurDDPG", "Walker2d"), FUJIMOTO),
        **WHERE_FALLS_END,
    ),
    of_family(
        "bipedal_walker",
        "BipedalWalker-v3",
        1_000_000,
        published=Level(197.0, ZOO_PROTOCOL.format("DDPG", "1M", "BipedalWalker-v3"), ZOO),
    ),
    of_family(
        "swimmer",
        "Swimmer-v5",
        1_000_000,
        published=Level(144.0, TIANSHOU_PROTOCOL.format("DDPG", "Swimmer-v3"), TIANSHOU),
        note="A gamma of its own, .9999: a stroke pays beyond the horizon of .99.",
        gamma=0.9999,
    ),
    Task(
        "halfcheetah_published",
        "HalfCheetah-v5",
        1_000_000,
        {"preset": "fujimoto-ourddpg"},
        published=HALF_CHEETAH,
        note="The preset fujimoto-ourddpg, unchanged.",
    ),
    td3("td3_halfcheetah", "HalfCheetah-v5", Level(10201.0, TIANSHOU_PROTOCOL.format("TD3", "HalfCheetah-v3"), TIANSHOU)),
    td3("td3_hopper", "Hopper-v5", Level(3564.0, FUJIMOTO_PROTOCOL.format("TD3", "Hopper"), FUJIMOTO)),
    td3("td3_bipedal_walker", "BipedalWalker-v3", Level(306.0, ZOO_PROTOCOL.format("TD3", "1M", "BipedalWalker-v3"), ZOO)),
    of_family("point_maze", "PointMaze_UMaze-v3", 300_000, note="Hindsight.", hindsight="future"),
    Task(
        "fetch_reach",
        "FetchReach-v4",
        50_000,
        {
            **FIRST_FAMILY,
            "replay_capacity": 50_000,
            "hindsight": "future",
            "warmup_steps": 1_000,
        },
        eval_every=1_000,
        published=Level(
            None,
            "success of every seed: the gripper is at the goal when an episode ends; one that fails has a return of -50",
            "common practice",
        ),
        note="Hindsight; the settings that the pilots began with, rates of 1e-3, and a warm-up of 1,000 steps.",
    ),
    of_family("ant", "Ant-v5", 1_000_000, published=Level(1005.0, FUJIMOTO_PROTOCOL.format("DDPG", "Ant"), FUJIMOTO)),
    of_family("cheetah_run", "playground/CheetahRun", 500_000, note="On the device.", backend="device"),
    of_family("walker_walk", "playground/WalkerWalk", 500_000, note="On the device.", backend="device"),
)

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "batch_128": {"batch_size": 128},
    "lr_1e-3": RATES,
    "lr_1e-3_no_layer_norm": {**RATES, "layer_norm": False},
    "lr_1e-3_n_step_1": {**RATES, "n_step": 1},
    "lr_1e-3_n_step_1_no_layer_norm": {**RATES, "n_step": 1, "layer_norm": False},
    "critic_lr_1e-3": {"critic_lr": 1e-3},
    "lr_1e-3_cosine": {
        **RATES,
        "lr_schedule": "cosine",
        "lr_final": 0.1,
        "lr_decay_updates": OVER_THE_RUN,
    },
    "lr_cosine": {"lr_schedule": "cosine", "lr_final": 0.1, "lr_decay_updates": OVER_THE_RUN},
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
"""Residual blocks are four times as wide inside as outside, so that those of 128 have as many weights as two layers of 256."""


def pilot(
    name: str,
    env: str,
    steps: int,
    *,
    seeds: int = 3,
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
    *pilot("ablation_hopper", "Hopper-v5", 100_000, seeds=10, base=ABLATION_BASE, variants=ADDED),
    *pilot("ablation_bipedal_walker", "BipedalWalker-v3", 100_000, seeds=10, base=ABLATION_BASE, variants=ADDED),
)
