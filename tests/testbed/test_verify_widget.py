"""A person's round through a test bed, without a browser: marking, keys, and the notebook. In one: tests/browser."""

import io
import json
import re
from dataclasses import replace

import pytest
from notebook_runs import execute, noise_on_stderr, outputs, shown
from PIL import Image

from interventions.errors import ParameterError
from interventions.testbed import Item, TestBedError, load_testbed, save_testbed
from interventions.testbed.verification.decisions import DecisionLog
from interventions.testbed.verification.outcomes import apply_decisions
from interventions.testbed.verification.parameters import VerifyParameters
from interventions.testbed.verification.rounds import ShownPhrases, Verification, mark, pieces, replaced
from interventions.testbed.verification.widget import LARGEST, VerifyWidget, picture
from interventions.text import normalize

WIDGET = "application/vnd.jupyter.widget-view+json"
QUESTION = "Who drew this old operating system's logo in 1984, before this system?"


def item(number: int, **changes) -> Item:
    fields = {
        "id": f"okvqa-{number}", "part": "okvqa", "question": QUESTION, "image": None, "visual_constraint": "this old",
        "visual_replacement": "Windows 3", "answers": ("nobody", "no one"), "entity": "an Amiga",
    }
    return Item(**fields | changes)


@pytest.fixture
def bed(tmp_path):
    path = tmp_path / "images" / "red.png"
    path.parent.mkdir()
    Image.new("RGB", (LARGEST * 2, LARGEST), "red").save(path)
    save_testbed([item(0), item(1, image=path), item(2, part="known"), item(3)], tmp_path)
    return load_testbed(tmp_path)


@pytest.fixture
def log(bed):
    return DecisionLog(bed.directory / "decisions.jsonl")


@pytest.fixture
def anna(bed, log):
    return Verification(bed, log, "anna")


def press(round_: Verification, action: str, words: str = "", **fields) -> tuple[str, str]:
    """Press a key with words selected; returns the kind of the message, and the message."""
    selection = selected(round_.item.question, words) if words else None
    round_.press(action, round_.item.id, selection=selection, fields=fields)
    return round_.message


def selected(question: str, words: str) -> tuple[int, int]:
    """The numbers of the first and the last piece of these words, where they stand first."""
    begin = normalize(question).index(words)
    ends, place = [], 0
    for text, _ in pieces(question, ShownPhrases("", "", "", "")):
        ends.append((place, place + len(text)))
        place += len(text)
    inside = [number for number, (a, b) in enumerate(ends) if a < begin + len(words) and begin < b]
    return inside[0], inside[-1]


def actions(log: DecisionLog) -> list[str]:
    return [json.loads(line)["action"] for line in log.path.read_text().splitlines()] if log.path.exists() else []


# Marking

NONE = ShownPhrases("", "", "", "")
OLD = ShownPhrases("this old operating system", "", "Windows 3", "")


def test_a_question_in_pieces():
    text = "Is this café's cafe\u0301 हिन्दी, «B»?"
    found = pieces(text, ShownPhrases("this café", "B", "", ""))
    assert [word for word, _ in found if word.strip()] == [
        "Is", "this", "café", "'", "s", "café", "हिन्दी", ",", "«", "B", "»", "?"]
    assert [word for word, role in found if role == "visual"] == ["this", " ", "café"]
    assert [word for word, role in found if role == "text"] == ["B"]
    assert {role for _, role in pieces(QUESTION, NONE)} == {""}


def test_what_a_replacement_makes_of_a_question():
    marks = ShownPhrases("this old", "1984", "Windows 3", "")
    assert replaced(QUESTION, marks) == {
        "visual": [("Who drew ", ""), ("Windows 3", "visual"), (QUESTION[QUESTION.index(" operating"):], "")],
    }


@pytest.mark.parametrize(("words", "phrase"), [
    ("this old operating system", "this old operating system"),
    ("this old operating system'", "this old operating system"),
    ("this old operating system's ", "this old operating system"),
    ("this system?", "this system"),
])
def test_selected_words_become_a_constraint(words, phrase):
    marks, doubt = mark(QUESTION, NONE, "visual", selected(QUESTION, words))
    assert (marks, doubt) == (replace(NONE, visual_constraint=phrase), "")


def test_a_text_constraint_stands_beside_the_visual_one():
    marks, doubt = mark(QUESTION, OLD, "text", selected(QUESTION, "1984,"))
    assert (marks, doubt) == (replace(OLD, text_constraint="1984"), "")


