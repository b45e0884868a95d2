"""The claims of the paper's abstract, each with the rule by which the runs decide on it.

A difference counts as shown if it has three seeds at least, all of them agree in its sign, and its
mean is more than two standard errors from 0.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from examples.evidence.grid import Cost, Training, Transfer
from examples.evidence.results import Results, Sample

# The claims are decided here, whatever other rows say.
MAIN = Training("resnet", 500, "reinforced", 240)
# Planned with the others and made last: rows of its own, which decide nothing about MAIN's.
_LONGEST = replace(MAIN, epochs=480)
_SHORT, _OTHERS = 30, 120
# Written down, as the others with 480 epochs, before any of these runs was made.
_LARGER = ((2000, _OTHERS), (2000, _LONGEST.epochs), (10_000, _OTHERS))
_COST_LIMIT, _NEAR = 1.05, 0.2
_TRANSFERRED = {
    "timm": "accuracy",
    "mmseg": "mIoU",
    "mmdet": "mask mAP",
    "detectron2": "mask mAP",
}
_SHOWN, _NOT = "**shown here at this scale**", "**not shown**"


def claims(results: Results) -> list[tuple[str, str, str]]:
    """Return (claim, verdict, numbers) for each claim that can be decided at this scale."""

    def gain(metric: str, row: Training = MAIN) -> Sample:
        return results.difference(row, replace(row, method="plain"), metric)

    def growth(row: Training) -> Sample:
        first = replace(row, epochs=_SHORT)
        plain, first_plain = (replace(each, method="plain") for each in (row, first))
        return results.total([(1, row), (-1, plain), (-1, first), (1, first_plain)], "accuracy")

    points = "points of accuracy"
    rows = [
        _positive(f"more accurate, {row.epochs} epochs", gain("accuracy", row), points)
        for row in (MAIN, _LONGEST)
    ]
    for model, epochs in product(("mobilenet", "vit"), (_OTHERS, _LONGEST.epochs)):
        sample = gain("accuracy", replace(MAIN, model=model, epochs=epochs))
        claim = f"for every architecture: {model}, {epochs} epochs"
        rows.append(_positive(claim, sample, points))
    for images, epochs in _LARGER:
        sample = gain("accuracy", replace(MAIN, images=images, epochs=epochs))
        claim = f"with more images: {images:,}, {epochs} epochs"
        rows.append(_positive(claim, sample, points))
    rows += [
        _positive("more robust", gain("corrupted accuracy"), "points of accuracy, corrupted"),
        _negative("better calibrated", gain("ECE"), "points of ECE"),
        _negative("calibrated under shift", gain("corrupted ECE"), "points of ECE, corrupted"),
    ]
    for host, metric in _TRANSFERRED.items():
        pair = Transfer(host, "reinforced"), Transfer(host, "plain")
        better = results.difference(*pair, lambda run, metric=metric: run["transfer"][metric])
        rows.append(_positive(f"transfers well: {host}", better, f"points of {metric}"))
    for row in (MAIN, _LONGEST):
        longer = f"points more gain with {row.epochs} epochs than with {_SHORT}"
        claim = f"more so the longer one trains, {row.epochs} epochs"
        rows.append(_positive(claim, growth(row), longer))
    rows.append(_cost(results))
    for row in (MAIN, _LONGEST):
        stored, online = (replace(row, method=method) for method in ("stored", "online"))
        ahead = results.difference(row, stored, "accuracy")
        claim = f"ahead of one stored answer per image, {row.epochs} epochs"
        rows.append(_positive(claim, ahead, points))
        distance = results.difference(row, online, "accuracy")
        near = bool(distance) and abs(distance.mean) <= _NEAR
        text = f"{distance.text(2, '+')} {points}; at most {_NEAR} apart"
        claim = f"as good as online distillation, {row.epochs} epochs"
        rows.append((claim, _verdict(distance, near), text))
    return rows


def summary(results: Results) -> str:
    """Return the table of the README: the student's numbers, plain and reinforced."""
    plain = replace(MAIN, method="plain")
    lines = [
        f"| {MAIN.epochs} epochs, mean ± standard deviation of seeds | plain | reinforced |",
        "|---|---|---|",
    ]
    for title, metric in (
        ("accuracy, %", "accuracy"),
        ("expected calibration error, %", "ECE"),
        ("accuracy on corrupted images, %", "corrupted accuracy"),
    ):
        cells = [results.sample(row, metric).text() for row in (plain, MAIN)]
        lines.append(f"| {title} | {cells[0]} | **{cells[1]}** |")
    lines.append(f"| CPU time per step, relative to plain | 1 | {_ratio(results).text(3)} |")
    return "\n".join(lines)


def _ratio(results: Results) -> Sample:
    cost = Cost(MAIN.model, MAIN.images)
    return results.sample(cost, lambda run: run["ratio_to_plain"]["reinforced"])


def _cost(results: Results) -> tuple[str, str, str]:
    ratio = _ratio(results)
    holds = bool(ratio) and ratio.mean <= _COST_LIMIT
    text = f"{ratio.text(3)} of plain's time per step; at most {_COST_LIMIT}"
    return "at no additional training cost", _verdict(ratio, holds), text


def _positive(claim: str, sample: Sample, unit: str) -> tuple[str, str, str]:
    text = f"{sample.text(2, '+')} {unit}"
    return claim, _verdict(sample, bool(sample) and sample.is_positive), text


def _negative(claim: str, sample: Sample, unit: str) -> tuple[str, str, str]:
    _, verdict, _ = _positive(claim, Sample(tuple(-v for v in sample.values)), unit)
    return claim, verdict, f"{sample.text(2, '+')} {unit}"


def _verdict(sample: Sample, holds: bool) -> str:
    if not sample.is_complete:
        return "pending"
    return _SHOWN if holds else _NOT
