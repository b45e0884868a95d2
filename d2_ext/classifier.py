"""A classifier for pretraining on reinforced images in Detectron2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import nn

from d2_ext.config import timm_node, timm_options
from d2_ext.errors import ConfigError
from d2_ext.norms import convert_norms
from dr_models.checkpoints import InputConvention, LoadRecord, check_convention
from dr_models.checkpoints.network_record import check_options, decode_record, encode_record
from dr_plugins.errors import BackboneError, CheckpointError, LossError
from dr_plugins.losses import DistillationLoss, build_loss
from dr_plugins.training.contract import Contract, RunFacts, Setting

State = Mapping[str, torch.Tensor]

_TOP = 255


@META_ARCH_REGISTRY.register()
class ReinforcedClassifier(nn.Module):
    """A timm network with its classifier, trained on stored answers.

    Checkpoints hold the network's tensors, with the prefix ``model.``, and its name and options. As
    ``imagenet-plus://OUTPUT_DIR/model_final.pth`` they load into the backbones of this package and
    into Detectron2's ResNets.

    Args:
        model: Name of a timm model, or of one from `dr_models` (``cvnets_resnet50``).
        num_classes: The shard set's.
        pixel_mean: For RGB images from 0 to 255; by default timm's for the model. Other values are
            refused, because a checkpoint does not record them.
        pixel_std: See `pixel_mean`.
        norm: See `TimmBackbone`.
        loss: See `dr_plugins.losses.build_loss`.
        temperature: Of the stored answers.
        label_weight: See `KDLoss`; other losses take it if it is not 0.
        input_format: Channels of the images; only "RGB" is possible.
        grad_checkpointing: Recompute activations in the backward pass, to save memory.
        **options: For `timm.create_model`, such as ``drop_path_rate``.

    Attributes:
        model: The network.
        name: Name of the network.
        options: The arguments for `timm.create_model`.
        load_record: Records whether weights were loaded into all of the network.

    Raises:
        ConfigError: `model`, `norm` or `loss` is unknown.
        CheckpointError: `pixel_mean` or `pixel_std` differs from the model's.

    Example:
        >>> classifier = ReinforcedClassifier("resnet18", num_classes=5).eval()
        >>> images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        >>> classifier({"images": images})["logits"].shape
        torch.Size([2, 5])
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @configurable
    def __init__(
        self,
        model: str,
        *,
        num_classes: int = 1000,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        norm: str = "",
        loss: str = "KDLoss",
        temperature: float = 1.0,
        label_weight: float = 0.0,
        input_format: str = "RGB",
        grad_checkpointing: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.name, self.num_classes, self.norm = model, num_classes, norm
        self.options, self.input_format = options, input_format
        # Also for inference, where no shard set is known: predictors give images in this format.
        Contract(num_classes).check_run(RunFacts(channels=[self._channels()]), ConfigError)
        self.model = _create(model, num_classes, **options)
        self.load_record = LoadRecord(self.model)
        convert_norms(self.model, norm)
        if grad_checkpointing:
            self.model.set_grad_checkpointing(True)
        self.loss = _build_loss(loss, temperature, label_weight)
        mean, std = _feed(self.model, pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Translate a yacs configuration."""
        node = timm_node(cfg)
        return {
            "model": node.NAME,
            "num_classes": node.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "norm": node.NORM,
            "loss": cfg.REINFORCED.LOSS,
            "temperature": cfg.REINFORCED.TEMPERATURE,
            "label_weight": cfg.REINFORCED.LABEL_WEIGHT,
            "input_format": cfg.INPUT.FORMAT,
            "grad_checkpointing": node.GRAD_CHECKPOINTING,
            **timm_options(node),
        }

    @property
    def device(self) -> torch.device:
        """Where the images go."""
        return self.pixel_mean.device

    def forward(self, batch: Any) -> Any:
        """Compute the loss in training, logits otherwise.

        Args:
            batch: From `build_reinforced_train_loader`, deferred or not; or, for inference, a
                mapping with ``images``, uint8 ``[B, 3, H, W]``, or Detectron2's list of one mapping
                per image, with ``image`` of ``[3, H, W]`` from 0 to 255.

        Returns:
            In training ``{"loss_kd": scalar}``; else ``{"logits": [B, C]}``, or a list of
            ``{"logits": [C]}`` for a list.

        Raises:
            CheckpointError: In training, if normalisation is frozen and no weights were loaded.
            ConfigError: The model is not what the shard set demands, see `Contract`.
        """
        if self.training:
            self._refuse_frozen_noise()
            return self._losses(batch)
        if isinstance(batch, Mapping):
            return {"logits": self._logits(batch["images"])}
        return [{"logits": self._logits(item["image"][None])[0]} for item in batch]

    def whole_state(self, state: Mapping[str, torch.Tensor], address: str) -> State:
        """Check that a timm state dict fits the whole network, classifier included.

        Raises:
            CheckpointError: A tensor is missing, unexpected, or of another shape.
        """
        own = self.model.state_dict()
        wrong = {key for key in own if key not in state or state[key].shape != own[key].shape}
        wrong |= set(state) - set(own)
        wrong = {key for key in wrong if not key.endswith("num_batches_tracked")}
        if wrong:
            raise CheckpointError(
                f"{address} does not fit {self.name} with {self.num_classes} classes: "
                f"{min(wrong)} and {len(wrong) - 1} others are missing, unexpected or of another "
                f"shape. Set MODEL.DR_TIMM.NAME and MODEL.DR_TIMM.NUM_CLASSES to the checkpoint's"
            )
        return state

    @property
    def is_loaded(self) -> bool:
        """Whether all weights were loaded, but perhaps those of the last layer."""
        from dr_models.classifiers import classifier_names

        last = tuple(f"{name}." for name in classifier_names(self.model))
        return all(key.startswith(last) for key in self.load_record.missing)

    def get_extra_state(self) -> torch.Tensor:
        """Name and options of the network, for checkpoints."""
        return encode_record(self.name, self.options)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Compare name and options of the network with a checkpoint's.

        Raises:
            CheckpointError: They differ.
        """
        record = decode_record(state)
        if record is None:
            return
        if record.arch.partition(".")[0] != self.name.partition(".")[0]:
            raise CheckpointError(
                f"the checkpoint holds {record.arch}, but MODEL.DR_TIMM.NAME (lazy: model) is "
                f"{self.name!r}; set it to {record.arch}, or use another checkpoint"
            )
        check_options(record, self.options, "the checkpoint", whole=True)

    def _refuse_frozen_noise(self) -> None:
        if self.norm == "FrozenBN" and not self.load_record.is_complete:
            raise CheckpointError(
                f"no weights were loaded into {self.name}, but its batch normalisation is frozen "
                f"(MODEL.DR_TIMM.NORM, lazy: norm, is 'FrozenBN'). To train from scratch, set it "
                f"to 'SyncBN' or ''; to start from a checkpoint, set MODEL.WEIGHTS (lazy: "
                f"train.init_checkpoint) to imagenet-plus://PATH; after copying weights into it, "
                f"call d2_ext.mark_loaded(model)"
            )

    def _losses(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        targets = batch["targets"]
        contract = batch.get("contract") or Contract.of_targets(targets)
        contract.check_run(self._facts(), ConfigError)
        logits = self._logits(batch["images"])
        targets = targets.to(self.device, non_blocking=True)
        _log_agreement(logits, targets.labels)
        return {"loss_kd": self.loss(logits, targets)}

    def _facts(self) -> RunFacts:
        classes = Setting("MODEL.DR_TIMM.NUM_CLASSES (lazy: model.num_classes)", self.num_classes)
        name = "REINFORCED.TEMPERATURE (lazy: model.temperature)"
        return RunFacts(
            num_classes=[classes],
            temperatures=[Setting(name, self.loss.temperature)],
            channels=[self._channels()],
        )

    def _channels(self) -> Setting:
        name = "INPUT.FORMAT (lazy: model.input_format)"
        return Setting(name, self.input_format, "Set it to 'RGB'")

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(self.device, non_blocking=True).float()
        logits: torch.Tensor = self.model((pixels - self.pixel_mean) / self.pixel_std)
        return logits


def _create(model: str, num_classes: int, **options: Any) -> Any:
    from dr_models import create_classifier  # imports timm, which is an optional extra

    try:
        return create_classifier(model, num_classes, **options)
    except BackboneError as error:
        raise ConfigError(f"MODEL.DR_TIMM.NAME (lazy: model) is {model!r}: {error}") from error


def _build_loss(spec: str, temperature: float, label_weight: float) -> DistillationLoss:
    options = {"label_weight": label_weight} if label_weight else {}
    try:
        return build_loss(spec, temperature=temperature, **options)
    except LossError as error:
        raise ConfigError(
            f"REINFORCED.LOSS (lazy: model.loss) with REINFORCED.LABEL_WEIGHT {label_weight}: "
            f"{error}"
        ) from error


def _feed(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    convention = InputConvention(tuple(config["mean"]), tuple(config["std"]))
    expected_mean, expected_std = convention.for_range(_TOP)
    given_mean, given_std = mean or expected_mean, std or expected_std
    check_convention(
        convention,
        given_mean,
        given_std,
        top=_TOP,
        host="MODEL.PIXEL_MEAN, MODEL.PIXEL_STD (lazy: model.pixel_mean, model.pixel_std)",
    )
    return given_mean, given_std


def _log_agreement(logits: torch.Tensor, labels: torch.Tensor) -> None:
    known = labels >= 0
    try:
        storage = get_event_storage()
    except AssertionError:  # outside Detectron2's training loops
        return
    if known.any():
        correct = logits.detach().argmax(dim=-1)[known] == labels[known]
        storage.put_scalar("train_top1", 100 * correct.float().mean().item())
