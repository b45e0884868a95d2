"""Results of several models on several sets, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dr_plugins.evaluation.bootstrap import Estimate, Linear, intervals, linear_metrics
from dr_plugins.evaluation.corruptions import ALEXNET_ERRORS, mean_corruption_error
from dr_plugins.evaluation.results import SetResult
from dr_plugins.metrics.image_scores import METRICS

_SEVERITIES = 5


def summarize(results: Iterable[SetResult], missing: Mapping[str, str]) -> dict[str, Any]:
    """Return all metrics with 95 % intervals, and the differences of every model to the first.

    Args:
        results: Of all models and sets.
        missing: Sets that were not found, and why.

    Returns:
        What `json.dump` takes: ``models``, ``sets`` (name, then model), ``corruptions`` (for
        ImageNet-C and sets with ``+c``), ``missing``. Shares are within [0, 1].

    Example:
        >>> summary = summarize(results, {})                                # doctest: +SKIP
        >>> summary["sets"]["v2"]["models"]["a"]["metrics"]["top1"]         # doctest: +SKIP
        {'value': 0.641, 'low': 0.632, 'high': 0.65}
    """
    by_set: dict[str, list[SetResult]] = {}
    for result in results:
        by_set.setdefault(result.set_name, []).append(result)
    plain = {name: group for name, group in by_set.items() if corruption_of(name) is None}
    suites: dict[str, dict[str, list[SetResult]]] = {}
    for name, group in by_set.items():
        corruption = corruption_of(name)
        if corruption is not None:
            suites.setdefault(corruption[0], {})[name] = group
    every = [result for group in by_set.values() for result in group]
    return {
        "models": {result.model: result.identity["weights"] for result in every},
        "sets": {name: _summarize_set(group) for name, group in plain.items()},
        "corruptions": {name: _summarize_corruptions(groups) for name, groups in suites.items()},
        "missing": dict(missing),
    }


def corruption_of(name: str) -> tuple[str, str, int] | None:
    """Suite, corruption and severity of a corrupted set; None for others.

    Example:
        >>> corruption_of("imagenet+c/fog/3"), corruption_of("v2/top-images")
        (('imagenet+c', 'fog', 3), None)
    """
    suite, *rest = name.split("/")
    if len(rest) != 2 or not (suite == "c" or suite.endswith("+c")):
        return None
    return suite, rest[0], int(rest[1])


def _summarize_set(group: Sequence[SetResult]) -> dict[str, Any]:
    metrics = [
        {
            **linear_metrics(result.scores),
            **{
                f"scaled_{name}": metric
                for name, metric in linear_metrics(result.scaled).items()
                if METRICS[name].is_calibration
            },
        }
        for result in group
    ]
    own, differences = _compared(group, metrics)
    return {
        "images": len(group[0].scores),
        "expected": group[0].expected,
        "models": {
            result.model: {"metrics": _plain(values), "temperatures": list(result.temperatures)}
            for result, values in zip(group, own, strict=True)
        },
        "differences": differences,
    }


def _summarize_corruptions(groups: Mapping[str, Sequence[SetResult]]) -> dict[str, Any]:
    """Mean error and mCE over the fifteen corruptions, and the error of each set."""
    models = list(dict.fromkeys(result.model for group in groups.values() for result in group))
    by_model = {
        model: {
            name: result
            for name, group in groups.items()
            for result in group
            if result.model == model
        }
        for model in models
    }
    found: dict[str, Any] = {}
    whole: list[SetResult] = []
    metrics: list[dict[str, Linear]] = []
    for model, results in by_model.items():
        errors = _errors(results)
        complete = all(len(errors.get(name, {})) == _SEVERITIES for name in ALEXNET_ERRORS)
        found[model] = {"errors": errors, "eces": _errors(results, "ece"), "complete": complete}
        if complete:
            means = {name: float(np.mean(list(errors[name].values()))) for name in ALEXNET_ERRORS}
            found[model]["mean_error"] = float(np.mean(list(means.values())))
            found[model]["mce"] = mean_corruption_error(means)
            first = next(iter(results.values()))
            if len({result.identity["keys"] for result in results.values()}) == 1:
                whole.append(first)
                metrics.append(_corruption_metrics(results))
    differences: dict[str, Any] = {}
    if whole:
        own, differences = _compared(whole, metrics)
        for result, values in zip(whole, own, strict=True):
            found[result.model].update(_plain(values))
    sizes = [len(result.scores) for group in groups.values() for result in group]
    first = next(iter(groups.values()))[0]
    return {
        "images": min(sizes),
        "expected": first.expected,
        "models": found,
        "differences": differences,
    }


def _errors(results: Mapping[str, SetResult], metric: str = "") -> dict[str, dict[str, float]]:
    """Error of each corruption and severity, or another metric."""
    found: dict[str, dict[str, float]] = {}
    for name, result in results.items():
        _, corruption, severity = corruption_of(name) or ("", "", 0)
        values = result.scores.metrics()
        value = values[metric] if metric else 1 - values["top1"]
        found.setdefault(corruption, {})[str(severity)] = value
    return found


def _corruption_metrics(results: Mapping[str, SetResult]) -> dict[str, Linear]:
    """Mean error and mCE as means over images, for sets that are made of the same ones."""
    errors = weighted = np.zeros(1)
    for name, result in results.items():
        _, corruption, _ = corruption_of(name) or ("", "", 0)
        if corruption in ALEXNET_ERRORS:
            share = (1 - result.scores.top1.numpy()) / (_SEVERITIES * len(ALEXNET_ERRORS))
            errors = errors + share
            weighted = weighted + share / ALEXNET_ERRORS[corruption]
    return {"mean_error": Linear(errors[:, None]), "mce": Linear(weighted[:, None])}


def _compared(
    group: Sequence[SetResult], metrics: Sequence[Mapping[str, Linear]]
) -> tuple[list[dict[str, Estimate]], dict[str, Any]]:
    """Metrics of each model, and the differences of those that saw the images of the first."""
    if all(result.identity["images"] == group[0].identity["images"] for result in group):
        own, differences = intervals(metrics)
        pairs = list(zip(group, differences, strict=True))[1:]
        return own, {result.model: _plain(values) for result, values in pairs}
    return [intervals([each])[0][0] for each in metrics], {}


def _plain(values: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(value) for name, value in values.items()}
