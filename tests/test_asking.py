"""The loop of every experiment: what a failed question leaves behind."""

import weakref
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny
import torch

from interventions.asking import ask
from interventions.forward import in_session
from interventions.parameters import ParameterError
from interventions.testbed import Item

MODEL = SimpleNamespace(name="none", is_multimodal=True, concurrency=1, key=lambda: {"model": "none"})


def items(n: int = 3) -> list[Item]:
    return [Item(id=f"q{i}", part="known", question=f"Question {i}?", image=None, answers=("Lima",)) for i in range(n)]


def asked(compute, tmp_path, **options):
    return ask(MODEL, items(), compute, key={}, purpose=("trace", "traced"), results_dir=tmp_path, **options)


def out_of_memory(lm, request: dict):
    """Fails inside a forward, as a trace that does not fit does, while it holds tensors."""
    held = torch.zeros(3)
    request["seen"](held)
    with lm.trace(input_ids=torch.tensor([[5, 6]])):
        inside = lm.layers[0].mlp.output
        request["seen"](inside)
        raise torch.OutOfMemoryError("out of memory")


def fails_in_a_trace(see) -> None:
    in_session(tiny.build().traced, out_of_memory, {"seen": see})


def fails_because_another_did(see) -> None:
    def first() -> None:
        held = torch.zeros(3)
        see(held)
        raise ValueError("one")

    try:
        first()
    except ValueError as error:
        raise RuntimeError("other") from error


@pytest.mark.parametrize("fails", [fails_in_a_trace, fails_because_another_did])
def test_nothing_that_a_failed_question_held_is_kept(fails, tmp_path):
    """Not on a GPU that it has filled: neither by the error that is kept, nor by what led to it."""
    seen = []

    def compute(item):
        if item.id == "q0":
            fails(lambda tensor: seen.append(weakref.ref(tensor)))
        assert seen and not any(held() is not None for held in seen)
        return pd.DataFrame([{"reason": ""}])

    assert [entry.reason.partition(":")[0] for entry in asked(compute, tmp_path)] == ["failed", "", ""]


def test_an_error_that_is_raised_in_the_end_tells_where_it_came_from(tmp_path):
    with pytest.raises(RuntimeError, match="other") as error:
        asked(lambda item: fails_because_another_did(lambda tensor: None), tmp_path)
    [note] = error.value.__notes__
    assert "in fails_because_another_did" in note
    assert 'raise ValueError("one")' in error.value.__cause__.__notes__[0]


def test_a_required_question_that_fails_names_its_fault(tmp_path):
    fault = RuntimeError("out of luck")

    def compute(item):
        raise fault

    with pytest.raises(ParameterError, match="'q0' cannot be traced, failed: RuntimeError") as error:
        asked(compute, tmp_path, required=True)
    assert error.value.__cause__ is fault


def test_progress_knows_what_was_read_back(tmp_path, monkeypatch):
    steps = []
    watched = SimpleNamespace(step=lambda note, stored: steps.append(stored), close=lambda note: None)
    monkeypatch.setattr("interventions.asking.Progress", lambda *_: watched)
    asked(lambda item: pd.DataFrame([{"reason": "" if item.id == "q0" else "no"}]), tmp_path)
    asked(lambda item: None, tmp_path)
    assert steps == [False] * 3 + [True] * 3
