"""``docs/evidence/README.md``: tables and pictures of the runs that have been made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from examples.evidence.claims import MAIN, claims, summary
from examples.evidence.figures import LABELS, draw_lengths, draw_severities
from examples.evidence.grid import (
    ABLATIONS,
    BASE,
    EXPERIMENTS,
    LENGTHS,
    METHODS,
    Cost,
    Training,
    Transfer,
    entries,
)
from examples.evidence.results import METRICS, SEEDS, Results

TEMPLATE = Path(__file__).with_name("report.md")
_MODELS = {
    "pretraining": "the backbone itself, on the test images of its pretraining",
    "timm": "fine-tuned on solar cells, timm",
    "mmseg": "DeepLabV3, MMSegmentation",
    "mmdet": "Mask R-CNN, MMDetection",
    "detectron2": "Mask R-CNN, Detectron2",
}
_TRANSFERRED = {
    "pretraining": ["accuracy", "ECE"],
    "timm": ["accuracy", "ECE"],
    "mmseg": ["mIoU"],
    "mmdet": ["box mAP", "mask mAP"],
    "detectron2": ["box mAP", "mask mAP"],
}
_MARKS = ("<!-- evidence:", "<!-- end of evidence")
_SOME_LENGTHS = (30, 120, 480)


def write_report(folder: Path, out: Path) -> None:
    """Write the report and its figures.

    Args:
        folder: Of the runs.
        out: Folder of ``README.md`` and ``figures``.
    """
    results = Results.load(folder)
    draw_lengths(results, MAIN, out / "figures" / "lengths.png")
    draw_severities(results, MAIN, out / "figures" / "severities.png")
    text = Template(TEMPLATE.read_text()).substitute(
        claims=markdown_table(("claim", "verdict", "numbers"), claims(results)),
        summary=summary(results),
        progress=_progress(results),
        accuracy=_over_lengths(results, MAIN, LENGTHS, "accuracy"),
        ece=_over_lengths(results, MAIN, LENGTHS, "ECE"),
        distance=_distance(results, MAIN, LENGTHS),
        gap=_gap(results),
        architectures="\n\n".join(
            f"{title}:\n\n"
            + _over_lengths(results, row, lengths, "accuracy")
            + f"\n\n{_distance(results, row, lengths)}"
            for title, row, lengths in (
                ("MobileNetV3-like, 500 images", replace(MAIN, model="mobilenet"), _SOME_LENGTHS),
                ("Small ViT, 500 images", replace(MAIN, model="vit"), _SOME_LENGTHS),
                ("ResNet, 2,000 images", replace(MAIN, images=2000), _SOME_LENGTHS),
                ("ResNet, 10,000 images", replace(MAIN, images=10_000), _SOME_LENGTHS[:2]),
            )
        ),
        ablations="\n\n".join(_ablation(results, name) for name in ABLATIONS),
        robustness=_robustness(results),
        transfer=_transfer(results),
        cost=_cost(results),
        versions=_versions(results),
    )
    (out / "README.md").write_text(text)


def refresh_readme(folder: Path, readme: Path) -> None:
    """Put the summary of the runs in `folder` between the two marks that a README has for it."""
    put_between_marks(readme, _MARKS, summary(Results.load(folder)))


def put_between_marks(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replace the lines between two lines of a page, which begin with the marks."""
    lines = page.read_text().splitlines()
    first, last = (next(i for i, line in enumerate(lines) if line.startswith(m)) for m in marks)
    lines[first + 1 : last] = text.splitlines()
    page.write_text("\n".join(lines) + "\n")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _progress(results: Results) -> str:
    rows = []
    for name in EXPERIMENTS:
        planned = entries([name], SEEDS)
        made = sum(run in results.runs for run in planned)
        rows.append((name, str(made), str(len(planned) - made)))
    return markdown_table(("experiment", "runs made", "pending"), rows)


