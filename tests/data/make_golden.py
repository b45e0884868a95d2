"""Makes the golden shard sets beside this file: ``python -m tests.data.make_golden``.

Every number follows from row and sample by the formulas below, so that neither a random generator
nor an image library can change them. A change of the sets is a change of the format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.claims import locked
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.shard import Shard

HERE = Path(__file__).parent
KEYS = ("n01/b_10.JPEG", "n01/b_2.JPEG", "n02/ü.JPEG")  # in row order
SETS = {"golden-all": 18, "golden-crop": 2}  # and their reinforcements per image
NO_PARTNER = (1 << 32) - 1

Answer = tuple[Sequence[int], Sequence[float]]


def view(row: int, sample: int) -> list[object]:
    """Crop, flip, operations and erased box."""
    return [
        (row, sample, 300 + row, 65535 - sample),
        sample % 2,
        (sample % 14, 128 + row),
        (sample, row, 7, 9) if sample % 3 == 0 else (0, 0, 0, 0),
    ]


def params_all(row: int, sample: int) -> AugmentParams:
    """Every fourth sample is not mixed."""
    if sample % 4 == 0:
        return AugmentParams(view(row, sample))
    partner = (row + 1) % len(KEYS)
    mixing = [1 - sample / 64, (sample, 2, 20, 21)]
    return AugmentParams(view(row, sample), partner, view(partner, sample + 1), mixing)


def params_crop(row: int, sample: int) -> AugmentParams:
    """Offset of a padded random crop, and flip."""
    return AugmentParams([(row, 4 + sample), sample % 2])


def answer_all(row: int, sample: int) -> Answer:
    """Top 2 of 1,000 classes; the probabilities are exact in float16."""
    return (999 - sample, row), (0.5 + sample / 64, 0.125)


def answer_crop(row: int, sample: int) -> Answer:
    """Top 3 of 65,537 classes; 0.1 is not exact in float16."""
    return (65536, 256 * row, sample), (0.5, 0.1, 0.001)


def fact(row: int) -> tuple[int, tuple[int, int], int]:
    """Label, size, and the byte that a fingerprint repeats; the last image has none of them."""
    return (-1, (0, 0), 0) if row == 2 else (row, (400 + row, 500), 17 * (row + 1))


def write_set(
    out: Path,
    policy: Policy,
    params: Callable[[int, int], AugmentParams],
    answer: Callable[[int, int], Answer],
    *,
    samples: int,
    num_classes: int,
    probs_dtype: str = "float16",
    keys: Sequence[str] = KEYS,
    shard_images: int = 2,
    seed: int = 0,
) -> Path:
    """Write a shard set of given parameters and answers, without images or teacher."""
    topk = len(answer(0, 0)[0])
    layout = RecordLayout((*policy.fields, *target_fields(topk, num_classes, probs_dtype)))
    index = KeyIndex.build(keys)
    settings = {
        "policy": policy.to_config(),
        "samples": samples,
        "topk": topk,
        "seed": seed,
        "probs_dtype": probs_dtype,
        "batch_size": 256,
        "shard_images": shard_images,
        "num_classes": num_classes,
        "class_names": None,
        "teachers": ["python:made:up"],
        "weights": "0123456789abcdef",
        "temperature": 1.0,
        "precision": "float32",
        "device": "cpu",
        "images": len(index),
        "keys": index.digest(),
    }
    with locked(out):
        output = OutputDirectory(out, settings, layout, index)
        for number, first in enumerate(range(0, len(index), shard_images)):
            count = min(shard_images, len(index) - first)
            shard = Shard.empty(first, count, samples, layout)
            for position in range(count):
                row = first + position
                shard.labels[position], shard.sizes[position], byte = fact(row)
                shard.fingerprints[position] = byte
                for sample, record in enumerate(shard.records[position]):
                    policy.encode(params(row, sample), record)
                    record["ids"], record["probs"] = answer(row, sample)
            output.add(number, shard)
        output.finish()
    return out


def make(name: str, out: Path) -> Path:
    """Make one of the golden sets."""
    if name == "golden-all":
        policy = Policy.load("randaug_mixing", size=24)
        return write_set(out, policy, params_all, answer_all, samples=SETS[name], num_classes=1000)
    policy = Policy.from_config(
        {
            "backend": "tensor",
            "resize": {"size": 24},
            "random_crop": {"size": 24, "padding": 4},
            "random_horizontal_flip": {"p": 0.5},
        }
    )
    return write_set(
        out,
        policy,
        params_crop,
        answer_crop,
        samples=SETS[name],
        num_classes=65537,
        probs_dtype="float32",
    )


def without_versions(manifest: Path) -> str:
    """A manifest as text, its library versions replaced."""
    data = json.loads(manifest.read_text(encoding="utf-8"))
    data["versions"] = dict.fromkeys(data["versions"], "any")
    return json.dumps(data, indent=1, ensure_ascii=False)


def main() -> None:
    """Replace the golden sets."""
    for name in SETS:
        folder = HERE / name
        if folder.exists():
            for file in folder.iterdir():
                file.unlink()
        make(name, folder)
        (folder / ".lock").unlink(missing_ok=True)
        manifest = folder / "manifest.json"
        manifest.write_text(without_versions(manifest), encoding="utf-8")


if __name__ == "__main__":
    main()
