"""Claims and sentences follow the numbers, on sites made by hand."""

from dataclasses import replace

import pandas as pd
import pytest
from sites import early, questions_of, sites, study_of

from interventions.claims import caveat, closing_sentence, fig3_claims, fig3_numbers


def test_claims_hold_for_early_effects_and_not_otherwise():
    assert all(claim.holds for claim in fig3_claims(study_of(sites(early))))
    late = sites(lambda part, kind, role, layer, q: early(part, kind, role, 7 - layer, q))
    small = sites(lambda *at: early(*at) * 0.1)
    everywhere = sites(lambda part, kind, role, layer, q: early(part, kind, role, 1, q))
    noisy = sites(lambda *at: early(*at) * (5 if at[-1] == 0 else -0.3))
    for frame in (late, small, everywhere, noisy):
        assert not any(claim.holds for claim in fig3_claims(study_of(frame)))


def test_sentence_and_numbers_follow_the_claims():
    def mixed(part, kind, role, layer, q):
        return early(part, kind, role, layer, q) * (1 if kind == "mlp" else 0.1)

    study = study_of(sites(mixed, parts=("known", "movies")))
    claims = fig3_claims(study)
    assert [claim.holds for claim in claims] == [True, False, True, False]
    assert "in 2 of the 4" in closing_sentence(claims)
    assert "movies: self-attention" in closing_sentence(claims)
    assert "all 2" in closing_sentence([claims[0], claims[2]])
    assert "none of the 2" in closing_sentence([claims[1], claims[3]])
    assert "nothing" in closing_sentence([])
    numbers = fig3_numbers(study)
    assert numbers["known/mlp/peak_layer"].value == 1
    assert numbers["known/mlp/peak_effect"].value == pytest.approx(0.835, abs=1e-5)
    assert numbers["known/mlp/peak_effect"].n == 8
    assert numbers["movies/accuracy"].value == 1.0


def test_accuracy_counts_the_questions_that_were_answered():
    study = study_of(sites(early))
    found = study.questions.reset_index(drop=True)
    found.loc[0, ["used", "correct", "reason"]] = False, False, "answered wrongly: 'Rome' instead of 'Lima'"
    found.loc[1, ["used", "correct", "reason", "answer"]] = False, False, "failed: no connection", None
    accuracy = fig3_numbers(replace(study, questions=found))["known/accuracy"]
    assert (accuracy.value, accuracy.n) == (pytest.approx(6 / 7), 7)


def test_a_part_without_a_question_cannot_hold():
    study = study_of(sites(early))
    lost = questions_of(study.sites).iloc[:2].assign(part="movies", used=False, correct=False, reason="x: y")
    study = replace(study, questions=pd.concat([study.questions, lost]))
    claims = fig3_claims(study)
    assert [(claim.claim.split(":")[0], claim.holds) for claim in claims] == [
        ("known", True), ("known", True), ("movies", False), ("movies", False),
    ]  # fmt: skip
    assert "no question" in claims[-1].here


def test_only_embedded_models_carry_a_caveat():
    assert "no evidence for" in " ".join(caveat("mini").split())
    assert "negative control" in caveat("mini-free")
    assert caveat("llava-hf/llava-1.5-7b-hf") == ""
