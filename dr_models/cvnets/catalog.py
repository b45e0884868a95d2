"""The models that apple/ml-dr published in CVNets layout: names, key maps, input sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from dr_models.cvnets.keys import Entry
from dr_models.cvnets.mobilenet import (
    efficientnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
)
from dr_models.cvnets.mobilevit import mobilevit
from dr_models.cvnets.resnet import resnet
from dr_models.cvnets.swin import swin
from dr_models.cvnets.vit import vit


@dataclass(frozen=True)
class CVNetsModel:
    """One published architecture.

    Attributes:
        name: Name in ml-dr's configuration, such as ``resnet_50``.
        family: ``mobilenetv1``, ``mobilenetv2``, ``mobilenetv3``, ``mobilevit``, ``resnet``,
            ``efficientnet``, ``vit`` or ``swin``.
        timm: Name of this network in `dr_models`.
        entries: Key map from a checkpoint to that network.
        width: A key, an axis and its size, which distinguish the variants of a family.
        size: Side of the input in pixels.
        resize: CVNets resizes the shorter side to this length before it crops `size`.
        stock: Name and arguments of an equivalent unmodified timm network.
        stock_entries: Key map to that network if it differs from `entries`.
    """

    name: str
    family: str
    timm: str
    entries: Callable[[], Iterator[Entry]] = field(repr=False)
    width: tuple[str, int, int]
    size: int = 224
    resize: int = 256
    stock: tuple[str, dict[str, bool]] | None = None
    stock_entries: Callable[[], Iterator[Entry]] | None = field(default=None, repr=False)

    @property
    def classifier(self) -> str:
        """Prefix of the classifier's keys in the checkpoint."""
        return "classifier."


_CLASSIFIER = "classifier.classifier_fc.weight"
_LAST_CONV = "conv_1x1_exp.block.conv.weight"


def _mobilenets() -> Iterator[CVNetsModel]:
    for name, timm, features in (
        ("mobilenetv1_0.25", "cvnets_mobilenetv1_025", 256),
        ("mobilenetv1_0.5", "cvnets_mobilenetv1_050", 512),
        ("mobilenetv1_1.0", "cvnets_mobilenetv1_100", 1024),
    ):
        yield CVNetsModel(name, "mobilenetv1", timm, mobilenet_v1, (_CLASSIFIER, 1, features))
    for name, timm, features, stock in (
        ("mobilenetv2_0.25", "cvnets_mobilenetv2_025", 80, None),
        ("mobilenetv2_0.5", "cvnets_mobilenetv2_050", 160, ("mobilenetv2_050", True)),
        ("mobilenetv2_1.0", "cvnets_mobilenetv2_100", 320, ("mobilenetv2_100", False)),
    ):
        yield CVNetsModel(
            name,
            "mobilenetv2",
            timm,
            mobilenet_v2,
            (_LAST_CONV, 1, features),
            stock=stock and (stock[0], {"fix_stem_head": True} if stock[1] else {}),
        )
    for mode, features in (("small", 576), ("large", 960)):
        yield CVNetsModel(
            f"mobilenetv3_{mode}",
            "mobilenetv3",
            f"cvnets_mobilenetv3_{mode}_100",
            partial(mobilenet_v3, mode),
            ("classifier.fc1.weight", 1, features),
        )


def _mobilevits() -> Iterator[CVNetsModel]:
    for mode, suffix, features in (
        ("xx_small", "xxs", 80),
        ("x_small", "xs", 96),
        ("small", "s", 160),
    ):
        yield CVNetsModel(
            f"mobilevit_{mode}",
            "mobilevit",
            f"cvnets_mobilevit_{suffix}",
            mobilevit,
            (_LAST_CONV, 1, features),
            size=256,
            resize=288,
            stock=(f"mobilevit_{suffix}", {}),
        )


def _resnets() -> Iterator[CVNetsModel]:
    for depth, bottleneck, depths in (
        (18, False, (2, 2, 2, 2)),
        (34, False, (3, 4, 6, 3)),
        (50, True, (3, 4, 6, 3)),
        (101, True, (3, 4, 23, 3)),
        (152, True, (3, 8, 36, 3)),
    ):
        entries = partial(resnet, bottleneck, *depths)
        yield CVNetsModel(
            f"resnet_{depth}",
            "resnet",
            f"cvnets_resnet{depth}",
            entries,
            (_CLASSIFIER, 1, 2048 if bottleneck else 512),
            stock=(f"resnet{depth}", {"replace_stem_pool": True}),
            stock_entries=partial(entries, stock_stem=True),
        )


# CVNets' configurations of b2 and b3 do not crop. There are none for b4, ViT at 384 pixels and
# Swin at 384 pixels; we assume that these do not crop either.
def _efficientnets() -> Iterator[CVNetsModel]:
    for mode, stages, features, size in (
        ("b2", (2, 3, 3, 4, 4, 5, 2), 352, 288),
        ("b3", (2, 3, 3, 5, 5, 6, 2), 384, 320),
        ("b4", (2, 4, 4, 6, 6, 8, 2), 448, 380),
    ):
        yield CVNetsModel(
            f"efficientnet_{mode}",
            "efficientnet",
            f"cvnets_efficientnet_{mode}",
            partial(efficientnet, *stages),
            (_LAST_CONV, 1, features),
            size=size,
            resize=size,
        )


def _transformers() -> Iterator[CVNetsModel]:
    for mode, width, size in (
        ("tiny", 192, 224),
        ("small", 384, 224),
        ("base", 768, 224),
        ("base", 768, 384),
    ):
        yield CVNetsModel(
            f"vit_{mode}" + ("" if size == 224 else f"_{size}"),
            "vit",
            f"cvnets_vit_{mode}_patch16_{size}",
            partial(vit, (size // 16) ** 2),
            ("cls_token", 2, width),
            size=size,
            resize=232 if size == 224 else size,
        )
    for mode, width, blocks, size in (
        ("tiny", 768, 6, 224),
        ("small", 768, 18, 224),
        ("base", 1024, 18, 224),
        ("base", 1024, 18, 384),
    ):
        yield CVNetsModel(
            f"swin_{mode}" + ("" if size == 224 else f"_{size}"),
            "swin",
            f"cvnets_swin_{mode}_patch4_window7_{size}",
            partial(swin, 2, 2, blocks, 2),
            (_CLASSIFIER, 1, width),
            size=size,
            resize=256 if size == 224 else size,
        )


CVNETS_MODELS: dict[str, CVNetsModel] = {
    model.name: model
    for family in (_mobilenets, _mobilevits, _resnets, _efficientnets, _transformers)
    for model in family()
}
"""All 27 models by name."""


def canonical_name(name: str) -> str:
    """Return the catalog's spelling of a name from ml-dr's tables, folders or `dr_models`.

    Example:
        >>> canonical_name("vit-384_base_E300"), canonical_name("cvnets_resnet50.dr_in1k_plus")
        ('vit_base_384', 'resnet_50')
    """
    plain = name.partition(".dr_")[0]
    for model in CVNETS_MODELS.values():
        if plain == model.timm:
            return model.name
    plain = re.sub(r"_E\d+$", "", plain)
    return re.sub(r"^(vit|swin)-384_(\w+)$", r"\1_\2_384", plain)
