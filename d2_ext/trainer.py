"""Detectron2's default trainer on reinforced images, for yacs configurations."""

from __future__ import annotations

from typing import Any

from detectron2.engine import DefaultTrainer

from d2_ext.data import build_reinforced_train_loader
from d2_ext.evaluation import ClassificationEvaluator
from d2_ext.evaluation_data import build_classification_test_loader
from dr_plugins.errors import CheckpointError

# Where Detectron2's main branch saves the optimizer's state; version 0.6 does not save it.
_INNER = "_trainer"


class ReinforcedTrainer(DefaultTrainer):
    """`DefaultTrainer` that trains and evaluates a `ReinforcedClassifier`.

    ``DATASETS.TRAIN`` and ``DATASETS.TEST`` name folders of images; everything else is under
    ``REINFORCED``. LazyConfig files do not need this class: they name the loaders.

    Raises:
        ReinforcementError: Images, shard set and configuration do not match.

    Example:
        >>> trainer = ReinforcedTrainer(cfg)                                # doctest: +SKIP
        >>> trainer.resume_or_load(resume=True)                             # doctest: +SKIP
        >>> trainer.train()                                                 # doctest: +SKIP
    """

    def __init__(self, cfg: Any) -> None:
        # Report unusable evaluation images before training.
        for name in cfg.DATASETS.TEST:
            self.build_test_loader(cfg, name)
        super().__init__(cfg)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """See `build_reinforced_train_loader`."""
        return build_reinforced_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        """See `build_classification_test_loader`; `dataset_name` is the folder."""
        return build_classification_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> ClassificationEvaluator:
        """Build the evaluator of accuracy and calibration."""
        return ClassificationEvaluator()

    def state_dict(self) -> dict[str, Any]:
        """State for resuming, including the optimizer's."""
        state: dict[str, Any] = super().state_dict()
        if _INNER not in state:
            state[_INNER] = self._trainer.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict`.

        Raises:
            CheckpointError: It has no state of the optimizer.
        """
        super().load_state_dict(state_dict)
        if _INNER in super().state_dict():
            return  # done
        if _INNER not in state_dict:
            raise CheckpointError(
                "the checkpoint to resume from has no state of the optimizer: another trainer of "
                "Detectron2 0.6 wrote it. Set MODEL.WEIGHTS to it and train without --resume, in a "
                "new OUTPUT_DIR"
            )
        self._trainer.load_state_dict(state_dict[_INNER])
