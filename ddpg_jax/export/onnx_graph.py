"""Translates the program that JAX traces of a function, a jaxpr, into the nodes of an ONNX graph.

The program is that of the policy itself, so no network is described twice, and a network of the user's is translated as well if
it computes with the primitives in `RULES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend import core

from ddpg_jax.errors import ConfigError

OPSET = 18
"""Version of the operators; runtimes since 2023 know it."""
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call")
"""Primitives that call another program, which is translated in their place."""


@dataclasses.dataclass
class Graph:
    """Collects the nodes and the constants of a graph whose input has a first dimension of any size."""

    input: str
    nodes: list[Any] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Adds a node, whose inputs are names or arrays, and returns the name of its output."""
        from onnx import helper

        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], name=output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        """Adds a constant, and returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def shape(self, sizes: Sequence[Any]) -> Any:
        """Returns a shape `[R]` int64: an array, or the name of one if a size is not a number, which is then the batch size."""
        if all(isinstance(size, int) for size in sizes):
            return np.array(sizes, np.int64)
        parts = [
            np.array([size], np.int64)
            if isinstance(size, int)
            else self.add("Gather", self.add("Shape", self.input), np.array([0], np.int64))
            for size in sizes
        ]
        return self.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def translate(program: core.ClosedJaxpr, graph: Graph) -> str:
    """Adds the nodes of a program of one input and one output to a graph, and returns the name of its output.

    Raises:
        ConfigError: the program contains a primitive, or a use of one, that has no translation.
    """
    output = _translate(program.jaxpr, program.consts, [graph.input], graph)[0]
    aval: Any = program.out_avals[0]
    return output if isinstance(output, str) else graph.add("Expand", output, graph.shape(aval.shape))


def _translate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], graph: Graph) -> list[Any]:
    """Returns the outputs of a program, each as an array if it is known, or as a name in the graph."""
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, core.Literal) else known[x]

    for eqn in jaxpr.eqns:
        values, name = [read(x) for x in eqn.invars], eqn.primitive.name
        fixed = all(isinstance(size, int) for x in eqn.outvars for size in x.aval.shape)
        if name in CALLS:
            inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
            inner, its = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
            outputs = _translate(inner, its, values, graph)
        elif fixed and not any(isinstance(x, str) for x in values):
            outputs = eqn.primitive.bind(*values, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        elif name in RULES:
            outputs = [RULES[name](graph, eqn, *values)]
        else:
            raise _unknown(f"the primitive {name} of JAX")
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _unknown(what: str) -> ConfigError:
    return ConfigError(f"the network uses {what}, which cannot be exported to onnx; use --to stablehlo, which takes all")


def _node(kind: str) -> Callable[..., str]:
    """Returns the rule of a primitive that is a node with the same inputs."""
    return lambda graph, eqn, *inputs: graph.add(kind, *inputs)


def _reduce(kind: str) -> Callable[..., str]:
    return lambda graph, eqn, x: graph.add(kind, x, np.array(eqn.params["axes"], np.int64), keepdims=0)


def _dot_general(graph: Graph, eqn: Any, x: Any, y: Any) -> str:
    """Multiplies the last axis of x with the first of y. Factors of bfloat16 are widened, since JAX sums them in float32."""
    contracted, batched = eqn.params["dimension_numbers"]
    x_rank, y_rank = (len(v.aval.shape) for v in eqn.invars)
    if any(batched) or tuple(map(tuple, contracted)) != ((x_rank - 1,), (0,)) or y_rank != 2:
        raise _unknown("a product of other axes than the last and the first")
    dtype = eqn.outvars[0].aval.dtype
    factors = [
        v if source.aval.dtype == dtype else _cast(graph, v, dtype) for v, source in zip((x, y), eqn.invars, strict=True)
    ]
    return graph.add("MatMul", *factors)


def _cast(graph: Graph, x: Any, dtype: Any) -> Any:
    if not isinstance(x, str):
        return np.asarray(x).astype(dtype)
    from onnx import TensorProto

    names = {"bool": "BOOL", "bfloat16": "BFLOAT16", "float16": "FLOAT16", "float32": "FLOAT", "int32": "INT32"}
    if str(dtype) not in names:
        raise _unknown(f"numbers of type {dtype}")
    return graph.add("Cast", x, to=TensorProto.DataType.Value(names[str(dtype)]))


def _reshape(graph: Graph, x: Any, sizes: Sequence[Any]) -> str:
    if sum(not isinstance(size, int) for size in sizes) > 1:
        raise _unknown("a shape that has the batch size twice")
    return graph.add("Reshape", x, np.array([size if isinstance(size, int) else -1 for size in sizes], np.int64))


def _broadcast_in_dim(graph: Graph, eqn: Any, x: Any) -> str:
    """Inserts axes of length 1, and expands those that are longer in the result."""
    target, given = eqn.params["shape"], eqn.invars[0].aval.shape
    sizes: list[Any] = [1] * len(target)
    for size, axis in zip(given, eqn.params["broadcast_dimensions"], strict=True):
        sizes[axis] = size
    x = x if tuple(sizes) == given else _reshape(graph, x, sizes)
    return x if tuple(sizes) == tuple(target) else graph.add("Expand", x, graph.shape(target))


def _integer_pow(graph: Graph, eqn: Any, x: Any) -> str:
    return graph.add("Pow", x, np.asarray(eqn.params["y"], eqn.invars[0].aval.dtype))


def _select_n(graph: Graph, eqn: Any, which: Any, *cases: Any) -> str:
    if len(cases) != 2 or eqn.invars[0].aval.dtype != np.bool_:
        raise _unknown("a choice among other than two arrays")
    return graph.add("Where", which, cases[1], cases[0])


def _slice(graph: Graph, eqn: Any, x: Any) -> str:
    start, limit, step = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    given = eqn.invars[0].aval.shape
    axes = [axis for axis in range(len(given)) if (start[axis], limit[axis]) != (0, given[axis]) or (step and step[axis] != 1)]
    if not all(isinstance(limit[axis], int) for axis in axes):
        raise _unknown("a part of the batch")
    return _cut(graph, x, {axis: (start[axis], limit[axis], step[axis] if step else 1) for axis in axes})


def _gather(graph: Graph, eqn: Any, x: Any, start: Any) -> str:
    """Takes one part of an array, at a known place, as `x[..., 0]` does."""
    axes, sizes = eqn.params["dimension_numbers"].start_index_map, eqn.params["slice_sizes"]
    if isinstance(start, str) or np.ndim(start) != 1 or not all(isinstance(sizes[axis], int) for axis in axes):
        raise _unknown("an index that is not known beforehand")
    places = {axis: (int(at), int(at) + sizes[axis], 1) for axis, at in zip(axes, np.asarray(start), strict=True)}
    return _reshape(graph, _cut(graph, x, places), eqn.outvars[0].aval.shape)


def _cut(graph: Graph, x: Any, places: dict[int, tuple[int, int, int]]) -> str:
    """Takes a part of an array, given by axis -> start, limit and step."""
    numbers = [*zip(*places.values(), strict=True)] if places else [(), (), ()]
    starts, limits, steps, axes = (np.array(own, np.int64) for own in (*numbers, tuple(places)))
    return graph.add("Slice", x, starts, limits, axes, steps)


def _one_plus(first: str, number: float, second: str) -> Callable[..., str]:
    """Returns the rule of `first(x) + number`, or of `second(x + number)` if `second` is not empty."""

    def rule(graph: Graph, eqn: Any, x: Any) -> str:
        one = np.asarray(number, eqn.invars[0].aval.dtype)
        return graph.add("Add", graph.add(first, x), one) if not second else graph.add(second, graph.add("Add", x, one))

    return rule


def _same(graph: Graph, eqn: Any, x: Any) -> Any:
    return x


RULES: dict[str, Callable[..., Any]] = {
    **{name: _node(kind) for name, kind in {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow", "neg": "Neg",
        "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf",
        "sin": "Sin", "cos": "Cos", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "gt": "Greater", "lt": "Less",
        "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal", "and": "And", "or": "Or", "not": "Not",
    }.items()},
    **{f"reduce_{name}": _reduce(f"Reduce{kind}") for name, kind in {"sum": "Sum", "max": "Max", "min": "Min"}.items()},
    "ne": lambda graph, eqn, x, y: graph.add("Not", graph.add("Equal", x, y)),
    "square": lambda graph, eqn, x: graph.add("Mul", x, x),
    "integer_pow": _integer_pow,
    "rsqrt": lambda graph, eqn, x: graph.add("Reciprocal", graph.add("Sqrt", x)),
    "expm1": _one_plus("Exp", -1.0, ""),
    "log1p": _one_plus("", 1.0, "Log"),
    "clamp": lambda graph, eqn, low, x, high: graph.add("Min", graph.add("Max", x, low), high),
    "dot_general": _dot_general,
    "convert_element_type": lambda graph, eqn, x: _cast(graph, x, eqn.outvars[0].aval.dtype),
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": lambda graph, eqn, x: _reshape(graph, x, eqn.outvars[0].aval.shape),
    "squeeze": lambda graph, eqn, x: _reshape(graph, x, eqn.outvars[0].aval.shape),
    "transpose": lambda graph, eqn, x: graph.add("Transpose", x, perm=list(eqn.params["permutation"])),
    "concatenate": lambda graph, eqn, *parts: graph.add("Concat", *parts, axis=eqn.params["dimension"]),
    "select_n": _select_n,
    "slice": _slice,
    "gather": _gather,
    "copy": _same,
    "copy_p": _same,
    "optimization_barrier": _same,
}  # fmt: skip
"""Primitive -> `(graph, equation, *inputs) -> output`, which adds its nodes; inputs and outputs are names or known arrays."""


def traced(function: Callable[..., Any], shape: tuple[int, ...]) -> core.ClosedJaxpr:
    """Traces `obs [B, *shape] -> action` for every batch size B."""
    (batch,) = export.symbolic_shape("B")
    return jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *shape), np.float32))
