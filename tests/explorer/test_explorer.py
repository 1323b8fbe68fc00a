"""The explorer's questions, actions and thread, without widgets. With them: test_widgets.py."""

import threading
from pathlib import Path

import numpy as np
import pytest
import tiny
from answering import questions, renamed, speaking

from interventions import ModelError, apply_edits, attention_contributions, attention_knockout, trace
from interventions.attention.contributions import FLOWS
from interventions.engine.windows import window_spans
from interventions.errors import Unusable
from interventions.explorer import Exploration
from interventions.explorer import exploration as exploration_module
from interventions.explorer.draft import Draft, suggestions
from interventions.explorer.exploration import Settings
from interventions.explorer.form import Picker
from interventions.explorer.pictures import TracePicture, contributions_png, knockout_png
from interventions.explorer.worker import Step, Worker
from interventions.models.model import VisionLanguageModel
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.testbed import load_testbed, save_testbed
from interventions.tracing.causal_trace import Scoring

WAIT = 30


@pytest.fixture(scope="module")
def model():
    return renamed(speaking(tiny.build()), revision="r1")


@pytest.fixture(scope="module")
def bed(model, tmp_path_factory):
    """Four questions of each of two parts, the last of each with a text constraint."""
    folder = tmp_path_factory.mktemp("bed")
    save_testbed(questions(model, folder, n=8), folder)
    return load_testbed(folder)


@pytest.fixture
def exploration(model, bed):
    exploration = Exploration(model, bed)
    exploration.draft = Draft.of(bed.items[0])
    return exploration


def run(steps) -> list[Step]:
    return list(steps)


# Questions


def test_a_draft_is_its_item(bed):
    for item in bed:
        again = Draft.of(item).item()
        others = {"id": item.id, "entity": item.entity, "paraphrases": list(item.paraphrases)}  # not of a draft
        assert again.content() | others == item.content()


@pytest.mark.parametrize(("changes", "says"), [
    ({"question": " "}, "Write a question"),
    ({"image": None}, "Choose an image"),
    ({"visual_constraint": ""}, "Mark the visual constraint"),
    ({"visual_constraint": "this town"}, "Visual constraint 'this town' is not in the question"),
    ({"text_constraint": "Q"}, "Text constraint 'Q' is not in the question"),
    ({"text_constraint": "country"}, "overlaps"),
    ({"visual_replacement": ""}, "Write what replaces the visual constraint"),
    ({"question": "The <image> of this country is"}, "placeholder of the image"),
    ({"image": Path(__file__)}, "The image cannot be used: it cannot be decoded"),
])
def test_what_is_wrong_is_said_before_anything_runs(exploration, bed, changes, says):
    assert exploration.problem(Conditions()) == ""
    exploration.draft = Draft(**vars(Draft.of(bed.items[0])) | changes)
    assert says in exploration.problem(Conditions())
    assert exploration.problem(Conditions()).endswith(".")


def test_a_missing_replacement_matters_only_where_it_is_used(exploration, bed):
    exploration.draft = Draft(**vars(Draft.of(bed.items[0])) | {"visual_replacement": ""})
    assert exploration.problem() == exploration.problem(Conditions(corruption="noise")) == ""
    both = next(item for item in bed if item.text_constraint)
    exploration.draft = Draft(**vars(Draft.of(both)) | {"text_replacement": ""})
    assert "text constraint" in exploration.problem(Conditions())
    assert exploration.problem(Conditions(corrupted="visual")) == ""


@pytest.mark.parametrize(("question", "found"), [
    ("The capital of this country is", ["this country"]),
    ("Who made that old operating system in 1984?", ["that old operating system"]),
    ("Does this animal eat these birds", ["this animal", "these birds"]),
    ("What is this?", ["this"]),
    ("The capital of Peru is", []),
    ("", []),
])
def test_suggestions(question, found):
    assert suggestions(question) == found


