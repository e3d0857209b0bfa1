"""What the compilers for accelerators make of a training step, on a machine that has none.

    pip install "jax[cuda12,tpu]"
    python -m benchmarks.compiled

The programs of the steps that learn, with the parts that change them most, for one member and for 64 under vmap, are compiled
for an NVIDIA H100 and for a TPU v5e through JAX's ahead-of-time topologies. Nothing is run or timed. Each is examined for:

- kernels that a step launches on the GPU, where small networks cost launches and not arithmetic. Both branches of a conditional
  are counted, and a loop inside the step once. A TPU runs a step without launches.
- copies of the replay inside the loop over steps, which should be none: it is written in place.
- bytes a member: its state, which is updated in place, and scratch.

256-256 networks, batch 64, 100,000 transitions. Writes `benchmarks/results/compiled.json`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "8 environments": {"num_envs": 8},
    "n-step 3": {"n_step": 3},
    "prioritized": {"replay": "prioritized"},
    "hindsight": {"env": "point-reach", "hindsight": "future"},
    "parameter noise": {"exploration": "parameter", "layer_norm": True},
    "batch norm": {"batch_norm": True},
    "normalization": {"normalize_obs": True, "normalize_reward": True},
    "TD3": {"num_critics": 2, "policy_delay": 2, "target_noise": 0.2},
    "bfloat16": {"precision": "bfloat16"},
    "diagnostics": {"diagnostics": True},
}
MEMBERS = (1, 64)
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "conditional", "call"}
"""Instructions that are no kernels of their own."""


def targets() -> dict[str, Any]:
    """A device of each kind that programs can be compiled for and not run on."""
    from jax.experimental.topologies import get_topology_desc

    h100 = get_topology_desc("h100", "cuda", topology="1x1x1", target_config=H100)
    v5e = get_topology_desc("v5e:2x2", "tpu")
    return {"NVIDIA H100": h100.devices[0], "TPU v5e": v5e.devices[0]}


def learning(device: Any, members: int, fields: dict[str, Any]) -> tuple[Any, Any]:
    """The compiled program of the steps that learn, and the shapes of its state."""
    import jax
    import jax.numpy as jnp

    import ddpg_jax as dj
    from ddpg_jax.envs.registry import DEVICE
    from ddpg_jax.experiment.build import reported
    from ddpg_jax.running.compiled import NOTHING, functions_of, structure_of
    from ddpg_jax.running.placement import Placement
    from ddpg_jax.training.loop import no_metrics

    experiment, hyper = dj.configure({"env": "Pendulum-v1", **fields})
    placement = Placement(members, "vmap", (device,))
    functions = functions_of(structure_of(experiment), DEVICE[experiment.env](), placement)

    def shapes(tree: Any, *lead: int) -> Any:
        tree = jax.tree.map(jnp.asarray, tree)
        return placement.abstract(jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), tree))

    lead = () if placement.single else (members,)
    names = ("train_return_mean", *reported(experiment))
    numbers = (jax.random.key(0), hyper, True, jnp.int32(0), no_metrics(names))
    key, hypers, active, first, metrics = shapes(numbers, *lead)
    begin, end = shapes((jnp.int32(0), jnp.int32(1)))
    state = placement.abstract(jax.eval_shape(functions.init, key, hypers, NOTHING))
    return functions.phase("learn", state, (key, hypers, active, first, metrics), (begin, end), NOTHING), state


def instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(loops around it, operation, line) of what runs in a compiled module, each called computation where it is called."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if begin := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = "" if begin[1] else begin[2]
            bodies[name] = []
        elif line.startswith("  "):
            bodies.get(name, []).append(line.strip())

    def walk(name: str, depth: int) -> Iterator[tuple[int, str, str]]:
        for line in bodies[name]:
            found = re.search(r" ([a-z][a-z0-9\-]*)\(", line.split(" = ", 1)[-1])
            operation = found[1] if found else ""
            yield depth, operation, line
            if operation in ("while", "conditional", "call"):
                called = re.findall(r"(?:body|condition|to_apply|(?:true|false)_computation)=%?([\w.\-]+)", line)
                for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
                    called += branches.replace("%", "").split(", ")
                for one in called:
                    yield from walk(one, depth + (operation == "while"))

    return walk("", 0)


def count(compiled: Any, state: Any, members: int, launches: bool) -> dict[str, Any]:
    """What the docstring of this file says of one program."""
    import jax

    replay = max((x.shape for x in jax.tree.leaves(state.replay)), key=math.prod)
    shape = f"f32[{','.join(map(str, replay))}]"
    steps = [(operation, line) for depth, operation, line in instructions(compiled.as_text()) if depth]
    memory = compiled.memory_analysis()
    return {
        "kernels_a_step": sum(operation not in FREE for operation, _ in steps) if launches else None,
        "copies_of_the_replay": sum(operation.startswith("copy") and shape in line for operation, line in steps),
        "bytes_a_member": memory.argument_size_in_bytes // members,
        "scratch_bytes_a_member": memory.temp_size_in_bytes // members,
    }


def main() -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is nobody to ask what kind of TPU this machine has
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from ddpg_jax.app.machine import machine
    from ddpg_jax.app.report import as_json

    rows = []
    for target, device in targets().items():
        for part, fields in PARTS.items():
            for members in MEMBERS:
                compiled, state = learning(device, members, fields)
                about = count(compiled, state, members, launches=device.platform != "tpu")
                row = {"target": target, "part": part, "members": members, **about}
                rows.append(row)
                print(row, flush=True)
    (RESULTS / "compiled.json").write_text(as_json({"command": "python -m benchmarks.compiled", "rows": rows, **machine()}))


if __name__ == "__main__":
    main()
