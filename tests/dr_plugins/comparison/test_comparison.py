"""Teachers on the same views: numbers against other libraries and against single teachers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from dr_plugins.cli.main import main
from dr_plugins.comparison import TeacherComparison, compare_teachers, markdown
from dr_plugins.comparison.scores import ViewScores, rank_correlation
from dr_plugins.errors import DatasetMismatchError, ImageReadError, TeacherError
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.metrics import ImageScores
from dr_plugins.metrics.image_scores import METRICS
from tests.tiny import TinyTeacher, make_photographs, make_set, policy


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("images") / "train", per_class=5)


def teachers(count: int = 3) -> dict[str, Ensemble]:
    return {f"t{seed}": Ensemble([TinyTeacher(seed=seed)]) for seed in range(count)}


def compare(
    root: Path, chosen: Mapping[str, Ensemble] | None = None, **options: object
) -> TeacherComparison:
    return compare_teachers(
        open_source(str(root)), chosen or teachers(), policy(), **{"samples": 3, **options}
    )  # type: ignore[arg-type]


def test_every_teacher_pair_and_all(root: Path) -> None:
    found = compare(root)
    assert [each.teachers for each in found.candidates] == [
        ("t0",),
        ("t1",),
        ("t2",),
        ("t0", "t1"),
        ("t0", "t2"),
        ("t1", "t2"),
        ("t0", "t1", "t2"),
    ]
    assert [pair.teachers for pair in found.pairs] == [("t0", "t1"), ("t0", "t2"), ("t1", "t2")]
    assert (found.images, found.samples, found.labelled) == (15, 3, 15)


def test_an_ensemble_is_what_generation_makes_of_it(root: Path) -> None:
    """The candidate of a pair has the numbers of the `Ensemble` of both, asked by itself."""
    pair = compare(root, teachers(2)).candidates[2]
    together = Ensemble([TinyTeacher(seed=0), TinyTeacher(seed=1)])
    alone = compare(root, {"both": together}).candidates[0]
    assert pair.metrics == pytest.approx(alone.metrics, abs=1e-6)
    assert pair.entropy == pytest.approx(alone.entropy, abs=1e-6)
    assert pair.spread == pytest.approx(alone.spread, abs=1e-6)


def test_the_views_are_those_that_generation_makes(root: Path, tmp_path: Path) -> None:
    from dr_plugins.shards.reader import ShardSet

    teacher = TinyTeacher()
    shards = ShardSet(make_set(tmp_path / "set", root, samples=3, topk=3, probs_dtype="float32"))
    records = np.concatenate([shards.records(n) for n in range(len(shards.manifest.shards))])
    probs = records["probs"].astype(float)
    found = compare(root, {"a": Ensemble([teacher])}).candidates[0]
    assert found.entropy == pytest.approx(-(probs * np.log(probs)).sum(-1).mean(), abs=1e-6)
    assert found.confidence == pytest.approx(probs.max(-1).mean(), abs=1e-6)
    labels = np.array([shards.image(row).label for row in range(len(shards))])
    hits = records["ids"][..., 0] == labels[:, None]
    assert found.metrics["top1"] == pytest.approx(hits.mean())
    by_image = hits.mean(1)
    assert found.top1_error == pytest.approx(by_image.std(ddof=1) / np.sqrt(len(labels)))


def test_workers_and_batches_change_nothing(root: Path) -> None:
    one, other = (compare(root, batch_size=size, workers=n) for size, n in ((64, 0), (4, 1)))
    for a, b in zip(one.candidates, other.candidates, strict=True):
        assert a.metrics == pytest.approx(b.metrics, abs=1e-9)
    assert [p.rank_correlation for p in one.pairs] == pytest.approx(
        [p.rank_correlation for p in other.pairs]
    )


def test_a_fraction_is_drawn_by_the_seed(root: Path) -> None:
    some = [compare(root, fraction=0.4, seed=seed) for seed in (0, 0, 1)]
    assert {each.images for each in some} == {6}
    first, same, other = (each.candidates[0].metrics["nll"] for each in some)
    assert first == same != other


def test_mixing_is_left_out(root: Path) -> None:
    """A mixed view has no label."""
    plain = compare(root).candidates[0].metrics
    mixed = compare_teachers(
        open_source(str(root)),
        teachers(1),
        policy("randaug_mixing", **{"rand_augment": policy().to_config()["rand_augment"]}),
        samples=3,
    )
    assert mixed.labelled == 15
    assert mixed.candidates[0].metrics.keys() == plain.keys()


def test_images_without_labels() -> None:
    class Unlabelled:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[Image.Image, None]:
            pixels = np.full((24, 24, 3), 40 * index, np.uint8)
            return Image.fromarray(pixels), None

    source = ImageSource(Unlabelled(), keys=list("abcd"))
    found = compare_teachers(source, teachers(2), policy(), samples=2)
    assert found.labelled == 0
    assert found.candidates[0].metrics == {}
    assert "t0 + t1" in markdown(found)
    assert all(metric.title in markdown(found) for metric in METRICS.values())
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["candidates"][0]["top1_error"] is None


def test_scores_of_views_against_their_formulas() -> None:
    probs = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(5), 12))
    labels = torch.arange(12) % 5
    found = ViewScores.of(probs, labels, samples=3)
    torch.testing.assert_close(found.entropy, torch.distributions.Categorical(probs).entropy())
    mean = probs.reshape(4, 3, 5).mean(1).repeat_interleave(3, 0)
    torch.testing.assert_close(
        found.spread, nn.functional.kl_div(mean.log(), probs, reduction="none").sum(1)
    )
    expected = ImageScores.of(probs.log(), labels).metrics()
    assert found.scores.metrics() == pytest.approx(expected)


@pytest.mark.parametrize("values", [20, 3])
def test_rank_correlation_is_scipys(values: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(values)
    first, second = rng.integers(0, values, (2, 40)).astype(float)
    expected = scipy_stats.spearmanr(first, second).statistic
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert np.isnan(rank_correlation(first, np.ones(40)))


def test_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"t0: 3, more: 4"):
        compare(root, {**teachers(1), "more": Ensemble([TinyTeacher(4)])})
    with pytest.raises(DatasetMismatchError, match=r"3 classes, the teacher 4"):
        compare(root, {"more": Ensemble([TinyTeacher(4)])})
    with pytest.raises(TeacherError):
        compare_teachers(open_source(str(root)), {}, policy())
    with pytest.raises(ValueError, match="fraction is 0"):
        compare(root, fraction=0)
    broken = make_photographs(tmp_path / "broken", per_class=1)
    next(broken.rglob("*.JPEG")).write_bytes(b"none")
    with pytest.raises(ImageReadError):
        compare(broken)


def test_command(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = ["compare-teachers", "--images", str(root), "--size", "24", "--fraction", "1"]
    chosen = ["--teacher", "python:tests.tiny:build_teacher"]
    chosen += ["--teacher", "python:tests.tiny:TinyTeacher"]
    options = ["--workers", "0", "--device", "cpu", "--out", str(tmp_path / "out"), "--quiet"]
    result = CliRunner().invoke(main, [*command, *chosen, *options])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(written["candidates"]) == 3
    assert (tmp_path / "out" / "comparison.md").read_text() in result.output
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.width > picture.height > 300
    options[-2] = str(tmp_path / "out" / "comparison.md" / "no-directory")
    unwritten = CliRunner().invoke(main, [*command, *chosen, *options])
    assert unwritten.exit_code == 1
    assert "python:tests.tiny:TinyTeacher |" in unwritten.output
    again = CliRunner().invoke(main, [*command, *chosen[:2], *chosen[:2]])
    assert again.exit_code == 2
