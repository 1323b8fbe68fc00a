"""Claims about single questions follow the numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sites import early, sites, study_of

from interventions.claims.fig2_fig8_questions import (
    fig2_claims,
    fig2_numbers,
    question_claims,
    question_numbers,
    question_peaks,
)
from interventions.studies.conditions import Conditions
from interventions.tracing.study import TraceStudy

KINDS = ("mlp", "attention")


def study(effect, ids=(0,), **options):
    return study_of(sites(effect, ids=ids, **options))


def held(effect, kinds=KINDS, **options) -> dict[str, bool]:
    """Kind -> does the claim of the first question hold?"""
    claims = question_claims(study(effect, **options), kinds)
    names = {"MLP": "mlp", "self-attention": "attention"}
    return {names[claim.claim.split(": ")[1].split(" at ")[0]]: claim.holds for claim in claims if ": " in claim.claim}


def at_last(part, kind, role, layer, q):
    """The constraint's last token only: in `sites`, position 0 has 0.2 more everywhere."""
    return early(part, kind, role, layer, q) - (0.2 if role == "constraint" else 0)


def scaled(factor):
    return lambda part, kind, role, layer, q: early(part, kind, role, layer, q) * factor - 0.2 * (role == "constraint")


def test_early_effects_at_the_constraint_hold_and_late_or_small_ones_do_not():
    assert held(at_last) == {"mlp": True, "attention": True}
    late = held(lambda part, kind, role, layer, q: at_last(part, kind, role, 7 - layer, q))
    assert late == {"mlp": False, "attention": False}
    # 0.93 is lost: a quarter of it counts for an MLP, a tenth for attention.
    assert held(scaled(0.2)) == {"mlp": False, "attention": True}
    assert held(scaled(0.1)) == {"mlp": False, "attention": False}
    assert held(scaled(0.35)) == {"mlp": True, "attention": True}
    assert held(at_last, kinds=["attention"]) == {"attention": True}


def test_nothing_lost_is_nothing_shown():
    found = study(at_last)
    lossless = replace(found, questions=found.questions.assign(p_corrupted=0.9))
    claims = [claim for claim in question_claims(lossless, KINDS) if ": " in claim.claim]
    assert [claim.holds for claim in claims] == [False, False]
    assert "of 0.05 lost" in claims[0].here


def test_a_larger_effect_elsewhere_is_told():
    def elsewhere(part, kind, role, layer, q):
        return 0.9 if (role, layer) == ("last", 6) else at_last(part, kind, role, layer, q)

    claim = question_claims(study(elsewhere), ["mlp"])[0]
    assert claim.holds
    assert claim.here == "largest effect 0.80 of 0.93 lost, at layer 1; anywhere 0.90, at the last token, layer 6"
    assert "anywhere" not in question_claims(study(at_last), ["mlp"])[0].here
    assert claim.claim == "known-0: MLP at the visual constraint"
    assert claim.paper == "causal: early layers, here 0-1 of 8 (Figures 8 and 10)"


def test_peaks_are_found_anywhere_and_at_the_constraint():
    def other(part, kind, role, layer, q):
        # position 0 of the constraint's tokens gets 0.2 more, so its peak is not at the last one
        return {("constraint", 2): 0.5, ("last", 7): 0.9}.get((role, layer), 0.0)

    peaks = question_peaks(study(other)).set_index(["kind", "where"])
    at, anywhere = peaks.loc[("mlp", "constraint")], peaks.loc[("mlp", "anywhere")]
    assert (at["layer"], at["position"], at["role"]) == (2, 0, "constraint")
    assert at["effect"] == pytest.approx(0.7)
    assert (anywhere["layer"], anywhere["position"], anywhere["role"]) == (7, 3, "last")
    numbers = question_numbers(study(other), ["attention"])
    assert numbers["known-0/attention/constraint_layer"].value == 2
    assert numbers["known-0/attention/peak_effect"].value == pytest.approx(0.9)
    assert numbers["known-0/p_corrupted"].value == 0.02
    assert not any("mlp" in name for name in numbers)


def test_questions_that_were_not_used_make_no_claim():
    found = study(at_last)
    lost = found.questions.assign(id="lost", used=False, p_clean=np.nan)
    both = replace(found, questions=pd.concat([lost, found.questions]))
    assert {name.split("/")[0] for name in question_numbers(both, KINDS)} == {"known-0"}
    assert len(question_claims(both, KINDS)) == 3


