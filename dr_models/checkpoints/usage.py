"""Instructions for loading a converted file with the host's own API."""

from __future__ import annotations

from typing import Any

from dr_models.checkpoints import hosts
from dr_models.cvnets.inputs import InputConvention
from dr_models.cvnets.report import ConversionReport

_TOP = 255


def how_to_load(report: ConversionReport, inputs: InputConvention) -> str:
    """Return code (timm, torchvision), a config (MMEngine's hosts) or settings (Detectron2).

    Args:
        report: Report of the conversion that wrote the file.
        inputs: Input convention of the file.

    Example:
        >>> report = ConversionReport("resnet50", "timm", "detectron2", "build_resnet_backbone",
        ...                           {"MODEL.RESNETS.DEPTH": 50}, out="r50.pth")
        >>> print(how_to_load(report, InputConvention()))
        MODEL.WEIGHTS "r50.pth"
        MODEL.RESNETS.DEPTH 50
        INPUT.FORMAT "RGB"
        MODEL.PIXEL_MEAN [123.675,116.28,103.53]
        MODEL.PIXEL_STD [58.395,57.12,57.375]
    """
    lines = {
        "timm": _timm,
        "torchvision": _torchvision,
        "mmengine": _mmengine,
        "detectron2": _detectron2,
    }[report.to](report, inputs)
    return "\n".join(lines)


def _timm(report: ConversionReport, inputs: InputConvention) -> list[str]:
    arguments = {"num_classes": report.num_classes, **report.model_kwargs}
    images = {"mean": inputs.mean, "std": inputs.std}
    defaults = hosts.timm_defaults(report.model)
    if any(tuple(defaults.get(name, value)) != value for name, value in images.items()):
        arguments["pretrained_cfg_overlay"] = images  # which timm's transforms use
    is_ours = report.model.startswith("cvnets_")
    imports = "import dr_models.networks, timm" if is_ours else "import timm"
    return [
        imports,
        f"model = timm.create_model({report.model!r}, {_arguments(arguments)}, "
        f"checkpoint_path={report.out!r})",
    ]


def _torchvision(report: ConversionReport, inputs: InputConvention) -> list[str]:
    arguments = {"num_classes": report.num_classes} if report.num_classes else {}
    arguments = {**arguments, **report.model_kwargs}
    strict = "" if report.num_classes else ", strict=False"  # the file has no classifier
    _, ours, name = report.model.rpartition("dr_plugins:")
    build, imports = "torchvision.models.get_model", "import torchvision"
    if ours:
        build, imports = (
            "torchvision_model",
            "from dr_models.checkpoints import torchvision_model",
        )
    return [
        imports,
        "from safetensors.torch import load_file",
        f"model = {build}({', '.join(filter(None, [repr(name), _arguments(arguments)]))})",
        f"model.load_state_dict(load_file({report.out!r}){strict})",
    ]


def _mmengine(report: ConversionReport, inputs: InputConvention) -> list[str]:
    mean, std = (list(values) for values in inputs.for_range(_TOP))
    return [
        "model = dict(",
        "    backbone=dict(",
        f"        type={report.model!r}, {_arguments(report.model_kwargs)},",
        f'        init_cfg=dict(type="Pretrained", checkpoint={report.out!r}),',
        "    ),",
        f"    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),",
        ")",
    ]


def _detectron2(report: ConversionReport, inputs: InputConvention) -> list[str]:
    mean, std = inputs.for_range(_TOP)
    settings = {
        "MODEL.WEIGHTS": report.out,
        **report.model_kwargs,
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": list(mean),
        "MODEL.PIXEL_STD": list(std),
    }
    return [f"{key} {_setting(value)}" for key, value in settings.items()]


def _setting(value: Any) -> str:
    """Format a value for a command line, without spaces."""
    return f'"{value}"' if isinstance(value, str) else str(value).replace(" ", "")


def _arguments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
