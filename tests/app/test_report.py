"""Statistics over seeds against numbers done by hand and against the normal distribution; the summary; the figure."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from ddpg_jax.app import figures, report
from ddpg_jax.app.manifest import new_manifest
from ddpg_jax.experiment.experiment import configure
from ddpg_jax.running.intervals import interval, interval_over_points, iqm
from ddpg_jax.running.program import Member
from ddpg_jax.running.rows import FIXED, SUCCESS

FIELDS = {
    "point",
    "seeds",
    "steps",
    "final_return_mean",
    "final_return_iqm",
    "final_return_interval",
    "final_returns",
    "best_return_mean",
    "final_success_rate",
    "threshold",
    "solved_members",
    "steps_to_threshold",
    "seconds_to_threshold",
    "pruned_step",
    "stopped_members",
    "diverged_members",
}


def table(curves: list[list[float]], **swept: list[float]) -> list[dict[str, Any]]:
    """Rows as metrics.csv has them: one curve a member, evaluations every 100 steps, members side by side."""
    rows = []
    for i in range(max(map(len, curves))):
        for m, curve in enumerate(curves):
            if i < len(curve):
                row: dict[str, Any] = {**dict.fromkeys(FIXED, 0.0), "diverged_step": ""}
                values = {"member": m, "seed": m, **{name: column[m] for name, column in swept.items()}}
                rows.append({**row, **values, "step": 100 * (i + 1), "seconds": 7.0 * (i + 1), "eval_return_mean": curve[i]})
    return rows


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 3.0], 2.0),
        ([0.0, 1.0, 2.0, 100.0], 1.5),
        ([-1e9, 4.0, 1.0, 2.0, 3.0, 5.0, 6.0, 1e9], 3.5),  # whatever the order; the outer quarters do not count
        ([float(x) for x in range(10)], 4.5),  # 2.5 on each side: two are left out, as scipy does
    ],
)
def test_iqm_by_hand(values: list[float], expected: float) -> None:
    assert iqm(values) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 7, 10, 11, 64])
def test_iqm_is_scipys_trimmed_mean(seeds: int) -> None:
    """The definition of Agarwal et al. 2021 and rliable is `trim_mean(scores, 0.25)`."""
    values = np.random.default_rng(seeds).normal(size=seeds)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_iqm_is_along_the_last_axis() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 11))
    assert iqm(values).shape == (3, 4)
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=-1))
    np.testing.assert_allclose(iqm(values)[1, 2], np.sort(values[1, 2])[2:-2].mean())


def test_a_diverged_seed_is_not_cut_off() -> None:
    """Sorted last, as the best, it would be: the IQM of the other seven would then be better than without it."""
    values = np.array([-150.0, -150.0, -160.0, -170.0, -180.0, -190.0, math.nan, -200.0])
    assert np.isnan(iqm(values))
    assert np.isnan(interval(values)).all()
    assert np.isnan(iqm(np.stack([values, np.zeros(8)]))).tolist() == [True, False]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """10 seeds of a normal distribution, 200 times; a bootstrap of so few is known to be a little too narrow."""
    values = np.random.default_rng(0).normal(loc=3.0, size=(200, 10))
    low, high = interval(values, resamples=300)
    assert low.shape == high.shape == (200,)
    assert (low < high).all()
    assert 0.85 <= ((low <= 3.0) & (high >= 3.0)).mean() <= 0.99


def test_the_interval_narrows_with_seeds_and_holds_the_estimate() -> None:
    values = np.random.default_rng(1).normal(size=160)
    widths = []
    for seeds in (5, 40, 160):
        low, high = interval(values[:seeds])
        assert low <= iqm(values[:seeds]) <= high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_the_interval_is_the_same_every_time_and_unknown_for_one_seed() -> None:
    values = np.random.default_rng(2).normal(size=(4, 6))
    assert np.array_equal(interval(values), interval(values))
    low, high = interval(values[:, :1])
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    assert low.shape == (4,)


def test_summary_by_hand() -> None:
    """Four seeds, three evaluations, a threshold that three of them reach: after 100, 200 and 300 steps."""
    curves = [[5.0, 1.0, 2.0], [0.0, 0.0, 6.0], [0.0, 1.0, 0.0], [1.0, 5.0, 4.0]]
    summary = report.summarize(table(curves), dict.fromkeys(range(4), 5.0), seconds=60.0)
    assert summary["seconds"] == 60.0
    (point,) = summary["points"]
    assert point.keys() == FIELDS
    assert point["point"] == {}
    assert (point["seeds"], point["steps"], point["threshold"]) == (4, 300, 5.0)
    assert point["final_returns"] == [2.0, 6.0, 0.0, 4.0]
    assert point["final_return_mean"] == 3.0
    assert point["final_return_iqm"] == 3.0
    assert 0.0 <= point["final_return_interval"][0] <= 3.0 <= point["final_return_interval"][1] <= 6.0
    assert point["best_return_mean"] == pytest.approx((5.0 + 6.0 + 1.0 + 5.0) / 4)
    assert point["solved_members"] == 3
    assert point["steps_to_threshold"] == 250.0  # the median of 100, 200, 300 and never
    assert point["seconds_to_threshold"] == 17.5
    assert point["diverged_members"] == {}


def test_seeds_that_never_reach_the_threshold_count() -> None:
    """Else the worse of two algorithms could be the faster one: the seeds that it fails on are the slow ones."""
    (point,) = report.summarize(table([[5.0], [0.0], [0.0]]), dict.fromkeys(range(3), 5.0), seconds=1.0)["points"]
    assert point["solved_members"] == 1
    assert json.loads(report.as_json(point))["steps_to_threshold"] is None


def test_points_whose_values_look_alike_have_a_curve_each() -> None:
    names = report.labelled(table([[1.0], [2.0]], tau=[0.1234567, 0.12345674]), "run")
    assert list(names) == ["tau=0.1234567", "tau=0.12345674"]
    assert list(report.labelled(table([[1.0], [2.0]], tau=[0.1234567, 0.2]), "run")) == ["tau=0.123457", "tau=0.2"]


def test_the_interval_over_points_is_that_of_their_seeds() -> None:
    """Points that are far apart are no uncertainty of any of them (Agarwal et al. 2021: seeds are drawn within each task)."""
    rng = np.random.default_rng(4)
    near, far = rng.normal(size=10), rng.normal(loc=100.0, size=10)
    low, high = interval_over_points([near, far])
    middle = iqm(np.concatenate([near, far]))
    assert low <= middle <= high
    assert high - low < 3.0
    np.testing.assert_allclose(interval_over_points([near]), interval(near))
    assert np.isnan(interval_over_points([near, far[:1]])).all()


def test_a_member_that_diverged_early_cuts_nobody_short() -> None:
    """A program ends when all its members have diverged; others of the same point, in the next program, go on."""
    rows = table([[1.0, math.nan], [2.0, 3.0, 4.0, 5.0], [3.0, 4.0, 5.0]])
    rows[3]["diverged_step"] = 150
    (curves,) = report.by_point(rows).values()
    assert curves[0, :, 0].tolist() == [100.0, 200.0, 300.0], "as far as those have come that still run"
    np.testing.assert_array_equal(curves[:, :, 1], [[1.0, math.nan, math.nan], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]])
    (lost,) = report.by_point([rows[0], rows[3]]).values()
    assert lost.shape == (1, 2, 2)


def test_curves_of_other_schedules_are_joined_at_common_steps() -> None:
    """A return between two evaluations is not known; after the last one, it is that one of a member that was stopped."""
    going = report.Curve([10, 20, 30, 40], [1.0, 2.0, 3.0, 4.0], None)
    solved = report.Curve([15, 30], [5.0, 6.0], 6.0)
    lost = report.Curve([12], [7.0], math.nan)
    joined = report.joined([going, solved, lost])
    np.testing.assert_array_equal(joined[:, :, 0], [[30, 40]] * 3)
    np.testing.assert_array_equal(joined[:, :, 1], [[3.0, 4.0], [6.0, 6.0], [math.nan, math.nan]])
    assert report.joined([going, report.Curve([15], [1.0], None)]).size == 0
    assert report.joined([solved, lost])[:, :, 0].tolist() == [[15, 30]] * 2, "as long as the longest if all have ended"


def test_what_is_not_known_is_null() -> None:
    """JSON has no NaN: a summary with one could not be read by anything but Python."""
    rows = table([[1.0, math.nan], [2.0, 3.0]])
    rows[2]["diverged_step"] = 150
    text = report.as_json(report.summarize(rows, {}, seconds=1.0))
    (point,) = json.loads(text, parse_constant=pytest.fail)["points"]
    assert point["final_returns"] == [None, 3.0]
    assert point["final_return_mean"] is None
    assert point["diverged_members"] == {"0": 150}
    assert point["threshold"] is None
    assert point["steps_to_threshold"] is None
    assert point["seconds_to_threshold"] is None
    (single,) = json.loads(report.as_json(report.summarize(table([[1.0]]), {0: 9.0}, seconds=1.0)))["points"]
    assert single["final_return_interval"] == [None, None]
    assert single["solved_members"] == 0


def test_as_json_takes_what_numpy_gives() -> None:
    value = {"a": np.float32(0.5), "b": np.array([1.0, np.inf]), "c": (np.int64(3), -math.inf), "d": np.bool_(True)}
    assert json.loads(report.as_json(value)) == {"a": 0.5, "b": [1.0, None], "c": [3, None], "d": True}


def test_members_are_grouped_by_what_was_swept() -> None:
    """Seeds of one point make one curve, and one that stopped early cuts the others of its point only."""
    rows = table([[1.0, 2.0], [3.0], [5.0, 6.0], [7.0, 8.0]], tau=[0.1, 0.1, 0.2, 0.2])
    assert report.swept(rows) == ["tau"]
    points = report.by_point(rows)
    assert points.keys() == {(0.1,), (0.2,)}
    assert points[0.1,].tolist() == [[[100.0, 1.0]], [[100.0, 3.0]]]
    assert points[0.2,].tolist() == [[[100.0, 5.0], [200.0, 6.0]], [[100.0, 7.0], [200.0, 8.0]]]
    assert report.labelled(rows, "default").keys() == {"tau=0.1", "tau=0.2"}
    assert [point["point"] for point in report.summarize(rows, {}, 1.0)["points"]] == [{"tau": 0.1}, {"tau": 0.2}]


def test_without_a_sweep_the_curve_has_the_name_that_it_is_given() -> None:
    rows = table([[1.0], [2.0]])
    assert report.swept(rows) == []
    assert report.labelled(rows, "default")["default"].shape == (2, 1, 2)
    assert report.swept([]) == []
    assert report.by_point([]) == {}


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_figure_is_written_whole(tmp_path: Path, ending: str) -> None:
    """One seed, many seeds, a single evaluation, and a seed that diverged, in one figure and without a warning."""
    curves = {
        "one": np.array([[[0.0, 1.0], [100.0, 2.0]]]),
        "five": np.random.default_rng(0).normal(size=(5, 2, 2)),
        "short": np.array([[[50.0, 0.0]]]),
        "lost": np.array([[[0.0, 1.0], [100.0, math.nan]], [[0.0, 2.0], [100.0, 1.0]]]),
    }
    path = tmp_path / f"figure{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.learning_curves({"here": curves, "there": curves}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes().startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending])
    assert path.stat().st_size > 5_000


def test_numbers_that_were_drawn_are_summed_up_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 values of each of two fields, each seen once: what one field does is hidden behind what the other does."""
    lines: list[np.ndarray] = []
    real = Axes.plot

    def plot(axes: Any, *arguments: Any, **named: Any) -> Any:
        if "lw" in named:
            lines.append(np.array(arguments[:2]))
        return real(axes, *arguments, **named)

    monkeypatch.setattr(Axes, "plot", plot)
    x = np.linspace(0.0, 1.0, 40)
    y = np.random.default_rng(0).permutation(x)
    final = {
        (a, b): np.array([a + 100.0 * (k == 7), np.nan if k == 3 else a]) for k, (a, b) in enumerate(zip(x, y, strict=True))
    }
    figures.sensitivity(["x", "y"], final, "title", path=tmp_path / "s.png")
    assert [line.shape for line in lines] == [(2, figures.BINS)] * 2
    np.testing.assert_allclose(lines[0][0], lines[0][1], atol=0.05)  # the return is x, but for one outlier
    assert np.ptp(lines[1][1]) < 0.6


