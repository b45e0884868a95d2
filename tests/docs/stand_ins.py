"""Small stand-ins for what the documents name: images, sets, archives, checkpoints, a teacher."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from tests.dr_plugins.mldr.conftest import config_of, saved, write_tar
from tests.servers import serving
from tests.stores import hub

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331")
_IMAGES = (18, 2, 10026)  # of each class: names that sort differently by text and by number
_SIZE = (40, 48)
_STEP = 40  # grey levels between two classes

# What a reader fills in.
FILLED = {
    "ROOT": "imagenet/train",
    "SPEC": "timm:resnet50",
    "hf://datasets/OWNER/NAME": "hf://datasets/some/plus",
    "--policy NAME": "--policy randaug",
    "NAME@": "resnet50@",
    "--samples S": "--samples 2",
    "--topk K": "--topk 2",
    "--size N": "--size 32",
    "--teacher ...": "--teacher timm:resnet50",
    "reinforce ...": "reinforce --images imagenet/train --teacher timm:resnet50",
    " /": " ",  # a directory here stands for one of the file system
}
# Less of what a command does when it is not told how much.
_FEWER: dict[str, dict[str, Any]] = {
    "reinforce": {"samples": 2, "workers": 0, "size": 24, "batch_size": 64},
    "extend": {"workers": 0},
    "compare-teachers": {"workers": 0, "samples": 2, "size": 24},
    "import-mldr": {"workers": 0},
    "evaluate": {"workers": 0, "img_size": 32, "batch_size": 64},
}

_LESS_CODE = {
    "epochs=300": "epochs=2",
    "range(300)": "range(2)",
    ", 300)": ", 2)",
    "train, 256": "train, 4",
    "num_workers=8": "num_workers=0",
    "1000": str(len(CLASSES)),
    '"cuda"': '"cpu"',
}


class ByBrightness(nn.Module):
    """A network of timm's kind that knows each class by its mean brightness."""

    num_classes = len(CLASSES)

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 24, 24), "mean": (0,) * 3, "std": (1,) * 3}
        self.sharpness = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shade = 255 * images.mean(dim=(1, 2, 3)) / _STEP - 0.5
        return -self.sharpness * (shade[:, None] - torch.arange(self.num_classes)).square()


class Workshop:
    """A folder in which the commands of a page run, with the stand-ins that they name.

    Whatever a command names and none before it has made is put there first.

    Attributes:
        looked: HTTP status of what a browser was shown.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch, self.looked = folder, monkeypatch, list[int]()
        self._makers: dict[str, Callable[[Path], object]] = {
            "imagenet/train": make_images,
            "photographs/train": make_images,
            "imagenet-plus": self._make_set,
            "seed-0": self._make_set,
            "seed-1": lambda out: self._make_set(out, "--seed", "1"),
            "runs/quickstart/fashion-mnist-2000-plus-50x5": self._make_set,
            "half-a.txt": lambda file: self._list(file, 0),
            "half-b.txt": lambda file: self._list(file, 1),
            "tenth.txt": self._skip_list,
            "skip.txt": self._skip_list,
            "FILE": _teacher_file,
            "trained-on-half-a.pt": _teacher_file,
            "trained-on-half-b.pt": _teacher_file,
            "part-1.tar.gz": lambda file: make_archive(file, 1),
            "part-2.tar.gz": lambda file: make_archive(file, 2),
            "best.pt": _cvnets_checkpoint,
            "plain/last.pth.tar": _resnet50,
            "reinforced/last.pth.tar": _resnet50,
            "data": self._test_sets,
            "served/archives": _published,
        }
        monkeypatch.setattr(
            "timm_ext.teachers.trained_network", lambda spec: (ByBrightness(), None)
        )
        monkeypatch.setattr("webbrowser.open", self._look_and_leave)
        monkeypatch.setenv("DR_PLUGINS_CACHE", str(folder / "cache"))
        monkeypatch.chdir(folder)

    def run(self, arguments: list[str]) -> Result:
        """Run a command of dr-plugins."""
        from dr_plugins.cli.main import main

        self.provide(" ".join(arguments))
        with self._servers(arguments) as fewer:
            return CliRunner().invoke(main, arguments, default_map=fewer)

    def execute(self, code: str, names: dict[str, Any]) -> None:
        """Run code of a page, for two epochs and on this machine's processor."""
        self.provide(code)
        for number, fewer in _LESS_CODE.items():
            code = code.replace(number, fewer)
        exec(code, names)

    def provide(self, text: str) -> None:
        """Make the stand-ins that a text names, unless they are there."""
        for name, make in self._makers.items():
            made_by_it = re.search(rf"--out {re.escape(name)}(?![\w.-])", text)
            if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", text) and not made_by_it:
                path = self.folder / name
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    make(path)

    @contextlib.contextmanager
    def _servers(self, arguments: list[str]) -> Iterator[dict[str, Any]]:
        """The Hub for ``hf://``, and a web server for downloads; yields defaults of options."""
        with contextlib.ExitStack() as stack:
            if any(word.startswith("hf://") for word in arguments):
                self.provide("imagenet-plus")
                files = stack.enter_context(hub(self._patch)).files
                if arguments[0] == "pull":
                    made = (self.folder / "imagenet-plus").glob("*.*")
                    files.update({file.name: file.read_bytes() for file in made})
            if arguments[0] != "download":
                yield _FEWER
                return
            self._patch.setattr("dr_plugins.mldr.published.Published.lengths", (1, 1 << 30))
            self.provide("served/archives")
            server = stack.enter_context(serving(self.folder / "served"))
            yield {"download": {"base_url": server.address}}

    def _look_and_leave(self, address: str) -> None:
        """A browser that opens a page and presses Ctrl-C."""
        requests = pytest.importorskip("requests")
        try:
            for part in ("", "api/set", "api/images/0", "thumbnails/0.jpg"):
                self.looked.append(requests.get(address + part, timeout=30).status_code)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def _make_set(self, out: Path, *more: str) -> None:
        options = ["--images", "imagenet/train", "--teacher", "timm:resnet50", *more]
        options += ["--topk", "5", "--samples", "60", "--shard-images", "8", "--quiet"]
        result = self.run(["reinforce", *options, "--out", str(out)])
        assert result.exit_code == 0, result.output

    def _list(self, file: Path, half: int) -> None:
        self.provide("imagenet/train")
        paths = sorted((self.folder / "imagenet/train").rglob("*.JPEG"))[half::2]
        lines = [f"{p.relative_to(file.parent)} {CLASSES.index(p.parent.name)}\n" for p in paths]
        file.write_text("".join(lines))

    def _skip_list(self, file: Path) -> None:
        file.write_text("".join(f"{name}/{name}_2.JPEG\n" for name in CLASSES[:3]))

    def _test_sets(self, root: Path) -> None:
        make_images(root / "imagenet-sketch")
        make_images(root / "imagenet/val")
        for number, file in enumerate(sorted((root / "imagenet/val").rglob("*.JPEG")), 1):
            file.rename(file.with_name(f"ILSVRC2012_val_{number:08d}.JPEG"))
        for severity in range(1, 6):
            make_images(root / "imagenet-c" / "fog" / str(severity))


