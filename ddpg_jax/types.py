"""Defines the data and the bundles of functions that everything else is made of. It contains no logic.

Legend for shapes, used in every docstring: `B` batch, `N` environments, `T` time, `E` critics, `O` observation, `A` action,
`S` seeds, `H` hyperparameter points, `M = H * S` sweep members, `C` replay capacity.

There are two clocks, both int32 scalars that are 0 at the start of a run. `t_env` counts environment steps, summed over the
environments of a run. `t_update` counts updates of the critic, as if there were updates in the warm-up, too: with one update a
step and a warm-up of 1,000 steps, the first update has number 1,000. Schedules, `policy_delay` and `sync_period` see that
number. Updates on demonstrations before the first step are counted from 0 by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import flax.struct
import jax

from ddpg_jax.hyperparams import Hyperparams as Hyperparams
from ddpg_jax.hyperparams import Scalar as Scalar

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # a typed key, `jax.random.key(seed)`
Params: TypeAlias = Any  # a pytree of arrays, as flax makes them


class Transition(NamedTuple):
    """Holds one step of an environment. Leading dimensions are `[N]` when collected and `[B]` when sampled."""

    obs: Array
    """`[..., O]` float32."""
    action: Array
    """`[..., A]` in [-1, 1]; adapters rescale each dimension to the bounds of the environment."""
    reward: Array
    """`[...]` float32; after `Replay.sample`, the n-step sum of discounted rewards."""
    discount: Array
    """`[...]` float32, 0 where the environment TERMINATED, else 1; after `Replay.sample`, it is multiplied by gamma**m, where
    m <= n is the number of steps in the window."""
    last: Array
    """`[...]` bool, terminated OR truncated. An n-step window stops here; bootstrapping stops only where `discount` is 0."""
    next_obs: Array
    """`[..., O]` float32, the true successor, never the observation after a reset."""
    demonstration: Any = None
    """`[B]` bool, True for the rows of a batch that are demonstrations; None where there are none."""


STEP_FIELDS = Transition._fields[:-1]
"""The fields of a transition that describe a step; the last one says only where a row of a batch is from."""


class Nets(NamedTuple):
    """Holds one thing, such as parameters or optimizer states, for the actor and for the critic."""

    actor: Any
    critic: Any


@flax.struct.dataclass
class TrainState:
    """Holds everything that one gradient step changes."""

    params: Nets
    target: Nets
    opt: Nets


@flax.struct.dataclass
class ReplayState:
    """Holds a ring buffer of packed transitions, with one lane for each environment."""

    rows: Array
    """`[C, 2 * O + A + 3]` float32; row `slot * N + n` belongs to lane n. The lanes share one axis, because XLA copies the
    buffer at every write if it has an axis of length 1."""
    head: Array
    """`[N]` int32, the slot of each lane that is written next."""
    size: Array
    """`[N]` int32, the number of rows of each lane that hold a transition."""


class Agent(NamedTuple):
    """Holds the algorithm as pure functions."""

    init: Callable[[Key, Hyperparams], TrainState]
    """`(key, hyper) -> state`; consumes the key."""
    act: Callable[[Params, Array], Array]
    """`(actor_params, obs [..., O]) -> action [..., A]` in [-1, 1], without noise."""
    q_values: Callable[[Params, Array, Array], Array]
    """`(critic_params, obs [..., O], action [..., A]) -> q [E, ...]`."""
    update: Callable[[Key, TrainState, Transition, Array, Hyperparams, Array], tuple[TrainState, Array, dict[str, Array]]]
    """`(key, state, batch [B], weight [B], hyper, t_update) -> (state, td [B], info)`; consumes the key. `td` is y - Q of the
    first critic, or what its head has instead of that, from which prioritized replay computes priorities; `info` contains the
    scalars to report."""
    observe: Callable[[TrainState, Transition, Array], TrainState]
    """`(state, transition [N], valid [N] bool) -> state`: updates running statistics with what was collected; the identity
    unless observations or rewards are normalized."""


def _measure_nothing(state: Any, index: Array) -> dict[str, Array]:
    del state, index
    return {}


class Replay(NamedTuple):
    """Stores transitions and samples batches of them, as four pure functions, and a fifth that measures batches."""

    init: Callable[[], Any]
    """`() -> state`, empty: a `ReplayState`, or a pytree that contains one."""
    add: Callable[[Any, Transition, Array], Any]
    """`(state, transition [N], valid [N] bool) -> state`; transitions that are not valid leave the state unchanged."""
    sample: Callable[[Key, Any, Hyperparams, Array], tuple[Transition, Array, Array]]
    """`(key, state, hyper, t_update) -> (batch [B], weight [B], index [B])`; consumes the key."""
    feedback: Callable[[Any, Array, Array, Hyperparams], Any]
    """`(state, index [B], td [B], hyper) -> state`: updates priorities; the identity if there are none."""
    measure: Callable[[Any, Array], dict[str, Array]] = _measure_nothing
    """`(state, index [B]) -> {name: []}`: scalars to report about a sampled batch; by default none. A loop of your own sees all
    of them; metrics.csv has columns for those that the package knows."""


class Explorer(NamedTuple):
    """Adds exploration noise to actions while collecting, as pure functions. Every environment has its own noise state."""

    init: Callable[[int, Params], Any]
    """`(N, actor_params) -> noise`, the noise state at the start of an episode; only the shapes of the parameters are used."""
    explore: Callable[..., tuple[Array, Any]]
    """`(key, noise, act, actor_params, obs [N, O], hyper, t_env) -> (action [N, A] in [-1, 1], noise)`; consumes the key. The
    replay stores the action as it is returned."""
    reset: Callable[[Any, Array], Any]
    """`(noise, last [N] bool) -> noise`: resets the noise state where an episode has ended."""


class Goal(NamedTuple):
    """Describes the goals of an environment whose observations are `[observation, achieved goal, desired goal]`."""

    dim: int
    """`G`, the length of a goal."""
    outcome: Callable[[Array, Array], tuple[Array, Array]]
    """`(achieved [..., G], desired [..., G]) -> (reward [...], discount [...])` of steps that achieved one goal while another
    was desired; the discount is 0 where such a step terminates the episode."""
    tells_ends: bool = True
    """False if the environment does not say which steps terminate: the discount of `outcome` is then always 1, and hindsight
    infers the ends from rewards of episodes that have ended."""


class EnvOptions(NamedTuple):
    """Holds the options of an environment that is made by its name, as plain data.

    Each is the field of `Experiment` with the same name.
    """

    imports: tuple[str, ...] = ()
    """Modules that register environments. They are imported first."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment, as JSON."""
    wrappers: tuple[str, ...] = ()
    """Gymnasium wrappers, each a name in `gymnasium.wrappers` or `module:Wrapper`, the innermost first."""


