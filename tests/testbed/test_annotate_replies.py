"""What a language model's replies must be, which are asked for again, and which replacement is chosen of them."""

import json

import pytest
from annotating import CAPITAL, GOOD, KEY, bed, first_then, item
from openai_server import NAMES, asked, completion, good, is_judging, judged, marks
from transformers import AutoTokenizer

from interventions.models.checkpoints import CHECKPOINTS
from interventions.testbed import TestBedError, load_testbed
from interventions.testbed.annotation.choice import token_counter
from interventions.testbed.annotation.prompt import (
    STARTER_EXAMPLES,
    Marks,
    Question,
    read_examples,
    read_marks,
    read_verdicts,
)
from interventions.testbed.annotation.run import Requests, annotate
from interventions.testbed.candidates import gives_away
from interventions.testbed.provenance import history

pytestmark = pytest.mark.usefixtures("openai_key")


def test_constraints_are_marked_and_replacements_chosen(serve, tmp_path, capsys):
    server = serve()
    report = annotate(bed(
        tmp_path,
        item(0, "In which city does This building stand?", answers=("Agra",), entity="Taj Mahal"),
        item(1, "Name a film of this director that came out in 2006.", "movies", answers=("Volver",)),
        item(2, visual_constraint="this country", visual_replacement="Peru"),
    ), "parrot")
    first, second, third = load_testbed(tmp_path)
    assert (first.visual_constraint, first.visual_replacement) == ("This building", "Big Ben")  # not what is shown
    assert (first.text_constraint, first.text_replacement) == (None, None)
    assert (second.visual_constraint, second.visual_replacement) == ("this director", "Agnès Varda")
    assert (second.text_constraint, second.text_replacement) == ("2006", "1994")
    assert third.visual_replacement == "Peru"
    assert report.counts() == {
        "items": 3, "as it was": 1, "annotated": 2, "failed": 0, "not asked": 0, "with a text constraint": 1,
        "replacement chosen": 2, "questions": 2, "questions from file": 0, "replies asked for again": 0, "requests": 4,
        "requests repeated": 0, "tokens in": 320, "tokens out": 100,
    }
    step = history(tmp_path)[-1]
    assert (step["command"], step["settings"]["model"], step["counts"]) == ("annotate", "parrot", report.counts())
    assert step["inputs"][0]["name"] == STARTER_EXAMPLES.name
    assert "annotate: 2 questions asked, 0 failed, 420 tokens" in capsys.readouterr().out
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_what_is_sent(serve, tmp_path):
    server = serve()
    testbed = bed(tmp_path, item(), item(0, "Name a film of this director", "movies"))
    annotate(testbed, "parrot", requests=Requests(concurrency=1))
    requests = {asked(r): r for r in server.requests if not is_judging(r)}
    assert all(r["model"] == "parrot" and r["temperature"] == 0 for r in server.requests)
    schema = requests[CAPITAL]["response_format"]["json_schema"]
    assert schema["strict"]
    assert set(schema["schema"]["required"]) == set(marks(CAPITAL))
    examples = read_examples(STARTER_EXAMPLES)
    for question, part in ((CAPITAL, "known"), ("Name a film of this director", "movies")):
        shown = [m["content"].removeprefix("Question: ") for m in requests[question]["messages"][1:-1:2]]
        assert shown == [e.question for e in examples if e.part == part]
        assert [m["role"] for m in requests[question]["messages"][:3]] == ["system", "user", "assistant"]
    told = next(r for r in server.requests if is_judging(r))
    assert judged(told) == [f"The capital of {name} is" for name in NAMES["country"]]


@pytest.mark.parametrize(("reply", "complaint"), [
    ("I think it is this country.", "it is not one JSON object"),
    (GOOD | {"visual_constraint": "that country"}, "do not stand in the question one after the other"),
    (GOOD | {"visual_constraint": "country"}, "it leaves out the word 'this' before it"),
    (GOOD | {"visual_constraint": "The capital of this"}, "so a noun is missing"),
    (GOOD | {"visual_constraint": None}, '"visual_constraint" must be a text'),
    (GOOD | {"text_constraint": "capital of this country"}, 'overlaps "visual_constraint"'),
    (GOOD | {"text_constraint": "in 2006"}, "'in 2006' is not usable"),
    (GOOD | {"visual_replacements": []}, '"visual_replacements" must hold three phrases'),
    (GOOD | {"visual_replacements": "Peru"}, '"visual_replacements" must be a list of texts'),
    (GOOD | {"visual_replacements": ["Sri Lanka", "This country"]}, "it is the constraint itself"),
    (GOOD | {"visual_replacements": ["Sri Lanka", " "]}, "it is no text"),
    (GOOD | {"visual_replacements": ["that island shown here", "Peru"]}, "would still refer to an image"),
])
def test_a_reply_that_breaks_a_rule_is_asked_for_again(serve, tmp_path, reply, complaint):
    server = serve(first_then(completion(reply)))
    report = annotate(bed(tmp_path, item()), "parrot", requests=Requests(concurrency=1))
    first, second, judging = server.requests
    told = second["messages"][len(first["messages"]):]
    assert [m["role"] for m in told] == ["assistant", "user"]
    assert told[0]["content"] == (reply if isinstance(reply, str) else json.dumps(reply))
    assert complaint in told[1]["content"]
    assert is_judging(judging)
    assert report.retries == 1
    assert load_testbed(tmp_path).items[0].visual_replacement == "Sri Lanka"


