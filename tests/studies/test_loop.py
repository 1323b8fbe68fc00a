"""The loop of every experiment: what a failed question leaves behind."""

import errno
import weakref
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny
import torch

import interventions.files as files
from interventions.engine.forward import in_session
from interventions.errors import (
    AttentionError,
    EditError,
    JobFailed,
    ParameterError,
    PromptError,
    RunStopped,
    TraceError,
    Unusable,
)
from interventions.studies.loop import RunOptions, question_loop
from interventions.testbed import Item, TestBedError

MODEL = SimpleNamespace(
    name="none", is_multimodal=True, device="cpu", server=None, key=lambda: {"model": "none"}
)


def items(n: int = 3) -> list[Item]:
    return [Item(id=f"q{i}", part="known", question=f"Question {i}?", image=None, answers=("Lima",)) for i in range(n)]


def asked(compute, tmp_path, required=False, **options):
    purpose = ("trace", "traced")
    run = RunOptions(results_dir=tmp_path, required=required)
    return question_loop(
        MODEL, items(), compute, key={"table": "edit", "version": 2}, purpose=purpose, run=run, **options
    )


def not_as_asked(lm, request: dict):
    """Fails inside a forward, as a trace that cannot be run does, while it holds tensors."""
    held = torch.zeros(3)
    request["seen"](held)
    with lm.trace(input_ids=torch.tensor([[5, 6]])):
        inside = lm.layers[0].mlp.output
        request["seen"](inside)
        raise request["error"]


def fails_in_a_trace(see, error) -> None:
    in_session(tiny.build().traced, not_as_asked, {"seen": see, "error": error})


def fails_because_another_did(see, error) -> None:
    def first() -> None:
        held = torch.zeros(3)
        see(held)
        raise ValueError("one")

    try:
        first()
    except ValueError as one:
        raise error from one


@pytest.mark.parametrize("fails", [fails_in_a_trace, fails_because_another_did])
def test_nothing_that_a_failed_question_held_is_kept(fails, tmp_path):
    """Not on a GPU that it has filled: neither by the error that is kept, nor by what led to it."""
    seen = []

    def compute(item):
        if item.id == "q0":
            fails(lambda tensor: seen.append(weakref.ref(tensor)), TraceError("not so"))
        assert seen and not any(held() is not None for held in seen)
        return pd.DataFrame([{"reason": ""}])

    assert [entry.reason.partition(":")[0] for entry in asked(compute, tmp_path)] == ["failed", "", ""]


@pytest.mark.parametrize("fails", [fails_in_a_trace, fails_because_another_did])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyError("a bug")], ids=["machine", "bug"])
def test_nothing_is_held_where_the_run_stops(fails, error, tmp_path):
    """Who starts again in the same kernel needs the memory."""
    seen = []
    with pytest.raises((RunStopped, KeyError)) as stopped:
        asked(lambda item: fails(lambda tensor: seen.append(weakref.ref(tensor)), error), tmp_path)
    assert seen and stopped and not any(held() is not None for held in seen)


def test_an_error_that_is_raised_in_the_end_tells_where_it_came_from(tmp_path):
    with pytest.raises(TraceError, match="other") as error:
        asked(lambda item: fails_because_another_did(lambda tensor: None, TraceError("other")), tmp_path)
    note = error.value.__notes__[0]
    assert "in fails_because_another_did" in note
    assert 'raise ValueError("one")' in error.value.__cause__.__notes__[0]


def failing_at_the_second(error):
    def compute(item):
        if item.id == "q1":
            raise error
        return pd.DataFrame([{"reason": ""}])

    return compute


@pytest.mark.parametrize("error", [
    TraceError("no such layer"), AttentionError("no flow"), PromptError("too long"), TestBedError("no picture"),
    EditError("no target"), JobFailed("the server's time limit"), Unusable("not marked"),
], ids=repr)
def test_an_error_about_a_question_costs_that_question(error, tmp_path):
    found = asked(failing_at_the_second(error), tmp_path)
    assert [entry.reason for entry in found] == [
        "", "not marked" if isinstance(error, Unusable) else f"failed: {error!r}", ""
    ]
    assert [entry.error for entry in found] == [None, None if isinstance(error, Unusable) else error, None]


