"""A generation as plain values, which any process can carry out: what a command line describes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import filelock
import torch

from dr_plugins.generation.estimate import Estimate, estimate
from dr_plugins.generation.generate import reinforce_part
from dr_plugins.generation.planning import GenerationSettings
from dr_plugins.generation.readable import skip_list
from dr_plugins.generation.sharing import Part, Process
from dr_plugins.generation.teacher_schemes import load_teacher
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.skipping import read_keys, skipped_keys
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.shards.manifest import Manifest

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationJob:
    """What `reinforce_part` needs, before images and teachers are loaded.

    Attributes:
        images: For `open_source`.
        teachers: For `load_teacher`.
        out: Directory of the set.
        settings: Settings of the set.
        class_map: For `open_source`.
        temperature: For `Ensemble`, and so are `bf16` and `compiled`.
        bf16: Whether the teachers run in bfloat16.
        compiled: Whether the teachers are compiled.
        workers: For `reinforce_part`, and so are `views_on`, `min_agreement`, `part`, `grace`.
        views_on: See there.
        min_agreement: See there.
        check_images: See there.
        skip_unreadable: List of images to leave out; made if it does not exist.
        skip: Another list of images to leave out.
        part: See there.
        grace: See there.
        imports: Modules to import first.
        path: Another directory where modules are found.
        keys: For `open_source`.
    """

    images: str
    teachers: tuple[str, ...]
    out: Path
    settings: GenerationSettings
    _: KW_ONLY
    class_map: str | None = None
    temperature: float = 1.0
    bf16: bool = False
    compiled: bool = False
    workers: int = 0
    views_on: str | None = None
    min_agreement: float | None = None
    check_images: str = "quick"
    skip_unreadable: Path | None = None
    part: Part | None = None
    grace: float = 0.0
    imports: tuple[str, ...] = ()
    path: str | None = None
    keys: str = "path"
    skip: Path | None = None

    def run(
        self,
        device: str,
        process: Process | None = None,
        *,
        teacher_devices: tuple[str, ...] = (),
        progress: bool = False,
    ) -> Manifest | None:
        """Load images and teachers, and make the set, or a part of it, on a device.

        Args:
            device: Where the teachers run.
            process: Which of several processes this is.
            teacher_devices: A device for each teacher; none means `device` for all.
            progress: Show progress bars.

        Returns:
            As `reinforce_part`.

        Raises:
            ReinforcementError: See `reinforce`.
        """
        source, teacher = self._load(teacher_devices)
        left_out, checked = self._left_out(source, process or Process(), progress)
        return reinforce_part(
            source,
            teacher,
            self.out,
            self.settings,
            teacher_specs=self.teachers,
            device=device,
            workers=self.workers,
            views_on=self.views_on,
            min_agreement=self.min_agreement,
            left_out=left_out,
            check_images=None if checked else self.check_images,
            progress=progress,
            part=self.part,
            process=process,
            grace=self.grace,
        )

    def estimate(self, device: str, *, teacher_devices: tuple[str, ...] = ()) -> Estimate:
        """Load images and teachers, and estimate the cost of the set; nothing is written.

        Args:
            device: Where the teachers run.
            teacher_devices: As for `run`.

        Raises:
            ReinforcementError: See `reinforce`.
        """
        source, teacher = self._load(teacher_devices)
        path = self.skip_unreadable
        unreadable = read_keys(path) if path is not None and path.exists() else []
        return estimate(
            source,
            teacher,
            self.settings,
            device=device,
            workers=self.workers,
            views_on=self.views_on,
            left_out=sorted({*unreadable, *self._skipped(source)}),
        )

    def _load(self, teacher_devices: tuple[str, ...]) -> tuple[ImageSource, Ensemble]:
        if self.path is not None and self.path not in sys.path:
            sys.path.append(self.path)
        for name in self.imports:
            importlib.import_module(name)
        # First, since a teacher may have to be downloaded.
        source = open_source(self.images, self.class_map, keys=self.keys)
        teacher = Ensemble(
            [load_teacher(spec) for spec in self.teachers],
            self.temperature,
            torch.bfloat16 if self.bf16 else None,
            self.compiled,
            teacher_devices,
        )
        return source, teacher

    def _left_out(
        self, source: ImageSource, process: Process, progress: bool
    ) -> tuple[list[str], bool]:
        """Return the keys to leave out, and whether all images have been checked for that."""
        skipped, path = self._skipped(source), self.skip_unreadable
        if path is None:
            return skipped, False
        # One of several processes makes the list; the others wait for it. Where it is made already,
        # the folder need not be writable.
        is_shared = process.name and not path.exists()
        one = filelock.FileLock(f"{path}.lock") if is_shared else contextlib.nullcontext()
        with one:
            checked = not path.exists()
            keys = skip_list(
                path, source, check=self.check_images, workers=self.workers, progress=progress
            )
        return sorted({*keys, *skipped}), checked

    def _skipped(self, source: ImageSource) -> list[str]:
        if self.skip is None:
            return []
        keys = skipped_keys(self.skip, source.keys)
        _logger.warning("images left out, as listed in %s: %d", self.skip, len(keys))
        return keys