@pytest.mark.parametrize(("marks", "role", "words", "problem"), [
    (NONE, "visual", "", "Select words"),
    (NONE, "visual", ", ", "Select words"),
    (NONE, "text", "1984", r"Mark the visual constraint \(v\) before"),
    (OLD, "text", "system's logo", "“system's logo” overlaps the visual constraint"),
    (replace(OLD, text_constraint="1984"), "visual", "in 1984", "overlaps the text constraint"),
    (OLD, "text", "this", r"twice.* last one"),
])
def test_words_that_cannot_be_marked(marks, role, words, problem):
    with pytest.raises(TestBedError, match=problem):
        mark(QUESTION, marks, role, selected(QUESTION, words) if words else None)


def test_the_second_of_two_equal_phrases_cannot_be_the_visual_constraint():
    question = "Is this car older than this car?"
    with pytest.raises(TestBedError, match=r"“this car” .* twice.* first one"):
        mark(question, NONE, "visual", (10, 12))
    assert mark(question, NONE, "visual", (2, 4))[0].visual_constraint == "this car"


def test_a_phrase_cut_short_is_doubted():
    assert "'system' belongs to it" in mark(QUESTION, NONE, "visual", selected(QUESTION, "this old operating"))[1]


# Keys


def test_accepting_correcting_and_rejecting(anna, log, bed):
    assert press(anna, "accept") == ("done", "Accepted question 1.")
    assert anna.item.id == "okvqa-1"
    assert press(anna, "visual", "this old operating system") == ("", "")
    assert anna.state()["corrects"] and anna.state()["changed"]
    assert actions(log) == ["accept"]  # a draft is no decision
    press(anna, "text", "1984")
    assert press(anna, "accept", text_replacement=" 1999 ", comment="cut short") == ("done", "Corrected question 2.")
    press(anna, "next")
    assert press(anna, "reject", comment="nobody knows") == ("done", "Rejected question 4.")
    assert anna.item.id == "okvqa-2"  # the one that was passed over
    assert press(anna, "accept") == ("done", "Accepted question 3. All are decided.")
    decisions = {name: people["anna"] for name, people in log.standing().items()}
    assert [decisions[i.id].action for i in bed] == ["accept", "correct", "accept", "reject"]
    corrected = decisions["okvqa-1"]
    assert (corrected.visual_constraint, corrected.text_constraint) == ("this old operating system", "1984")
    assert (corrected.visual_replacement, corrected.text_replacement) == (None, "1999")
    assert corrected.comment == "cut short"
    assert all(decision.blind for decision in decisions.values())
    assert anna.state()["done"] == 4


def test_a_question_in_another_unicode_form_can_be_decided(log, bed):
    texts = {"question": "Who owns this cafe\u0301?", "visual_constraint": "", "visual_replacement": ""}
    save_testbed([item(0, **texts)], bed.directory)
    loaded = load_testbed(bed.directory)
    anna = Verification(loaded, log, "anna")
    assert press(anna, "visual", "this caf\u00e9") == ("", "")
    assert press(anna, "accept") == ("done", "Corrected question 1. All are decided.")
    apply_decisions(loaded, log)
    assert load_testbed(bed.directory).items[0].visual_constraint == "this caf\u00e9"


def test_a_doubtful_phrase_is_marked_at_the_second_press(anna):
    kind, text = press(anna, "visual", "this old operating")
    assert kind == "warning" and text.endswith("Press v again if it is right.")
    assert anna.state()["visual_constraint"] == "this old"
    assert press(anna, "visual", "this old operating") == ("", "")
    assert anna.state()["visual_constraint"] == "this old operating"
    assert press(anna, "visual", "system's logo in")[0] == "warning"  # another phrase is another doubt


def test_what_cannot_be_is_not_done_at_the_second_press_either(anna, log):
    for _ in range(2):
        assert press(anna, "text", "old operating")[0] == "problem"
    for _ in range(2):
        kind, text = press(anna, "accept", visual_replacement="This old")
        assert kind == "problem" and "is the constraint itself" in text
    assert actions(log) == []


def test_a_replacement_that_needs_the_image_is_doubted(anna, log):
    assert press(anna, "accept", visual_replacement="that of these computers")[0] == "warning"
    assert actions(log) == []
    assert press(anna, "accept", visual_replacement="that of these computers")[0] == "done"
    assert actions(log) == ["correct"]


def test_an_item_that_is_not_marked_cannot_be_accepted(bed, log):
    save_testbed([item(0, visual_constraint="", visual_replacement="")], bed.directory)
    anna = Verification(load_testbed(bed.directory), log, "anna")
    sentence = "Item 'okvqa-0' cannot be accepted: its visual constraint is not marked."
    assert press(anna, "accept") == ("problem", sentence)
    press(anna, "visual", "this old operating system")
    press(anna, "accept")
    assert actions(log) == ["correct"]


