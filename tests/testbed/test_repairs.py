"""Repairs of released constraints: each defect alone, and what must not be touched."""

import pytest

from interventions.testbed.sources.new_testbed import LeftOut
from interventions.testbed.sources.repairs import repair_constraint

SYSTEM = "This operating system was created by?"


@pytest.mark.parametrize(("question", "phrase", "template", "constraint", "repairs"), [
    ("What is this animal?", "this animal?", "", "this animal", ["punctuation removed"]),
    ("What is this animal's tail for?", "this animal's", "", "this animal", ["possessive removed"]),
    ("What is this animal's tail for?", "this animal's.", "", "this animal",
     ["punctuation removed", "possessive removed"]),
    (SYSTEM, "This operating", "{} was created by", "This operating system", ["compound completed"]),
    (SYSTEM, "This operating", "", "This operating system", ["compound completed"]),
    ("This sports drink belongs to?", "This sports", "{} belongs to", "This sports drink", ["compound completed"]),
    ("This tv show debuted on?", "This show", "{} debuted on", "This tv show", ["words that stood apart joined"]),
    ("What is the red sign on this street?", "the sign", "", "the red sign", ["words that stood apart joined"]),
    ("Who owns this well-known brand?", "this well known brand", "", "this well-known brand",
     ["words that stood apart joined"]),
    ("What do these animals eat?", "these animal", "", "these animals", ["word completed"]),
    ("This person was born in the city of?", "the man", "{} was born in", "This person",
     ["constraint read from the fact's template"]),
    ("Where is this cafe\u0301?", "this café", "", "this café", []),
    ("What is THIS animal?", "this animal", "", "THIS animal", []),  # as the question spells it
])
def test_each_repair(question, phrase, template, constraint, repairs):
    assert repair_constraint(question, phrase, template) == (constraint, repairs)


@pytest.mark.parametrize(("question", "phrase", "template"), [
    ("This company was formed in?", "This company", "{} formed in"),  # "This company was" is no phrase
    ("This person is a citizen of?", "This person", "{} is a citizen of"),
    ("What is this?", "this", ""),
    ("What is the name of this dog breed?", "this dog", ""),  # right or not, nothing tells
])
def test_what_needs_no_repair_is_left_alone(question, phrase, template):
    assert repair_constraint(question, phrase, template) == (phrase, [])


@pytest.mark.parametrize(("question", "phrase", "reason"), [
    ("What is the capital of this country?", "this city", "constraint not in the question"),
    ("What is the capital of this country?", "country this", "constraint not in the question"),
    ("Where, in a very big and quite old place, is this dog?", "Where dog", "constraint not in the question"),
    ("What is this?", "", "no constraint"),
    ("What is this?", " .? ", "no constraint"),
    *(("What is this animal?", mark, "no constraint: the row names none") for mark in "*#/©'"),
    ("What is this animal?", "_", "constraint not in the question: '_'"),
])
def test_what_cannot_be_repaired_is_left_out(question, phrase, reason):
    with pytest.raises(LeftOut, match=reason):
        repair_constraint(question, phrase, "{} was born in")