NO_OPTIONS = EnvOptions()
"""The options of an environment that is used as it is registered."""


class EnvSpec(NamedTuple):
    """Describes an environment before it runs, as plain data."""

    name: str
    obs_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    action_low: tuple[float, ...]
    """Lower bounds of the flattened action, one for each dimension."""
    action_high: tuple[float, ...]
    """Upper bounds of the flattened action, one for each dimension."""
    max_steps: int | None
    """Steps after which an episode is truncated; None if the environment has no limit."""
    reward_threshold: float | None = None
    """Mean return at which the environment counts as solved; None if it does not define one."""
    goal: Goal | None = None
    """The goals of the environment; None if it has none."""
    action_dtype: str = "float32"
    """The dtype of the actions of the environment."""

    @property
    def obs_dim(self) -> int:
        """Returns `O`, the length of a flattened observation."""
        return math.prod(self.obs_shape)

    @property
    def action_dim(self) -> int:
        """Returns `A`, the length of a flattened action."""
        return math.prod(self.action_shape)


class Episodes(NamedTuple):
    """Holds the results of whole episodes, `[episodes]` each, or `[M, episodes]` of M members."""

    returns: Any
    """Sums of rewards; NaN of an episode that did not end."""
    lengths: Any
    """Numbers of steps."""
    successes: Any
    """1 for a success, 0 for a failure, NaN where the environment does not tell."""


GO_ON, STOP, FAILED = 0, 1, 2
"""Status of a step of an environment outside the program: continue, stop after this step, or the step did not happen."""