def _over_lengths(results: Results, row: Training, lengths: Sequence[int], metric: str) -> str:
    def line(method: str) -> list[str]:
        rows = [replace(row, method=method, epochs=epochs) for epochs in lengths]
        return [LABELS[method], *(results.sample(r, metric).text() for r in rows)]

    head = (f"{metric}, %", *(f"{epochs} epochs" for epochs in lengths))
    return markdown_table(head, (line(method) for method in METHODS))


def _distance(results: Results, row: Training, lengths: Sequence[int]) -> str:
    def line(other: str) -> list[str]:
        rows = [replace(row, epochs=epochs) for epochs in lengths]
        bases = [replace(row, method=other) for row in rows]
        pairs = zip(rows, bases, strict=True)
        return [
            f"reinforced − {LABELS[other]}",
            *(results.difference(r, b, "accuracy").text(2, "+") for r, b in pairs),
        ]

    head = ("points of accuracy, pairs of equal seeds", *(f"{e} epochs" for e in lengths))
    return markdown_table(head, (line(method) for method in METHODS if method != "reinforced"))


def _gap(results: Results) -> str:
    online = replace(MAIN, method="online")

    def line(row: Training) -> list[str]:
        gap = results.difference(row, online, "accuracy").text(2, "+")
        changes = f"S = {row.samples}, k = {row.topk}, p = {row.p}"
        return [changes, results.sample(row, "accuracy").text(), gap]

    rows = [row for row in (MAIN, *EXPERIMENTS["gap"]) if isinstance(row, Training)]
    return markdown_table(
        ("reinforced, 240 epochs", "accuracy, %", "minus online, same view"), map(line, rows)
    )


def _ablation(results: Results, name: str) -> str:
    metrics = ("accuracy", "ECE", "corrupted accuracy")

    def line(change: dict[str, Any]) -> list[str]:
        row = replace(BASE, **change)
        label = ", ".join(f"{key} = {value}" for key, value in change.items())
        mark = " (default)" if row == BASE else ""
        return [label + mark, *(results.sample(row, metric).text() for metric in metrics)]

    return markdown_table((name, *(f"{m}, %" for m in metrics)), map(line, ABLATIONS[name]))


def _robustness(results: Results) -> str:
    def line(method: str) -> list[str]:
        row = replace(MAIN, method=method)
        return [LABELS[method], *(results.sample(row, metric).text() for metric in METRICS)]

    return markdown_table((f"{MAIN.epochs} epochs", *METRICS), map(line, METHODS))


def _transfer(results: Results) -> str:
    def line(row: Transfer, metric: str) -> list[str]:
        cell = results.sample(row, lambda run: run["transfer"][metric]).text()
        return [_MODELS[row.host], metric, row.pretrained, cell]

    planned = EXPERIMENTS["pretraining"] + EXPERIMENTS["transfer"]
    rows = [row for row in planned if isinstance(row, Transfer)]
    lines = [line(row, metric) for row in rows for metric in _TRANSFERRED[row.host]]
    return markdown_table(("model", "metric, %", "pretraining", "result"), lines)


def _cost(results: Results) -> str:
    def line(row: Cost, method: str) -> list[str]:
        def value(key: str) -> Callable[[dict[str, Any]], float]:
            return lambda run: run[key][method]

        ms = results.sample(row, value("ms_per_step")).text(1)
        return [row.model, LABELS[method], ms, results.sample(row, value("ratio_to_plain")).text(3)]

    rows = [row for row in EXPERIMENTS["cost"] if isinstance(row, Cost)]
    lines = [line(row, method) for row in rows for method in ("plain", "reinforced", "online")]
    return markdown_table(("model", "method", "ms per step", "relative to plain"), lines)


def _versions(results: Results) -> str:
    found = {tuple(run["versions"].items()) for run in results.runs.values()}
    lines = sorted(", ".join(f"{name} {version}" for name, version in each) for each in found)
    loads = [load for run in results.runs.values() for load in run["load"]]
    cores = sorted({run["cores"] for run in results.runs.values()})
    if not loads:
        return "No run has been made."
    return (
        f"{len(results.runs)} runs, with {'; '.join(lines)}; on {' or '.join(map(str, cores))} "
        f"cores, one thread each, with a load of {min(loads):.1f} to {max(loads):.1f}."
    )
