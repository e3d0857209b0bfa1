"""What the parts do and cost: every preset, each part on and off, overestimation of DDPG against TD3, hindsight against none.

    python -m benchmarks.parts                    # everything, hours on two cores
    python -m benchmarks.parts --only presets     # or: parts, speed, ablation, time, bias, hindsight
    python -m benchmarks.parts --only parts --row "huber 1"     # and others; beside the rows that were measured before

Ten seeds each, as sweeps over all cores. A result is the IQM and 95 % bootstrap interval over seeds, of the last evaluation (20
noise-free episodes) unless its kind says otherwise, and is written to `benchmarks/results/parts_KIND.json` with the figure of
every seed. Seeds are the same for all variants, so comparisons are paired. A row measured by itself says where and when that
was.

- presets: Pendulum-v1, 10,000 steps, of which 1,000 are warm-up whatever the preset says, since some would not finish theirs.
  `td3-bc` and `parallel` are left out.
- parts: Pendulum-v1, 10,000 steps, the defaults with one thing changed.
- speed: updates/s of each part over those of the defaults, with networks of the same sizes, measured in turns, in as many
  rounds as there are seeds elsewhere.
- ablation: the same for what the suite's ablation adds to plain DDPG on Hopper-v5, ten members each.
- time: seconds of training, without compilation and evaluations, until an evaluation first reaches a return; one run after the
  other, on all cores. A seed that does not get there counts twice the seconds of its run.
- bias: Pendulum-v1, 20,000 steps at gamma 0.95: what the critic says of visited states minus the discounted return that
  follows, over states from which 100 steps are left (0.95 ** 100 is 0.006).
- hindsight: point-reach, the share of 100 episodes without noise that end at the goal; all policies play the same episodes. The
  curves are returns.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ddpg_jax as dj
from benchmarks.suite_tasks import ABLATION_BASE, ADDED
from benchmarks.turns import advancing
from ddpg_jax.running.hardware import use_all_cores
from ddpg_jax.running.intervals import interval, iqm

RESULTS = Path(__file__).parent / "results"

PARTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "gaussian noise": {"exploration": "gaussian"},
    "pink noise": {"exploration": "pink", "noise_sigma": 0.3},
    "parameter noise": {"exploration": "parameter", "layer_norm": True},
    "no noise": {"exploration": "none"},
    "epsilon-uniform .1": {"epsilon_uniform": 0.1},
    "action smoothing .1": {"action_smoothing": 0.1},
    "linear noise schedule": {"noise_schedule": "linear", "noise_decay_steps": 10_000},
    "layer norm": {"layer_norm": True},
    "batch norm": {"batch_norm": True},
    "CrossQ": {"network": "crossq", "targets": "joint"},
    "CrossQ with target networks": {"network": "crossq"},
    "residual": {"network": "residual"},
    "categorical": {"critic": "categorical", "value_min": -500.0, "value_max": 0.0},
    "HL-Gauss": {"critic": "categorical", "value_min": -500.0, "value_max": 0.0, "atom_sigma": 0.75},
    "quantile": {"critic": "quantile"},
    "normalized observations": {"normalize_obs": True},
    "normalized rewards": {"normalize_reward": True},
    "bfloat16": {"precision": "bfloat16"},
    "n-step 3": {"n_step": 3},
    "prioritized": {"replay": "prioritized"},
    "huber 1": {"huber_delta": 1.0},
    "clip 1": {"actor_clip": 1.0, "critic_clip": 1.0},
    "critic L2 1e-2": {"critic_l2": 1e-2},
    "values L2 1e-3": {"q_l2": 1e-3},
    "action penalty 1e-2": {"action_penalty": 1e-2},
    "reward scale .1": {"reward_scale": 0.1},
    "AdamW 1e-4": {"actor_decay": 1e-4, "critic_decay": 1e-4},
    "cosine learning rates": {"lr_schedule": "cosine", "lr_decay_updates": 10_000},
    "hard targets every 200": {"tau": 1.0, "sync_period": 200},
    "two critics": {"num_critics": 2},
    "delay 2": {"policy_delay": 2},
    "target smoothing": {"target_noise": 0.2},
    "TD3": {"num_critics": 2, "policy_delay": 2, "sync_period": 2, "target_noise": 0.2},
}


def score(values: Any) -> dict[str, Any]:
    """IQM and interval of one figure a seed, and the figures."""
    low, high = interval(values)
    return {"iqm": float(iqm(values)), "low": float(low), "high": float(high), "seeds": np.asarray(values).tolist()}


def final_returns(env: str, seeds: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The last evaluation of a sweep over seeds."""
    sweep = dj.sweep(env, seeds=seeds, eval_episodes=20, **fields)
    return {**score(sweep.final[0]), "curves": sweep.returns[0].tolist()}


