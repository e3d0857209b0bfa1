"""What others have published on the tasks of `benchmarks.suite`, as plain data."""

from __future__ import annotations

from typing import NamedTuple


class Level(NamedTuple):
    """What others report on a task."""

    value: float | None
    """None where nobody reports a return that is comparable."""
    protocol: str
    source: str = ""
    where: str = ""
    """The version of the task, and the steps."""
    curve: str = ""
    """Its name in `published_tianshou.json`, where Tianshou has published curves."""
    td3: float | None = None
    """What TD3 has by the same protocol, or by the one that `also` names."""
    also: str = ""
    """What else has been reported, and why it is not the level."""
    better: str = ""
    """Who has more by another protocol, to be seen beside the level."""


TIANSHOU = "Tianshou, examples/mujoco/README.md"


def tianshou(value: float, env: str, *, algorithm: str = "DDPG", td3: float | None = None, also: str = "") -> Level:
    """A level of Tianshou's benchmark."""
    protocol = f"{algorithm} in 1M steps on {env}, 10 seeds, highest mean over time, 10 episodes without noise"
    version = env.rpartition("-")[2]
    return Level(value, protocol, TIANSHOU, f"{version}, 1M", f"{env}/{algorithm.lower()}", td3, also)


def fujimoto(value: float, env: str, algorithm: str, *, curve: str = "", td3: float | None = None, also: str = "") -> Level:
    """A level of the paper on TD3."""
    protocol = (
        f"{algorithm} in 1M steps on {env}-v1, 10 seeds, highest mean over time, 10 episodes without noise, with the settings "
        "of 2018, which are not those of its repository"
    )
    return Level(value, protocol, "Fujimoto et al. 2018 (TD3), table 1", "v1, 1M", curve, td3, also)


def zoo(value: float, env: str, steps: str, *, algorithm: str = "DDPG", td3: float | None = None, also: str = "") -> Level:
    """A level of the zoo of Stable-Baselines3."""
    protocol = f"{algorithm} after {steps} steps on {env}, one run, the trained policy without noise"
    version = env.rpartition("-")[2]
    return Level(value, protocol, "rl-baselines3-zoo, benchmark.md", f"{version}, {steps}", "", td3, also)


LEVELS: dict[str, Level] = {
    "reacher": tianshou(-3.3, "Reacher-v2", td3=-2.7),
    "inverted_double_pendulum": fujimoto(
        9355.0,
        "InvertedDoublePendulum",
        "DDPG",
        curve="InvertedDoublePendulum-v2/ddpg",
        td3=9337.0,
        also="Tianshou has 8,364 by the same protocol, on v2",
    ),
    "lunar_lander": zoo(
        230.0,
        "LunarLanderContinuous-v2",
        "300k",
        td3=207.0,
        also="its settings are others, among them a gamma of .98 and networks 400-300; the zoo of Stable-Baselines 2 has one "
        "run of DDPG with 244.6, after 600k steps by its settings",
    ),
    "pusher": Level(
        None,
        "none",
        also="CleanRL's ddpg_continuous_action_jax has -38.6 and its ddpg_continuous_action -77.3 while training, with noise, "
        "three seeds each, on v4",
    ),
    "hopper": tianshou(
        2197.0, "Hopper-v3", td3=3472.0, also="DI-engine's documentation has 3,516 for DDPG, five seeds, without the steps"
    ),
    "halfcheetah": tianshou(11719.0, "HalfCheetah-v3", td3=10201.0),
    "walker2d": fujimoto(
        3098.0,
        "Walker2d",
        "OurDDPG",
        curve="Walker2d-v3/ddpg",
        td3=4683.0,
        also="DI-engine's documentation has 3,443 for DDPG, five seeds, without the steps",
    ),
    "bipedal_walker": zoo(197.0, "BipedalWalker-v3", "1M", td3=306.0),
    "swimmer": tianshou(
        144.0, "Swimmer-v3", td3=104.0, also="with a gamma of .9999, TD3 has 359 (rl-baselines3-zoo, one run, 1M steps)"
    ),
    "halfcheetah_published": fujimoto(8577.0, "HalfCheetah", "OurDDPG", td3=9637.0),
    "td3_halfcheetah": tianshou(10201.0, "HalfCheetah-v3", algorithm="TD3"),
    "td3_hopper": fujimoto(3564.0, "Hopper", "TD3"),
    "td3_bipedal_walker": zoo(306.0, "BipedalWalker-v3", "1M", algorithm="TD3"),
    "fetch_reach": Level(
        -17.6,
        "DDPG with hindsight on FetchReach-v3, mean of 16 seeds, -17.6 with a standard deviation of 21.7; about 70 % of the "
        "seeds learned it, and the number of steps is not stated (its script: 50,000, after 25,000 of random actions)",
        TIANSHOU,
        "v3, mean of 16 seeds, 70 % of which learn",
        also="chosen after the run; an episode that never gets to the goal has -50; SAC's is one run of rl-baselines3-zoo in "
        "2021, on FetchReach-v1, with hindsight, 20k steps",
        better="SAC on v1, one run of 20k steps: -1.7",
    ),
    "ant": fujimoto(
        1005.0,
        "Ant",
        "DDPG",
        curve="Ant-v3/ddpg",
        td3=4372.0,
        also="an ant that does nothing has about 990, so that a maximum of that size shows nothing",
    ),
}
"""Name of a task -> level."""
