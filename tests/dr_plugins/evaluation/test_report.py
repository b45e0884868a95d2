"""Summaries against formulas and other libraries; tables and figures hold what was measured."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dr_plugins.evaluation import ALEXNET_ERRORS, SetResult, markdown, summarize
from dr_plugins.evaluation.bootstrap import linear_metrics
from dr_plugins.metrics import ImageScores
from dr_plugins.metrics.image_scores import METRICS

SEVERITIES = range(1, 6)


def result(model: str, set_name: str, seed: int, gain: float = 2.0, count: int = 400) -> SetResult:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=torch.Generator().manual_seed(1))
    logits = torch.randn(count, 10, generator=generator)
    logits[torch.arange(count), labels] += gain
    scores, scaled = (ImageScores.of(logits * factor, labels) for factor in (2, 1))
    identity = {"weights": f"{model} weights", "images": set_name, "keys": "the same"}
    return SetResult(model, set_name, scores, scaled, (1.0, 1.1), count, identity)


def corrupted(model: str, seed: int) -> list[SetResult]:
    return [
        result(model, f"c/{name}/{severity}", 100 * seed + severity, 3 - 0.5 * severity, 50)
        for name in ALEXNET_ERRORS
        for severity in SEVERITIES
    ]


def test_metrics_and_differences() -> None:
    first, second = result("a", "v2", 2), result("b", "v2", 3, 2.4)
    summary = summarize([first, second], {})
    found = summary["sets"]["v2"]
    for each in (first, second):
        metrics = found["models"][each.model]["metrics"]
        own = each.scores.metrics()
        assert {name: metrics[name]["value"] for name in own} == pytest.approx(own)
        scaled = each.scaled.metrics()
        assert metrics["scaled_ece"]["value"] == pytest.approx(scaled["ece"])
        assert metrics["scaled_nll"]["value"] == pytest.approx(scaled["nll"])
    difference = found["differences"]["b"]["top1"]
    gaps = (second.scores.top1 - first.scores.top1).numpy()
    assert difference["value"] == pytest.approx(gaps.mean())
    # By the central limit theorem.
    deviation = 1.96 * gaps.std() / np.sqrt(len(gaps))
    assert difference["low"] == pytest.approx(gaps.mean() - deviation, abs=0.2 * deviation)
    assert difference["high"] == pytest.approx(gaps.mean() + deviation, abs=0.2 * deviation)
    assert summary["models"] == {"a": "a weights", "b": "b weights"}
    json.dumps(summary)


def test_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    # Until SciPy 1.15 it had another name.
    is_new = "rng" in inspect.signature(stats.bootstrap).parameters
    seed: dict[str, Any] = {"rng" if is_new else "random_state": 1}
    one = result("a", "v2", 2)
    metrics = summarize([one], {})["sets"]["v2"]["models"]["a"]["metrics"]
    nll = one.scores.nll.numpy()
    found = stats.bootstrap((nll,), np.mean, n_resamples=2000, method="basic", **seed)
    interval = found.confidence_interval
    assert metrics["nll"]["low"] == pytest.approx(interval.low, rel=0.02)
    assert metrics["nll"]["high"] == pytest.approx(interval.high, rel=0.02)

    def ece(index: Any) -> float:
        rows = {name: column[index] for name, column in one.scores.columns().items()}
        return ImageScores(**rows).metrics()["ece"]

    found = stats.bootstrap(
        (np.arange(400),), ece, n_resamples=500, method="basic", vectorized=False, **seed
    )
    width = found.confidence_interval.high - found.confidence_interval.low
    assert metrics["ece"]["low"] == pytest.approx(found.confidence_interval.low, abs=0.2 * width)
    assert metrics["ece"]["high"] == pytest.approx(found.confidence_interval.high, abs=0.2 * width)


def test_equal_models_do_not_differ() -> None:
    same = [result(model, "v2", 2) for model in "ab"]
    differences = summarize(same, {})["sets"]["v2"]["differences"]["b"]
    assert all(each == {"value": 0, "low": 0, "high": 0} for each in differences.values())


def test_models_that_saw_other_images_are_not_subtracted() -> None:
    first, second = result("a", "v2", 2), result("b", "v2", 3)
    second.identity["images"] = "others"
    assert summarize([first, second], {})["sets"]["v2"]["differences"] == {}


def test_mean_error_and_mce() -> None:
    results = {"a": corrupted("a", 1), "b": corrupted("b", 2)}
    summary = summarize([*results["a"], *results["b"]], {})
    found = summary["corruptions"]["c"]
    error = {
        model: {each.set_name: 1 - each.scores.top1.mean().item() for each in own}
        for model, own in results.items()
    }
    expected = {}
    for model, own in error.items():
        rows = {name: [own[f"c/{name}/{s}"] for s in SEVERITIES] for name in ALEXNET_ERRORS}
        mean = np.mean([np.mean(row) for row in rows.values()])
        # As defined in the paper: sums over severities, divided by AlexNet's.
        mce = np.mean([sum(row) / (5 * ALEXNET_ERRORS[name]) for name, row in rows.items()])
        expected[model] = mean, mce
        values = found["models"][model]
        assert values["mean_error"]["value"] == pytest.approx(mean)
        assert values["mce"]["value"] == pytest.approx(mce)
        assert values["mce"]["low"] < mce < values["mce"]["high"]
        assert values["errors"]["fog"]["3"] == pytest.approx(own["c/fog/3"])
    difference = found["differences"]["b"]["mce"]
    assert difference["value"] == pytest.approx(expected["b"][1] - expected["a"][1])


def test_a_model_as_good_as_alexnet_has_an_mce_of_one() -> None:
    from dr_plugins.evaluation.corruptions import mean_corruption_error

    assert len(ALEXNET_ERRORS) == 15
    assert mean_corruption_error(ALEXNET_ERRORS) == pytest.approx(1)


def test_an_incomplete_suite_has_no_mce() -> None:
    summary = summarize(corrupted("a", 1)[:-1], {})
    assert "mce" not in summary["corruptions"]["c"]["models"]["a"]
    assert "incomplete" in markdown(summary)


def test_the_table() -> None:
    results = [result("a", "r", 2), result("b", "r", 3), result("a", "v2", 4), *corrupted("a", 1)]
    summary = summarize(results, {"sketch": "no directory x/sketch"})
    text = markdown(summary)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    top1 = summary["sets"]["r"]["models"]
    (row,) = (row for row in rows if row[:3] == ["r", "400", "top-1, %"])
    assert row[3] == f"{100 * top1['a']['metrics']['top1']['value']:.2f}"
    assert row[4] == f"{100 * top1['b']['metrics']['top1']['value']:.2f}"
    assert row[5].startswith(
        f"{100 * summary['sets']['r']['differences']['b']['top1']['value']:+}"[:5]
    )
    (alone,) = (row for row in rows if row[:3] == ["v2", "400", "ECE, %"])
    assert alone[4:6] == ["", ""]
    assert any(row[:3] == ["c", "50", "mCE, %"] for row in rows)
    assert any(row[0] == "jpeg_compression" and row[-1] == "60.7" for row in rows)
    assert "sketch: no directory x/sketch" in text


def test_incomplete_sets_are_marked() -> None:
    one = result("a", "v2", 2)
    summary = summarize([SetResult(**{**vars(one), "expected": 10_000})], {})
    assert "400 of 10,000" in markdown(summary)


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    from dr_plugins.evaluation.figures import draw_all

    results = [result("a", "v2/top-images", 2), result("b", "v2/top-images", 3)]
    results += [*corrupted("a", 1), *corrupted("b", 2)[:40]]
    draw_all(results, summarize(results, {}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "corruptions_c.png",
        "reliability_v2_top-images.png",
    ]
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 300


def test_every_metric_has_a_title_and_an_interval() -> None:
    scores = ImageScores.of(torch.eye(3), torch.arange(3))
    assert list(scores.metrics()) == list(METRICS)
    assert set(linear_metrics(scores)) == set(METRICS)