def test_answers_may_be_left_out(exploration, bed):
    exploration.draft = Draft(**vars(Draft.of(bed.items[0])) | {"answers": " ; "})
    assert exploration.problem() == ""
    assert exploration.is_right("anything") is None
    exploration.draft = Draft(**vars(Draft.of(bed.items[0])) | {"answers": "Lima; the Lima"})
    assert exploration.is_right("lima") is True
    assert exploration.is_right("Quito") is False


def test_the_picker_stays_on_its_question(bed):
    picker = Picker(bed)
    assert len(picker.items) == len(bed)
    picker.move(-1)
    last = picker.item
    assert last == picker.items[-1]
    picker.choose(last.part, None, "")  # it stays
    assert picker.item == last
    assert {item.part for item in picker.items} == {last.part}
    picker.choose(None, "multi", "")
    assert all(item.text_constraint for item in picker.items)
    answer = bed.items[0].answers[0]
    picker.choose(None, None, f"CAPITAL {answer.upper()}")
    assert bed.items[0] in picker.items
    picker.choose(None, None, "nothing has these words")
    assert picker.item is None
    picker.move(1)
    picker.move_randomly()


# Actions


@pytest.mark.parametrize("delay", [0, 1000])  # a token at a time; ever more at a time
@pytest.mark.parametrize("settings", [
    Settings(),
    Settings(2, ("attention",), "sequence", Conditions("authors")),
    Settings(1, conditions=Conditions(corruption="standard", noise_samples=2)),
])
@pytest.mark.parametrize("which", [0, 3])  # one constraint, two
def test_a_trace_in_pieces_is_the_trace(model, bed, exploration, delay, settings, which, monkeypatch):
    monkeypatch.setattr(exploration_module, "STOP_DELAY", delay)
    item, conditions = bed.items[which], settings.conditions
    exploration.draft = Draft.of(item)
    steps = run(exploration.trace(settings))
    found = exploration.trace_result.result
    prompt = clean_prompt(model, item, conditions)
    whole = trace(
        model, prompt, corrupted_prompt(model, item, prompt, conditions), window=settings.window, kinds=settings.kinds,
        window_rule=conditions.window_rule, scoring=Scoring(answer_score=settings.answer_score),
        positions=range(max(prompt.visual), len(prompt)),
    )
    np.testing.assert_allclose(found.restored, whole.restored, atol=1e-5, equal_nan=True)
    assert (found.positions, found.tokens, found.answer_ids) == (whole.positions, whole.tokens, whole.answer_ids)
    pieces = [step.done for step in steps if step.doing == "Tracing"]
    assert len(pieces) == len(found.positions) if not delay else len(pieces) < len(found.positions)
    kind, position, layer = exploration.trace_result.best
    role = "text_constraint" if which and conditions.corrupted == "text" else "constraint"
    assert position == prompt.positions(role)[-1]
    at_token = whole.restored[:, whole.positions.index(position)]
    assert np.isclose(at_token[whole.kinds.index(kind), layer], at_token.max(), atol=1e-5)


def test_what_is_said_with_a_site_restored_is_what_the_trace_found(model, bed, exploration):
    run(exploration.trace(Settings(window=2)))
    result, picture = exploration.trace_result.result, TracePicture(exploration.trace_result)
    sites = {picture.site_at(x, y) for x in np.linspace(0, 1, 150) for y in np.linspace(0, 1, 150)} - {None}
    assert sites == {(kind, position, layer) for kind in result.kinds for position in result.positions
                     for layer in result.layers}
    prompt = clean_prompt(model, bed.items[0], Conditions())
    first, shown = corrupted_prompt(model, bed.items[0], prompt, Conditions()).first_corrupted, exploration.trace_result
    for kind, position, layer in sorted(sites):
        p = result.restored[result.kinds.index(kind), result.positions.index(position), layer]
        if position < first or np.isnan(p):
            with pytest.raises(Unusable, match="nothing to restore"):
                run(exploration.restore((kind, position, layer)))
            continue
        run(exploration.restore((kind, position, layer)))
        assert exploration.trace_result.example.p_answer("restored") == pytest.approx(p, abs=1e-5)
        assert exploration.trace_result.example.site["position"] == position
    assert exploration.trace_result is not shown


