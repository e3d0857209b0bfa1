"""`eval`: the policy of a run folder, in its environment, without noise; and a film of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpg_jax.app.folder import RunFolder
from ddpg_jax.envs import DEVICE, make_device
from ddpg_jax.envs.host import make_host
from ddpg_jax.policy import Policy, load_policy
from ddpg_jax.training import rollout
from ddpg_jax.types import ConfigError

FILMS = (".gif", ".webp", ".png")


def evaluate(folder: Path, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths `[episodes]` of the policy in the environment that it was trained in.

    Raises:
        ConfigError: no whole run is in the folder.
    """
    about = RunFolder(folder).manifest()["experiment"]
    policy = load_policy(policy_folder(folder))
    if about["backend"] == "device" or (about["backend"] == "auto" and about["env"] in DEVICE):
        env = make_device(about["env"])
        run = jax.jit(lambda key, params: rollout(env, lambda p, obs: policy.unit_action(p, obs), key, params, episodes))
        returns, lengths = run(jax.random.key(seed), policy.params)
        return np.asarray(returns), np.asarray(lengths)
    host = make_host(about["env"], episodes)
    obs = host.reset([int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)])
    running, returns, lengths = np.ones(episodes, bool), np.zeros(episodes), np.zeros(episodes, int)
    act = jax.jit(policy.unit_action)
    while running.any():
        step = host.step(np.asarray(act(policy.params, obs)))
        returns += np.where(running, step.reward, 0.0)
        lengths += running
        running &= ~step.last
        obs = step.obs
    host.close()
    return returns, lengths


def policy_folder(folder: Path) -> Path:
    """Where the policy of a run is; of a sweep, that of its first member."""
    first = folder / "policy" / "member_0"
    return first if first.exists() else folder / "policy"


def film(folder: Path, path: Path, seed: int) -> int:
    """Writes one episode as a moving picture; gives its number of frames.

    Raises:
        ConfigError: the ending of the name, or the environment does not render.
    """
    import gymnasium
    from PIL import Image

    if path.suffix not in FILMS:
        raise ConfigError(f"video={path} is not allowed; the name must end in {', '.join(FILMS)}")
    about = RunFolder(folder).manifest()["experiment"]
    policy: Policy = load_policy(policy_folder(folder))
    if about["env"] not in gymnasium.registry and ":" not in about["env"]:
        raise ConfigError(f"video={path} cannot be made; env={about['env']} does not render")
    try:
        env = gymnasium.make(about["env"], render_mode="rgb_array")
        obs, _ = env.reset(seed=seed)
        frames: list[Any] = [env.render()]
        done = False
        while not done:
            obs, _, terminated, truncated, _ = env.step(policy(obs))
            frames.append(env.render())
            done = terminated or truncated
        fps = env.metadata.get("render_fps", 30)
        env.close()
    except (gymnasium.error.Error, ImportError) as error:
        raise ConfigError(f"video={path} cannot be made; env={about['env']} does not render here: {error}") from error
    pictures = [Image.fromarray(np.asarray(frame)) for frame in frames]
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    temporary.replace(path)
    return len(frames)
