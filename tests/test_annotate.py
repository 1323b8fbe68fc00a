"""Annotating over real HTTP: the endpoint is `openai_server.OpenAIServer` on loopback."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from openai_server import NAMES, OpenAIServer, Said, asked, completion, good, is_judging, judged, marks, refusal
from transformers import AutoTokenizer

from interventions import ndif
from interventions.checkpoints import CHECKPOINTS
from interventions.progress import Progress
from interventions.testbed import Item, TestBedError, load_testbed, save_testbed
from interventions.testbed.annotation import llm
from interventions.testbed.annotation import run as annotating
from interventions.testbed.annotation.choice import token_counter
from interventions.testbed.annotation.examples import STARTER_EXAMPLES, of_part, read_examples
from interventions.testbed.annotation.prompt import Marks, Question, read_marks, read_verdicts
from interventions.testbed.annotation.run import annotate
from interventions.testbed.candidates import gives_away
from interventions.testbed.provenance import history

KEY = "sk-test-0123456789abcdef"
CAPITAL = "The capital of this country is"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(llm, "BACK_OFF", 0.01)


@pytest.fixture
def serve(monkeypatch):
    """serve(answer) -> a server that OPENAI_BASE_URL names."""
    servers = []

    def start(answer=good):
        server = OpenAIServer(answer)
        servers.append(server.__enter__())
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return server

    yield start
    for server in servers:
        server.__exit__()


def item(number=0, question=CAPITAL, part="known", **changes):
    fields = {"id": f"{part}-{number}", "part": part, "question": question, "image": None, "answers": ("Lima",)}
    return Item(**fields | changes)


def bed(directory, *items):
    save_testbed(items, directory)
    return load_testbed(directory)


def many(n, part="known"):
    """Questions that differ."""
    return [item(i, f"The capital of this country in its year {i} is", part) for i in range(n)]


def first_then(*answers):
    """The n-th request gets the n-th answer, later ones a good one."""
    return lambda request, number: answers[number] if number < len(answers) else good(request)


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
    annotate(bed(tmp_path, item(), item(0, "Name a film of this director", "movies")), "parrot", concurrency=1)
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


GOOD = marks(CAPITAL)


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
    report = annotate(bed(tmp_path, item()), "parrot", concurrency=1)
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
    report = annotate(bed(tmp_path, before), "parrot", retries=2)
    assert len(server.requests) == 3
    assert list(load_testbed(tmp_path)) == [before]
    assert report.counts()["failed, no usable reply"] == 1
    assert "known-0: no usable reply: it is not one JSON object" in str(report)
    assert annotate(load_testbed(tmp_path), "parrot", retries=3).retries == 3  # goes on with the conversation
    assert len(server.requests) == 4


def test_good_constraints_outlive_bad_replacements(serve, tmp_path):
    server = serve(lambda request, number: completion(GOOD | {"visual_replacements": ["these people"]}))
    report = annotate(bed(tmp_path, item()), "parrot", retries=1)
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
    annotate(bed(tmp_path, item()), "parrot", retries=0)
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
    report = annotate(bed(tmp_path, item()), "parrot", retries=1)
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


def test_a_tokenizer_by_name():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "mini")
    expected = len(tokenizer.tokenize("\n" + CAPITAL))
    assert token_counter("mini")(CAPITAL) == token_counter(tokenizer)(CAPITAL) == expected
    with pytest.raises(ValueError, match="nowhere"):
        token_counter("nowhere")
    assert token_counter(None) is None


def test_a_slow_endpoint(serve, tmp_path):
    server = serve(first_then(Said("late", delay=2)))
    report = annotate(bed(tmp_path, item()), "parrot", timeout=0.3)
    assert report.count("annotated") == report.repeated == 1
    assert len(server.requests) == 3


def test_an_endpoint_that_is_always_too_slow_costs_the_question(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "TRIES", 2)
    server = serve(lambda request, number: Said("late", delay=1))
    report = annotate(bed(tmp_path, item()), "parrot", timeout=0.2)
    assert "the endpoint failed: Request timed out (timed out)" in str(report)
    assert len(server.requests) == 2


@pytest.mark.parametrize("seconds", ["1", "date"])
def test_retry_after_is_heeded(serve, tmp_path, seconds):
    def answer(request, number):
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        told = {"Retry-After": soon if seconds == "date" else seconds}
        return good(request) if number else refusal(429, "Slow down", told)

    server = serve(answer)
    report = annotate(bed(tmp_path, item()), "parrot")
    assert report.count("annotated") == 1
    assert 1 <= server.times[1] - server.times[0] < 4
    assert server.requests[0] == server.requests[1]


def test_a_limit_of_the_rate_is_waited_out_and_other_faults_are_not(serve, tmp_path):
    server = serve(first_then(*[refusal(429, "Slow down")] * (llm.TRIES + 2)))
    assert annotate(bed(tmp_path, item()), "parrot").repeated == llm.TRIES + 2
    server = serve(first_then(*[refusal(500, "Oh no")] * llm.TRIES))
    report = annotate(bed(tmp_path / "2", item()), "parrot")
    assert report.repeated == llm.TRIES - 1
    assert "known-0: the endpoint failed: 500: Oh no" in str(report)
    assert len(server.requests) == llm.TRIES


def test_nobody_waits_for_longer_than_patience(serve, tmp_path):
    serve(lambda request, number: refusal(429, "Tomorrow", {"Retry-After": "86400"}))
    began = time.monotonic()
    assert annotate(bed(tmp_path, item()), "parrot").reasons("failed") == {"the endpoint failed": 1}
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("nonsense", [
    Said("<html>Welcome to the hotel's Wi-Fi</html>"), Said('{"choices": [{"mess'), Said({"choices": []}), Said("[]"),
    Said({"error": {"message": "overloaded"}}), Said({"choices": [{"message": None}]}), Said("[" * 50_000),
    Said("{}" * 999, cut=99), refusal(500, "Oh no"), Said("<html>Bad gateway</html>", 502), refusal(503, "Busy"),
])
def test_nonsense_is_asked_for_again(serve, tmp_path, nonsense):
    server = serve(first_then(nonsense, nonsense))
    report = annotate(bed(tmp_path, item()), "parrot")
    assert load_testbed(tmp_path).items[0].visual_replacement == "Sri Lanka"
    assert (report.repeated, len(server.requests)) == (2, 4)


def test_a_refused_question_costs_itself_alone(serve, tmp_path):
    def answer(request, number):
        return refusal(400, "That is against our policy") if "year 1 " in asked(request) else good(request)

    serve(lambda request, number: good(request) if is_judging(request) else answer(request, number))
    report = annotate(bed(tmp_path, *many(3)), "parrot")
    assert [i.visual_constraint for i in load_testbed(tmp_path)] == ["this country", "", "this country"]
    assert "known-1: the endpoint failed: 400: That is against our policy" in str(report)


def test_a_judge_that_cannot_be_reached_leaves_the_constraints(serve, tmp_path):
    server = serve(lambda request, number: refusal(400, "no") if is_judging(request) else good(request))
    assert annotate(bed(tmp_path, item()), "parrot").reasons("annotated") == {"the endpoint failed": 1}
    assert load_testbed(tmp_path).items[0].visual_constraint == "this country"
    server = serve()
    annotate(load_testbed(tmp_path), "parrot", which="all")
    assert [is_judging(request) for request in server.requests] == [True]  # only what is lacking is asked for
    assert load_testbed(tmp_path).items[0].visual_replacement == "Sri Lanka"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_ten_failures_in_a_row_end_the_run(serve, tmp_path, concurrency):
    server = serve(lambda request, number: good(request) if number < 4 else refusal(400, "Overloaded"))
    testbed = bed(tmp_path, *many(40))
    with pytest.raises(TestBedError, match=r"10 questions in a row failed at http://127\.0\.0\.1:\d+ \(.*Overloaded\); "
                       r"\d+ of 40 questions are done and kept: start again to go on\.$") as ended:
        annotate(testbed, "parrot", concurrency=concurrency)
    assert "\n" not in str(ended.value)
    assert len(server.requests) < 25
    marked = sum(bool(i.visual_constraint) for i in load_testbed(tmp_path))
    assert marked == 2 if concurrency == 1 else marked <= 4
    counts = history(tmp_path)[-1]["counts"]
    assert counts["items"] == 40 == sum(counts[name] for name in ("as it was", "annotated", "failed", "not asked"))
    # Where only the judge could not be asked, the constraints are kept.
    assert counts["failed, the endpoint failed"] + counts.get("no replacement, the endpoint failed", 0) >= 10


def test_nine_failures_do_not(serve, tmp_path):
    serve(lambda request, number: refusal(400, "no") if number < 9 else good(request))
    report = annotate(bed(tmp_path, *many(10)), "parrot", concurrency=1)
    assert (report.count("failed"), report.count("annotated")) == (9, 1)


@pytest.mark.parametrize(("said", "told"), [
    (refusal(401, f"Incorrect API key provided: {KEY}"), "check OPENAI_API_KEY"),
    (refusal(402, "Insufficient balance"), "it asks for payment"),
    (refusal(403, "No access"), "check what OPENAI_API_KEY is allowed"),
    (refusal(404, "No model parrot"), "check OPENAI_BASE_URL and the model's name"),
    (refusal(429, "You exceeded your quota", code="insufficient_quota"), "its quota is used up"),
])
def test_a_refusal_ends_the_run_in_one_sentence_and_loses_nothing(serve, tmp_path, said, told):
    server = serve(lambda request, number: said if number == 4 else good(request))
    testbed = bed(tmp_path, *many(5))
    with pytest.raises(TestBedError, match=r"takes no requests for 'parrot'") as ended:
        annotate(testbed, "parrot", concurrency=1)
    assert str(ended.value).endswith(f"): {told}; 2 of 5 questions are done and kept: start again to go on.")
    assert "\n" not in str(ended.value) and KEY not in str(ended.value)
    assert len(server.requests) == 5
    assert [bool(i.visual_replacement) for i in load_testbed(tmp_path)] == [True] * 2 + [False] * 3
    report = annotate(load_testbed(tmp_path), "parrot")
    assert report.count("annotated") == 3
    assert report.requests == len(server.requests) - 5 == 6


def test_an_endpoint_that_is_not_there(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    report = annotate(bed(tmp_path, item()), "parrot")
    assert "the endpoint failed: Connection error ([Errno 111] Connection refused)" in str(report)


@pytest.mark.parametrize(("name", "value", "told"), [
    ("OPENAI_API_KEY", None, "OPENAI_API_KEY is not set"),
    ("OPENAI_API_KEY", " ", "OPENAI_API_KEY is not set"),
    ("OPENAI_API_KEY", "sk-a\nsk-b", "holds a character that no key has"),
    ("OPENAI_API_KEY", "sk-ключ", "holds a character that no key has"),
    ("OPENAI_BASE_URL", "localhost:8000", "OPENAI_BASE_URL must be an address"),
    ("OPENAI_BASE_URL", "http://me:secret@127.0.0.1/v1", "without a password"),
])
def test_an_environment_that_cannot_be_used(tmp_path, monkeypatch, name, value, told):
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(TestBedError, match=told) as refused:
        annotate(bed(tmp_path, item()), "parrot")
    assert str(refused.value).endswith("start again to go on.")
    assert not any(part in str(refused.value) for part in ("sk-", "secret", "\n"))
    assert not (tmp_path / "annotations.jsonl").exists()


def test_openai_is_needed_only_where_something_is_asked(serve, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(TestBedError, match=r"pip install '\.\[annotate\]'"):
        annotate(bed(tmp_path, item()), "parrot")
    assert annotate(bed(tmp_path, item(visual_constraint="this country")), "parrot").count("as it was") == 1


@pytest.mark.parametrize("fields", [["response_format"], ["temperature"], ["response_format", "temperature"]])
def test_what_an_endpoint_refuses_is_left_out_from_then_on(serve, tmp_path, fields):
    def answer(request, number):
        sent = [name for name in fields if name in request]
        return refusal(400, f"Unsupported parameter: '{sent[0]}' of this type") if sent else good(request)

    server = serve(answer)
    report = annotate(bed(tmp_path, *many(3)), "parrot", concurrency=1)
    assert report.count("annotated") == 3
    assert len(server.requests) == len(fields) + 6
    for request in server.requests[len(fields):]:
        assert not set(fields) & set(request)
        assert {"response_format", "temperature"} - set(fields) <= set(request)


def test_the_key_is_nowhere(serve, tmp_path, capfd, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(ndif, "_TELL_AFTER", -1.0)
    answers = [refusal(500, f"{KEY} again"), Said(f"<html>{KEY}</html>"), completion(f"no, {KEY}")]
    server = serve(first_then(*answers))
    report = annotate(bed(tmp_path, item(0), item(1)), "parrot")
    assert report.repeated == 2 and report.retries == 1
    shown = capfd.readouterr()
    assert f"{server.url[:-3]} keeps a question waiting (500: [key] again); trying again" in shown.out
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for text in (shown.out, shown.err, caplog.text, str(report), repr(report), *files):
        assert (KEY.encode() if isinstance(text, bytes) else KEY) not in text
    assert b"no, [key]" in (tmp_path / "annotations.jsonl").read_bytes()


def test_as_many_as_are_allowed_are_in_flight_and_the_result_is_the_same(serve, tmp_path):
    running, most, lock = [0], [0], threading.Lock()

    def answer(request, number):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return good(request)

    serve(answer)
    found = {}
    for concurrency in (1, 8):
        most[0] = 0
        report = annotate(bed(tmp_path / str(concurrency), *many(24)), "parrot", concurrency=concurrency)
        assert 1 <= most[0] <= concurrency
        assert (most[0] > 1) == (concurrency > 1)
        found[concurrency] = list(load_testbed(tmp_path / str(concurrency))), report.counts()
    assert found[1] == found[8]


def test_the_cost_adds_up(serve, tmp_path, capsys):
    server = serve(first_then(completion("no", (100, 7))))
    report = annotate(bed(tmp_path, *many(2)), "parrot", concurrency=1, price_in=2.5, price_out=10)
    assert len(server.requests) == 5
    tokens = 3 * 100 + 2 * 60, 7 + 2 * 20 + 2 * 30  # what was wrong is paid for, too
    assert report.tokens == report.tokens_kept == tokens
    assert report.dollars == pytest.approx((tokens[0] * 2.5 + tokens[1] * 10) / 1e6)
    assert report.counts()["dollars"] == round(report.dollars, 4)
    assert re.search(r"527 tokens, \$0\.00\d of about \$0\.00\d", capsys.readouterr().out)
    testbed = bed(tmp_path, *many(3))
    report = annotate(testbed, "parrot", price_in=2.5, price_out=10)
    assert report.tokens == (160, 50)
    assert report.tokens_kept == (580, 157)
    assert report.from_file == 2
    assert "tokens in, with earlier runs" in str(report)


def test_estimates_are_told_while_it_runs(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(annotating, "Progress", lambda total, label: Progress(total, label, every=-1.0))
    serve(lambda request, number: good(request))
    annotate(bed(tmp_path, *many(4)), "parrot", concurrency=1, price_in=1e4, price_out=0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("annotate: 1 of 4 questions, 0 failed, 210 tokens, $1.600 of about $6.400; ")
    assert re.search(r" a second, \d+ s left$", lines[0])
    assert len(lines) == 4


def test_a_run_that_is_killed_goes_on_without_asking_twice(serve, tmp_path, monkeypatch):
    stop, n = threading.Event(), 9
    server = serve(lambda request, number: Said(held=stop) if number >= n else good(request))
    bed(tmp_path, *many(12))
    process = run_annotate(tmp_path, "concurrency=3")
    kept = tmp_path / "annotations.jsonl"
    wait_until(lambda: len(server.requests) == n + 3 and kept.read_bytes().count(b"\n") == n)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    stop.set()
    answered = list(map(json.dumps, server.requests[:n]))
    assert not any(i.visual_constraint for i in load_testbed(tmp_path))
    with kept.open("ab") as file:
        file.write(b'{"key": "torn off in the mid')

    server = serve()
    report = annotate(load_testbed(tmp_path), "parrot", concurrency=3)
    assert report.count("annotated") == 12
    asked_now = list(map(json.dumps, server.requests))
    assert len(asked_now) == 2 * 12 - n == len(set(asked_now))
    assert not set(asked_now) & set(answered)
    assert report.from_file == 12 - len({asked_or_judged(r) for r in server.requests})
    lines = kept.read_text().splitlines()
    assert len(lines) == 25 and sum(line.endswith("mid") for line in lines) == 1
    assert {json.loads(line)["model"] for line in lines if not line.endswith("mid")} == {"parrot"}

    server = serve()
    assert annotate(load_testbed(tmp_path), "parrot", which="all").from_file == 12
    assert server.requests == []


def test_an_interrupt_ends_the_run_at_once_and_keeps_what_is_there(serve, tmp_path):
    stop = threading.Event()
    server = serve(lambda request, number: Said(held=stop) if number >= 4 else good(request))
    bed(tmp_path, *many(12))
    process = run_annotate(tmp_path, "concurrency=1")
    wait_until(lambda: len(server.requests) == 5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert time.monotonic() - began < 10
    stop.set()
    assert "Interrupted; 2 of 12 questions are done and kept: start again to go on." in told
    assert process.returncode != 0
    assert [bool(i.visual_replacement) for i in load_testbed(tmp_path)] == [True] * 2 + [False] * 10
    assert history(tmp_path)[-1]["counts"]["not asked"] == 10


def asked_or_judged(request):
    """What tells a question's two chats from those of others."""
    text = judged(request)[0] if is_judging(request) else asked(request)
    return re.search(r"year \d+", text)[0]