def test_contributions_and_knock_outs_are_those_of_the_package(model, exploration, bed):
    prompt = clean_prompt(model, bed.items[0], Conditions())
    run(exploration.compute_contributions())
    found = exploration.contributions
    for reader, position in (("constraint", prompt.constraint[-1]), ("last", prompt.last)):
        expected = attention_contributions(model, prompt, queries=position, keys="visual").norms[:, 0]
        np.testing.assert_allclose(found.visual[reader], expected, rtol=1e-5)
    expected = attention_contributions(model, prompt, queries="last", keys="constraint").norms[:, 0]
    np.testing.assert_allclose(found.to_last, expected, rtol=1e-5)
    assert contributions_png(found, "last", 1) != contributions_png(found, "constraint", 1)

    flow = "visual -> constraint"
    for first in range(model.n_layers):
        for last in range(first, model.n_layers):
            run(exploration.block((flow,), first, last))
            window = last - first + 1
            whole = attention_knockout(model, prompt, flows={flow: FLOWS[flow]}, window=window)
            place = window_spans(window, "centered", model.n_layers).index((first, last + 1))
            assert exploration.knockout.p_blocked(flow) == pytest.approx(float(whole.p_blocked[0, place]), abs=1e-6)
    assert knockout_png(exploration.knockout).startswith(b"\x89PNG")


@pytest.mark.parametrize(("prompt", "question"), [
    ("{question} <image> ASSISTANT:", "The capital of this country is"),  # the constraint stands before the image
    ("{question}<image>", "The capital of this country is"),  # and the image last
    ("<image> {question}", "Name the capital of this country"),  # the constraint's last token is the prompt's
])
def test_any_order_of_image_and_question(model, bed, prompt, question):
    model = VisionLanguageModel.from_module(model.module, model.processor, prompt=prompt)
    exploration = Exploration(model, bed)
    exploration.draft = Draft(**vars(Draft.of(bed.items[0])) | {"question": question})
    clean = clean_prompt(model, exploration.draft.item(), Conditions())
    run(exploration.compute_contributions())
    found = exploration.contributions
    for reader, position in (("constraint", clean.constraint[-1]), ("last", clean.last)):
        expected = attention_contributions(model, clean, queries=position, keys="visual").norms[:, 0]
        np.testing.assert_allclose(found.visual[reader], expected, rtol=1e-5)
    expected = attention_contributions(model, clean, queries=clean.last, keys="constraint").norms[:, 0]
    np.testing.assert_allclose(found.to_last, expected, rtol=1e-5)
    assert found.visual["last"].any() and found.to_last.any()
    assert found.visual["constraint"].any() == (max(clean.visual) < clean.constraint[-1])
    assert contributions_png(found, "last", 1).startswith(b"\x89PNG")

    run(exploration.trace(Settings()))
    result = exploration.trace_result.result
    assert [result.positions[i] for i, role in enumerate(result.roles) if role == "visual"] == [max(clean.visual)]
    assert exploration.trace_result.best[1] == clean.constraint[-1]
    whole = trace(model, clean, exploration.trace_result.corrupted, window=3, positions=result.positions)
    np.testing.assert_allclose(result.restored, whole.restored, atol=1e-5, equal_nan=True)
    assert TracePicture(exploration.trace_result).png.startswith(b"\x89PNG")


