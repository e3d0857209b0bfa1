"""Data, hyperparameters and the bundles of functions that everything else is made of. No logic.

Legend for shapes, used in every docstring: `B` batch, `N` environments, `T` time, `E` critics, `O` observation, `A` action,
`S` seeds, `H` hyperparameter points, `M = H * S` sweep members, `C` replay capacity.
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
Params: TypeAlias = Any  # a pytree of arrays, as flax makes it


class Transition(NamedTuple):
    """One step of an environment. Leading dimensions are `[N]` when collected and `[B]` when sampled."""

    obs: Array
    """`[..., O]` float32."""
    action: Array
    """`[..., A]` in [-1, 1]; adapters rescale each dimension to the environment's own low and high."""
    reward: Array
    """`[...]` float32; after `Replay.sample`, the n-step sum of discounted rewards."""
    discount: Array
    """`[...]` 0 where the environment TERMINATED, else 1; after `Replay.sample`, gamma**m times that, with m <= n the steps
    of its window."""
    last: Array
    """`[...]` bool, terminated OR truncated: n-step windows stop here, bootstrapping does not."""
    next_obs: Array
    """`[..., O]` the true successor, never the observation after a reset."""


class Nets(NamedTuple):
    """The same thing (parameters, optimizer state ...) for the actor and for the critic."""

    actor: Any
    critic: Any


@flax.struct.dataclass
class TrainState:
    """All that one gradient step changes."""

    params: Nets
    target: Nets
    opt: Nets


@flax.struct.dataclass
class ReplayState:
    """A ring buffer of packed transitions with one lane for each environment."""

    rows: Array
    """`[C, 2 * O + A + 3]` float32; row `slot * N + n` is lane n's. Flat, because XLA copies the buffer at every write when it
    has an axis of length 1."""
    head: Array
    """`[N]` int32, the row of each lane that is written next."""
    size: Array
    """`[N]` int32, how many rows of each lane hold a transition."""


class Agent(NamedTuple):
    """The algorithm, as pure functions."""

    init: Callable[[Key, Hyperparams], TrainState]
    """`(key, hyper) -> state`; consumes the key."""
    act: Callable[[Params, Array], Array]
    """`(actor_params, obs [..., O]) -> action [..., A]` in [-1, 1], without noise."""
    q_values: Callable[[Params, Array, Array], Array]
    """`(critic_params, obs [..., O], action [..., A]) -> q [E, ...]`."""
    update: Callable[[Key, TrainState, Transition, Array, Hyperparams, Array], tuple[TrainState, Array, dict[str, Array]]]
    """`(key, state, batch [B], weight [B], hyper, t) -> (state, td [B], info)`; consumes the key; `t` counts updates. `td` is
    y - Q of the first critic, which prioritized replay goes by; `info` has the scalars that are reported."""
    observe: Callable[[TrainState, Transition, Array], TrainState]
    """`(state, transition [N], valid [N] bool) -> state`: takes note of what was collected; the identity unless something is
    normalized."""


def _nothing(state: Any, index: Array) -> dict[str, Array]:
    del state, index
    return {}


class Replay(NamedTuple):
    """Where transitions are kept, as four pure functions and one that looks on."""

    init: Callable[[], Any]
    """`() -> state`, empty: a `ReplayState`, or what has one inside."""
    add: Callable[[Any, Transition, Array], Any]
    """`(state, transition [N], valid [N] bool) -> state`; rows that are not valid leave no trace."""
    sample: Callable[[Key, Any, Hyperparams, Array], tuple[Transition, Array, Array]]
    """`(key, state, hyper, t) -> (batch [B], weight [B], index [B])`; consumes the key; `t` counts updates."""
    feedback: Callable[[Any, Array, Array, Hyperparams], Any]
    """`(state, index [B], td [B], hyper) -> state`; the identity unless priorities are kept."""
    measure: Callable[[Any, Array], dict[str, Array]] = _nothing
    """`(state, index [B]) -> {name: []}`: what is reported of a batch that was sampled; nothing unless asked for."""


class Explorer(NamedTuple):
    """How actions are disturbed while collecting, as pure functions. The noise state belongs to each environment."""

    init: Callable[[int, Params], Any]
    """`(N, actor_params) -> noise`, arrays at the start of an episode; of the parameters only the shapes matter."""
    explore: Callable[..., tuple[Array, Any]]
    """`(key, noise, act, actor_params, obs [N, O], hyper, t) -> (action [N, A], noise)`; consumes the key; `t` counts
    environment steps."""
    reset: Callable[[Any, Array], Any]
    """`(noise, last [N] bool) -> noise`, started anew where an episode has ended."""


class Goal(NamedTuple):
    """What is known of the goals of an environment, whose observations are `[observation, achieved goal, desired goal]`."""

    dim: int
    """`G`, the length of a goal."""
    outcome: Callable[[Array, Array], tuple[Array, Array]]
    """`(achieved [..., G], desired [..., G]) -> (reward [...], discount [...])` of steps that achieved the one where the other
    was desired; the discount is 0 where that terminates."""
    success: float | None = None
    """The reward of a step that reaches its goal, where the environment does not say whether that terminates: the discount of
    `outcome` is then always 1. None where it says so."""


class EnvOptions(NamedTuple):
    """What is done to an environment that is made by its name; plain data, the fields of `Experiment` of these names."""

    imports: tuple[str, ...] = ()
    """Modules that register environments; they are imported first."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment, as JSON."""
    wrappers: tuple[str, ...] = ()
    """Gymnasium wrappers, each a name in `gymnasium.wrappers` or `module:Wrapper`, the innermost first."""


