"""Selects what to cite: the papers behind the components that an experiment uses, and this software, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ddpg_jax.app.bibliography import BIBLIOGRAPHY
from ddpg_jax.envs.extras import ROBOTICS
from ddpg_jax.experiment.experiment import Experiment

MUJOCO = (
    "Ant HalfCheetah Hopper Humanoid HumanoidStandup InvertedDoublePendulum InvertedPendulum Pusher Reacher Swimmer Walker2d"
).split()
"""Environments of Gymnasium that MuJoCo simulates, without versions."""

FAMILIES = {
    "gymnax": ["lange2022"],
    "brax": ["freeman2021"],
    "playground": ["zakka2025", "tassa2018", "todorov2012"],
}
"""Prefix of an environment's name -> keys."""

ALWAYS = ("ddpg_jax", "lillicrap2015", "silver2014", "kingma2015", "jax2018")

PARTS: dict[str, str] = {
    "target_noise": "fujimoto2018",
    "huber_delta": "huber1964",
    "actor_clip": "pascanu2013",
    "critic_clip": "pascanu2013",
    "actor_decay": "loshchilov2019",
    "critic_decay": "loshchilov2019",
    "noise_spread": "seo2025",
    "bc_alpha": "fujimoto2021",
}
"""Name in `Experiment.parts` -> key, for components that have a paper of their own."""

SOURCES = {
    "spinningup": "achiam2018",
    "fujimoto-ddpg": "fujimoto2018",
    "fujimoto-ourddpg": "fujimoto2018",
    "cleanrl": "huang2022",
    "sb3": "raffin2021",
    "sbx": "raffin2021",
    "td3": "fujimoto2018",
    "td3-bc": "fujimoto2021",
    "d4pg": "barthmaron2018",
    "simba": "lee2024",
    "crossq-ddpg": "bhatt2024",
    "parallel": "seo2025",
}
"""Preset -> key of the source of its values, except Lillicrap et al. 2015 and sources that cannot be cited."""

CHOSEN: dict[tuple[str, str], str] = {
    ("exploration", "ou"): "uhlenbeck1930",
    ("exploration", "pink"): "eberhard2023",
    ("exploration", "parameter"): "plappert2018",
    ("replay", "prioritized"): "schaul2016",
    ("network", "residual"): "lee2024",
    ("network", "crossq"): "ioffe2017",
    ("targets", "joint"): "bhatt2024",
    ("critic", "categorical"): "bellemare2017",
    ("critic", "quantile"): "dabney2018",
    ("lr_schedule", "cosine"): "loshchilov2017",
    ("precision", "bfloat16"): "kalamkar2019",
    ("activation", "elu"): "clevert2016",
    ("activation", "gelu"): "hendrycks2016",
    ("activation", "silu"): "elfwing2018",
}
"""Field and a word in its value -> key."""


def references(experiment: Experiment, members: int = 1) -> list[str]:
    """Returns the keys of everything that an experiment uses, in the order of `BIBLIOGRAPHY`.

    Args:
        experiment: the result of `configure`.
        members: members of the sweep; with more than one, the statistics over them are cited, too.

    >>> import ddpg_jax as dj
    >>> references(dj.configure({"env": "probe/lqr", "exploration": "none", "layer_norm": True})[0])
    ['ddpg_jax', 'lillicrap2015', 'silver2014', 'kingma2015', 'ba2016', 'jax2018']
    """
    x = experiment
    used = {*ALWAYS, *environment(x.env)}
    used |= {PARTS[part] for part in x.parts if part in PARTS}
    chosen = {pair: key for pair, key in CHOSEN.items() if x.steps or pair[0] != "exploration"}
    used |= {key for (field, word), key in chosen.items() if word in re.split(r"\W|_", getattr(x, field))}
    used |= {SOURCES[x.preset]} if x.preset in SOURCES else set()
    for key, is_used in (
        ("mnih2015", "sync_period" in x.parts and x.policy_delay == 1),  # with policy_delay it is TD3's
        ("chan1979", x.normalize_obs or x.normalize_reward),
        ("fujimoto2018", x.num_critics > 1 or x.policy_delay > 1),
        ("loshchilov2017", x.noise_schedule == "cosine" and x.exploration != "none"),
        ("ba2016", x.layer_norm or x.network == "residual"),
        ("ioffe2015", x.batch_norm),
        ("sutton2018", x.n_step > 1),
        ("andrychowicz2017", x.hindsight != "none"),
        ("vecerik2017", bool(x.demonstrations) and x.steps > 0),
        ("nair2018", "bc_weight" in x.parts and (x.steps > 0 or x.q_filter)),
        ("ball2023", bool(x.demonstrations) and x.steps > 0),
        ("agarwal2021", members > 1),
    ):
        used |= {key} if is_used else set()
    return [key for key in BIBLIOGRAPHY if key in used]


def environment(name: str) -> list[str]:
    """Returns the keys of the libraries and simulators of an environment, as far as its name tells.

    >>> environment("HalfCheetah-v5"), environment("brax/ant"), environment("probe/lqr")
    (['towers2024', 'todorov2012'], ['freeman2021'], [])
    """
    family = name.partition("/")[0]
    if family in FAMILIES:
        return FAMILIES[family]
    if name.rpartition(":")[2].startswith(ROBOTICS):
        return ["towers2024", "delazcano2024", "todorov2012"]
    versioned = re.fullmatch(r"(?:.*[/:])?(\w+)-v\d+", name)
    if not versioned:
        return []
    return ["towers2024", "todorov2012"] if versioned[1] in MUJOCO else ["towers2024"]


def bibtex(keys: Iterable[str], version: str) -> str:
    """Formats these entries as BibTeX, each once.

    >>> print(bibtex(["ba2016"], "0.1.0").splitlines()[0])
    @misc{ba2016,
    """
    entries = []
    for key in dict.fromkeys(keys):
        kind, fields = BIBLIOGRAPHY[key]
        fields = {**fields, "version": version} if key == "ddpg_jax" else fields
        entries.append(f"@{kind}{{{key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items()) + "}\n")
    return "\n".join(entries)
