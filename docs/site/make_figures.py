"""Makes the pictures of ``docs/pictures.md``: ``python -m docs.site.make_figures``, some minutes.

The set is the quickstart's: Fashion-MNIST, its teacher and its policy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from dr_plugins import (
    Ensemble,
    GenerationSettings,
    ImageSource,
    Policy,
    ShardSet,
    load_teacher,
    open_source,
    reinforce,
)
from dr_plugins.pictures import StoredPictures, choose_rows, draw_sheet
from dr_plugins.statistics import open_statistics
from examples.quickstart.data import load
from examples.quickstart.folders import export_folders
from examples.quickstart.running import POLICY, TEACHER

FIGURES = Path(__file__).parents[1] / "figures"
PER_CLASS, SAMPLES, TOPK = 40, 20, 5


def reinforced(folder: str, per_class: int = PER_CLASS) -> tuple[ImageSource, ShardSet]:
    """Reinforce some of Fashion-MNIST in a folder."""
    train, test = load(per_class, folder)
    root = export_folders(train, test, Path(folder, "images")) / "train"
    out = Path(folder, "fashion-mnist-plus")
    settings = GenerationSettings(Policy.load(POLICY), samples=SAMPLES, topk=TOPK)
    source = open_source(str(root))
    ensemble = Ensemble([load_teacher(TEACHER)])
    reinforce(source, ensemble, out, settings, teacher_specs=[TEACHER], workers=0, progress=True)
    return source, ShardSet(out)


def main() -> None:
    """Draw sheets of some of Fashion-MNIST."""
    with tempfile.TemporaryDirectory() as folder:
        source, shards = reinforced(folder)
        pictures, statistics = StoredPictures(source, shards), open_statistics(shards)
        for order, count in (("random", 3), ("worst", 3)):
            rows = choose_rows(
                shards, pictures.rows, lambda: statistics, order=order, count=count, seed=2
            )
            picture = draw_sheet(pictures, rows).quantize(256)
            picture.save(FIGURES / f"sheet-{order}.png", optimize=True)
        print(statistics.summary())


if __name__ == "__main__":
    main()