def test_punctuation_and_possessives_are_refused():
    question = Question("known", "The founder of this company's owner (this firm) is")
    for phrase in ("this company's", "this firm)"):
        assert read_marks(question, json.dumps(GOOD | {"visual_constraint": phrase}))[0] is None


def test_a_word_may_stand_before_a_text_constraint():
    question = Question("okvqa", "Is this food common in India?")
    for text, found in (("in India", "in India"), ("india", "India")):
        reply = {"visual_constraint": "this food", "text_constraint": text, "visual_replacements": ["rice"],
                 "text_replacements": ["Peru"]}
        assert read_marks(question, json.dumps(reply))[0] == Marks("this food", found, ("rice",), ("Peru",))


def test_prose_and_code_fences_around_the_object_are_forgiven(serve, tmp_path):
    serve(lambda request, number: completion(
        "Sure!\n```json\n" + good(request).body["choices"][0]["message"]["content"] + "\n```"))
    assert annotate(bed(tmp_path, item()), "parrot").count("annotated") == 1


def test_a_question_that_is_always_answered_wrongly_is_left_as_it_was(serve, tmp_path):
    server = serve(lambda request, number: completion("no"))
    before = item()
    report = annotate(bed(tmp_path, before), "parrot", requests=Requests(retries=2))
    assert len(server.requests) == 3
    assert list(load_testbed(tmp_path)) == [before]
    assert report.counts()["failed, no usable reply"] == 1
    assert "known-0: no usable reply: it is not one JSON object" in str(report)
    report = annotate(load_testbed(tmp_path), "parrot", requests=Requests(retries=3))
    assert report.retries == 3  # goes on with the conversation
    assert len(server.requests) == 4


def test_good_constraints_outlive_bad_replacements(serve, tmp_path):
    server = serve(lambda request, number: completion(GOOD | {"visual_replacements": ["these people"]}))
    report = annotate(bed(tmp_path, item()), "parrot", requests=Requests(retries=1))
    found = load_testbed(tmp_path).items[0]
    assert (found.visual_constraint, found.visual_replacement) == ("this country", "")
    assert report.reasons("annotated") == {"no usable replacement": 1}
    assert report.counts()["replacement chosen"] == 0
    assert len(server.requests) == 2


def test_the_usable_ones_of_replacements_are_taken_in_the_end(serve, tmp_path):
    def answer(request, number):
        return good(request) if is_judging(request) else completion(
            GOOD | {"visual_replacements": ["these people", "Peru"]})

    serve(answer)
    annotate(bed(tmp_path, item()), "parrot", requests=Requests(retries=0))
    assert load_testbed(tmp_path).items[0].visual_replacement == "Peru"


def test_a_question_about_nothing_in_the_image(serve, tmp_path):
    server = serve(lambda request, number: completion(GOOD | {"visual_constraint": ""}))
    report = annotate(bed(tmp_path, item()), "parrot")
    assert report.reasons("failed") == {"no words of the question refer to the image": 1}
    assert len(server.requests) == 1


def verdicts(*passes):
    return completion({"verdicts": [{"needs_image": not a, "makes_sense": b} for a, b in passes]})


def test_the_judge_decides_which_replacement_is_taken(serve, tmp_path):
    def answer(request, number):
        return verdicts((False, True), (True, False), (True, True)) if is_judging(request) else good(request)

    serve(answer)
    annotate(bed(tmp_path, item()), "parrot")
    assert load_testbed(tmp_path).items[0].visual_replacement == NAMES["country"][2]