class Outside(Protocol):
    """Gives a compiled program access to environments that live outside it.

    The program carries a state for each environment, which only identifies it. `status`, `send`, `receive` and `rollout` are
    traced. The caller of the program uses the other methods.
    """

    goal_fault: str
    """Why hindsight is not allowed, or empty; known after `try_out`."""
    copy_bytes: int
    """Memory that one environment takes, as far as it was measured."""
    order: str
    """`textbook`, or `overlapped` if updates run between `send` and `receive`."""

    @property
    def broken(self) -> Exception | None:
        """An error of the functions for hindsight; the program ends at its next step, and its state has learned from NaN."""
        ...

    def run(self, call: Callable[[], Any]) -> Any:
        """Returns `call()`, a compiled program that may use these environments; this thread still handles signals."""
        ...

    def copies(self, training: int, *, evaluations: int, episodes: int) -> int:
        """Returns how many environments are needed: those that train, and those of so many evaluations at a time."""
        ...

    def prepare(self, count: int) -> None:
        """Makes environments until `count` of them are idle.

        Raises:
            ConfigError: an environment cannot be made.
        """
        ...

    def try_out(self) -> None:
        """Resets and steps each idle environment once.

        Raises:
            EnvironmentFailure: one of them failed.
            ConfigError: their spaces differ.
        """
        ...

    def goes_on_after_restore(self) -> bool:
        """Returns True if it was shown that what `load` restores goes on as what `save` has saved."""
        ...

    def status(self, env_state: Any) -> Array:
        """Returns `GO_ON`, `STOP` or `FAILED` for each environment, `[N] -> [N]` int32."""
        ...

    def send(self, env_state: Any, action: Array) -> Any:
        """Begins a step, `(env_state [N], action [N, A]) -> env_state [N]`."""
        ...

    def receive(self, env_state: Any, obs: Array, action: Array, after: Array) -> tuple[Any, Array, Transition]:
        """Ends a step once `after`, a scalar `[]`, has been computed; returns what `Env.step` of N environments returns."""
        ...

    def rollout(
        self,
        act: Callable[[Params, Array], Array],
        key: Key,
        params: Params,
        *,
        episodes: int,
        owner: Array,
        shared: bool = False,
    ) -> Episodes:
        """Plays whole episodes. Consumes the key.

        `owner` is the number of the lane that a failure is reported to, or 0. If `shared`, all are played in that lane.
        """
        ...

    def seed(self, *words: int) -> None:
        """Seeds the global generators of this process, from which environments may draw; `close` puts them back."""
        ...

    def release(self, env_states: Any) -> None:
        """Makes environments idle, so that a reset takes them again."""
        ...

    def failure(self, env_states: Any) -> BaseException | None:
        """Returns the error of these environments, or of an evaluation that they own, or None. Each error is returned once."""
        ...

    def save(self, env_states: Any) -> str | None:
        """Returns the whole state of environments as text, or None if it cannot be serialized."""
        ...

    def load(self, text: str, obs: Any) -> Any:
        """Restores environments from the text that `save` returned, and returns their states. It unpickles.

        Args:
            text: from `save`.
            obs: `[..., O]`, the observations at that time, which the restored environments must reproduce.

        Raises:
            EnvironmentFailure: the environments differ from those saved, perhaps because their version does.
        """
        ...

    def close(self, env_states: Any) -> None:
        """Closes environments; if no others are in use, the prepared ones are closed, too."""
        ...


class Env(NamedTuple):
    """Holds ONE environment written in JAX; map over its functions to step many.

    Nothing more is needed for an environment of your own. `ddpg_jax.envs.make_env` makes an `Env` from three plain functions,
    and adds action units, the time limit and resets. If you write an `Env` yourself, `ddpg_jax.envs.check` reports where it
    breaks these rules:

    - `reset` and `step` are pure functions of arrays that `jit` and `vmap` accept. All randomness comes from the key.
    - The state is any pytree of arrays, with the same structure, shapes and dtypes after every `reset` and `step`.
    - Observations are flat, `[O]` float32 and finite, whatever `spec.obs_shape` is.
    - The action that `step` takes is flat, `[A]` in [-1, 1]; -1 and 1 stand for `spec.action_low` and `spec.action_high`. The
      transition contains it unchanged.
    - Reward, discount and last are scalars, `[]`: float32, float32 and bool.
    - The discount is 0 if the episode TERMINATED by a rule of the environment, and `last` is then true; otherwise it is 1.
    - After `spec.max_steps` steps an episode is TRUNCATED: `last` is true and the discount is 1, so that its value bootstraps.
    - `transition.next_obs` is the true successor, also at the end of an episode.
    - If `last` is true, `step` returns the state and the observation of a newly drawn start, otherwise those of the successor.
    """

    spec: EnvSpec
    reset: Callable[[Key], tuple[Any, Array]]
    """`(key) -> (env_state, obs [O])`; consumes the key."""
    step: Callable[[Key, Any, Array, Array], tuple[Any, Array, Transition]]
    """`(key, env_state, obs [O], action [A]) -> (env_state, obs [O], transition)`; consumes the key. It resets itself: the
    returned state and observation are those to act on next. The transition holds what happened, with `obs` and `action` as
    they were passed."""
    outside: Outside | None = None
    """Access to the environment if it lives outside the program; None for one that is written in JAX."""
    success: Callable[[Transition], Array] | None = None
    """`(transition) -> [] bool`: whether an episode that ends with this transition is a success; None if there is no such rule.
    Evaluations report it."""
