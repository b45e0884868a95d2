from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dr_plugins.errors import TeacherError
from dr_plugins.generation.teacher_schemes import load_teacher
from dr_plugins.generation.teachers import Ensemble, weights_digest
from tests.tiny import TinyTeacher

VIEWS = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, independent of torch."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_an_ensemble_is_the_mean_of_softmax_outputs(temperature: float) -> None:
    teachers = [TinyTeacher(7, seed=s) for s in range(3)]
    logits = [t(VIEWS).detach().double().numpy() for t in teachers]
    expected = np.mean([softmax(x / temperature) for x in logits], axis=0)
    probs = Ensemble(teachers, temperature)(VIEWS)
    assert (probs.dtype, probs.shape) == (torch.float32, (5, 7))
    np.testing.assert_allclose(probs, expected, atol=1e-6)


class Network(nn.Module):
    """With what distinguishes training from evaluation, and float32 from bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.linear = nn.Linear(192, 4)
        self.linear.weight.data = torch.randn(4, 192, generator=generator) / 14
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.seen: torch.dtype | None = None

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        logits = self.linear(views.flatten(1).float() / 255)
        self.seen = logits.dtype
        return self.dropout(self.norm(logits))


def test_teachers_are_in_evaluation_mode_and_do_not_learn() -> None:
    network = Network().train()
    ensemble = Ensemble([network])
    assert not network.training
    assert not any(p.requires_grad for p in ensemble.parameters())
    first = ensemble(VIEWS)
    torch.testing.assert_close(ensemble(VIEWS), first, rtol=0, atol=0)
    assert int(network.norm.num_batches_tracked) == 0


def test_mixed_precision_on_the_cpu() -> None:
    network = Network()
    exact = Ensemble([network])(VIEWS)
    assert network.seen == torch.float32
    mixed = Ensemble([network], autocast=torch.bfloat16)(VIEWS)
    assert network.seen == torch.bfloat16
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.sum(1), torch.ones(5))
    assert 0 < float((mixed - exact).abs().max()) < 0.02


def test_answers_without_waiting_are_the_same_but_unchecked() -> None:
    ensemble = Ensemble([TinyTeacher(7), TinyTeacher(7, seed=1)], 2.0)
    assert torch.equal(ensemble.answerer(5)(VIEWS), ensemble(VIEWS))
    broken = Ensemble([TinyTeacher()])
    broken.teachers[0].weights.data[:] = torch.nan
    assert broken.answerer(5)(VIEWS).isnan().all()
    with pytest.raises(TeacherError, match="not finite"):
        broken(VIEWS)


def test_compiled_teachers_answer_batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    ensemble = Ensemble([TinyTeacher(7), TinyTeacher(7, seed=1)], compiled=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        answer = ensemble.answerer(5)
        for count in (5, 2, 4, 1):
            torch.testing.assert_close(answer(VIEWS[:count]), ensemble(VIEWS)[:count])
    assert sorted(ensemble.state_dict()) == ["teachers.0.weights", "teachers.1.weights"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_teachers_on_the_cpu() -> None:
    ensemble = Ensemble([Network()], autocast=torch.bfloat16, compiled=True)
    torch.testing.assert_close(ensemble.answerer(8)(VIEWS), ensemble(VIEWS), atol=0.01, rtol=0)


def test_infinite_logits_are_fine_as_long_as_one_is_finite() -> None:
    class Masked(nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, -torch.inf, 0.0]]).expand(len(views), 3)

    assert Ensemble([Masked()])(VIEWS)[0].tolist() == [0.5, 0.0, 0.5]


def test_teachers_of_different_classes() -> None:
    with pytest.raises(TeacherError, match="3 and 4 classes"):
        Ensemble([TinyTeacher(3), TinyTeacher(4)])(VIEWS)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_are_positive_and_finite(temperature: float) -> None:
    with pytest.raises(TeacherError, match="temperature above 0"):
        Ensemble([TinyTeacher()], temperature)


def test_a_teacher_that_changes_its_input_does_not_change_that_of_others() -> None:
    class Inverting(TinyTeacher):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return super().forward(views.bitwise_not_())

    expected = (Ensemble([Inverting(seed=1)])(VIEWS.clone()) + Ensemble([TinyTeacher()])(VIEWS)) / 2
    for teachers in ([Inverting(seed=1), TinyTeacher()], [TinyTeacher(), Inverting(seed=1)]):
        torch.testing.assert_close(Ensemble(teachers)(VIEWS.clone()), expected)


def test_quantized_teachers_cannot_be_recognized() -> None:
    class Packed(TinyTeacher):
        def get_extra_state(self) -> object:
            return ("packed",)

    with pytest.raises(TeacherError, match=r"_extra_state .* a tuple"):
        weights_digest(Packed())


def test_a_device_without_memory() -> None:
    class Large(nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(TeacherError, match=r"cpu .* 5 views: CUDA out of memory.*--batch-size"):
        Ensemble([Large()]).answerer(8)(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))


def test_no_teacher_at_all() -> None:
    with pytest.raises(TeacherError, match="0 teachers"):
        Ensemble([])


def test_a_python_teacher() -> None:
    assert isinstance(load_teacher("python:tests.tiny:build_teacher"), TinyTeacher)
    assert isinstance(load_teacher("python:tests.tiny:TinyTeacher"), TinyTeacher)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:no_such_module:f", "No module named 'no_such_module'"),
        ("python:tests.tiny:no_such_function", "no_such_function"),
        ("python:tests.tiny", "Expected python:MODULE:FUNCTION"),
        ("python::build_teacher", "Expected python:MODULE:FUNCTION"),
        ("python:.tiny:build_teacher", "Expected python:MODULE:FUNCTION"),
        ("python:tests.tiny:photograph", "missing a required argument: 'seed'"),
        ("python:tests.tiny:CLASSES", "not a callable object"),
        ("python:tests.tiny:policy", "returned Policy, not a Module"),
        ("python:", "python, timm"),
        ("timm", "python, timm"),
        ("keras:resnet50", "'keras:resnet50'"),
        ("", "teacher ''"),
    ],
)
def test_specifications_that_name_no_teacher(spec: str, message: str) -> None:
    with pytest.raises(TeacherError) as error:
        load_teacher(spec)
    assert message in str(error.value)


def test_an_error_in_the_users_own_code_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_teacher.py").write_text("def build():\n    return {}['weights']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyError, match="weights"):
        load_teacher("python:broken_teacher:build")


def test_a_missing_extension_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm_ext.teachers", None)
    with pytest.raises(TeacherError) as error:
        load_teacher("timm:resnet18")
    assert "teacher 'timm:resnet18' needs the timm extension" in str(error.value)
    assert "pip install dr-plugins[timm]" in str(error.value)


def test_the_digest_sees_every_weight_and_buffer() -> None:
    network = Network()
    network.linear.bias.data.zero_()
    same = Network()
    same.linear.bias.data.zero_()
    assert weights_digest(network) == weights_digest(same)
    assert len(weights_digest(network)) == 16
    seen = {weights_digest(network)}
    same.norm.running_mean[2] += 1e-7
    seen.add(weights_digest(same))
    same.norm.num_batches_tracked += 1
    seen.add(weights_digest(same))
    seen.add(weights_digest(same.to(torch.bfloat16)))
    seen.add(weights_digest(nn.Sequential(network)))
    assert len(seen) == 5


class Answers(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        logits = torch.linspace(-3, 3, len(views) * 5).view(-1, 5)
        kinds = {"logits": logits, "probs": logits.softmax(1), "log_probs": logits.log_softmax(1)}
        return {**kinds, "half": logits.softmax(1).bfloat16(), "positive": logits + 4}[self.kind]


@pytest.mark.parametrize("kind", ["probs", "half"])
def test_probabilities_are_not_taken_for_logits(kind: str) -> None:
    with pytest.raises(TeacherError, match=r"answers are probabilities .*return logits"):
        Ensemble([Answers(kind)])(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["logits", "log_probs", "positive"])
def test_all_other_numbers_are_logits(kind: str) -> None:
    probs = Ensemble([Answers(kind)])(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    torch.testing.assert_close(probs, torch.linspace(-3, 3, 15).view(3, 5).softmax(1))
