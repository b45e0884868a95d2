"""timm networks as backbones of detectors, with a pyramid of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from dr_models.activations import activation_names, check_activations
from dr_models.checkpoints import (
    BackboneWeights,
    CheckpointLocation,
    InputConvention,
    LoadRecord,
    load_backbone,
)
from dr_models.classifiers import check_name
from dr_models.cvnets.keys import is_counter
from dr_plugins.errors import BackboneError, CheckpointError

_STAGES_FROM = 4  # stride of a detector's first stage; all before it is the stem
# Options of timm's networks for one image size that make them accept any size.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})


class FeatureBackbone(nn.Module):
    """A timm network without its classifier that returns intermediate features.

    Images may have any size. If the network would fail on a size or drop the last rows and columns
    (ViT, Swin, ConvNeXt), images are padded with zeros at the bottom and on the right to a
    supported multiple. Some of timm's networks support only one size; any other size is an error. A
    checkpoint must contain every tensor of the backbone; training with frozen stages that were
    never loaded is an error.

    Args:
        model: A model of timm or of `dr_models` (``cvnets_resnet50``).
        out_indices: Indices of timm's features, from 0; negative ones count from the end. The
            default is all with a stride of at least 4, and the last for networks with a single
            scale (ViT).
        frozen_stages: As in OpenMMLab: -1 trains everything, 0 freezes the stem (all before the
            first feature of stride 4), k also freezes the first k stages. Frozen layers neither
            learn nor update statistics.
        norm_eval: Keep all batch normalization in evaluation mode.
        grad_checkpointing: Recompute activations in the backward pass to save memory.
        **kwargs: For `timm.create_model`, such as ``drop_path_rate`` and ``output_stride``.

    Attributes:
        model: Name of the model.
        options: The arguments for `timm.create_model`.
        channels: Number of channels of each feature.
        strides: Stride of each feature, in pixels of the image.
        multiple: Sides of images are padded to multiples of this; 1 if the network needs no
            padding.
        convention: timm's input convention of this model.
        load_record: Tracks whether all weights were loaded; see `is_loaded`.

    Raises:
        BackboneError: The model is unknown or has no features, or `out_indices` or
            `frozen_stages` is out of range.

    Example:
        >>> import torch
        >>> backbone = FeatureBackbone("cvnets_resnet18", out_indices=(1, 4))
        >>> [tuple(feature.shape) for feature in backbone(torch.zeros(1, 3, 64, 97))]
        [(1, 64, 16, 25), (1, 512, 2, 4)]
    """

    __jit_unused_properties__ = ("convention", "is_loaded")

    def __init__(
        self,
        model: str,
        *,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        grad_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.model, self.options = model, kwargs
        options, levels, self.multiple = _inspect(model, kwargs)
        self.out_indices = _choose(model, out_indices, levels)
        self.features = timm.create_model(
            model, features_only=True, out_indices=self.out_indices, **options
        )
        chosen = [levels[index] for index in self.out_indices]
        self.channels = [int(level["num_chs"]) for level in chosen]
        self.strides = [int(level["reduction"]) for level in chosen]
        # timm's Swin returns NHWC.
        self._channels_last = str(getattr(self.features, "output_fmt", "NCHW")).endswith("NHWC")
        self._own_size = _own_size(self.features, kwargs)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self._activations = activation_names(self.features)
        self._frozen = self._freeze(levels)
        self.load_record = LoadRecord(self.features)
        if grad_checkpointing:
            self._checkpoint_gradients()
        self.train()  # but what is frozen

    @property
    def convention(self) -> InputConvention:
        """Timm's input convention of this model."""
        config = resolve_model_data_config(self.features)
        height, width = config["input_size"][-2:]
        return InputConvention(
            tuple(config["mean"]),
            tuple(config["std"]),
            (height, width),
            config["interpolation"],
            config["crop_pct"],
        )

    @property
    def is_loaded(self) -> bool:
        """Whether every tensor was loaded, or `mark_loaded` was called."""
        return self.load_record.is_complete

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map normalized images ``[B, 3, H, W]`` to features ``[B, C_i, H / s_i, W / s_i]``.

        Heights and widths of features are rounded up.

        Raises:
            BackboneError: The network does not support this image size.
            CheckpointError: In training, stages are frozen whose weights were not loaded.
        """
        height, width = images.shape[-2], images.shape[-1]
        if self.multiple > 1:
            images = _padded(images, self.multiple)
        if torch.jit.is_scripting():
            features = self.features(images)
        else:
            features = self._checked_features(images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        if self.multiple > 1:  # remove rows and columns that see only padding
            features = [
                feature[..., : -(-height // stride), : -(-width // stride)]
                for feature, stride in zip(features, self.strides)  # noqa: B905  for TorchScript
            ]
        return features

    def _checked_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        if self.training and self.frozen_stages >= 0 and not self.is_loaded:
            raise CheckpointError(
                f"frozen_stages={self.frozen_stages} freezes stages of {self.model} with random "
                f"weights; load a checkpoint into the backbone, or set frozen_stages=-1. After "
                f"copying weights into it, call dr_models.checkpoints.mark_loaded(backbone)"
            )
        try:
            return list(self.features(images))
        except (AssertionError, IndexError, RuntimeError) as error:
            self._check_size(error, images)
            raise

    def load(self, location: CheckpointLocation | str) -> BackboneWeights:
        """Load a checkpoint of the whole network; later stages that are unused here are dropped.

        Returns:
            The weights, with the input convention that the network was trained with.

        Raises:
            CheckpointError: See `load_backbone`; or a tensor of this backbone is missing.
        """
        weights = load_backbone(location, to="timm", arch=self.model, options=self.options)
        self.load_state_dict(self.adapt(weights.state), strict=True)
        return weights

    def adapt(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rename the tensors of a whole timm network for this backbone.

        Raises:
            CheckpointError: A tensor is missing or its shape differs.
        """
        adapted = {}
        for key, value in self.state_dict().items():
            found = next((state[name] for name in _original_names(key) if name in state), None)
            if found is None and is_counter(key):
                continue
            if found is None or found.shape != value.shape:
                got = "is missing" if found is None else f"has shape {list(found.shape)}"
                raise CheckpointError(
                    f"{key} of {self.model} {got} in the checkpoint; expected shape "
                    f"{list(value.shape)}. Build the backbone with the arguments (img_size, "
                    f"in_chans, ...) of the trained network"
                )
            adapted[key] = found
        return adapted

    def train(self, mode: bool = True) -> FeatureBackbone:
        """Set the mode of all layers that are not frozen.

        Raises:
            BackboneError: A conversion of layers changed the function of the network.
        """
        check_activations(self.features, self._activations)
        super().train(mode)
        if mode:
            for name in self._frozen:
                self.features.get_submodule(name).eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _NormBase):
                        module.eval()
        return self

    def _check_size(self, error: Exception, images: torch.Tensor) -> None:
        """Raise an error about the image size if the network works with its native size."""
        if isinstance(error, torch.cuda.OutOfMemoryError) or images.ndim != 4:
            return
        size, own = tuple(images.shape[-2:]), self._own_size
        if size == own:
            return
        mode = self.training
        try:
            with torch.no_grad():
                self.eval().features(images.new_zeros(1, images.shape[1], *own))
        except Exception:  # the size is not the cause; the first error is more useful
            return
        finally:
            self.train(mode)
        raise BackboneError(
            f"{self.model} does not support images of {size[0]}×{size[1]} pixels, only of "
            f"{own[0]}×{own[1]} ({error or type(error).__name__}). Resize all images to one size "
            f"and set it (img_size, which most of these models have), or choose a model that "
            f"supports any size: convolutional networks, ViT, Swin"
        ) from error

    def _freeze(self, levels: Sequence[Mapping[str, Any]]) -> list[str]:
        """Disable the gradients of stem and stages, and return the names of their modules.

        Modules themselves are replaced by a conversion to synchronized batch normalization.
        """
        first = next(i for i, level in enumerate(levels) if level["reduction"] >= _STAGES_FROM)
        stages = len(levels) - first
        if not -1 <= self.frozen_stages <= stages:
            raise BackboneError(
                f"frozen_stages is {self.frozen_stages}; {self.model} has {stages} stages: "
                f"expected -1 to {stages}"
            )
        if self.frozen_stages < 0:
            return []
        last = first + max(self.frozen_stages - 1, 0)
        frozen = list(self._up_to(levels[last]["module"], inclusive=self.frozen_stages > 0))
        for name in frozen:
            self.features.get_submodule(name).requires_grad_(False)
        return frozen

    def _up_to(self, boundary: str, inclusive: bool) -> Iterator[str]:
        """Yield the names of modules in forward order, up to `boundary`."""
        names = dict(self.features.named_modules())
        spelled = (boundary, boundary.replace(".", "_"), f"model.{boundary}")
        boundary = next((name for name in spelled if name in names), "")
        if not boundary:
            raise BackboneError(
                f"cannot find where the stages of {self.model} end; set frozen_stages=-1"
            )
        for name, module in names.items():
            if name == boundary:
                if inclusive:
                    yield name
                return
            if name and not boundary.startswith(f"{name}."):
                yield name
            else:  # contains the boundary; direct parameters, such as positions, are of the stem
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
        raise AssertionError(boundary)

    def _checkpoint_gradients(self) -> None:
        network: Any = getattr(self.features, "model", self.features)
        if not hasattr(network, "set_grad_checkpointing"):
            raise BackboneError(
                f"{self.model} does not support grad_checkpointing; set it to False"
            )
        network.set_grad_checkpointing(True)