def preset(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """A preset, with a warm-up of the same length for all."""
    length = {"steps": steps, "warmup_steps": 1_000, "eval_every": steps // 5}
    return final_returns("Pendulum-v1", seeds, {"preset": name, **length})


def part(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """One thing changed."""
    return final_returns("Pendulum-v1", seeds, {**PARTS[name], "steps": steps, "eval_every": steps // 5})


def turns(env: str, members: int, fields: dict[str, Any]) -> Callable[[int], float]:
    """`(steps) -> updates per second` of a program that is warm, and has compiled."""
    experiment, hyper = dj.configure({"env": env, **fields, "steps": 2**30, "eval_episodes": 0})
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(members)])
    turn = advancing(program, program.start(), 0)
    turn(experiment.warmup_steps)
    turn(100)
    return turn


@functools.cache
def of_part(name: str) -> Callable[[int], float]:
    """Turns of the defaults with one thing changed."""
    return turns("Pendulum-v1", 1, PARTS[name])


@functools.cache
def of_ablation(name: str) -> Callable[[int], float]:
    """Turns of what the suite's ablation compares."""
    return turns("Hopper-v5", 10, {**ABLATION_BASE, "warmup_steps": 1_000, "replay_capacity": 100_000, **ADDED[name]})


def speed(turn: Callable[[str], Callable[[int], float]], base: str, name: str, rounds: int, steps: int) -> dict[str, Any]:
    """The rate of a variant over that of another, which take turns."""
    rates = np.array([[turn(one)(steps) for one in (name, base)] for _ in range(rounds)])
    return {**score(rates[:, 0] / rates[:, 1]), "updates_per_second": rates[:, 0].tolist()}


PARALLEL: dict[str, Any] = {
    "preset": "parallel",
    "num_envs": 64,
    "updates_per_step": 2 / 64,
    "batch_size": 256,
    "warmup_steps": 1_024,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
}
"""The preset for accelerators, cut down to two cores of a CPU."""
TIMES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "Pendulum-v1, defaults": ("Pendulum-v1", -250.0, {"steps": 30_000, "eval_every": 1_000}),
    "Pendulum-v1, parallel": ("Pendulum-v1", -250.0, {**PARALLEL, "steps": 256_000, "eval_every": 1_280}),
    "brax/inverted_pendulum, defaults": ("brax/inverted_pendulum", 900.0, {"steps": 30_000, "eval_every": 1_000}),
    "brax/inverted_pendulum, parallel": ("brax/inverted_pendulum", 900.0, {**PARALLEL, "steps": 256_000, "eval_every": 1_280}),
}
"""Name -> environment, the return to reach, and fields."""


def seconds_to(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """How long the training takes until it has reached a return."""
    del steps
    env, enough, fields = TIMES[name]
    dj.train(env, **{**fields, "steps": 2 * fields["eval_every"] + 1_280})  # compiles
    last = [dj.train(env, seed=seed, until=enough, **fields).rows[-1] for seed in range(seeds)]
    return score([row["seconds"] * (1 if row["eval_return_mean"] >= enough else 2) for row in last])


def bias(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """Overestimation at the end of training."""
    env = dj.envs.make_device("Pendulum-v1")
    fields = {"env": "Pendulum-v1", "gamma": 0.95, "steps": steps, "eval_every": steps, **PARTS[name]}
    experiment, hyper = dj.configure(fields)
    agent = dj.build(experiment, env.spec).agent
    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in range(seeds)])
    state = program.start()
    for tick in dj.run_blocks(program, experiment, state):
        state = tick.state
    trained = jax.tree.map(np.asarray, program.save(state)[0].train)
    gaps = []
    for seed in range(seeds):
        one = jax.tree.map(lambda x, seed=seed: x[seed], trained)
        values, returns, left = dj.diagnostics.overestimation(env, agent, one, jax.random.key(1_000 + seed), hyper)
        gaps.append(float((values - returns)[np.asarray(left) >= 100].mean()))
    return score(gaps)


def hindsight(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """Success rates in the end."""
    fields = {"hindsight": name, "steps": steps, "eval_every": steps // 5, "gamma": 0.95, "exploration": "gaussian"}
    sweep = dj.sweep("point-reach", seeds=seeds, epsilon_uniform=0.2, eval_episodes=20, **fields)
    share = share_at_goal(sweep.policies[0].unit_action)
    rates = [float(share(policy.params)) for policy in sweep.policies]
    return {**score(rates), "curves": sweep.returns[0].tolist()}


def share_at_goal(unit_action: Callable[[Any, jax.Array], jax.Array]) -> Callable[[Any], jax.Array]:
    """`(params) -> ` the share of 100 episodes of point-reach, always the same, that end without the -1 of a miss."""
    env = dj.envs.make_device("point-reach")

    def share(params: Any) -> jax.Array:
        start_key, step_key = jax.random.split(jax.random.key(0))
        start = jax.vmap(env.reset)(jax.random.split(start_key, 100))

        def step(carry: Any, key: jax.Array) -> Any:
            env_state, obs = carry
            env_state, obs, one = jax.vmap(env.step)(jax.random.split(key, 100), env_state, obs, unit_action(params, obs))
            return (env_state, obs), one.reward

        _, rewards = jax.lax.scan(step, start, jax.random.split(step_key, env.spec.max_steps or 0))
        return jnp.mean(rewards[-1] > -1.0)

    return jax.jit(share)


ELSEWHERE = ("td3-bc", "parallel")
"""Presets that cannot train for some steps with one environment: without steps, or with batches for hundreds of them."""

KINDS: dict[str, tuple[Callable[[str, int, int], dict[str, Any]], Collection[str], int]] = {
    "presets": (preset, [name for name in dj.PRESETS if name not in ELSEWHERE], 10_000),
    "parts": (part, PARTS, 10_000),
    "speed": (functools.partial(speed, of_part, "defaults"), PARTS, 1_000),
    "ablation": (functools.partial(speed, of_ablation, "mlp"), ADDED, 200),
    "time": (seconds_to, TIMES, 0),
    "bias": (bias, ("defaults", "two critics", "TD3"), 20_000),
    "hindsight": (hindsight, ("none", "future", "final", "episode"), 20_000),
}
"""What is measured, of which names, and how long the training is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--row", action="append", help="of that kind, instead of all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="instead of the usual number")
    options = parser.parse_args()
    if options.row and (not options.only or set(options.row) - set(KINDS[options.only][1])):
        parser.error("--row must name rows of the kind that --only names")
    use_all_cores()
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    for kind, (measure, names, steps) in KINDS.items():
        if options.only in (None, kind):
            steps, path = options.steps or steps, RESULTS / f"parts_{kind}.json"
            words = ["python -m benchmarks.parts", "--only", kind, *(f'--row "{name}"' for name in options.row or [])]
            about = {"command": f"{' '.join(words)} --seeds {options.seeds} --steps {steps}", "steps": steps, **machine()}
            whole = json.loads(path.read_text()) if options.row else {"rows": {}, **about}
            for name in options.row or names:
                row = measure(name, options.seeds, steps)
                print(f"{kind:10s} {name:24s} {row['iqm']:9.2f} [{row['low']:.2f}, {row['high']:.2f}]", flush=True)
                whole["rows"][name] = {**row, "about": about} if options.row else row
                rows = {one: whole["rows"][one] for one in names if one in whole["rows"]}
                path.write_text(as_json({**whole, "rows": rows}))


if __name__ == "__main__":
    main()
