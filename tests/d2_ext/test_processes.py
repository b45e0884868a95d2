"""Two processes, as several GPUs have them: what each sees, trains and counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from tests.d2_ext import stand_ins
from tests.tiny import CLASSES

pytestmark = pytest.mark.slow


def work(rank: int, world: int, images: str, shards: str, out: str) -> None:
    """Train and evaluate in one process; `out` holds what it saw."""
    torch.set_num_threads(1)
    stand_ins.install()
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import SimpleTrainer
    from detectron2.evaluation import inference_on_dataset
    from torch.nn.parallel import DistributedDataParallel

    import d2_ext

    if world > 1:
        dist.init_process_group("gloo", f"file://{out}/meeting", rank=rank, world_size=world)
    torch.manual_seed(rank)
    classifier = d2_ext.ReinforcedClassifier("resnet18", num_classes=len(CLASSES))
    DetectionCheckpointer(classifier).load(f"imagenet-plus://{out}/start.pth")
    model: Any = DistributedDataParallel(classifier) if world > 1 else classifier
    loader = d2_ext.build_reinforced_train_loader(images, shards, total_batch_size=6)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    seen: list[torch.Tensor] = []
    training = SimpleTrainer(model, _Seen(loader, seen), optimizer)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # the statistics of half a batch are not those of a batch
    training.train(0, 4)

    test = d2_ext.build_classification_test_loader(images, size=24, batch_size=2)
    results = inference_on_dataset(model, test, d2_ext.ClassificationEvaluator())
    weights = [parameter.detach().clone() for parameter in classifier.parameters()]
    torch.save((torch.stack(seen), weights, dict(results)), f"{out}/{world}-{rank}.pth")
    if world > 1:
        dist.destroy_process_group()


class _Seen:
    """A loader that remembers its images."""

    def __init__(self, loader: Any, seen: list[torch.Tensor]) -> None:
        self.loader, self.seen = loader, seen

    def __iter__(self) -> Any:
        for batch in self.loader:
            self.seen.append(batch["images"])
            yield batch


def test_two_processes_do_what_one_does(
    photographs: Path, shard_sets: Callable[..., Path], tmp_path: Path
) -> None:
    import timm

    torch.manual_seed(0)
    start = timm.create_model("resnet18", num_classes=len(CLASSES))
    torch.save(start.state_dict(), tmp_path / "start.pth")
    arguments = (str(photographs), str(shard_sets()), str(tmp_path))
    work(0, 1, *arguments)
    mp.spawn(work, (2, *arguments), nprocs=2)
    seen, weights, results = torch.load(tmp_path / "1-0.pth")
    first, second = (torch.load(tmp_path / f"2-{rank}.pth") for rank in range(2))
    assert torch.equal(torch.stack([first[0], second[0]], dim=2).flatten(1, 2), seen)
    for one, other, alone in zip(first[1], second[1], weights, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone, rtol=1e-3, atol=1e-4)
    assert first[2]["classification"] == pytest.approx(results["classification"], abs=0.5)
    assert second[2] == {}
