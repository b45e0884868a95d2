"""Swin's averaged checkpoints: rebuilt position indices, or the published behaviour."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from dr_models.checkpoints import convert_state_dict
from dr_models.families.swin.position_index import (
    damaged_indices,
    window_index,
    with_stored_indices,
)
from dr_plugins.errors import CheckpointError
from tests.dr_models.checkpoints.networks import cvnets_state

INDEX = "layer_1.0.attn.1.relative_position_index"
TABLE = "layer_1.0.attn.1.relative_position_bias_table"


def averaged(index: torch.Tensor, steps: int = 1) -> torch.Tensor:
    """CVNets' moving average, momentum 0.0005, which truncates where the buffer holds integers."""
    average = index.clone()
    for _ in range(steps):
        average.copy_(average * (1 - 0.0005) + 0.0005 * index)
    return average


@pytest.fixture(scope="module")
def swin() -> dict[str, torch.Tensor]:
    return cvnets_state("swin_tiny")


@pytest.fixture(scope="module")
def damaged(swin: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key: averaged(value) if key.endswith("_index") else value for key, value in swin.items()
    }


def test_the_index_is_torchvisions() -> None:
    theirs = ShiftedWindowAttention(8, [7, 7], [0, 0], 1).relative_position_index
    assert torch.equal(window_index(), theirs)


def test_averaging_does_the_damage_that_was_measured(damaged: dict[str, torch.Tensor]) -> None:
    found = damaged_indices(damaged)
    assert len(found) == 12
    wrong = window_index() != damaged[INDEX]
    assert set(found.values()) == {int(wrong.sum())}
    assert int(wrong.sum()) / 2401 == pytest.approx(0.33, abs=0.005)
    assert len(set(window_index()[wrong].tolist())) == 51
    assert torch.equal(averaged(window_index(), steps=500), damaged[INDEX])


def test_indices_are_rebuilt_unless_asked_otherwise(
    swin: dict[str, torch.Tensor], damaged: dict[str, torch.Tensor]
) -> None:
    intact, whole = convert_state_dict(swin, "swin_tiny")
    rebuilt, report = convert_state_dict(damaged, "swin_tiny")
    assert whole.notes == []
    assert "12 relative_position_index buffers are damaged" in report.notes[0]
    assert all(torch.equal(rebuilt[key], intact[key]) for key in intact)
    same, _ = convert_state_dict(swin, "swin_tiny", stored_indices=True)
    assert all(torch.equal(same[key], intact[key]) for key in intact)


def test_stored_indices_give_the_published_function(damaged: dict[str, torch.Tensor]) -> None:
    timm = pytest.importorskip("timm")
    rebuilt, report = convert_state_dict(damaged, "swin_tiny")
    published, _ = convert_state_dict(damaged, "swin_tiny", stored_indices=True)
    oracle, model = (timm.create_model(report.model).eval() for _ in range(2))
    oracle.load_state_dict(rebuilt)
    for module in oracle.modules():
        if hasattr(module, "relative_position_index"):
            module.relative_position_index.copy_(damaged[INDEX].view(49, 49))
    model.load_state_dict(published)
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(model(image), oracle(image))
        model.load_state_dict(rebuilt)
        assert not torch.equal(model(image), oracle(image))


def test_the_input_stays_as_it_is(damaged: dict[str, torch.Tensor]) -> None:
    before = damaged[TABLE].clone()
    changed = with_stored_indices(damaged)
    assert torch.equal(damaged[TABLE], before)
    assert torch.equal(changed[TABLE][window_index()], before[damaged[INDEX]])


def test_indices_that_no_table_can_stand_in_for(swin: dict[str, torch.Tensor]) -> None:
    odd = swin[INDEX].clone()
    odd[0] -= 1  # one pair at distance 0 out of 49
    with pytest.raises(CheckpointError, match=r"relative_position_index.*rows"):
        convert_state_dict({**swin, INDEX: odd}, "swin_tiny", stored_indices=True)
    with pytest.raises(CheckpointError, match=r"relative_position_index.*169 rows"):
        convert_state_dict({**swin, INDEX: odd + 500}, "swin_tiny", stored_indices=True)
    with pytest.raises(CheckpointError, match=r"16 .*2401"):
        convert_state_dict({**swin, INDEX: window_index(2)}, "swin_tiny")
    _, report = convert_state_dict({**swin, INDEX: odd}, "swin_tiny")
    assert "1 relative_position_index buffers" in report.notes[0]
