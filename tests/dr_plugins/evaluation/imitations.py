"""Small imitations of the published sets, and a classifier whose answers are easily computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from dr_plugins.evaluation import ImageNetClasses, ModelUnderTest

COUNT = 12
WNIDS = [f"n{100 + number:08d}" for number in range(COUNT)]
CLASSES = ImageNetClasses(
    wnids=WNIDS,
    r=[WNIDS[each] for each in (1, 4, 5, 10)],
    a=[WNIDS[each] for each in (0, 4, 11)],
    real=[[], *([number % COUNT, (number + 3) % COUNT] for number in range(1, 5 * COUNT))],
)
SHADE = 21  # of red between two classes; odd, so none is as near to both


class ByShade(nn.Module):
    """Answers with the class whose shade of red is nearest to the image's mean."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shade = 255 * images[:, 0].mean(dim=(1, 2)) / SHADE
        return -self.sharpness * (shade[:, None] - torch.arange(COUNT)).square()


def to_tensor(image: Image.Image) -> torch.Tensor:
    """The central 8 by 8 pixels, as a model's preprocessing crops."""
    left, top = (image.width - 8) // 2, (image.height - 8) // 2
    return whole_to_tensor(image.crop((left, top, left + 8, top + 8)))


def whole_to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def model(name: str = "shades", sharpness: float = 1.0) -> ModelUnderTest:
    identity = {"weights": str(sharpness)}
    return ModelUnderTest(name, ByShade(sharpness), to_tensor, whole_to_tensor, identity)


def draw(path: Path, shade: float, border: int = 0) -> None:
    """An image of one shade, in which a border has another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[..., 0] = 255 if border else round(SHADE * shade)
    pixels[border : 12 - border, border : 12 - border, 0] = round(SHADE * shade)
    Image.fromarray(pixels).save(path, "PNG")


def shades(label: int, count: int, seed: int = 0) -> np.ndarray:
    """Shades around that of a class; some are nearer to another class."""
    rng = np.random.default_rng((seed, label))
    return np.clip(label + rng.normal(0, 0.7, count), 0, 255 / SHADE)


def draw_classes(root: Path, folders: Mapping[str, int], count: int = 5, seed: int = 0) -> None:
    """Some images in a folder for each class."""
    for folder, label in folders.items():
        for number, shade in enumerate(shades(label, count, seed)):
            draw(root / folder / f"{label}_{number}.png", shade)


def draw_imagenet(root: Path) -> None:
    """The validation images, with their published names."""
    for label, wnid in enumerate(WNIDS):
        for number, shade in enumerate(shades(label, 5)):
            name = f"ILSVRC2012_val_{1 + label + COUNT * number:08d}.JPEG"
            draw(root / "imagenet" / "val" / wnid / name, shade)


def draw_objectnet(root: Path) -> None:
    """Three objects, one of two classes of ImageNet and one of none, within red borders."""
    place = root / "objectnet-1.0"
    mappings = place / "mappings"
    mappings.mkdir(parents=True)
    labels = {"chair": "Chair", "desk_lamp": "Desk lamp", "pet_toy": "Pet toy"}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    imagenet = {"Chair": "rocking chair; folding chair, seat", "Desk lamp": "table lamp"}
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(imagenet))
    # Another order of the classes than that of labels: line n is class 11 - n.
    line_of = {str(label): COUNT - 1 - label for label in range(COUNT)}
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps(line_of))
    lines = [f"class {line}" for line in range(COUNT)]
    lines[line_of["2"]], lines[line_of["7"]] = "rocking chair", "folding chair, seat"
    lines[line_of["5"]] = "table lamp"
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    for folder, shade in (("chair", 7), ("desk_lamp", 5), ("pet_toy", 1)):
        for number in range(4):
            draw(place / "images" / folder / f"{number}.png", shade - 0.2 * number, border=2)


def softmax_of(root: Path, files: Sequence[str], classes: Sequence[int]) -> np.ndarray:
    """Probabilities of the classifier, computed apart from it."""
    rows = []
    for file in files:
        pixels = np.asarray(Image.open(root / file).convert("RGB"), dtype=np.float64)[2:-2, 2:-2]
        logits = -((pixels[..., 0].mean() / SHADE - np.asarray(classes)) ** 2)
        powers = np.exp(logits - logits.max())
        rows.append(powers / powers.sum())
    return np.stack(rows)
