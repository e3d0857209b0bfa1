"""Reads and writes the files of a policy.

They may come from a stranger: nothing is unpickled, and nothing is read that is larger than policy.json says.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from ddpg_jax.agent.layers import ACTIVATIONS, INITS, PRECISIONS
from ddpg_jax.types import NO_OPTIONS, EnvOptions, EnvSpec

FORMAT = 1
JSON_LIMIT = 1 << 20
"""Bytes of policy.json at most."""
HEADER_LIMIT = 1 << 12
"""Largest number of bytes that a file in actor.npz has besides its array."""
ARCHIVE_LIMIT = 1 << 14
"""Largest number of bytes that actor.npz has besides its files, once for itself and once for each of them."""
MOST_LAYERS = 256
WORDS: dict[str, Mapping[str, Any]] = {"activation": ACTIVATIONS, "init": INITS, "precision": PRECISIONS}


def open_regular(path: Path, limit: int) -> BinaryIO:
    """Opens a regular file of at most `limit` bytes; a pipe or a device could keep its reader waiting forever.

    Raises:
        ValueError: the path is not a regular file, or the file exceeds `limit` bytes.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        os.close(descriptor)
        what = f"is of {found.st_size:,} bytes" if stat.S_ISREG(found.st_mode) else "is no regular file"
        raise ValueError(f"{path.name} {what}; it must be a file of at most {limit:,} bytes")
    return open(descriptor, "rb")


def read_about(path: Path) -> dict[str, Any]:
    """Reads policy.json, and checks all that is taken from it, except what `read_spec` and `read_options` check.

    Raises:
        ValueError: it is not what `Policy.save` writes.
        OSError: it cannot be read.
    """
    with open_regular(path, JSON_LIMIT) as file:
        about = json.loads(file.read(JSON_LIMIT + 1))
    if not isinstance(about, dict) or not isinstance(about.get("env"), dict):
        raise ValueError("policy.json has no env")
    _require(about.get("format", FORMAT) == FORMAT, "format", about.get("format"), f"{FORMAT}, which this version reads")
    network = about.get("network", "mlp")
    _require(isinstance(network, str), "network", network, "a name")
    digests = about.get("sha256", [])
    _require(_are_texts(digests), "sha256", digests, "a list of digests")
    for name, table in WORDS.items():
        if name in about and (not isinstance(about[name], str) or about[name] not in table):
            raise ValueError(
                f"{name}={about[name]} is not known; it must be one of {', '.join(table)}, or a module that adds it must be "
                "imported first"
            )
    for name in ("hidden", "actor_hidden", "critic_hidden"):
        sizes = about.get(name, [])
        _require(_are_sizes(sizes) and len(sizes) <= MOST_LAYERS, name, sizes, f"up to {MOST_LAYERS} whole numbers")
    for name in ("layer_norm", "batch_norm"):
        _require(isinstance(about.get(name, False), bool), name, about.get(name), "true or false")
    layer = about.get("action_layer", 0)
    _require(_is_whole(layer) and 0 <= layer <= MOST_LAYERS, "action_layer", layer, f"a whole number up to {MOST_LAYERS}")
    return about


