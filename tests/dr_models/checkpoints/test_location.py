from __future__ import annotations

from pathlib import Path

import pytest

from dr_models.checkpoints import CheckpointLocation
from dr_plugins.errors import CheckpointError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("best.pt", CheckpointLocation("best.pt")),
        ("a?b.pt", CheckpointLocation("a?b.pt")),
        ("imagenet-plus://best.pt", CheckpointLocation("best.pt")),
        ("imagenet-plus:///data/best.pt", CheckpointLocation("/data/best.pt")),
        (
            "imagenet-plus://a/best.pt?source=cvnets&arch=swin-384_base",
            CheckpointLocation("a/best.pt", "cvnets", "swin-384_base"),
        ),
        ("imagenet-plus://a?b.pt", CheckpointLocation("a?b.pt")),
        ("imagenet-plus://lr?0.1/a#b%20c d.pt", CheckpointLocation("lr?0.1/a#b%20c d.pt")),
        ("imagenet-plus://run?lr=1/a.pt", CheckpointLocation("run?lr=1/a.pt")),
        ("imagenet-plus://a?b.pt?arch=x", CheckpointLocation("a?b.pt", arch="x")),
        ("imagenet-plus://C:\\a.pt?arch=x", CheckpointLocation("C:\\a.pt", arch="x")),
        ("imagenet-plus://x?weights=plain", CheckpointLocation("x", averaged=False)),
        ("imagenet-plus://x?weights=averaged", CheckpointLocation("x", averaged=True)),
        ("imagenet-plus://x?stored_indices=1", CheckpointLocation("x", stored_indices=True)),
        (
            "imagenet-plus://x?new_keys=*.offset.*,gate.weight",
            CheckpointLocation("x", new_keys=("*.offset.*", "gate.weight")),
        ),
    ],
)
def test_parse(text: str, expected: CheckpointLocation) -> None:
    assert CheckpointLocation.parse(text) == expected


def test_options_of_the_text_override_defaults() -> None:
    place = CheckpointLocation.parse("imagenet-plus://x?source=timm", source="cvnets", arch="y")
    assert place == CheckpointLocation("x", "timm", "y")
    assert CheckpointLocation.parse("x", source="timm") == CheckpointLocation("x", "timm")


def test_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert CheckpointLocation.parse("imagenet-plus://~/x.pt").file == Path("/somewhere/x.pt")


def test_a_file_of_that_whole_name_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CheckpointLocation.parse("imagenet-plus://a?arch=x").arch == "x"
    Path("a?arch=x").touch()
    assert CheckpointLocation.parse("imagenet-plus://a?arch=x") == CheckpointLocation("a?arch=x")


def test_a_home_directory_that_nobody_has_is_a_name() -> None:
    place = CheckpointLocation.parse("imagenet-plus://~nobody-of-that-name/x.pt")
    assert place.file == Path("~nobody-of-that-name/x.pt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagenet-plus://x?sorce=timm", r"sorce=timm.*source="),
        ("imagenet-plus://x?source=", ": source= "),
        ("imagenet-plus://x?source=keras", "'keras'.*auto, cvnets"),
        ("imagenet-plus://x?weights=ema", r"weights=ema .*averaged"),
        ("imagenet-plus://x?new_keys=a,", r"new_keys=a, .*NAME"),
        ("imagenet-plus://x?arch=a&arch=b", r"arch=a&arch=b"),
        ("imagenet-plus://", "is empty"),
        ("imagenet-plus://?arch=a", "is empty"),
        ("", "is empty"),
    ],
)
def test_what_is_not_understood(text: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        CheckpointLocation.parse(text)
