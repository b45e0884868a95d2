"""A timm model to evaluate: by name, with its own weights or those of a checkpoint."""

from __future__ import annotations

import json
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import timm
import timm.data
from torch import nn

from dr_models.checkpoints.backbone import load_backbone
from dr_models.checkpoints.convention import is_converted
from dr_models.checkpoints.files import read_file
from dr_models.checkpoints.network_name import script_options
from dr_models.checkpoints.network_record import options_of_train_py
from dr_models.checkpoints.values import digest
from dr_models.classifiers import check_name, create_classifier
from dr_models.cvnets.inputs import InputConvention
from dr_plugins.errors import CheckpointError, EvaluationError
from dr_plugins.evaluation import ImageNetClasses, ModelUnderTest

_HUB = ("hf-hub:", "hf_hub:")  # in such names `@` precedes a revision
# Of train.py's arguments, those that decide how images are prepared.
_RECORDED = ("img_size", "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def load_model(
    spec: str, *, img_size: int | None = None, crop_pct: float | None = None
) -> ModelUnderTest:
    """Create a model of timm with weights.

    Args:
        spec: ``NAME`` for timm's pretrained weights, ``NAME@FILE`` for those of a checkpoint.
        img_size: Side of its images; None for that of the validation in train.py if the checkpoint
            is of train.py, else for what it records, else for timm's test size.
        crop_pct: Part that the centre crop keeps; None as for `img_size`.

    Returns:
        The model, named ``NAME`` or ``NAME@FOLDER_STEM``.

    Raises:
        BackboneError: timm has no such model.
        CheckpointError: The checkpoint is not whole, or of another model; pretrained weights cannot
            be loaded.
        EvaluationError: The network takes images of another size only.
    """
    name, _ = _parts(spec)
    network, recorded = trained_network(spec)
    given = {"img_size": img_size, "crop_pct": crop_pct}
    options = {**(recorded or {}), **{k: v for k, v in given.items() if v is not None}}
    if img_size is not None:
        options.pop("input_size", None)
    # A training validates at the size it trains at; published results are at the test size.
    config = timm.data.resolve_data_config(options, model=network, use_test_size=recorded is None)
    _check_size(name, network, config["input_size"])
    return ModelUnderTest(
        model_name(spec),
        network,
        timm.data.create_transform(**config, is_training=False),
        timm.data.create_transform(
            **{**config, "crop_pct": 1.0, "crop_mode": "center"}, is_training=False
        ),
        {"weights": digest(network.state_dict(), {}), "input": config},
    )


def model_name(spec: str) -> str:
    """The name of a model in reports; see `load_model`.

    Example:
        >>> model_name("resnet50@runs/plain/last.pth.tar")
        'resnet50@plain_last'
    """
    name, file = _parts(spec)
    if file is None:
        return name
    # With its folder: train.py calls every run's file the same.
    return f"{name}@{file.absolute().parent.name}_{file.name.partition('.')[0]}"


def trained_network(spec: str) -> tuple[nn.Module, dict[str, Any] | None]:
    """Create a network with trained weights.

    Args:
        spec: See `load_model`.

    Returns:
        The network; and what its checkpoint records of its images, as arguments of timm's
        `resolve_data_config`, or None if it records nothing.

    Raises:
        BackboneError: timm has no such model.
        CheckpointError: See `load_model`.
    """
    name, file = _parts(spec)
    return (_pretrained(name), None) if file is None else _from_checkpoint(name, file)


def _parts(spec: str) -> tuple[str, Path | None]:
    """A model's name, and the file of its weights."""
    name, at, file = spec.partition("@")
    path = Path(file).expanduser() if at else None
    if not spec.startswith(_HUB):
        return name, path
    if path is not None and path.is_file():
        raise CheckpointError(
            f"{spec}: in names of the Hub, @ precedes a revision, and {file} is a file. Give its "
            f"weights to timm's name of the network, such as resnet50@{file}"
        )
    return spec, None


def imagenet_classes() -> ImageNetClasses:
    """The classes of ImageNet and its variants, as timm lists them."""

    def read(name: str) -> str:
        content = pkgutil.get_data("timm.data", f"_info/{name}")
        if content is None:
            raise EvaluationError(f"timm {timm.__version__} has no file {name}; install it again")
        return content.decode()

    return ImageNetClasses(
        wnids=read("imagenet_synsets.txt").split(),
        r=read("imagenet_r_synsets.txt").split(),
        a=read("imagenet_a_synsets.txt").split(),
        real=json.loads(read("imagenet_real_labels.json")),
    )


def _pretrained(name: str) -> nn.Module:
    if not name.startswith((*_HUB, "local-dir:")):
        check_name(name)
    try:
        with warnings.catch_warnings():
            # timm 1.0.31 takes ig_resnext101_32x48d for a network of a tenth of its size.
            warnings.filterwarnings("error", "Mapping deprecated model name", UserWarning)
            network: nn.Module = timm.create_model(name, pretrained=True)
    except UserWarning as warning:
        raise CheckpointError(
            f"{name} is out of date, and timm {timm.__version__} may take it for another network: "
            f"{warning} If that is the one you mean, give its name"
        ) from warning
    # Without network, timm, its hub client and torch.hub raise many types.
    except Exception as error:
        file = "NAME@FILE, with timm's NAME" if name.startswith(_HUB) else f"{name}@FILE"
        raise CheckpointError(
            f"the pretrained weights of {name} cannot be loaded: {str(error).rstrip('.')}. Check "
            f"the network, or give a file: {file}"
        ) from error
    return network


def _from_checkpoint(name: str, path: Path) -> tuple[nn.Module, dict[str, Any] | None]:
    check_name(name)
    content, metadata = read_file(path)
    values = script_options(content) if isinstance(content, dict) else {}
    options = options_of_train_py(values) or {}
    weights = load_backbone(str(path), to="timm", arch=name, options=options, whole=True)
    classes, stated = weights.report.num_classes, weights.report.model
    if not classes:
        raise CheckpointError(f"{path} has no classifier; give a checkpoint of the whole network")
    if "." in stated:  # with a tag of timm's pretrained weights, which may have another mean
        network: nn.Module = timm.create_model(stated, num_classes=classes, **options)
    else:
        network = create_classifier(name, classes, **options)
    missing, unexpected = network.load_state_dict(weights.state, strict=False)
    lost = [key for key in missing if not key.endswith("num_batches_tracked")] + unexpected
    if lost:
        raise CheckpointError(f"{path} does not fit {name}: {', '.join(lost[:5])}")
    if is_converted(metadata) or weights.report.layout == "cvnets":
        return network, _arguments(weights.convention)
    if "img_size" not in values:  # not of timm's train.py
        return network, None
    return network, {key: values[key] for key in _RECORDED if values.get(key) is not None}


def _check_size(name: str, network: nn.Module, size: tuple[int, ...]) -> None:
    default: Any = network.pretrained_cfg
    if default.get("fixed_input_size") and tuple(default["input_size"]) != tuple(size):
        raise EvaluationError(
            f"{name} takes images of {default['input_size'][-1]} pixels only, but {size[-1]} are "
            f"asked for, by --img-size or by what its checkpoint records; evaluate it at its size"
        )


def _arguments(convention: InputConvention) -> dict[str, Any]:
    return {
        "input_size": (3, *convention.input_size),
        "mean": convention.mean,
        "std": convention.std,
        "interpolation": convention.interpolation,
        "crop_pct": convention.crop_pct,
    }
