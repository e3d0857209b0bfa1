"""What to cite: valid BibTeX, for the parts in use and for no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ddpg_jax as dj
from ddpg_jax.app.bibliography import BIBLIOGRAPHY
from ddpg_jax.app.citations import ALWAYS, CHOSEN, FAMILIES, PARTS, SOURCES, bibtex, references
from ddpg_jax.app.cite import keys_of_run
from ddpg_jax.app.manifest import new_manifest
from ddpg_jax.experiment.experiment import SWITCHES
from ddpg_jax.running.groups import make_groups
from tests.runs import TINY, run

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"@(\w+)\{([\w]+),\n((?:  \w+ = \{.*\},\n)+)\}\n")
NEEDED = {
    "article": {"title", "author", "journal", "year"},
    "inproceedings": {"title", "author", "booktitle", "year"},
    "book": {"title", "author", "publisher", "year"},
    "misc": {"title", "author", "note", "year"},
    "techreport": {"title", "author", "institution", "year"},
    "software": {"title", "author"},
}


def parsed(text: str) -> dict[str, dict[str, str]]:
    """The entries of a BibTeX file; fails where a brace, a comma, or a field is missing, or a key comes twice."""
    entries: dict[str, dict[str, str]] = {}
    for chunk in text.split("\n\n"):
        entry = ENTRY.fullmatch(chunk.rstrip("\n") + "\n")
        assert entry, chunk
        kind, key, body = entry.groups()
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, flags=re.MULTILINE))
        assert len(fields) == body.count("\n")
        assert NEEDED[kind] <= set(fields), key
        for value in fields.values():
            depth = 0
            for letter in value:
                depth += {"{": 1, "}": -1}.get(letter, 0)
                assert depth >= 0, value
            assert depth == 0, value
            assert not re.search(r"(?<!\\)[&%$#]", value), value
        assert all(re.search(r"^[^,]+(, [^,]+)?$", one) for one in fields["author"].split(" and ")), key
        assert key not in entries
        entries[key] = fields
    return entries


def test_the_whole_bibliography_is_valid_and_every_key_in_use_is_in_it() -> None:
    entries = parsed(bibtex(BIBLIOGRAPHY, "1.2.3"))
    assert list(entries) == list(BIBLIOGRAPHY)
    assert entries["ddpg_jax"]["version"] == "1.2.3"
    used = {*ALWAYS, *PARTS.values(), *CHOSEN.values(), *SOURCES.values(), *(key for keys in FAMILIES.values() for key in keys)}
    assert used <= set(entries)
    assert set(PARTS) <= set(SWITCHES)
    assert set(SOURCES) <= set(dj.PRESETS)


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({}, {"uhlenbeck1930", "towers2024"}),
        ({"env": "probe/lqr"}, {"uhlenbeck1930"}),
        ({"env": "HalfCheetah-v5", "exploration": "gaussian"}, {"towers2024", "todorov2012"}),
        ({"env": "my_robots:Arm-v0", "exploration": "gaussian"}, {"towers2024"}),
        ({"env": "probe/lqr", "exploration": "parameter"}, {"plappert2018"}),
        ({"env": "probe/lqr", "exploration": "pink", "noise_spread": 0.5}, {"eberhard2023", "seo2025"}),
        ({"env": "probe/lqr", "exploration": "gaussian", "noise_schedule": "cosine"}, {"loshchilov2017"}),
        ({"env": "probe/lqr", "exploration": "none", "noise_schedule": "cosine"}, set()),
        ({"env": "probe/lqr", "exploration": "none", "normalize_reward": True}, {"chan1979"}),
        ({"env": "probe/lqr", "exploration": "none", "preset": "sb3"}, {"raffin2021"}),
        ({"env": "probe/lqr", "exploration": "none", "network": "residual"}, {"lee2024", "ba2016"}),
        ({"env": "probe/lqr", "exploration": "none", "network": "crossq", "targets": "joint"}, {"ioffe2017", "bhatt2024"}),
        ({"env": "probe/lqr", "exploration": "none", "critic": "categorical"}, {"bellemare2017"}),
        ({"env": "probe/lqr", "exploration": "none", "critic": "quantile"}, {"dabney2018"}),
        ({"env": "probe/lqr", "exploration": "none", "preset": "cleanrl"}, {"huang2022", "fujimoto2018"}),
        ({"env": "probe/lqr", "exploration": "none", "lr_schedule": "cosine"}, {"loshchilov2017"}),
        ({"env": "probe/lqr", "exploration": "none", "layer_norm": True, "n_step": 3}, {"ba2016", "sutton2018"}),
        ({"env": "probe/lqr", "exploration": "none", "replay": "prioritized"}, {"schaul2016"}),
        ({"env": "probe/lqr", "exploration": "none", "hindsight": "final"}, {"andrychowicz2017"}),
        ({"env": "probe/lqr", "exploration": "none", "batch_norm": True}, {"ioffe2015"}),
        ({"env": "probe/lqr", "exploration": "none", "precision": "bfloat16"}, {"kalamkar2019"}),
        ({"env": "probe/lqr", "exploration": "none", "num_critics": 2}, {"fujimoto2018"}),
        ({"env": "probe/lqr", "exploration": "none", "policy_delay": 2}, {"fujimoto2018"}),
        ({"env": "probe/lqr", "exploration": "none", "target_noise": 0.2}, {"fujimoto2018"}),
        ({"env": "probe/lqr", "exploration": "none", "huber_delta": 1, "actor_clip": 1}, {"huber1964", "pascanu2013"}),
        ({"env": "probe/lqr", "exploration": "none", "critic_decay": 1, "sync_period": 5}, {"loshchilov2019", "mnih2015"}),
    ],
)
def test_what_is_used_is_cited_and_nothing_else(fields: dict[str, Any], added: set[str]) -> None:
    assert set(references(dj.configure(fields)[0])) == {*ALWAYS, *added}


@pytest.mark.parametrize(
    ("env", "keys"),
    [
        ("gymnax/Pendulum-v1", {"lange2022"}),
        ("brax/ant@spring", {"freeman2021"}),
        ("playground/CheetahRun", {"zakka2025", "tassa2018", "todorov2012"}),
        ("PointMaze_UMaze-v3", {"towers2024", "delazcano2024", "todorov2012"}),
    ],
)
def test_environments_are_cited_by_where_they_come_from(env: str, keys: set[str]) -> None:
    assert set(references(dj.configure({"env": env, "exploration": "none"})[0])) == {*ALWAYS, *keys}


def test_a_run_without_steps_is_cited_as_it_is() -> None:
    """Its batches may be larger than a warm-up, of which it has none."""
    fields = {"env": "probe/lqr", "steps": 0, "updates": 20, "batch_size": 4_000, "bc_weight": 1, "demonstrations": "some.npz"}
    [group] = make_groups([{}], 1, fields)
    assert "nair2018" not in keys_of_run(new_manifest(group.experiment, group.members, 1))


def test_the_software_is_cited_as_citation_cff_says() -> None:
    """The package cannot read that file once it is installed; here the two are held together."""
    text = (ROOT / "CITATION.cff").read_text()
    fields = BIBLIOGRAPHY["ddpg_jax"][1]
    said = {name: re.sub(r"[{}]", "", value) for name, value in fields.items()}
    assert f'\ntitle: "{said["title"]}"' in text
    assert f'\n  - name: "{said["author"]}"' in text
    assert f"\nlicense: {said['license']}" in text
    assert f"\nversion: {dj.__version__}" in text


@pytest.mark.usefixtures("command_line")
def test_cite_reads_presets_and_folders(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a sweep, what any member uses; the statistics over members too."""
    assert run("cite", "td3") == 0
    assert set(parsed(capfd.readouterr().out)) == {*ALWAYS, "fujimoto2018"}
    file = tmp_path / "mine.json"
    file.write_text('{"preset": "sb3", "layer_norm": true}')
    assert run("cite", str(file)) == 0
    assert set(parsed(capfd.readouterr().out)) == {*ALWAYS, "raffin2021", "ba2016"}

    few = [*TINY, "--steps", "300", "--eval-every", "300", "--out", str(tmp_path / "sweep")]
    assert run("sweep", "probe/lqr", "--grid", "huber_delta=0,1", "--exploration", "none", *few) == 0
    capfd.readouterr()
    assert run("cite", str(tmp_path / "sweep")) == 0
    assert set(parsed(capfd.readouterr().out)) == {*ALWAYS, "huber1964", "agarwal2021"}

    assert run("cite", str(tmp_path)) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{tmp_path} is neither the folder of a run or a study nor a preset" in said.err
