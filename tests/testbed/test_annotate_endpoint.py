"""Faults of an endpoint over real HTTP: repeated requests, errors in one sentence, and where the key goes."""

import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from annotating import KEY, bed, first_then, item, many
from openai_server import Said, asked, completion, good, is_judging, refusal

from interventions.testbed import TestBedError, load_testbed
from interventions.testbed.annotation import endpoint as module
from interventions.testbed.annotation.run import Requests, annotate
from interventions.testbed.provenance import history

pytestmark = pytest.mark.usefixtures("openai_key")


def test_a_slow_endpoint(serve, tmp_path):
    server = serve(first_then(Said("late", delay=2)))
    report = annotate(bed(tmp_path, item()), "parrot", requests=Requests(timeout=0.3))
    assert report.count("annotated") == report.repeated == 1
    assert len(server.requests) == 3


def test_an_endpoint_that_is_always_too_slow_costs_the_question(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_RETRIES", 1)
    server = serve(lambda request, number: Said("late", delay=1))
    report = annotate(bed(tmp_path, item()), "parrot", requests=Requests(timeout=0.2))
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


def test_a_fault_that_does_not_pass_costs_the_question(serve, tmp_path):
    server = serve(first_then(*[refusal(429, "Slow down")] * module.MAX_RETRIES))
    assert annotate(bed(tmp_path, item()), "parrot").repeated == module.MAX_RETRIES
    server = serve(first_then(*[refusal(500, "Oh no")] * (module.MAX_RETRIES + 1)))
    report = annotate(bed(tmp_path / "2", item()), "parrot")
    assert report.repeated == module.MAX_RETRIES
    assert "known-0: the endpoint failed: 500: Oh no" in str(report)
    assert len(server.requests) == module.MAX_RETRIES + 1
    server = serve(lambda request, number: Said("<html>Welcome to the hotel's Wi-Fi</html>"))
    report = annotate(bed(tmp_path / "3", item()), "parrot")
    assert "no completion, but begins" in str(report) and "<html>Welcome" in str(report)
    assert (report.repeated, len(server.requests)) == (module.READ_RETRIES, module.READ_RETRIES + 1)


def test_nobody_waits_until_tomorrow(serve, tmp_path):
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
        annotate(testbed, "parrot", requests=Requests(concurrency=concurrency))
    assert "\n" not in str(ended.value)
    assert len(server.requests) < 35  # a busy machine sends a few more before the run ends
    marked = sum(bool(i.visual_constraint) for i in load_testbed(tmp_path))
    assert marked == 2 if concurrency == 1 else marked <= 4
    counts = history(tmp_path)[-1]["counts"]
    assert counts["items"] == 40 == sum(counts[name] for name in ("as it was", "annotated", "failed", "not asked"))
    # Where only the judge could not be asked, the constraints are kept.
    assert counts["failed, the endpoint failed"] + counts.get("no replacement, the endpoint failed", 0) >= 10


def test_nine_failures_do_not(serve, tmp_path):
    serve(lambda request, number: refusal(400, "no") if number < 9 else good(request))
    report = annotate(bed(tmp_path, *many(10)), "parrot", requests=Requests(concurrency=1))
    assert (report.count("failed"), report.count("annotated")) == (9, 1)


@pytest.mark.parametrize(("said", "told"), [
    (refusal(401, f"Incorrect API key provided: {KEY}"), "check OPENAI_API_KEY"),
    (refusal(402, "Insufficient balance"), "it asks for payment"),
    (refusal(403, "No access"), "check what OPENAI_API_KEY is allowed"),
    (refusal(404, "No model parrot"), "check OPENAI_BASE_URL and the model's name"),
    (refusal(429, "You exceeded your quota", code="insufficient_quota"), "its quota is used up"),
])
def test_a_refusal_ends_the_run_in_one_sentence_and_loses_nothing(serve, tmp_path, said, told):
    refusing = [True]
    server = serve(lambda request, number: said if number >= 4 and refusing[0] else good(request))
    testbed = bed(tmp_path, *many(5))
    with pytest.raises(TestBedError, match=r"takes no requests for 'parrot'") as ended:
        annotate(testbed, "parrot", requests=Requests(concurrency=1))
    assert str(ended.value).endswith(f"): {told}; 2 of 5 questions are done and kept: start again to go on.")
    assert "\n" not in str(ended.value) and KEY not in str(ended.value)
    n = len(server.requests)
    assert n == 5 + (module.MAX_RETRIES if said.status == 429 else 0)
    assert [bool(i.visual_replacement) for i in load_testbed(tmp_path)] == [True] * 2 + [False] * 3
    refusing[0] = False
    report = annotate(load_testbed(tmp_path), "parrot")
    assert report.count("annotated") == 3
    assert report.requests == len(server.requests) - n == 6


def test_an_endpoint_that_is_not_there(tmp_path, monkeypatch):
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


def test_openai_is_needed_only_where_something_is_asked(tmp_path, monkeypatch):
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
    report = annotate(bed(tmp_path, *many(3)), "parrot", requests=Requests(concurrency=1))
    assert report.count("annotated") == 3
    assert len(server.requests) == len(fields) + 6
    for request in server.requests[len(fields):]:
        assert not set(fields) & set(request)
        assert {"response_format", "temperature"} - set(fields) <= set(request)


def test_the_key_is_nowhere(serve, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    answers = [refusal(500, f"{KEY} again"), Said(f"<html>{KEY}</html>"), completion(f"no, {KEY}")]
    serve(first_then(*answers))
    report = annotate(bed(tmp_path, item(0), item(1)), "parrot")
    assert report.repeated == 2 and report.retries == 1
    shown = capfd.readouterr()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for text in (shown.out, shown.err, caplog.text, str(report), repr(report), *files):
        assert (KEY.encode() if isinstance(text, bytes) else KEY) not in text
    assert b"no, [key]" in (tmp_path / "annotations.jsonl").read_bytes()
