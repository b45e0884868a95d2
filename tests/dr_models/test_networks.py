from __future__ import annotations

import pytest

pytest.importorskip("timm")

from dr_models.classifiers import classifier_names, create_classifier
from dr_plugins.errors import BackboneError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("fc",)),
        ("cvnets_mobilenetv3_small_100", ("classifier",)),
        ("deit_tiny_distilled_patch16_224", ("head", "head_dist")),
    ],
)
def test_what_depends_on_the_number_of_classes(name: str, expected: tuple[str, ...]) -> None:
    network = create_classifier(name, 7)
    assert classifier_names(network) == expected
    sizes = {network.get_submodule(part).out_features for part in expected}
    assert sizes == {7}


def test_our_networks_are_functions_of_timm() -> None:
    from timm.models import model_entrypoint

    import dr_models.networks  # noqa: F401 - registers them

    assert model_entrypoint("cvnets_mobilenetv3_small_100")(num_classes=3).num_classes == 3


def test_names_and_options_that_timm_does_not_have() -> None:
    with pytest.raises(BackboneError, match=r"'resnet5'.*resnet\d\d"):
        create_classifier("resnet5", 7)
    with pytest.raises(BackboneError, match=r"q+.*timm\.list_models"):
        create_classifier("qqqqqqq", 7)
    with pytest.raises(BackboneError, match=r"resnet18.*depht"):
        create_classifier("resnet18", 7, depht=3)


def test_variants_that_are_fed_otherwise_must_not_train_unrecorded() -> None:
    with pytest.raises(BackboneError, match=r"mean \(0\.485"):
        create_classifier("vit_small_patch16_224.dino", 7)
    create_classifier("resnet18.a1_in1k", 7)
