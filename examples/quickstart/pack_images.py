"""Make ``fashion_mnist.npz`` from the original: ``python -m examples.quickstart.pack_images``.

The first 200 training images of each class and all test images, so that the quickstart needs no
download. The licence of the images is in ``fashion_mnist.LICENSE``.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from examples.quickstart.data import PACKED, PACKED_PER_CLASS, load_original


@click.command(context_settings={"show_default": True})
@click.option("--data", default="data", type=click.Path(path_type=Path), help="The original's.")
@click.option("--out", default=PACKED, type=click.Path(path_type=Path), help="File to write.")
def main(data: Path, out: Path) -> None:
    """Take the images from the original and compress them without loss."""
    train = load_original(data, train=True).first_of_each_class(PACKED_PER_CLASS)
    test = load_original(data, train=False)
    np.savez_compressed(
        out,
        train_pixels=train.pixels,
        train_labels=train.labels,
        train_numbers=train.numbers.astype(np.uint16),
        test_pixels=test.pixels,
        test_labels=test.labels,
    )
    click.echo(f"{out}: {len(train)} + {len(test)} images, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