def _inspect(
    model: str, kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Mapping[str, Any]], int]:
    """Return arguments that enable any image size, timm's info on each feature, and `multiple`."""
    check_name(model)
    failed: Exception | None = None
    for extra in (*_ANY_SIZE, {}):
        options = {**extra, **kwargs}
        try:
            with torch.device("meta"):
                network: Any = timm.create_model(model, features_only=True, **options)
            levels = list(network.feature_info.info)
        except (TypeError, RuntimeError, AttributeError, AssertionError, ValueError) as error:
            failed = error
        else:
            return options, levels, _multiple(network, _own_size(network, kwargs))
    raise BackboneError(
        f"{model} cannot be built as a backbone with {dict(kwargs)}: {failed}. Choose a model that "
        f"timm.create_model(..., features_only=True) accepts"
    ) from failed


def _own_size(network: Any, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the images that a network was built for."""
    size = kwargs.get("img_size") or resolve_model_data_config(network)["input_size"][-2:]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _multiple(network: Any, own_size: tuple[int, int]) -> int:
    """Return the smallest step of image sizes at which features cover every pixel.

    Tried out with tensors without memory: networks that round up support any size; others fail or
    drop the remainder unless a stride divides the size.
    """
    strides = [int(stride) for stride in network.feature_info.reduction()]
    coarsest = max(strides)
    height, width = (-(-side // coarsest) * coarsest for side in own_size)
    network.eval()
    channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
    # The last step is for networks that cut their coarsest features into 2×2 patches (MobileViTv2).
    steps = [step for step in range(1, coarsest + 1) if coarsest % step == 0]
    for step in (*steps, 2 * coarsest):
        sides = (height + step, width + step)
        with torch.no_grad():
            try:
                features = network(torch.zeros(1, _channels(network), *sides, device="meta"))
            except Exception:  # timm's networks raise various types
                continue
        expected = [[-(-side // stride) for side in sides] for stride in strides]
        found = [list(f.shape[1:3] if channels_last else f.shape[2:]) for f in features]
        if found == expected:
            return step
    return 1


def _channels(network: nn.Module) -> int:
    return next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))


def _padded(images: torch.Tensor, multiple: int) -> torch.Tensor:
    height, width = images.shape[-2], images.shape[-1]
    below = (multiple - height % multiple) % multiple
    right = (multiple - width % multiple) % multiple
    return F.pad(images, (0, right, 0, below))


def _choose(
    model: str, indices: Sequence[int] | None, levels: Sequence[Mapping[str, Any]]
) -> tuple[int, ...]:
    if indices is None:
        if len({level["reduction"] for level in levels}) == 1:
            return (len(levels) - 1,)
        return tuple(i for i, level in enumerate(levels) if level["reduction"] >= _STAGES_FROM)
    chosen = tuple(index + len(levels) if index < 0 else index for index in indices)
    if (
        not chosen
        or list(chosen) != sorted(set(chosen))
        or not 0 <= chosen[0] <= chosen[-1] < len(levels)
    ):
        raise BackboneError(
            f"out_indices is {list(indices)}; {model} has features 0 to {len(levels) - 1}, with "
            f"strides {[level['reduction'] for level in levels]}: expected some of them, ascending"
        )
    return chosen


def _original_names(key: str) -> tuple[str, ...]:
    """Return possible names in the whole network of a tensor in timm's feature extractor."""
    name = key.removeprefix("features.")
    first, dot, rest = name.partition(".")
    # Extractors join the names of a sequence and its child with an underscore.
    parted = (
        f"{first[:place]}.{first[place + 1 :]}{dot}{rest}"
        for place, letter in enumerate(first)
        if letter == "_"
    )
    return (name, name.removeprefix("model."), *parted)
