"""A new part of the teacher's answer, added in one place, from generation to every reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from dr_plugins import (
    ReinforcedDataset,
    Replayer,
    ShardSet,
    SparseTargets,
    describe,
    extend,
    merge,
    open_source,
    subset,
    verify,
)
from dr_plugins import records as records_module
from dr_plugins.errors import FormatError, SettingsMismatchError, VersionError
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.losses import DistillationLoss
from dr_plugins.records import ANSWER_FIELDS, AnswerField, answer_fields
from tests.dr_plugins.generation.whole_sets import Counting, interrupt
from tests.tiny import TinyTeacher, content, make_set, policy

NEW = (
    # One value for the whole answer, and one for each stored class.
    AnswerField("entropy", lambda classes, probs: "<f4", lambda p, top: -(p * p.log()).sum(1)),
    AnswerField(
        "log_odds",
        lambda classes, probs: "<f4",
        lambda p, top: top.values.logit(),
        is_per_class=True,
    ),
)


@pytest.fixture
def new_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "ANSWER_FIELDS", (*ANSWER_FIELDS, *NEW))


@pytest.fixture
def made(new_fields: None, tmp_path: Path, photographs: Path) -> ShardSet:
    return ShardSet(make_set(tmp_path / "set", photographs, topk=3))


def test_it_is_stored_and_read(made: ShardSet, photographs: Path) -> None:
    replayer, teacher = Replayer(open_source(str(photographs)), made), TinyTeacher()
    assert made.manifest.layout.dtype.names is not None
    assert made.manifest.layout.dtype.names[-5:] == ("ids", "probs", "entropy", "log_odds", "crc32")
    for index in range(len(replayer.source)):
        row, sample = replayer.rows[index : index + 1], np.array([index % 6])
        record = made.read(row, sample)
        view, _ = replayer.view(index, replayer.policy.decode(record)[0])
        probs = teacher(view[None]).softmax(1)[0].detach()
        ordered = probs.sort(descending=True).values
        torch.testing.assert_close(
            torch.from_numpy(record["entropy"].copy())[0],
            torch.distributions.Categorical(probs).entropy(),
        )
        expected = (ordered / (1 - ordered)).log()
        torch.testing.assert_close(torch.from_numpy(record["log_odds"].copy())[0], expected)


def test_sets_with_it_serve_as_all_others(made: ShardSet, photographs: Path) -> None:
    directory = Path(str(made.location))
    assert "entropy" in describe(made)
    report = verify(directory, open_source(str(photographs)), replay=12, records=True)
    assert (report.replayed, report.problems) == (12, [])
    train = ReinforcedDataset(ImageFolder(str(photographs)), directory, p=1.0)
    assert train[0][1].probs.shape[-1] == 3


class WeightedByEntropy(DistillationLoss):
    """A loss that reads what others do not know."""

    def rows(self, logits: torch.Tensor, target: SparseTargets) -> torch.Tensor:
        weights = torch.exp(-target.extras["entropy"]).nan_to_num(1.0)  # 1 for plain images
        return weights * torch.nn.functional.cross_entropy(logits, target, reduction="none")


def test_a_loss_reads_it(made: ShardSet, photographs: Path) -> None:
    train = ReinforcedDataset(ImageFolder(str(photographs)), made, p=0.6)
    loader = DataLoader(train, len(train), collate_fn=train.collate, num_workers=1)
    _, targets = next(iter(loader))
    plain = ~torch.from_numpy(train.is_reinforced(range(len(train))))
    assert 0 < plain.sum() < len(train)
    entropy, log_odds = targets.extras["entropy"], targets.extras["log_odds"]
    assert (entropy.dtype, log_odds.shape) == (torch.float32, (len(train), 3))
    assert torch.equal(entropy.isnan(), plain)
    # The three stored classes are all there are.
    probs = targets.probs[~plain].double()
    expected = torch.distributions.Categorical(probs).entropy().float()
    torch.testing.assert_close(entropy[~plain], expected, atol=1e-3, rtol=0)

    logits = torch.randn(len(train), 3, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(len(train))
    weights[~plain] = (-expected).exp()
    crossed = -(targets.dense() * logits.log_softmax(1)).sum(1)
    rows = WeightedByEntropy(reduction="none")(logits, targets)
    torch.testing.assert_close(rows, weights * crossed, atol=1e-2, rtol=0)


def test_a_subset_keeps_it_and_cuts_what_is_per_class(
    made: ShardSet, tmp_path: Path, photographs: Path
) -> None:
    small = subset(made.location.path, tmp_path / "small", topk=2, samples=4)
    direct = make_set(tmp_path / "direct", photographs, topk=2, samples=4)
    assert small.answer == ("ids", "probs", "entropy", "log_odds")
    assert content(tmp_path / "small") == content(direct)


def test_sets_with_and_without_it_are_different_sets(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_set(tmp_path / "old", photographs)
    monkeypatch.setattr(records_module, "ANSWER_FIELDS", (*ANSWER_FIELDS, *NEW))
    new = make_set(tmp_path / "new", photographs, first_sample=6)
    assert ShardSet(old).manifest.answer == ("ids", "probs")
    assert "answer" not in ShardSet(old).manifest.settings
    with pytest.raises(SettingsMismatchError, match="answer"):
        merge([old, new], tmp_path / "both")
    # What there is can still be extended by the same settings.
    source, teacher = open_source(str(photographs)), Ensemble([TinyTeacher()])
    more = extend(old, source, teacher, tmp_path / "more", samples=8)
    assert more.answer == ("ids", "probs")
    monkeypatch.undo()
    with pytest.raises(VersionError, match="entropy"):
        ShardSet(new)


def test_an_interrupted_set_is_resumed(
    new_fields: None, made: ShardSet, tmp_path: Path, photographs: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_set(tmp_path / "again", photographs, topk=3, teacher=Counting(5, interrupt))
    make_set(tmp_path / "again", photographs, topk=3)
    for shard in made.manifest.shards:
        ours, theirs = (Path(d) / shard.file for d in (made.location.path, tmp_path / "again"))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("names", [("ids",), ("probs", "ids"), ("ids", "probs", "probs")])
def test_answers_without_classes_or_out_of_order(names: tuple[str, ...]) -> None:
    with pytest.raises(FormatError, match="ids"):
        answer_fields(names)


def test_the_settings_of_a_set_choose_among_the_fields(
    new_fields: None, tmp_path: Path, photographs: Path
) -> None:
    chosen = ("ids", "probs", "log_odds")
    out = make_set(tmp_path / "set", photographs, policy_=policy("mixing"), answer=chosen)
    assert ShardSet(out).manifest.answer == chosen
    assert ShardSet(out).manifest.layout.answers[-1].name == "log_odds"
