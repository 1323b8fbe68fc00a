"""Which items are annotated, with which settings, and after which examples."""

import json

import pytest
from annotating import CAPITAL, GOOD, bed, item, many
from openai_server import completion

from interventions.testbed import TestBedError, load_testbed
from interventions.testbed.annotation.prompt import STARTER_EXAMPLES, examples_of, read_examples
from interventions.testbed.annotation.run import Requests, annotate
from interventions.testbed.provenance import history

pytestmark = pytest.mark.usefixtures("openai_key")


def test_another_model_and_other_examples_are_asked_again(serve, tmp_path):
    server = serve()
    testbed = bed(tmp_path, item())
    annotate(testbed, "parrot")
    annotate(testbed, "raven")
    (tmp_path / "e.jsonl").write_text(json.dumps({"question": CAPITAL} | GOOD))
    annotate(testbed, "raven", examples=tmp_path / "e.jsonl")
    assert [request["model"] for request in server.requests] == ["parrot"] * 2 + ["raven"] * 3  # one judgement is kept


def test_which_chooses_unmarked_incomplete_or_all(serve, tmp_path):
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
    ({"requests": Requests(retries=-1)}, "retries must be"),
    ({"requests": Requests(concurrency=0)}, "concurrency must be"),
    ({"requests": Requests(concurrency=1.5)}, "concurrency must be"),
    ({"requests": Requests(timeout=0)}, "timeout must be"),
    ({"requests": Requests(price_in=1.0)}, "price_in and price_out"),
    ({"requests": Requests(price_in=1.0, price_out=-1.0)}, "price_in and price_out"),
    ({"examples": "nowhere.json"}, "nowhere.json"),
])
def test_parameters_that_cannot_be_are_refused(serve, tmp_path, parameters, told):
    server = serve()
    with pytest.raises(TestBedError, match=told):
        annotate(bed(tmp_path, item()), "parrot", **parameters)
    assert server.requests == []


def test_starter_examples():
    examples = read_examples(STARTER_EXAMPLES)
    for part in ("known", "okvqa", "movies"):
        own = examples_of(examples, part)
        assert len(own) == 8
        assert sum(e.marks.text_constraint is not None for e in own) >= 2
    assert all(len(e.marks.visual_replacements) == 3 for e in examples)
    assert len({e.question for e in examples}) == 24
    assert examples_of(examples, "encyclopedic") == list(examples)


ROW = {"question": CAPITAL} | GOOD


def test_examples_of_the_users_own(serve, tmp_path):
    server = serve()
    (tmp_path / "e.json").write_text(json.dumps([ROW, ROW | {"part": "movies"}]))
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, [ROW, ROW | {"part": "movies"}])) + "\n\n")
    assert read_examples(tmp_path / "e.json") == read_examples(tmp_path / "e.jsonl")
    assert [len(examples_of(read_examples(tmp_path / "e.json"), part)) for part in ("known", "movies")] == [1, 2]
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
