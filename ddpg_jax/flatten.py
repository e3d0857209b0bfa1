"""Packs a tree of many small arrays into few vectors, one for each dtype, and makes states of environments storable.

The physics state of an environment on the device has dozens of small arrays, some of them empty. A compiled loop copies each
one separately, and a checkpoint cannot hold an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.types import Array, Env, Key, Transition

PACKABLE = ("float32", "int32", "uint32", "bool")
"""Dtypes of the arrays that `make_pack` packs."""

Vectors: TypeAlias = dict[str, Array]
"""Maps a dtype to `[..., F]`, all arrays of that dtype concatenated. A dtype without any elements has no entry."""


def make_flatten(shapes: Any) -> tuple[Callable[[Any], Vectors], Callable[[Vectors], Any]]:
    """Makes functions `flatten` and `unflatten` for trees of the given shapes; trees may have further leading axes.

    Args:
        shapes: a tree of arrays, or of their shapes and dtypes.

    >>> import jax.numpy as jnp
    >>> tree = {"b": jnp.arange(3.0), "n": jnp.int32(7), "empty": jnp.zeros((0, 4))}
    >>> flatten, unflatten = make_flatten(tree)
    >>> {kind: vector.tolist() for kind, vector in flatten(tree).items()}
    {'float32': [0.0, 1.0, 2.0], 'int32': [7]}
    >>> unflatten(flatten(tree))["b"].tolist(), unflatten(flatten(tree))["empty"].shape
    ([0.0, 1.0, 2.0], (0, 4))
    """
    leaves, structure = jax.tree.flatten(shapes)

    def flatten(tree: Any) -> Vectors:
        groups: dict[str, list[Array]] = {}
        for shape, leaf in zip(leaves, structure.flatten_up_to(tree), strict=True):
            if size := math.prod(shape.shape):
                lead = jnp.shape(leaf)[: jnp.ndim(leaf) - len(shape.shape)]
                groups.setdefault(str(shape.dtype), []).append(jnp.asarray(leaf, shape.dtype).reshape(*lead, size))
        return {kind: jnp.concatenate(vectors, axis=-1) for kind, vectors in groups.items()}

    def unflatten(vectors: Vectors) -> Any:
        taken, found = dict.fromkeys(vectors, 0), []
        lead = next((vector.shape[:-1] for vector in vectors.values()), ())
        for shape in leaves:
            size, kind = math.prod(shape.shape), str(shape.dtype)
            if size:
                begin = taken[kind]
                taken[kind] += size
                found.append(vectors[kind][..., begin : begin + size].reshape(*lead, *shape.shape))
            else:
                found.append(jnp.zeros((*lead, *shape.shape), shape.dtype))
        return structure.unflatten(found)

    return flatten, unflatten


def as_it_is(x: Array, dtype: Any = None) -> Array:
    """Returns x unchanged."""
    del dtype
    return x


def as_bits(x: Array, dtype: Any = jnp.int32) -> Array:
    """Returns the bits of x as another dtype of 32 bits; booleans become numbers, and numbers booleans."""
    x = jnp.asarray(x)
    return x.astype(dtype) if bool in (x.dtype, dtype) else jax.lax.bitcast_convert_type(x, dtype)


def make_pack(
    shapes: Any, largest: int, code: Callable[..., Array] = as_it_is
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Makes functions `pack` and `unpack`: a tree becomes `(vectors, arrays)`, its small arrays packed, the others unchanged.

    On an accelerator each array that a loop carries is written by a kernel of its own, however small it is.

    Args:
        shapes: a tree of arrays, or of their shapes and dtypes.
        largest: the largest size of an array that is packed.
        code: `(x) -> coded` and `(coded, dtype) -> x`; with `as_bits`, there is one vector of int32 for all dtypes.

    >>> import jax.numpy as jnp
    >>> tree = {"a": jnp.arange(2), "b": jnp.ones((2, 3)), "c": jnp.float32(5)}
    >>> pack, unpack = make_pack(tree, largest=2)
    >>> {kind: vector.tolist() for kind, vector in pack(tree)[0].items()}, [array.shape for array in pack(tree)[1]]
    ({'int32': [0, 1], 'float32': [5.0]}, [(2, 3)])
    >>> pack, unpack = make_pack(tree, largest=2, code=as_bits)
    >>> {kind: vector.tolist() for kind, vector in pack(tree)[0].items()}, unpack(pack(tree))["c"].item()
    ({'int32': [0, 1, 1084227584]}, 5.0)
    """
    leaves, structure = jax.tree.flatten(shapes)
    is_small = [math.prod(leaf.shape) <= largest and str(leaf.dtype) in PACKABLE for leaf in leaves]
    small = [leaf for leaf, packed in zip(leaves, is_small, strict=True) if packed]
    flatten, unflatten = make_flatten(jax.eval_shape(lambda: [code(jnp.zeros(leaf.shape, leaf.dtype)) for leaf in small]))

    def pack(tree: Any) -> tuple[Vectors, list[Array]]:
        pairs = list(zip(structure.flatten_up_to(tree), is_small, strict=True))
        return flatten([code(leaf) for leaf, packed in pairs if packed]), [leaf for leaf, packed in pairs if not packed]

    def unpack(packed: tuple[Vectors, list[Array]]) -> Any:
        ones, others = iter(unflatten(packed[0])), iter(packed[1])
        pairs = zip(leaves, is_small, strict=True)
        return structure.unflatten([code(next(ones), leaf.dtype) if packed else next(others) for leaf, packed in pairs])

    return pack, unpack


