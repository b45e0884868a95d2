"""The evidence: its grid, its runner, its methods, and its report."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("timm")
pytest.importorskip("matplotlib")

from examples.evidence import finetuning
from examples.evidence.claims import MAIN, claims, summary
from examples.evidence.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from examples.evidence.grid import ABLATIONS, BASE, EXPERIMENTS, Cost, Training, entries
from examples.evidence.methods import METHODS, Task
from examples.evidence.models import RECIPES
from examples.evidence.report import refresh_readme, write_report
from examples.evidence.results import Results
from examples.evidence.runner import RUNS, make, missing
from examples.evidence.scenes import compose
from examples.evidence.teachers import remembered, teacher_of
from examples.evidence.transfer import transfer
from examples.evidence.views import Stream, load_test, source_of
from examples.quickstart.data import load

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Training("resnet", 50, "plain", 1)
REINFORCED = replace(PLAIN, method="reinforced", samples=2)


def test_each_run_of_the_grid_has_its_own_file() -> None:
    runs = entries(EXPERIMENTS, seeds=2)
    assert len({run.name for run in runs}) == len(runs)
    assert "resnet-500-reinforced-e120-samples=50-s1" in {run.name for run in runs}
    for changes in ABLATIONS.values():
        assert BASE in [replace(BASE, **change) for change in changes]


def test_first_seeds_come_first() -> None:
    seeds = [run.seed for run in entries(["length"], seeds=3)]
    assert seeds == sorted(seeds)


def test_runs_are_made_once(tmp_path: Path) -> None:
    runs, folder = [PLAIN, REINFORCED], tmp_path
    for run in runs:
        make(run, folder, tmp_path / "cache")
    assert missing(runs, folder) == []
    results = Results.load(folder)
    assert set(results.runs) == set(runs)
    for run in runs:
        found = results.runs[run]
        assert found["config"] == asdict(run)
        assert found["curve"][-1][0] == run.epochs
        assert 0 < found["test"]["accuracy"] < 1
        assert found["train_cpu_seconds"] > 0
        assert {len(each["ece"]) for each in found["corrupted"].values()} == {5}
    before = (folder / f"{PLAIN.name}.json").stat().st_mtime_ns
    make(PLAIN, folder, tmp_path / "cache")
    assert (folder / f"{PLAIN.name}.json").stat().st_mtime_ns == before


@dataclass(frozen=True)
class Another:
    """A kind of run that the runner does not know, with the fields of a transfer."""

    kind = name = "another"
    host: str = "torchvision"
    pretrained: str = "none"
    seed: int = 0


def test_a_run_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="another"):
        make(Another(), tmp_path, tmp_path / "cache")
    assert not (tmp_path / "another.json").exists()


def test_methods_differ_in_their_targets_only(tmp_path: Path) -> None:
    source = source_of(20, tmp_path)
    run = replace(PLAIN, images=20, epochs=2, seed=3)
    teacher = teacher_of(run, source, tmp_path)
    stream = Stream(source, run.seed)
    task = Task(run, source, teacher, remembered(run, stream, teacher, tmp_path))
    made = {name: list(METHODS[name](task)) for name in METHODS if name != "reinforced"}
    for epoch in range(run.epochs):
        views = {name: epochs[epoch][0] for name, epochs in made.items()}
        assert all(torch.equal(v, stream.views(epoch)) for v in views.values())
    labels = made["plain"][0][1]
    assert labels.tolist() == [source.load(i)[1] for i in range(20)]
    smooth = made["smoothing"][0][1]
    torch.testing.assert_close(smooth[0, labels[0]].item(), 0.91)
    asked = [teacher(stream.views(epoch)) for epoch in range(2)]
    for epoch in range(2):
        torch.testing.assert_close(made["online"][epoch][1], asked[epoch])
        torch.testing.assert_close(made["independent"][epoch][1], asked[1 - epoch])
        torch.testing.assert_close(made["stored"][epoch][1], teacher(stream.unaugmented()))
    assert not torch.equal(stream.views(0), stream.views(1))


def test_corruptions_are_stronger_at_the_last_severity() -> None:
    pixels, _ = load_test(5)
    for name in CORRUPTIONS:
        made = [corrupt(pixels, name, severity) for severity in SEVERITIES]
        errors = [(each.float() - pixels.float()).abs().mean().item() for each in made]
        assert 0 < errors[0] < errors[-1]
        assert torch.equal(made[1], corrupt(pixels, name, 1))


def test_masks_of_scenes_are_where_the_garments_are() -> None:
    garments, _ = load(20, "")
    for seed in range(5):
        scene = compose(garments, np.random.default_rng(seed))
        assert scene.masks.sum(0).max() <= 1
        assert len(scene.masks) == len(scene.labels) <= 4
        empty = compose(
            replace(garments, pixels=np.zeros_like(garments.pixels)), np.random.default_rng(seed)
        )
        assert len(empty.masks) == 0
        # The first draws are the background's; without garments it stays as it was.
        outside = ~scene.masks.any(0)
        assert (scene.pixels == empty.pixels)[outside].mean() > 0.9
        assert set(np.unique(scene.classes())) == {0, *(scene.labels + 1)}


def _run(entry: Training | Cost, **content: Any) -> dict[str, Any]:
    common = {"load": [1.0, 2.0], "cores": 2, "versions": {"torch": "2"}}
    return {"kind": entry.kind, "config": asdict(entry), **common, **content}


def _training(entry: Training, accuracy: float, ece: float) -> dict[str, Any]:
    values = {"accuracy": [accuracy - 0.1] * 5, "ece": [ece] * 5}
    test = {"accuracy": accuracy, "ece": ece, "nll": 1.0}
    return _run(entry, test=test, corrupted=dict.fromkeys(CORRUPTIONS, values))


PLAIN_ACCURACY, GAINS = (0.80, 0.81, 0.79), (0.01, 0.02, 0.015)


def _golden() -> list[dict[str, Any]]:
    runs = [_run(Cost("resnet", 500, s), **_cost(1.02)) for s in range(3)]
    for seed, (accuracy, gain) in enumerate(zip(PLAIN_ACCURACY, GAINS, strict=True)):
        plain = replace(MAIN, method="plain", seed=seed)
        runs.append(_training(plain, accuracy, 0.05))
        runs.append(_training(replace(MAIN, seed=seed), accuracy + gain, 0.06))
        runs.append(_training(replace(plain, epochs=30), accuracy, 0.05))
        runs.append(_training(replace(MAIN, seed=seed, epochs=30), accuracy - gain, 0.05))
    return runs


def _cost(ratio: float) -> dict[str, Any]:
    methods = {"plain": 1.0, "reinforced": ratio, "online": 5.0}
    return {"ms_per_step": methods, "ratio_to_plain": methods}


def test_claims_are_decided_by_the_runs() -> None:
    decided = {claim: (verdict, numbers) for claim, verdict, numbers in claims(Results(_golden()))}
    verdict, numbers = decided["more accurate, 240 epochs"]
    gains = [100 * gain for gain in GAINS]
    assert "shown here" in verdict
    assert f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains):.2f}" in numbers
    assert "not shown" in decided["better calibrated"][0]
    assert "shown here" in decided["more so the longer one trains, 240 epochs"][0]
    assert "shown here" in decided["at no additional training cost"][0]
    assert decided["for every architecture: vit, 120 epochs"][0] == "pending"
    dear = [_run(Cost("resnet", 500, seed), **_cost(1.06)) for seed in range(3)]
    decided = {claim: verdict for claim, verdict, _ in claims(Results(dear))}
    assert "not shown" in decided["at no additional training cost"]


def test_gains_are_compared_for_equal_seeds() -> None:
    runs = [run for run in _golden() if run["config"].get("epochs") != 30 or _seed(run) != 1]
    numbers = {claim: text for claim, _, text in claims(Results(runs))}
    growth = 100 * statistics.mean(2 * GAINS[seed] for seed in (0, 2))
    text = numbers["more so the longer one trains, 240 epochs"]
    assert text.startswith(f"{growth:+.2f} (2 of 3 seeds)")


def _seed(run: dict[str, Any]) -> int:
    return int(run["config"]["seed"])


@pytest.mark.parametrize("content", ["", '{"kind": "training"}', '{"kind": "x", "config": {}}'])
def test_a_damaged_run_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(click.ClickException, match=r"broken\.json"):
        Results.load(tmp_path)


def test_options_of_a_report_are_not_ignored(tmp_path: Path) -> None:
    from examples.evidence.__main__ import main

    result = CliRunner().invoke(main, ["--runs", str(tmp_path), "report", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_report_says_how_many_seeds_there_are(tmp_path: Path) -> None:
    for number, run in enumerate(_golden()):
        (tmp_path / f"{number}.json").write_text(json.dumps(run))
    lonely = replace(MAIN, method="online")
    (tmp_path / "lonely.json").write_text(json.dumps(_training(lonely, 0.83, 0.05)))
    write_report(tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    mean, spread = statistics.mean(PLAIN_ACCURACY), statistics.stdev(PLAIN_ACCURACY)
    assert f"{100 * mean:.2f} ± {100 * spread:.2f}" in text
    assert "83.00 (1 of 3 seeds)" in text
    assert "pending" in text
    assert "$" not in text
    for name in ("lengths", "severities"):
        picture = tmp_path / "out" / "figures" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_summary_is_put_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- evidence: here -->\nold\n<!-- end of evidence -->\nb\n")
    for _ in range(2):
        refresh_readme(RUNS, readme)
        lines = readme.read_text().splitlines()
        assert (lines[0], lines[-1], lines[1][:4]) == ("a", "b", "<!--")
        assert lines[2:-2] == summary(Results.load(RUNS)).splitlines()


def test_published_numbers_are_those_of_the_runs() -> None:
    numbers = summary(Results.load(RUNS))
    for page in (RUNS.parent / "README.md", ROOT / "README.md"):
        assert numbers in page.read_text()


def test_a_pretrained_backbone_is_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8)
    monkeypatch.setattr(finetuning, "load_cells", lambda: (pixels, torch.arange(12) % 2))
    monkeypatch.setattr(finetuning, "_TRAINING", 8)
    weights = tmp_path / "backbone.pt"
    backbone = RECIPES["backbone"].build().get_submodule("1")
    torch.save(backbone.state_dict(), weights)
    starts = []
    monkeypatch.setattr(
        finetuning.Stepper, "learn", lambda step, *_: starts.append(step.model.state_dict())
    )
    found = transfer("timm", weights, 0, tmp_path)["transfer"]
    assert found.keys() == {"accuracy", "ECE"}
    torch.testing.assert_close(starts[0]["conv1.0.weight"], backbone.state_dict()["conv1.0.weight"])
    assert starts[0]["fc.weight"].shape[0] == 2
