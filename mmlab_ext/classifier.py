"""Any timm network as a classifier for MMEngine's Runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from dr_plugins import SparseTargets
from dr_plugins.errors import BackboneError
from mmlab_ext.errors import ConfigError
from mmlab_ext.features import strict_pretrained
from mmlab_ext.preprocessor import TimmDataPreprocessor
from mmlab_ext.samples import ClassificationSample

_TOLERANCE = 0.3  # of 255: configs round


@MODELS.register_module()
class TimmClassifier(BaseModel):
    """A timm classifier, trained on a teacher's answers or on labels.

    Its checkpoints load as classifiers and as backbones.

    Args:
        model: Name of a timm model, or of one from `dr_models` (``cvnets_resnet50``).
        num_classes: At least 1.
        loss: A loss that takes ``(logits, targets)``; by default `KDLoss`. `DistillationLoss` takes
            any loss of `dr_plugins.losses`, and your own.
        data_preprocessor: Settings of `TimmDataPreprocessor`, or another preprocessor. Mean and std
            default to timm's for the model; others are refused, because a checkpoint does not
            record them.
        grad_checkpointing: Recompute activations in the backward pass, to save memory.
        sync_bn: Synchronise batch normalisation across processes. MMEngine's own ``sync_bn``
            removes activations of some networks, and is refused for those.
        init_cfg: ``dict(type="Pretrained", checkpoint="imagenet-plus://PATH")`` for a whole
            classifier; `ReinforcedBackboneHook` loads all but the last layer.
        **kwargs: For `timm.create_model`, such as ``drop_path_rate``.

    Attributes:
        model: The network.
        arch: Its name.
        num_classes: Number of classes.
        options: The arguments for `timm.create_model`.

    Raises:
        ConfigError: Unknown model, or arguments that it does not take.

    Example:
        >>> classifier = MODELS.build(dict(type="TimmClassifier", model="resnet18", num_classes=3))
        >>> classifier(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        model: str,
        num_classes: int = 1000,
        loss: Mapping[str, Any] | nn.Module | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        grad_checkpointing: bool = False,
        sync_bn: bool = False,
        init_cfg: Any = None,
        **kwargs: Any,
    ) -> None:
        network = _create(model, num_classes, **kwargs)
        settings = _preprocessor(data_preprocessor, network)
        super().__init__(settings, strict_pretrained(init_cfg))
        _check_inputs(self.data_preprocessor, network)
        self.arch, self.num_classes, self.options = model, num_classes, kwargs
        self.model = network
        # timm has initialised it; MMEngine would call timm's `init_weights` again.
        self.model.is_init = True
        self.loss_module = (
            loss if isinstance(loss, nn.Module) else MODELS.build(dict(loss or {"type": "KDLoss"}))
        )
        if grad_checkpointing:
            self.model.set_grad_checkpointing(True)
        if sync_bn:
            from timm.layers import convert_sync_batchnorm

            convert_sync_batchnorm(self.model)
        from dr_models.activations import activation_names

        self._activations = activation_names(self.model)

    def train(self, mode: bool = True) -> TimmClassifier:
        """Set the mode.

        Raises:
            BackboneError: MMEngine's ``sync_bn`` has removed activations.
        """
        from dr_models.activations import check_activations

        check_activations(self.model, self._activations)
        super().train(mode)
        return self

    def forward(
        self,
        inputs: torch.Tensor,
        data_samples: Sequence[Any] | None = None,
        targets: SparseTargets | torch.Tensor | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Run the network on normalised images.

        Args:
            inputs: float ``[B, 3, H, W]``.
            data_samples: Of the images; `predict` writes into them.
            targets: For the loss; from the data preprocessor.
            mode: ``tensor``, ``loss`` or ``predict``.

        Returns:
            Logits ``[B, num_classes]``; ``dict(loss=...)``; or samples with predictions.

        Raises:
            ConfigError: Mode ``loss`` without targets.
            ValueError: Unknown mode.
        """
        if mode == "tensor":
            return self.model(inputs)
        if mode == "loss":
            return self.loss(inputs, targets)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        raise ValueError(f"mode is {mode!r}; expected tensor, loss or predict")

    def loss(
        self, inputs: torch.Tensor, targets: SparseTargets | torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Return ``dict(loss=...)`` of a batch."""
        if targets is None:
            raise ConfigError(
                "model.data_preprocessor gives no targets; use dict(type='TimmDataPreprocessor') "
                "or leave it out"
            )
        return {"loss": self.loss_module(self.model(inputs), targets)}

    def predict(
        self, inputs: torch.Tensor, data_samples: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        """Return the samples, with probabilities and predicted class."""
        probs = self.model(inputs).float().softmax(1)
        samples = data_samples or [ClassificationSample() for _ in probs]
        for sample, scores in zip(samples, probs, strict=True):
            sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))
        return samples


def _create(model: str, num_classes: int, **kwargs: Any) -> Any:
    from dr_models import create_classifier  # imports timm, which is an optional extra

    try:
        return create_classifier(model, num_classes, **kwargs)
    except BackboneError as error:
        raise ConfigError(f"model.model is {model!r}: {error}") from error


def _preprocessor(given: Mapping[str, Any] | nn.Module | None, network: Any) -> Any:
    if isinstance(given, nn.Module):
        return given
    settings: dict[str, Any] = {"type": "TimmDataPreprocessor", **(given or {})}
    if settings["type"] == "TimmDataPreprocessor":
        for name in ("mean", "std"):
            default = [255 * float(value) for value in network.pretrained_cfg[name]]
            settings.setdefault(name, default)
    return settings


def _check_inputs(preprocessor: Any, network: Any) -> None:
    if not isinstance(preprocessor, TimmDataPreprocessor):
        return
    for name in ("mean", "std"):
        stated = torch.tensor([255 * float(value) for value in network.pretrained_cfg[name]])
        given = getattr(preprocessor, name).flatten()
        if (given - stated).abs().max() > _TOLERANCE:
            raise ConfigError(
                f"model.data_preprocessor.{name} is {given.tolist()}, but timm's config of this "
                f"model has {stated.tolist()}, and checkpoints do not record it; leave it out, or "
                f"use a model that has it (cvnets_*: mean 0 and std 255)"
            )