def test_no_replacement_where_none_passes(serve, tmp_path):
    serve(lambda request, number: verdicts(*[(True, False)] * 6) if is_judging(request) else good(request))
    report = annotate(bed(tmp_path, item(0, "Name a film of this director in 2006")), "parrot")
    found = load_testbed(tmp_path).items[0]
    assert (found.visual_constraint, found.visual_replacement) == ("this director", "")
    assert (found.text_constraint, found.text_replacement) == ("2006", None)
    assert report.reasons("annotated") == {"no replacement passed the judge": 1}


@pytest.mark.parametrize("reply", [
    "yes", {"verdicts": []}, {"verdicts": [{"needs_image": False, "makes_sense": True}]},
    {"verdicts": [{"needs_image": "no", "makes_sense": True}] * 3}, {"verdicts": ["fine"] * 3},
])
def test_a_verdict_that_is_none_is_asked_for_again(serve, tmp_path, reply):
    wrong = [completion(reply)]

    def answer(request, number):
        return wrong.pop() if is_judging(request) and wrong else good(request)

    server = serve(answer)
    report = annotate(bed(tmp_path, item()), "parrot")
    assert report.retries == 1
    assert report.counts()["replacement chosen"] == 1
    assert read_verdicts(3, json.dumps(reply))[1] in server.requests[-1]["messages"][-1]["content"]


def test_constraints_outlive_a_judge_that_never_judges(serve, tmp_path):
    serve(lambda request, number: completion("yes") if is_judging(request) else good(request))
    report = annotate(bed(tmp_path, item()), "parrot", requests=Requests(retries=1))
    assert load_testbed(tmp_path).items[0].visual_constraint == "this country"
    assert report.reasons("annotated") == {"no usable verdict": 1}


def test_questions_that_items_share_are_asked_once_and_no_item_is_given_away(serve, tmp_path):
    server = serve()
    names = NAMES["director"]
    question = "Name a film of this director"
    items = [
        item(0, question, "movies", answers=("Cléo from 5 to 7",), entity=names[0]),
        item(1, question, "movies", answers=("Ran",), entity="Kurosawa"),
        item(2, question, "movies", answers=("a film by Agnès Varda",)),
        item(3, question, "movies", answers=("Ran",), entity=f"{names[0]}, {names[1]} and {names[2]}"),
        item(4, question, "okvqa", answers=("Ran",)),
    ]
    report = annotate(bed(tmp_path, *items), "parrot")
    assert [i.visual_replacement for i in load_testbed(tmp_path)] == [names[1], names[0], names[1], "", names[0]]
    assert len(server.requests) == 4  # of two parts: constraints, and a verdict
    assert report.questions == 2
    assert report.reasons("annotated") == {"every replacement that passed names the answer or what the image shows": 1}


def test_what_gives_an_item_away():
    shown = item(entity="Eiffel Tower", answers=("Paris", "2006"))
    assert gives_away("the Eiffel Tower", shown)
    assert gives_away("Paris Hilton", shown)
    assert gives_away("tower", shown)
    assert gives_away("May 2006", shown)
    assert not gives_away("London", shown)
    assert not gives_away("Par", shown)


def test_replacements_of_equal_token_length_go_first(serve, tmp_path):
    serve()
    report = annotate(bed(tmp_path, item()), "parrot", tokenizer=str.split)
    assert load_testbed(tmp_path).items[0].visual_replacement == "Sri Lanka"
    assert report.counts()["replacement of equal length"] == 1
    again = bed(tmp_path / "again", item(answers=("Sri Lanka",), entity="North Macedonia"))
    report = annotate(again, "parrot", tokenizer=str.split)
    assert load_testbed(tmp_path / "again").items[0].visual_replacement == "Mongolia"
    assert report.counts()["replacement of equal length"] == 0
    third = bed(tmp_path / "third", item())
    annotate(third, "parrot", tokenizer=lambda text: text.split() + ["more"] * ("Sri" in text))
    assert load_testbed(tmp_path / "third").items[0].visual_replacement == "North Macedonia"


def test_a_tokenizer_of_an_unknown_kind_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "something-new"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(TestBedError, match=r"tokenizer '.*' cannot be loaded \(.+\)\.$"):
        token_counter(tmp_path)


def test_a_tokenizer_by_name():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "mini")
    expected = len(tokenizer.tokenize("\n" + CAPITAL))
    assert token_counter(CHECKPOINTS / "mini")(CAPITAL) == token_counter(tokenizer)(CAPITAL) == expected
    with pytest.raises(TestBedError, match="nowhere"):
        token_counter("nowhere")
    assert token_counter(None) is None