def filled(text: str) -> str:
    """A command with what a reader fills in."""
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


def make_images(root: Path) -> None:
    """Photographs of `CLASSES`, as noisy as a camera's, and told apart by their brightness."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in _IMAGES:
            noise = np.random.default_rng((label, number)).normal(0, 20, (*_SIZE, 3))
            pixels = (noise + _STEP * (label + 0.5)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{number}.JPEG", quality=95)


def make_archive(path: Path, seed: int = 0) -> None:
    """What ml-dr would store of `make_images`, with random flips and crops."""
    enabled: dict[str, dict[str, Any]] = {
        "random_resized_crop": {"enable": True, "size": 24},
        "random_horizontal_flip": {"enable": True, "p": 0.5},
    }
    plain = {"uint8": {"enable": True}, "to_tensor": {"enable": True}}
    normalize = {"normalize": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    members = []
    for index in range(len(CLASSES) * len(_IMAGES)):
        rng, label = np.random.default_rng((seed, index)), index // len(_IMAGES)
        views = []
        for _ in range(3):
            box = (*rng.integers(0, 8, 2).tolist(), *rng.integers(8, 33, 2).tolist())
            prob = float(np.float32(rng.uniform(0.6, 0.9)))
            answer = ([1 - prob, prob], [(label + 1) % len(CLASSES), label])
            views.append({"params": [box, bool(rng.integers(2))], "prob": answer})
        members.append((f"set/{index}.pth.tar", saved((index, views))))
    config = config_of({**enabled, **plain, **normalize}) | {"num_classes": len(CLASSES)}
    write_tar(path, [*members, ("set/config.pth.tar", saved(config, protocol=2))])


def _published(path: Path) -> None:
    from dr_plugins.mldr.published import PUBLISHED

    for archive in PUBLISHED:
        if archive.dataset == "imagenet" and not path.with_name(archive.file).exists():
            make_archive(path.with_name(archive.file))


def _teacher_file(path: Path) -> None:
    torch.save(ByBrightness().state_dict(), path)


def _cvnets_checkpoint(path: Path) -> None:
    from tests.dr_models.checkpoints.networks import cvnets_state

    torch.save(cvnets_state("resnet_50"), path)


def _resnet50(path: Path) -> None:
    import timm

    torch.save({"state_dict": timm.create_model("resnet50").state_dict()}, path)


def given() -> dict[str, Any]:
    """What the code of the pages leaves to the reader: libraries, a model, numbers."""
    import accelerate

    torch.manual_seed(0)
    count = len(CLASSES)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, count))
    return {
        "accelerator": accelerate.Accelerator(cpu=True),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "device": "cpu",
        "first_epoch": 0,
        "normalize": lambda views: views / 255,
        "images": torch.zeros(1, 3, 64, 64),
        "validation": SimpleNamespace(classes=list(CLASSES)),
        "cfg": SimpleNamespace(mean=[0.0] * 3, std=[255.0] * 3),
        "boxes": np.array([[0.0, 0.0, 9.0, 9.0]]),
        "mask": np.ones(_SIZE, bool),
        "logits": torch.randn(20, count),
        "labels": torch.arange(20) % count,
        "held_out_logits": torch.randn(20, count),
        "held_out_labels": torch.arange(20) % count,
    }