@pytest.mark.parametrize(("error", "told"), [
    (OSError(errno.ENOSPC, "No space left on device"), r"OSError: \[Errno 28\] No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied"), r"PermissionError: \[Errno 13\] Permission denied"),
    (MemoryError(), "MemoryError: MemoryError"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee"), "OutOfMemoryError: CUDA out of mem"),
    (ModuleNotFoundError("No module named 'PIL._imaging'"), "ModuleNotFoundError: No module named"),
], ids=lambda entry: type(entry).__name__)
def test_a_fault_of_the_machine_stops_the_run_and_what_is_done_is_kept(error, told, tmp_path):
    with pytest.raises(RunStopped, match=rf"^The machine failed at question 'q1' \({told}.*\): 1 of 3 questions are "
                       r"done and kept; fix this and run again to continue\.$") as stopped:
        asked(failing_at_the_second(error), tmp_path)
    assert stopped.value.__cause__ is error
    assert stopped.value._render_traceback_() == [str(stopped.value)]
    again = []
    assert len(asked(lambda item: again.append(item.id) or pd.DataFrame([{"reason": ""}]), tmp_path)) == 3
    assert again == ["q1", "q2"]


def test_a_disk_that_is_full_stops_the_run(tmp_path, monkeypatch):
    """The fault of storing a table, not of computing it."""
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(RunStopped, match=r"'q0' \(OSError: .*No space left\): 0 of 3 questions are done and kept"):
        asked(lambda item: pd.DataFrame([{"reason": ""}]), tmp_path)


@pytest.mark.parametrize("error", [KeyError("layer"), RuntimeError("shapes"), ValueError("bad"), AssertionError()],
                         ids=repr)
def test_a_mistake_in_the_package_is_no_fault_of_a_question(error, tmp_path):
    with pytest.raises(type(error)) as raised:
        asked(failing_at_the_second(error), tmp_path)
    assert raised.value is error and error.__cause__ is None
    assert error.__notes__[-1] == "This happened at question 'q1'. 1 of 3 questions are done and kept."


def test_who_interrupts_a_run_is_not_told_of_questions(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        asked(failing_at_the_second(KeyboardInterrupt()), tmp_path)


@pytest.mark.parametrize("name", ["file", "file/deeper", "/proc/1/results"])
def test_where_no_table_can_be_stored_nothing_is_asked(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ParameterError, match=r"^Parameter 'results_dir': '.*: name a folder that can be written\.$"):
        asked(lambda item: pytest.fail("asked"), tmp_path / name)


def test_no_more_is_asked_than_is_enough(tmp_path):
    begun = []
    found = asked(lambda item: begun.append(item.id) or pd.DataFrame([{"reason": ""}]), tmp_path,
                  stop_when=lambda entry: entry.item.id == "q1")
    assert [entry.item.id for entry in found] == begun == ["q0", "q1"]


def test_a_run_that_uses_no_question_may_be_none(tmp_path):
    def none(item):
        raise Unusable("not marked")

    with pytest.raises(ParameterError, match="gives nothing to trace on 3 questions"):
        asked(none, tmp_path)
    assert [entry.reason for entry in asked(none, tmp_path, allow_none=True)] == ["not marked"] * 3


def test_what_an_item_has_in_its_own_key(tmp_path):
    numbers = {"q0": 0, "q1": 1, "q2": 2}

    def run():
        found = asked(lambda item: pd.DataFrame([{"reason": "", "n": numbers[item.id]}]), tmp_path,
                      item_key=lambda item: {"n": numbers[item.id]})
        return [entry.table.loc[0, "n"] for entry in found]

    assert run() == [0, 1, 2]
    numbers["q1"] = 5
    assert run() == [0, 5, 2]


def test_a_required_question_that_fails_names_its_fault(tmp_path):
    fault = TraceError("out of luck")

    def compute(item):
        raise fault

    with pytest.raises(ParameterError, match="'q0' cannot be traced, failed: TraceError") as error:
        asked(compute, tmp_path, required=True)
    assert error.value.__cause__ is fault


def test_progress_knows_what_was_read_back(tmp_path, monkeypatch):
    steps = []
    watched = SimpleNamespace(step=lambda note, stored: steps.append(stored), close=lambda note: None)
    monkeypatch.setattr("interventions.studies.loop.Progress", lambda *_: watched)
    asked(lambda item: pd.DataFrame([{"reason": "" if item.id == "q0" else "no"}]), tmp_path)
    asked(lambda item: None, tmp_path)
    assert steps == [False] * 3 + [True] * 3