@flax.struct.dataclass
class Stored:
    """Holds a tree without its typed keys, which are raw here, and without its empty arrays."""

    arrays: list[Array]
    form: Any = flax.struct.field(pytree_node=False)
    """The structure of the tree, and what is told of each leaf by `_form`."""


def _form(leaf: Any) -> Any:
    """Returns the shape of an empty array, the algorithm of a typed key, and None for any other leaf."""
    if math.prod(jnp.shape(leaf)) == 0:
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
    return jax.random.key_impl(leaf) if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else None


def _store(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    forms = [_form(leaf) for leaf in leaves]
    if all(form is None for form in forms):
        return tree
    pairs = zip(leaves, forms, strict=True)
    kept = [(leaf, form) for leaf, form in pairs if not isinstance(form, jax.ShapeDtypeStruct)]
    return Stored([leaf if form is None else jax.random.key_data(leaf) for leaf, form in kept], (structure, tuple(forms)))


def _restore(tree: Any) -> Any:
    if not isinstance(tree, Stored):
        return tree
    structure, forms = tree.form
    arrays, leaves = iter(tree.arrays), []
    for form in forms:
        if isinstance(form, jax.ShapeDtypeStruct):
            leaves.append(jnp.zeros(form.shape, form.dtype))
        else:
            leaves.append(next(arrays) if form is None else jax.random.wrap_key_data(next(arrays), impl=form))
    return structure.unflatten(leaves)


def storable(env: Env) -> Env:
    """Returns the environment with a state that NumPy and checkpoints can hold, whatever arrays its own state has.

    NumPy has no typed keys, and a checkpoint no empty arrays. A state that has neither stays as it is, and so does an
    environment outside the program.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> spec = dj.EnvSpec("Drift", (1,), (1,), action_low=(-1.0,), action_high=(1.0,), max_steps=10)
    >>> def advance(key, state, action):
    ...     x, own, nothing = state
    ...     return (x + jax.random.normal(own, (1,)), jax.random.fold_in(own, 1), nothing), -jnp.sum(x**2), False
    >>> env = dj.envs.make_env(spec, lambda key: (jnp.zeros(1), key, jnp.zeros(0)), advance, observe=lambda state: state[0])
    >>> [x.dtype.name for x in jax.tree.leaves(storable(env).reset(jax.random.key(0))[0])]
    ['float32', 'uint32', 'int32']
    """
    if env.outside is not None:
        return env

    def reset(key: Key) -> tuple[Any, Array]:
        state, obs = env.reset(key)
        return _store(state), obs

    def step(key: Key, env_state: Any, obs: Array, action: Array) -> tuple[Any, Array, Transition]:
        state, obs, transition = env.step(key, _restore(env_state), obs, action)
        return _store(state), obs, transition

    return env._replace(reset=reset, step=step)
