"""A summary as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dr_plugins.evaluation.corruptions import ALEXNET_ERRORS, EXTRA
from dr_plugins.metrics.image_scores import METRICS, Metric

_SCALED = {
    f"scaled_{name}": metric._replace(title=f"{metric.title}, temperature-scaled")
    for name, metric in METRICS.items()
    if metric.is_calibration
}
# By name in a summary.
_ROWS = {
    **METRICS,
    **_SCALED,
    "mean_error": Metric("mean error, %", 100, 2),
    "mce": Metric("mCE, %", 100, 2),
}


def markdown(summary: Mapping[str, Any]) -> str:
    """Return tables of a summary: one of all models and sets, and one of each model's corruptions.

    Args:
        summary: From `summarize`.

    Returns:
        GitHub's Markdown. Differences are to the first model, with 95 % intervals.

    Example:
        >>> print(markdown(summarize(results, missing)))                    # doctest: +SKIP
    """
    models = list(summary["models"])
    header = ["set", "images", "", *models, *(f"{model} − {models[0]}" for model in models[1:])]
    lines = _table(header, _main_rows(summary, models))
    for suite, found in summary["corruptions"].items():
        for model, results in found["models"].items():
            lines += ["", f"Top-1 error of {model} on {suite}, %, by severity:", ""]
            lines += _table(
                ["corruption", "1", "2", "3", "4", "5", "mean", "AlexNet"],
                _corruption_rows(results["errors"]),
            )
    if summary["missing"]:
        lines += ["", "Not found:", ""]
        lines += [f"- {name}: {reason}" for name, reason in summary["missing"].items()]
    return "\n".join(lines) + "\n"


def _main_rows(summary: Mapping[str, Any], models: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, found in summary["sets"].items():
        values = {model: each["metrics"] for model, each in found["models"].items()}
        rows += _metric_rows(name, found, values, models)
    for name, found in summary["corruptions"].items():
        values = {model: _corruption_values(each) for model, each in found["models"].items()}
        rows += _metric_rows(name, found, values, models)
    return rows


def _corruption_values(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _with_value(result[name]) for name in ("mean_error", "mce") if name in result}


def _with_value(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {"value": value}


def _metric_rows(
    name: str,
    found: Mapping[str, Any],
    values: Mapping[str, Mapping[str, Any]],
    models: Sequence[str],
) -> list[list[str]]:
    rows = []
    images = f"{found['images']:,}"
    if found["expected"] and found["images"] != found["expected"]:
        images += f" of {found['expected']:,}: incomplete"
    for metric, (title, factor, digits, _) in _ROWS.items():
        if not any(metric in own for own in values.values()):
            continue
        row = [name, images, title]
        for model in models:
            value = values.get(model, {}).get(metric)
            row.append("" if value is None else f"{value['value'] * factor:.{digits}f}")
        for model in models[1:]:
            row.append(_difference(found["differences"].get(model, {}).get(metric), factor, digits))
        rows.append(row)
    return rows or [[name, images, "incomplete", *[""] * (2 * len(models) - 1)]]


def _difference(estimate: Mapping[str, float] | None, factor: float, digits: int) -> str:
    if estimate is None:
        return ""
    value, low, high = (estimate[each] * factor for each in ("value", "low", "high"))
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _corruption_rows(errors: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    rows = []
    for name in (*ALEXNET_ERRORS, *EXTRA):
        if name not in errors:
            continue
        row = errors[name]
        cells = [f"{100 * row[each]:.1f}" if each in row else "" for each in "12345"]
        alexnet = f"{100 * ALEXNET_ERRORS[name]:.1f}" if name in ALEXNET_ERRORS else ""
        rows.append([name, *cells, f"{100 * sum(row.values()) / len(row):.1f}", alexnet])
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