def test_edits_add_up_and_are_taken_back(bed):
    item, model = bed.items[0], tiny.build()  # one that answers in more than a word
    exploration = Exploration(model, bed)
    exploration.draft = Draft.of(item)
    run(exploration.ask(item.question))
    before = exploration.answers[0].unedited
    assert exploration.answers[0].edited == before == model.generate_answer(item.image, item.question)
    run(exploration.edit("Lima", 1))
    assert len(exploration.answers) == 1  # it was asked before
    first = exploration.answers[0].edited
    assert first == apply_edits(model, exploration.edits).generate_answer(item.image, item.question) != before
    run(exploration.edit("Colombo", 2))
    one, two = exploration.edits
    assert two.requires == (one.identity,)
    assert exploration.answers[0].edited == apply_edits(model, [one, two]).generate_answer(item.image, item.question)
    assert exploration.answers[0].unedited == before
    run(exploration.undo(1))
    assert exploration.edits == (one,)
    assert exploration.answers[0].edited == first
    run(exploration.edit("Colombo", 2))
    run(exploration.undo(0))  # with what was made on top of it
    assert exploration.edits == ()
    assert exploration.answers[0].edited == before
    exploration.draft = Draft.of(bed.items[1])
    run(exploration.edit("Lima", 1))
    assert [one.image for one in exploration.answers] == [item.image, bed.items[1].image]


def test_another_question_or_model_forgets_what_was_found(exploration, bed, tmp_path, model):
    run(exploration.trace(Settings()))
    run(exploration.compute_contributions())
    run(exploration.block(tuple(FLOWS), 0, 1))
    exploration.draft = exploration.draft
    assert exploration.trace_result and exploration.contributions and exploration.knockout
    exploration.draft = Draft.of(bed.items[1])
    assert not (exploration.trace_result or exploration.contributions or exploration.knockout)
    run(exploration.edit(bed.items[2].answers[0], 1))
    model.module.save_pretrained(tmp_path / "saved")
    model.processor.save_pretrained(tmp_path / "saved")
    run(exploration.load(str(tmp_path / "saved")))
    assert exploration.model is exploration.edited is not model
    assert (exploration.edits, exploration.answers) == ((), ())
    with pytest.raises(ModelError, match="reads text only"):
        Exploration(tiny.build("gqa", None), bed)


def test_a_closed_action_changes_nothing(exploration, bed):
    edit = exploration.edit(bed.items[1].answers[0], 1)
    for action in (exploration.trace(Settings()), edit, exploration.compute_contributions()):
        next(action)
        action.close()
    assert (exploration.trace_result, exploration.contributions) == (None, None)
    assert (exploration.edits, exploration.answers) == ((), ())


# The thread


def test_a_worker_stops_between_steps():
    reached, go, told = threading.Event(), threading.Event(), []

    def action():
        yield Step("first", 0, 2)
        reached.set()
        go.wait(WAIT)
        yield Step("second", 1, 2)
        told.append("second")

    worker = Worker(lambda: None)
    worker.start("Trial", action(), lambda: told.append("shown"))
    assert reached.wait(WAIT)
    assert worker.step == Step("first", 0, 2)
    worker.start("Other", iter([Step("other")]), lambda: told.append("other"))  # one at a time
    worker.stop()
    assert worker.stopping
    go.set()
    worker.wait(WAIT)
    assert (worker.step, worker.stopping, told) == (None, False, [])
    assert worker.message == ("stopped", "Trial: stopped; nothing has changed.")

    worker.start("Trial", action(), lambda: told.append("shown"))
    worker.wait(WAIT)
    assert told == ["second", "shown"]
    assert worker.message[0] == "done"


@pytest.mark.parametrize(("error", "says"), [
    (ModelError("model 'x' is unknown: give another."), "Model 'x' is unknown: give another."),
    (Unusable("nothing to restore"), "Nothing to restore."),
    (RuntimeError("out of memory\n  at line 3\n"), "This failed: RuntimeError, out of memory."),
    (ValueError("shapes differ:\n(3,) and (4,)"), "This failed: ValueError, shapes differ."),
    (RuntimeError("\n\nnot here"), "This failed: RuntimeError, not here."),
    (KeyError(), "This failed: KeyError."),
    (Unusable(), "Unusable."),
])
def test_errors_are_sentences(error, says):
    def action():
        yield Step("trying")
        raise error

    worker = Worker(lambda: None)
    worker.start("Trial", action(), lambda: None)
    worker.wait(WAIT)
    assert worker.message == ("problem", says)
    assert worker.error is error