NO_OPTIONS = EnvOptions()
"""An environment as it is registered."""


class EnvSpec(NamedTuple):
    """What is known of an environment before it runs; plain data."""

    name: str
    obs_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    action_low: tuple[float, ...]
    """Flattened, one number for each action dimension."""
    action_high: tuple[float, ...]
    max_steps: int | None
    """Steps after which an episode is truncated; None if the environment has no limit."""
    reward_threshold: float | None = None
    """Mean return at which the environment counts as solved, where it names one."""
    goal: Goal | None = None
    """Its goals, if it has any."""
    action_dtype: str = "float32"
    """The type of its actions."""

    @property
    def obs_dim(self) -> int:
        """`O`, the length of a flattened observation."""
        return math.prod(self.obs_shape)

    @property
    def action_dim(self) -> int:
        """`A`, the length of a flattened action."""
        return math.prod(self.action_shape)


GO_ON, STOP, FAILED = 0, 1, 2
"""What an environment outside of the program says of a step: go on, end after it, or it did not happen."""


class Outside(Protocol):
    """Environments that live outside of compiled programs. The state that a program carries for each only says which it is.

    `status`, `send`, `receive` and `rollout` are traced; the others are for whoever runs programs.
    """

    goal_fault: str
    """Why hindsight is not allowed, or empty; known after `try_out`."""
    order: str
    """`textbook`, or `overlapped` where steps are to be sent and received."""

    def run(self, call: Callable[[], Any]) -> Any:
        """`call()`, a compiled program that may ask for these environments; this thread stays open to signals."""
        ...

    def prepare(self, count: int, evaluations: int = 0, episodes: int = 0) -> None:
        """Makes environments until `count` are idle, and those for so many evaluations at once. Raises `ConfigError`."""
        ...

    def try_out(self) -> None:
        """Resets and steps each idle environment once. Raises `EnvironmentFailure` or `ConfigError`."""
        ...

    def goes_on_after_restore(self) -> bool:
        """Returns True if it was shown that what `load` restores goes on as what `save` has saved."""
        ...

    def status(self, env_state: Any) -> Array:
        """`[N] -> [N]` int32: `GO_ON`, `STOP` or `FAILED`."""
        ...

    def send(self, env_state: Any, action: Array) -> Any:
        """Begins a step: `(env_state [N], action [N, A]) -> env_state [N]`."""
        ...

    def receive(self, env_state: Any, obs: Array, action: Array, after: Array) -> tuple[Any, Array, Transition]:
        """Ends a step when `after` `[]` has been computed; what it gives is that of `Env.step` of N environments."""
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
    ) -> tuple[Array, Array]:
        """Returns and lengths `[episodes]` of whole episodes; a return that is NaN says that its episode did not end.

        `owner` is the number of the lane that is told of a failure, or 0. If `shared`, the episodes are played in this lane.
        Consumes the key.
        """
        ...

    def seed(self, *words: int) -> None:
        """Seeds the global generators of this process, from which environments may draw; `close` puts them back."""
        ...

    def release(self, env_states: Any) -> None:
        """Makes environments idle, so that a reset takes them again."""
        ...

    def failure(self, env_states: Any) -> BaseException | None:
        """What went wrong in these environments, or in the evaluation of whoever has them; it is told once."""
        ...

    def save(self, env_states: Any) -> str | None:
        """The whole state of environments as text, or None where they do not let themselves be written."""
        ...

    def load(self, text: str, obs: Any) -> Any:
        """States of environments that are as they were when `save` gave the text, and had given `obs` `[..., O]`. It
        unpickles. Raises `EnvironmentFailure` where they are not as they were, another version perhaps.
        """
        ...

    def close(self, env_states: Any) -> None:
        """Closes environments; if no others are in use, those that wait, too."""
        ...


class Env(NamedTuple):
    """An environment written in JAX: ONE environment, mapped over by whoever wants many.

    This is all that an environment of your own must be. `ddpg_jax.envs.make_env` makes it of three plain functions and adds
    action units, the time limit and resets; `ddpg_jax.envs.check` says in what an `Env` that you wrote out falls short:

    - `reset` and `step` are pure functions of arrays, which `jit` and `vmap` accept. All that is random comes from the key.
    - The state is any pytree of arrays, of the same structure, shapes and dtypes after every `reset` and `step`.
    - Observations are flat, `[O]` float32 and finite, whatever `spec.obs_shape` is.
    - The action that `step` gets is flat, `[A]` in [-1, 1]; -1 and 1 stand for `spec.action_low` and `spec.action_high`. The
      transition has it as it came.
    - Reward, discount and last are scalars, `[]`: float32, float32 and bool.
    - The discount is 0 where the episode TERMINATED, by a rule of the environment, else 1; `last` is true there too.
    - After `spec.max_steps` steps an episode is TRUNCATED: `last` is true and the discount 1, so that its value goes on.
    - `transition.next_obs` is the true successor, at the end of an episode too.
    - Where `last`, `step` gives back the state and the observation of a start drawn anew, else those of the successor.
    """

    spec: EnvSpec
    reset: Callable[[Key], tuple[Any, Array]]
    """`(key) -> (env_state, obs [O])`; consumes the key."""
    step: Callable[[Key, Any, Array, Array], tuple[Any, Array, Transition]]
    """`(key, env_state, obs [O], action [A]) -> (env_state, obs [O], transition)`. Resets itself: the state and the
    observation returned are those to act on next, the transition holds what happened, `obs` and `action` as they were given.
    Consumes the key."""
    outside: Outside | None = None
    """Where the environment lives, if that is outside of the program; None for one that is written in JAX."""