def test_attention_is_compared_with_the_mlps():
    def weaker_in(count):
        def effect(part, kind, role, layer, q):
            factor = 0.5 if kind == "attention" and q < count else 1.5 if kind == "attention" else 1
            return at_last(part, kind, role, layer, 0) * factor
        return question_claims(study(effect, ids=range(3)), KINDS)[-1]

    assert weaker_in(2).holds
    assert weaker_in(2).here == "smaller largest effect in 2 of 3 questions"
    assert not weaker_in(1).holds
    assert len(question_claims(study(at_last), ["mlp"])) == 1  # the kinds are compared where attention is shown


@pytest.mark.parametrize(("layer", "holds"), [(0, True), (4, True), (5, False)])
def test_two_constraints_reach_into_middle_layers_of_the_text_constraint(layer, holds):
    def effect(part, kind, role, at, q):
        value = 0.8 if (role, at) == ("constraint_last", layer) else 0.0
        return value - (0.2 if role == "constraint" else 0)

    frame = sites(effect, ids=(0,))
    frame["role"] = frame["role"].replace({"constraint": "text_constraint", "constraint_last": "text_constraint_last"})
    found = study_of(frame)
    found = TraceStudy(frame, found.questions.assign(constraints="multi"), 8, 6, Conditions())
    claims = question_claims(found, KINDS)
    assert [claim.holds for claim in claims] == [holds, holds]
    assert claims[0].claim == "known-0: MLP at the text constraint"
    assert "Figure 12" in claims[0].paper
    assert "Figure 13" in claims[1].paper
    assert "early and middle layers, here 0-4 of 8" in claims[1].paper


def worked(clean=0.9, corrupted=0.05, restored=0.8, layer=1, said=("Lima", "Rome", "Lima")):
    p = {"clean": clean, "corrupted": corrupted, "restored": restored}
    rows = [(run, 1 if token == "Lima" else 2, "Lima", value, True) for (run, value), token in
            zip(p.items(), said, strict=True)]
    rows += [(run, 1, f" {token}", 0.95, False) for run, token in zip(p, said, strict=True) if token != "Lima"]
    answers = pd.DataFrame(rows, columns=["run", "rank", "token", "p", "is_answer"])
    site = {"kind": "mlp", "position": 64, "token": " country", "layer": layer, "layers": (0, 2)}
    return SimpleNamespace(answers=answers, site=site, p_answer=p.get)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True]),
        ({"corrupted": 0.5}, [False, True, True]),
        ({"said": ("Lima", "Lima", "Lima")}, [False, True, True]),
        ({"restored": 0.3}, [True, False, True]),
        ({"said": ("Lima", "Rome", "Rome")}, [True, False, True]),
        ({"corrupted": 0.95}, [False, False, True]),
        ({"layer": 2}, [True, True, False]),  # early are layers 0 and 1 of eight
    ],
)
def test_figure_2_tells_whether_the_answer_is_lost_and_comes_back(changes, holds):
    claims = fig2_claims(worked(**changes), study(at_last))
    assert [claim.holds for claim in claims] == holds
    assert all(type(claim.holds) is bool for claim in claims)


def test_figure_2_names_the_constraint_that_was_corrupted():
    claim = fig2_claims(worked(layer=4), study(at_last))[2]
    assert claim.claim == "the best window at the visual constraint is where the paper finds effects"
    assert claim.paper == "early layers, here 0-1 of 8 (Figure 3)" and not claim.holds
    multi = study(at_last)
    multi = replace(multi, questions=multi.questions.assign(constraints="multi"))
    claim = fig2_claims(worked(layer=4), multi)[2]
    assert "at the text constraint" in claim.claim and claim.holds
    assert claim.paper == "early and middle layers, here 0-4 of 8 (Figure 4)"


def test_figure_2_in_numbers():
    numbers = fig2_numbers(worked())
    assert numbers["p_restored"].value == 0.8
    assert numbers["restored/layer"].value == 1
    assert numbers["corrupted/1/Rome"].value == 0.95
    assert "the corrupted run says 'Rome'" in fig2_claims(worked(), study(at_last))[0].here
    assert "88% of the lost probability" in fig2_claims(worked(), study(at_last))[1].here