def test_the_line_at_the_end() -> None:
    """One run: its last evaluation. Seeds: their IQM. A sweep: its best point. What diverged is never the best."""
    (single,) = rows = table([[-150.0]])
    single["eval_return_std"] = 10.0
    assert (
        report.headline("E", rows, 4) == "E: return -150.0 +- 5.8 (standard error of 4 episodes) after 100 steps"
    )  # 10 / sqrt(3)
    assert report.headline("E", [single | {SUCCESS: 0.75}], 1) == "E: return -150.0, success rate 75 % after 100 steps"
    single["diverged_step"] = 1050
    assert report.headline("E", rows, 4) == "E: DIVERGED at step 1,050"
    together = report.headline("E", table([[1.0], [3.0]]), 4)
    assert together == "E: IQM 2.0 [1.0, 3.0] over 2 seeds, 1 point, diverged members: 0"
    assert report.headline("E", table([[1.0], [3.0]]), 0).startswith("E: training IQM 2.0 [1.0, 3.0]")
    lost = [{**row, SUCCESS: math.nan, "diverged_step": 50} for row in table([[1.0]])]
    assert math.isnan(report._final_success([*table([[1.0]]), {**lost[0], "member": 1}]))
    told = [row | {SUCCESS: rate} for row, rate in zip(table([[1.0], [3.0]]), (0.5, 1.0), strict=True)]
    assert "over 2 seeds, success rate 75 %, 1 point" in report.headline("E", told, 4)
    rows = table([[1.0], [1.0], [5.0], [5.0], [9.0], [math.nan]], tau=[0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    rows[-1]["diverged_step"] = 50
    line = report.headline("E", rows, 4)
    assert "best point tau=0.2, IQM 5.0 [5.0, 5.0] over 2 seeds, 3 points, diverged members: 1" in line
    assert "NO BEST POINT" in report.headline("E", rows[-2:], 4)
    each = [row | {"env": env} for env, row in zip("AB", table([[1.0], [3.0]]), strict=True)]
    assert report.headline("E", each, 1) == "A: return 1.0 after 100 steps; B: return 3.0 after 100 steps"


def test_a_run_is_called_by_its_preset_and_what_differs_from_it() -> None:
    """As a person would type it: no list, and nothing that follows from the rest."""
    experiment, hyper = configure({"preset": "td3", "hidden": (64, 64), "target_noise": 0.1})
    manifest = new_manifest(experiment, [Member(0, hyper)])
    fields = report.settings(manifest)
    assert report.described(fields, fields) == "td3, hidden=64-64, target_noise=0.1"
    assert report.described(fields, ["hidden", "tau"]) == "td3, hidden=64-64"
    del fields["preset"]  # that of a sweep over presets
    assert report.described(fields, ["hidden", "tau"]) == "hidden=64-64"


def test_words_are_drawn_in_the_order_asked_and_numbers_in_their_own() -> None:
    final = {(word, number): np.zeros(1) for word, number in [("64-64", 3.0), ("256-256", 1.0), ("64-64", 2.0)]}
    assert figures.values_of(final, 0) == ["64-64", "256-256"]
    assert figures.values_of(final, 1) == [1.0, 2.0, 3.0]