def run_annotate(directory, options):
    # Started in the background of a shell, as CI may be, a process ignores interrupts, and so do its children.
    code = (f"import signal\n"
            f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"from interventions.testbed import load_testbed\n"
            f"from interventions.testbed.annotation.run import annotate\n"
            f"annotate(load_testbed({str(directory)!r}), 'parrot', {options})")
    root = Path(__file__).parent.parent
    return subprocess.Popen([sys.executable, "-c", code], cwd=root, env=os.environ, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_until(condition, seconds=120):
    began = time.monotonic()
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def test_a_file_of_replies_that_cannot_be_used(serve, tmp_path):
    serve()
    (tmp_path / "annotations.jsonl").mkdir()
    with pytest.raises(TestBedError, match="cannot be read"):
        annotate(bed(tmp_path, item()), "parrot")


def test_lines_of_others_in_the_file_are_passed_over(serve, tmp_path):
    server = serve()
    (tmp_path / "annotations.jsonl").write_text('[1]\n{"key": 3}\n\n"x"\nnull\n{"key": "a", "text": "b"}\n')
    assert annotate(bed(tmp_path, item()), "parrot").count("annotated") == 1
    assert len(server.requests) == 2


def test_another_model_and_other_examples_are_asked_again(serve, tmp_path):
    server = serve()
    testbed = bed(tmp_path, item())
    annotate(testbed, "parrot")
    annotate(testbed, "raven")
    (tmp_path / "e.jsonl").write_text(json.dumps({"question": CAPITAL} | GOOD))
    annotate(testbed, "raven", examples=tmp_path / "e.jsonl")
    assert [request["model"] for request in server.requests] == ["parrot"] * 2 + ["raven"] * 3  # one judgement is kept


def test_which_items(serve, tmp_path):
    server = serve()
    marked = dict(visual_constraint="The capital of this country")
    items = [
        item(0, paraphrases=("This country is governed from", "Name the capital")),
        item(1, **marked), item(2, visual_replacement="Kyiv", **marked),
        item(3, "A film of this director in 2006", visual_constraint="this director", visual_replacement="Ann Lee",
             text_constraint="2006"),
    ]
    report = annotate(bed(tmp_path / "unmarked", *items), "parrot")
    assert (report.count("annotated"), report.count("as it was")) == (1, 3)
    assert list(load_testbed(tmp_path / "unmarked"))[1:] == items[1:]

    report = annotate(bed(tmp_path / "incomplete", *items), "parrot", which="incomplete")
    assert (report.count("annotated"), report.count("as it was")) == (3, 1)
    _, second, third, fourth = load_testbed(tmp_path / "incomplete")
    assert second.visual_constraint == "The capital of this country"  # as it was
    assert second.visual_replacement == "Sri Lanka"
    assert third == items[2]
    assert (fourth.visual_replacement, fourth.text_replacement) == ("Ann Lee", "1994")
    told = [m["content"] for r in server.requests for m in r["messages"] if "Its visual_constraint is" in m["content"]]
    given = "Its visual_constraint is 'The capital of this country', its text_constraint null."
    assert f"Question: {CAPITAL}\n{given}" in told

    report = annotate(bed(tmp_path / "all", *items), "parrot", which="all")
    assert report.count("annotated") == 4
    first, second, third, fourth = load_testbed(tmp_path / "all")
    assert first.visual_constraint == second.visual_constraint == third.visual_constraint == "this country"
    assert third.visual_replacement == "Sri Lanka"
    assert first.paraphrases == ("This country is governed from",)  # the other one lacks the constraint
    assert (fourth.visual_replacement, fourth.text_replacement) == ("Agnès Varda", "1994")


def test_marking_anew_in_vain_leaves_an_item_as_it_was(serve, tmp_path):
    serve(lambda request, number: completion("no"))
    before = item(visual_constraint="this country", visual_replacement="Peru")
    annotate(bed(tmp_path, before), "parrot", which="all")
    assert list(load_testbed(tmp_path)) == [before]


def test_a_limit_counts_questions(serve, tmp_path):
    server = serve()
    testbed = bed(tmp_path, *many(3), *(item(10 + i, "The capital of this country in its year 0 is") for i in range(2)))
    report = annotate(testbed, "parrot", limit=2)
    assert (report.questions, report.count("annotated"), report.count("not asked")) == (2, 4, 1)
    assert len(server.requests) == 4


@pytest.mark.parametrize(("parameters", "told"), [
    ({"which": "some"}, "which cannot be 'some'"), ({"limit": -1}, "limit must be"),
    ({"retries": -1}, "retries must be"),
    ({"concurrency": 0}, "concurrency must be"), ({"concurrency": 1.5}, "concurrency must be"),
    ({"timeout": 0}, "timeout must be"), ({"price_in": 1.0}, "price_in and price_out"),
    ({"price_in": 1.0, "price_out": -1.0}, "price_in and price_out"), ({"examples": "nowhere.json"}, "nowhere.json"),
])
def test_parameters_that_cannot_be_are_refused(serve, tmp_path, parameters, told):
    server = serve()
    with pytest.raises(TestBedError, match=told):
        annotate(bed(tmp_path, item()), "parrot", **parameters)
    assert server.requests == []


def test_the_embedded_test_bed_stays_as_it_is():
    with pytest.raises(TestBedError, match="stays as it is: copy its folder first"):
        annotate(load_testbed("embedded"), "parrot", which="all")


def test_starter_examples():
    examples = read_examples(STARTER_EXAMPLES)
    for part in ("known", "okvqa", "movies"):
        own = of_part(examples, part)
        assert len(own) == 8
        assert sum(e.marks.text_constraint is not None for e in own) >= 2
    assert all(len(e.marks.visual_replacements) == 3 for e in examples)
    assert len({e.question for e in examples}) == 24
    assert of_part(examples, "encyclopedic") == list(examples)


ROW = {"question": CAPITAL} | GOOD


def test_examples_of_the_users_own(serve, tmp_path):
    server = serve()
    (tmp_path / "e.json").write_text(json.dumps([ROW, ROW | {"part": "movies"}]))
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, [ROW, ROW | {"part": "movies"}])) + "\n\n")
    assert read_examples(tmp_path / "e.json") == read_examples(tmp_path / "e.jsonl")
    assert [len(of_part(read_examples(tmp_path / "e.json"), part)) for part in ("known", "movies")] == [1, 2]
    annotate(bed(tmp_path / "bed", item(0, "The flag of this country is")), "parrot", examples=tmp_path / "e.json")
    assert [json.loads(m["content"]) for m in server.requests[0]["messages"] if m["role"] == "assistant"] == [GOOD]
    assert history(tmp_path / "bed")[-1]["inputs"][0]["name"] == "e.json"


@pytest.mark.parametrize(("text", "told"), [
    ("", "has no examples"), ("[]", "has no examples"), ("[{", "not readable as JSON or JSONL"),
    (json.dumps(ROW) + "\n{", "not readable as JSON or JSONL"),
    ("[1]", "example 1: it must be an object with a question"),
    (json.dumps([ROW, {"question": 3}]), "example 2: it must be an object with a question"),
    (json.dumps(ROW | {"part": 3}), "example 1: it must be"),
    (json.dumps([ROW, ROW | {"visual_constraint": "this county"}]), "example 2: .*not stand in the question"),
    (json.dumps(ROW | {"visual_constraint": ""}), "example 1: it has no visual_constraint"),
    (json.dumps({"question": CAPITAL, "visual_constraint": "this country"}), "example 1: .*visual_replacements"),
])
def test_a_bad_example_is_named(tmp_path, text, told):
    path = tmp_path / "examples.json"
    path.write_text(text)
    with pytest.raises(TestBedError, match=told) as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"examples: {path}") and "\n" not in str(refused.value)
