"""Settings that every test shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline measures the machine, not the code: it fails on a busy one. Everything else stays as
# hypothesis chose it, which includes reproducible examples where the environment says CI.
settings.register_profile("dr_plugins", parent=settings(), deadline=None)
settings.load_profile("dr_plugins")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The tensors of tests are small: threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three classes with four JPEG files each; tests must not change it."""
    from tests.tiny import make_photographs

    return make_photographs(tmp_path_factory.mktemp("photographs") / "train")


@pytest.fixture(scope="session")
def shard_sets(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Callable[..., Path]:
    """Shard sets of `photographs`, one for each policy and backend, made when first asked for."""
    from tests.tiny import make_set, policy

    @cache
    def get(name: str = "randaug", backend: str = "pil") -> Path:
        out = tmp_path_factory.mktemp("sets") / f"{name}-{backend}"
        return make_set(out, photographs, policy_=policy(name, backend=backend))

    return get


@pytest.fixture(scope="session")
def labelme() -> Path:
    """Real photographs with COCO instances, from the sources of the package labelme."""
    places = [*(Path(sys.prefix) / "src").glob("labelme-*/examples")]
    if "LABELME_EXAMPLES" in os.environ:
        places.insert(0, Path(os.environ["LABELME_EXAMPLES"]))
    for place in places:
        folder = place / "instance_segmentation"
        if (folder / "data_dataset_coco" / "annotations.json").exists():
            return folder
    pytest.skip(
        "the photographs of labelme's source package are not there; `make test` unpacks them, or "
        "set LABELME_EXAMPLES to its folder `examples`"
    )


@pytest.fixture
def new_demand(monkeypatch: pytest.MonkeyPatch) -> str:
    """A demand that nobody knew of, on a run and its shard set; returns its message."""
    from dr_plugins.training import contract

    def even_classes(set_: contract.Contract, run: contract.RunFacts) -> Iterator[str]:
        for name, found, _ in run.num_classes:
            if found % 2 and set_.view_size is not None:  # which targets alone do not show
                yield f"{name} has an odd number of classes"

    monkeypatch.setattr(contract, "DEMANDS", [*contract.DEMANDS, even_classes])
    return "odd number of classes"
