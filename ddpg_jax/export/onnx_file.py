"""Writes a policy as an ONNX file, and runs such a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddpg_jax.agent.policy import Policy
from ddpg_jax.envs.extras import installed, missing
from ddpg_jax.errors import ConfigError
from ddpg_jax.export.function import policy_function
from ddpg_jax.export.onnx_graph import OPSET, Graph, traced, translate

IR_VERSION = 9
"""Version of the file format that belongs to `OPSET`, which keeps the file readable for runtimes of its time."""
INPUT, OUTPUT = "obs", "action"


def onnx_bytes(policy: Policy, about: Mapping[str, Any]) -> bytes:
    """Returns the contents of an ONNX file: `obs [B, *obs_shape] -> action [B, *action_shape]`, float32, B of any size.

    Args:
        policy: the policy.
        about: metadata, JSON; each entry becomes a property of the model.

    Raises:
        ConfigError: the extra `export` is not installed, or the network cannot be translated.
    """
    if not installed("onnx"):
        raise ConfigError(missing("to=onnx", "export"))
    import onnx
    from onnx import helper, numpy_helper

    graph = Graph(INPUT)
    output = translate(traced(policy_function(policy), policy.spec.obs_shape), graph)
    nodes = [*graph.nodes, helper.make_node("Identity", [output], [OUTPUT], name=OUTPUT)]
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "policy",
            [value(INPUT, onnx.TensorProto.FLOAT, ["B", *policy.spec.obs_shape])],
            [value(OUTPUT, onnx.TensorProto.FLOAT, ["B", *policy.spec.action_shape])],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        producer_name="ddpg_jax",
        producer_version=about["version"],
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=about["describes"],
    )
    helper.set_model_props(model, {name: x if isinstance(x, str) else json.dumps(x) for name, x in about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def onnx_runner(data: bytes) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns what runs the contents of an ONNX file, and a function that does: onnxruntime, or onnx itself without it."""
    if installed("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return "onnxruntime", lambda obs: np.asarray(session.run([OUTPUT], {INPUT: obs})[0])
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(onnx.load_from_string(data))
    return "onnx", lambda obs: evaluator.run([OUTPUT], {INPUT: obs})[0]