def self_digest(about: dict[str, Any]) -> str:
    """Returns the digest of policy.json, without the digests in it."""
    rest = {name: value for name, value in about.items() if name not in ("sha256", "own_sha256")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_digest(about: dict[str, Any]) -> None:
    """Checks that policy.json is what was saved; files of older versions have no digest of themselves.

    Raises:
        ValueError: it was changed.
    """
    if about.get("own_sha256", self_digest(about)) != self_digest(about):
        raise ValueError("policy.json was changed after it was saved, since it has another digest")


def read_options(given: Any) -> EnvOptions:
    """Returns the options of the environment in policy.json.

    Raises:
        ValueError: they are others than those of an environment.
    """
    whole = {"imports": [], "env_kwargs": NO_OPTIONS.env_kwargs, "wrappers": [], **given} if isinstance(given, dict) else {}
    known = set(whole) == set(EnvOptions._fields) and isinstance(whole["env_kwargs"], str)
    fits = known and _are_texts(whole["imports"]) and _are_texts(whole["wrappers"])
    _require(fits, "options", given, f"texts, of the fields {', '.join(EnvOptions._fields)}")
    return EnvOptions(tuple(whole["imports"]), whole["env_kwargs"], tuple(whole["wrappers"]))


def read_spec(env: dict[str, Any]) -> EnvSpec:
    """Returns the spec in policy.json.

    Raises:
        ValueError: a field is missing, or has a value that no environment has.
    """
    for name in ("name", "obs_shape", "action_shape", "action_low", "action_high"):
        if name not in env:
            raise ValueError(f"policy.json has no env.{name}")
    unknown = sorted(set(env) - set(EnvSpec._fields))
    _require(not unknown, "env", ", ".join(unknown), f"of the fields {', '.join(EnvSpec._fields)}")
    _require(isinstance(env["name"], str), "env.name", env["name"], "a name")
    for name in ("obs_shape", "action_shape"):
        _require(_are_sizes(env[name]), f"env.{name}", env[name], "whole numbers of at least 1")
    bounds = {name: env[name] for name in ("action_low", "action_high")}
    actions = math.prod(env["action_shape"])
    for name, values in bounds.items():
        ok = isinstance(values, list) and len(values) == actions and all(_is_finite(x) for x in values)
        _require(ok, f"env.{name}", values, f"a list of {actions} finite numbers, one for each action")
    ordered = all(low < high for low, high in zip(*bounds.values(), strict=True))
    _require(ordered, "env.action_low", env["action_low"], f"below env.action_high={env['action_high']}")
    steps, threshold = env.get("max_steps"), env.get("reward_threshold")
    _require(steps is None or (_is_whole(steps) and steps >= 1), "env.max_steps", steps, "null or a whole number of at least 1")
    _require(threshold is None or _is_finite(threshold), "env.reward_threshold", threshold, "null or a finite number")
    dtype = env.get("action_dtype", "float32")
    _require(dtype in ("float16", "float32", "float64"), "env.action_dtype", dtype, "float16, float32 or float64")
    largest = float(min(np.finfo(dtype).max, np.finfo(np.float32).max / 2))  # so that their distance is finite, too
    within = all(abs(x) <= largest for values in bounds.values() for x in values)
    _require(within, "env.action_low", f"{env['action_low']} with env.action_high={env['action_high']}", f"within {dtype}")
    _require(env.get("goal") is None, "env.goal", env.get("goal"), "null")
    low, high = (tuple(map(float, values)) for values in bounds.values())
    shapes: dict[str, Any] = {name: tuple(env[name]) for name in ("obs_shape", "action_shape")}
    numbers: dict[str, Any] = {"max_steps": steps, "reward_threshold": threshold, "action_dtype": dtype}
    return EnvSpec(env["name"], action_low=low, action_high=high, **shapes, **numbers)


def read_arrays(path: Path, plain: dict[str, Any], more: dict[str, Any], digests: list[str]) -> dict[str, np.ndarray]:
    """Reads actor.npz, whose sizes and types are known before a byte is unpacked.

    Args:
        path: of the file.
        plain: shapes and types, by name, of the arrays without normalization of observations.
        more: those with it, which are expected if the file has any name that only these have.
        digests: hexadecimal SHA-256, of which one must be that of the file; empty for files of older versions.

    Raises:
        ValueError: it has other arrays, or is damaged.
        OSError: it cannot be read.
    """
    size = max(sum(HEADER_LIMIT + ARCHIVE_LIMIT + _bytes(leaf) for leaf in leaves.values()) for leaves in (plain, more))
    with open_regular(path, size + ARCHIVE_LIMIT) as file, zipfile.ZipFile(file) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        expected = more if set(infos) & (set(more) - set(plain)) else plain
        wrong = next((name for name in sorted({*infos, *expected}) if (name in infos) != (name in expected)), None)
        if wrong in infos:
            raise ValueError(f"actor.npz has {wrong}, which the network of policy.json has not")
        if wrong:
            shape = expected[wrong].shape
            raise ValueError(f"actor.npz has no {wrong}, where the network of policy.json has one of shape {shape}")
        if len(infos) != len(archive.infolist()):
            raise ValueError("actor.npz has an array twice")
        arrays = {name: _read_array(archive, info, name, expected[name]) for name, info in infos.items()}
        file.seek(0)
        if digests and hashlib.sha256(file.read()).hexdigest() not in digests:
            raise ValueError("actor.npz is not the file that was saved with policy.json")
        return arrays


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, leaf: Any) -> np.ndarray:
    """Reads an array whose shape and type must be those of a leaf."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _bytes(leaf) + HEADER_LIMIT:
        raise ValueError(f"actor.npz has {name} of {info.file_size:,} bytes or compressed, where {_bytes(leaf):,} are expected")
    data = io.BytesIO(archive.read(info))
    version = np.lib.format.read_magic(data)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"actor.npz has {name} in a format of version {version}; it must be 1.0 or 2.0")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(data)
    if shape != leaf.shape or dtype != leaf.dtype:
        raise ValueError(
            f"actor.npz has {name} of shape {shape} and type {dtype}, where the network of policy.json has {leaf.shape} "
            f"and {leaf.dtype}"
        )
    data.seek(0)
    return np.lib.format.read_array(data, allow_pickle=False)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def write_arrays(leaves: dict[str, Any]) -> tuple[bytes, str]:
    """Returns the contents of actor.npz and their digest."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    np.savez(file, **arrays)
    return file.getvalue(), hashlib.sha256(file.getvalue()).hexdigest()


def digest_of(path: Path) -> list[str]:
    """Returns the digest of a file, in a list that is empty if there is none."""
    return [hashlib.sha256(path.read_bytes()).hexdigest()] if path.is_file() else []


def name_of(path: Any) -> str:
    """Returns the name of a leaf in actor.npz."""
    return "/".join(str(entry.key) for entry in path)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree of dicts by their names."""
    return {name_of(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _require(ok: bool, name: str, value: Any, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name}={str(value)[:100]} is not allowed; it must be {allowed}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_sizes(values: Any) -> bool:
    """Returns whether a value is a list of at most `MOST_LAYERS` whole numbers, each at least 1 and below 2**31."""
    whole = isinstance(values, list) and all(_is_whole(x) and 1 <= x < 2**31 for x in values)
    return whole and len(values) <= MOST_LAYERS


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