def test_the_text_constraint_can_be_cleared(bed, log):
    save_testbed([item(0, text_constraint="1984", text_replacement="1999")], bed.directory)
    anna = Verification(load_testbed(bed.directory), log, "anna")
    assert press(anna, "clear") == ("", "")
    assert anna.state()["text_replacement"] == ""
    assert press(anna, "clear") == ("problem", "There is no text constraint to clear.")
    press(anna, "accept")
    apply_decisions(load_testbed(bed.directory), log)
    assert load_testbed(bed.directory).items == (item(0),)


def test_undoing_goes_back_step_by_step(anna, log):
    press(anna, "accept")
    press(anna, "visual", "this old operating system")
    press(anna, "reject", comment="wrong")
    press(anna, "visual", "this system")
    assert press(anna, "undo") == ("done", "The changes that were not accepted are dropped.")
    assert anna.state()["visual_constraint"] == "this old"
    assert press(anna, "undo") == ("done", "The decision on question 2 is undone.")
    state = anna.state()
    assert (state["item"], state["comment"]) == ("okvqa-1", "wrong")
    assert state["visual_constraint"] == "this old operating system"
    assert state["done"] == 1
    press(anna, "undo")  # what had been marked
    assert press(anna, "undo") == ("done", "The decision on question 1 is undone.")
    assert press(anna, "undo") == ("problem", "There is nothing to undo.")
    assert actions(log) == ["accept", "reject", "undo", "undo"]
    assert log.standing() == {}


def test_going_back_and_forth_keeps_what_was_marked(anna, log):
    assert press(anna, "back") == ("problem", "This is the first question.")
    press(anna, "visual", "this old operating system", comment="mine")
    press(anna, "next")
    press(anna, "back")
    assert (anna.state()["visual_constraint"], anna.state()["comment"]) == ("this old operating system", "mine")
    for _ in range(3):
        press(anna, "next")
    assert press(anna, "next") == ("problem", "This is the last question.")
    assert actions(log) == []


def test_a_key_meant_for_the_question_before_does_nothing(anna, log):
    first = anna.item.id
    anna.press("accept", first)
    anna.press("accept", first)
    anna.press("fly", anna.item.id)
    assert actions(log) == ["accept"]


def test_a_disk_that_is_full_is_said(anna, log):
    log.path.mkdir()
    kind, text = press(anna, "accept")
    assert kind == "problem" and "decisions.jsonl cannot be" in text
    assert anna.item.id == "okvqa-0"


# Rounds


def test_who_comes_back_goes_on_where_they_left(bed, log):
    anna = Verification(bed, log, "anna")
    press(anna, "accept")
    press(anna, "visual", "this old operating system")
    press(anna, "accept", comment="cut short")
    again = Verification(bed, DecisionLog(log.path), " anna ")
    assert again.item.id == "okvqa-2"
    press(again, "back")
    state = again.state()
    assert state["visual_constraint"] == "this old operating system" and not state["changed"]
    assert state["decision"] == "Corrected by anna: “this old operating system” (cut short)"
    undecided = Verification(bed, log, "anna", only="undecided")
    assert [i.id for i in undecided.items] == ["okvqa-2", "okvqa-3"]


def test_two_people_see_how_far_the_other_is_but_not_what(bed, log):
    anna, ben = Verification(bed, log, "anna"), Verification(bed, DecisionLog(log.path), "ben")
    press(anna, "accept")
    press(anna, "reject")
    press(ben, "next")
    assert ben.state()["others"] == {"anna": 2}
    assert ben.state()["done"] == 0
    assert ben.state()["decision"] == "" and ben.state()["decisions"] == []


def test_disputes_are_settled_with_a_look_at_the_decisions(bed, log):
    for name, action in (("anna", "accept"), ("ben", "reject")):
        for one in bed.items[:2]:
            log.decide(one, name, action if one.id == "okvqa-0" else "accept")
    anna = Verification(bed, log, "anna", only="disputed")
    assert [i.id for i in anna.items] == ["okvqa-0"]
    assert anna.state()["decisions"] == ["Rejected by ben: “this old”"]
    assert anna.state()["done"] == 0  # her own decision is half of the dispute
    press(anna, "reject")
    assert anna.state()["done"] == 1
    assert not log.standing()["okvqa-0"]["anna"].blind
    nothing = Verification(bed, log, "anna", only="disputed")
    assert nothing.state()["item"] is None
    nothing.press("accept", "okvqa-0")
    assert actions(log)[-1] == "reject"


def test_a_decision_on_another_wording_no_longer_counts(bed, log):
    log.decide(replace(bed.items[0], question="Who drew this old thing?"), "anna", "accept")
    anna = Verification(bed, log, "anna")
    assert anna.item.id == "okvqa-0"
    assert "another wording" in anna.state()["decision"]
    assert anna.state()["done"] == 0
    press(anna, "undo")
    assert log.standing() == {}


