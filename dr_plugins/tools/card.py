"""What is published with a shard set: a dataset card, and a table for the Hub's viewer."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dr_plugins.images.sources import ImageSource
from dr_plugins.pictures import StoredPictures, choose_rows, draw_sheet
from dr_plugins.pictures.saving import save
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import open_statistics

TABLE_NAME = "preview.parquet"
SHEET_NAME = "views.jpg"
_IMAGES, _SAMPLES = 100, 3  # in the table
_SHOWN = 4  # images in the sheet
_SHEET = f"""
![Views of {_SHOWN} images, and what the teacher answered]({SHEET_NAME})

For each image: where its views were cut out, the views that the teacher saw, and its answers.
"""
_logger = logging.getLogger(__name__)


def write_card(
    manifest: Manifest, address: str, licence: str, extras: Sequence[Path], path: Path
) -> Path:
    """Write a dataset card: what the set is, and how to train with it.

    Args:
        manifest: The set.
        address: Where it will be.
        licence: Identifier of the licence, as the Hub writes it.
        extras: The files that will be next to it, of `write_preview` and `write_sheet`.
        path: The card's file.

    Returns:
        `path`.
    """
    settings, images = manifest.settings, manifest.index.images
    name = address.rstrip("/").rpartition("/")[2]
    head: dict[str, Any] = {
        "license": licence,
        "task_categories": ["image-classification"],
        "tags": ["dataset-reinforcement", "knowledge-distillation"],
        "pretty_name": name,
    }
    beside = {extra.name for extra in extras}
    if TABLE_NAME in beside:
        head["configs"] = [{"config_name": "preview", "data_files": TABLE_NAME}]
    facts = {
        "images": f"{images:,} (the images themselves are not in it)",
        "reinforcements per image": f"{manifest.samples:,}",
        "stored classes": f"the top {manifest.topk} of {manifest.num_classes:,}",
        "teachers": ", ".join(settings.get("teachers") or ["not named"]),
        "temperature": f"{manifest.temperature:g}",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "set id": f"`{manifest.set_id}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    policy = yaml.safe_dump(settings["policy"], sort_keys=False, default_flow_style=None)
    views = f"{_SHEET}\n" if SHEET_NAME in beside else ""
    path.write_text(
        f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# {name}

A reinforced dataset (Dataset Reinforcement, Faghri et al., ICCV 2023): for each image, many
augmented views and a teacher's answer to each. Models trained on it learn from the answers, without
running the teacher again.
{views}
| | |
|---|---|
{table}

## Train with it

```python
from dr_plugins import KDLoss, ReinforcedDataset

train = ReinforcedDataset(images, "{address}")  # images: such as ImageFolder("imagenet/train")
```

With timm's `train.py`, after `dr-plugins enable timm`: `--dataset "reinforced?shards={address}"`.
In configs of OpenMMLab and Detectron2, `shards` (`REINFORCED.SHARDS`) takes the same address.
`dr-plugins pull {address} DIRECTORY` copies it.

## Augmentation policy

```yaml
{policy}```
""",
        encoding="utf-8",
    )
    return path


def write_preview(directory: str | os.PathLike[str], path: Path) -> list[Path]:
    """Write some answers as a Parquet table, for the Hub's viewer.

    Returns:
        `path` in a list, which is empty where pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        _logger.info("no preview.parquet: pip install pyarrow")
        return []
    shards = ShardSet(directory)
    rows, samples = len(shards), shards.manifest.samples
    chosen = np.unique(np.linspace(0, rows - 1, min(_IMAGES, rows)).astype(np.int64))
    numbers = np.unique(np.linspace(0, samples - 1, min(_SAMPLES, samples)).astype(np.int64))
    grid = np.stack(np.meshgrid(chosen, numbers, indexing="ij"), -1).reshape(-1, 2)
    records = shards.read(grid[:, 0], grid[:, 1])
    labels = [shards.image(row).label for row in grid[:, 0].tolist()]
    names = shards.manifest.settings["class_names"]

    def name(number: int) -> str | None:
        return None if number < 0 else str(number) if names is None else names[number]

    table = {
        "image": [shards.keys[row] for row in grid[:, 0].tolist()],
        "label": [name(label) for label in labels],
        "sample": grid[:, 1],
        "classes": [[name(i) for i in ids] for ids in records["ids"].tolist()],
        "probabilities": records["probs"].astype(np.float32).tolist(),
    }
    parquet.write_table(pyarrow.table(table), path)
    return [path]


def write_sheet(directory: str | os.PathLike[str], images: ImageSource, path: Path) -> list[Path]:
    """Draw a few images with their views and answers, for the card.

    Returns:
        `path` in a list.

    Raises:
        UnknownImageError: The images are not those of the set; see `StoredPictures`.
        ImageChangedError: One is not the one that was reinforced.
    """
    shards = ShardSet(directory)
    pictures = StoredPictures(images, shards)
    rows = choose_rows(shards, pictures.rows, lambda: open_statistics(shards), count=_SHOWN)
    save(draw_sheet(pictures, rows), path)
    return [path]