@pytest.mark.parametrize(("name", "only", "problem"), [("", "all", "annotator"), ("anna", "some", "only cannot be")])
def test_a_round_that_cannot_be(bed, log, name, only, problem):
    with pytest.raises(TestBedError, match=problem):
        Verification(bed, log, name, only=only)


# The widget and the notebook


def test_the_widget_draws_and_passes_keys_on(bed, log):
    widget = VerifyWidget(Verification(bed, log, "anna"))
    assert widget.state["item"] == "okvqa-0" and widget.state["answered"] == 0
    assert (widget.image, widget.state["image_problem"]) == (b"", "This question has no image.")
    message = {"number": 7, "action": "accept", "item": "okvqa-0", "selection": None, "fields": {"comment": "yes"}}
    widget._handle_custom_msg(message, [])  # as one comes from the browser
    assert widget.state["item"] == "okvqa-1" and widget.state["answered"] == 7
    assert log.standing()["okvqa-0"]["anna"].comment == "yes"
    with Image.open(io.BytesIO(widget.image)) as image:
        assert (image.format, image.size) == ("JPEG", (LARGEST, LARGEST // 2))
    assert json.loads(json.dumps(widget.state))["pieces"][0] == ["Who", ""]
    assert "1 of 4 items decided by anna" in repr(widget)


def test_the_widget_of_an_empty_round(bed, log):
    widget = VerifyWidget(Verification(bed, log, "anna", only="disputed"))
    assert (widget.state["item"], widget.state["total"], widget.image) == (None, 0, b"")


def test_an_image_that_cannot_be_read_is_said(bed):
    bed.items[1].image.write_bytes(b"no picture")
    content, problem = picture(bed.items[1])
    assert content == b"" and "red.png" in problem and "cannot be read" in problem


def test_script_and_style_are_sent_along_and_fetch_nothing(bed, log):
    widget = VerifyWidget(Verification(bed, log, "anna"))
    assert "export default" in widget._esm and ".verify-question" in widget._css
    assert not re.search(r"https?:|\bimport\b|fetch\(|url\(", widget._esm + widget._css)


def test_parameters_choose_the_questions_and_the_log(bed, log, tmp_path):
    log.decide(bed.items[0], "anna", "reject")
    apply_decisions(bed, log)
    parameters = VerifyParameters(testbed=str(tmp_path), annotator="ben", parts="okvqa")
    questions, found = parameters.load()
    assert {i.id for i in questions} == {"okvqa-0", "okvqa-1", "okvqa-3"}  # the rejected one, too: it may come back
    assert found.decided("anna") == ["okvqa-0"]
    assert parameters.verification(questions, found).annotator == "ben"
    own = VerifyParameters(testbed=str(tmp_path), log_path=str(tmp_path / "ben.jsonl"), limit=1)
    assert len(own.load()[0]) == 2
    assert own.load()[1].path == tmp_path / "ben.jsonl"
    assert own.verification(*own.load()).annotator


def test_lines_that_were_passed_over_are_told(bed, log, capsys):
    log.path.write_text("cut off\n")
    VerifyParameters(testbed=str(bed.directory)).load()
    assert "decisions.jsonl: lines without a decision, passed over: 1" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "sentence"), [
    ({"anotator": "anna"}, "Unknown parameter 'anotator': did you mean 'annotator'?"),
    ({"only": "mine"}, "Parameter 'only' cannot be 'mine'"),
    ({"limit": -1}, "Parameter 'limit' must be at least 0"),
    ({"seed": "one"}, "Parameter 'seed' must be a whole number"),
    ({"testbed": "nowhere"}, "Parameter 'testbed': Unknown test bed 'nowhere'"),
    ({"parts": "moveis"}, "Parameter 'parts' cannot be 'moveis': did you mean 'movies'?"),
    ({"log_path": "."}, "Parameter 'log_path': . cannot be read"),
])
def test_wrong_parameters_are_one_sentence(given, sentence):
    with pytest.raises(ParameterError) as error:
        VerifyParameters.from_notebook(given).load()
    assert str(error.value).startswith(sentence)


def test_the_notebook_runs_without_a_browser(bed, log, tmp_path):
    for one in bed:
        log.decide(one, "anna", "accept")
        log.decide(one.with_constraints("this old operating system", None), "ben", "correct")
    before = log.path.read_bytes()
    path = execute("verify", tmp_path, {"testbed": str(tmp_path), "annotator": "ben"})
    [widget] = [output.data for output in outputs(path) if WIDGET in output.get("data", {})]
    assert widget["text/plain"] == "4 of 4 items decided by ben; keys need JupyterLab"
    progress, agreement, disputed, became = shown(path, "text/html")
    assert "Cohen" in agreement and "anna" in progress and "okvqa-3" in disputed and "disputed" in became
    assert noise_on_stderr(path) == []
    assert log.path.read_bytes() == before
