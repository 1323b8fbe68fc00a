"""Claims and sentences of Figure 3 follow the numbers, on sites made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sites import early, questions_of, sites, study_of

from interventions.claims.common import checks_sentence, closing_sentence
from interventions.claims.fig3_trace import control_claims, fig3_claims, fig3_numbers, fig3_statistics
from interventions.tracing.averages import layer_tests
from interventions.tracing.controls import control_effects


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


def test_a_part_without_a_question_cannot_say():
    study = study_of(sites(early))
    lost = questions_of(study.sites).iloc[:2].assign(part="movies", used=False, correct=False, reason="x: y")
    study = replace(study, questions=pd.concat([study.questions, lost]))
    claims = fig3_claims(study)
    assert [(claim.claim.split(":")[0], claim.holds) for claim in claims] == [
        ("known", True), ("known", True), ("movies", None), ("movies", None),
    ]
    assert "no question" in claims[-1].here


def test_statistics_are_read_at_the_best_layer_and_corrected():
    study = study_of(sites(lambda *at: early(*at) if at[1] == "mlp" else 0.05 * (-1) ** at[-1]))
    table = fig3_statistics(study).set_index("kind")
    assert table.loc["MLP", "best layer"] == 1
    assert "early (0-1 of 8) − other layers [95 %]" in table
    assert table.loc["MLP", "effect [95 %]"].startswith("0.84 [0.8")
    p = table[[column for column in table if column.startswith("p, ")]]
    assert list(p) == ["p, corrected for 8 layers", "p, early > others"]
    assert (p.loc["MLP"].astype(float) < 0.01).all()  # all 8 questions agree: 1 in 256
    assert (p.loc["self-attention"].astype(float) > 0.3).all()
    numbers = fig3_numbers(study)
    assert numbers["known/mlp/peak_p_corrected"].value == pytest.approx(1 / 256, abs=0.002)
    assert numbers["known/attention/peak_p_corrected"].value > 0.3
    difference = numbers["known/mlp/early_difference"]
    assert difference.value == pytest.approx((0.735 + 0.835) / 2 - (0.635 + 5 * 0.055) / 6, abs=1e-5)
    assert difference.low <= difference.value <= difference.high  # a question's own level drops out


def test_the_p_at_the_best_layer_is_the_corrected_one():
    layers = np.random.default_rng(0).normal(0.02, 0.1, (8, 8))  # [questions, layers]
    study = study_of(sites(lambda part, kind, role, layer, q: layers[q, layer], kinds=("mlp",)))
    tests = layer_tests(study)
    best = tests.loc[tests["effect"].idxmax()]
    assert best["p_corrected"] > best["p"] + 0.05
    assert fig3_numbers(study)["known/mlp/peak_p_corrected"].value == best["p_corrected"]
    assert fig3_statistics(study)["p, corrected for 8 layers"].tolist() == [f"{best['p_corrected']:.3f}"]


def test_a_p_below_what_is_shown_is_not_shown_as_0():
    table = fig3_statistics(study_of(sites(early, ids=range(16))))
    assert table["p, corrected for 8 layers"].tolist() == ["< 0.001"] * 2


def controlled(study, position: float, model: float | None = None) -> pd.DataFrame:
    """The frame of `control_effects`, each control having the same effect everywhere, give or take 0.01 by question."""
    def twin(part, kind, role, layer, q):
        return (model + 0.01 * (-1) ** q) * (role == "constraint_last")

    rows = [
        ("other position", f"known-{q}", "known", kind, layer, position + 0.01 * (-1) ** q)
        for q in range(6) for kind in ("mlp", "attention") for layer in range(8)
    ]
    frame = pd.DataFrame(rows, columns=["control", "id", "part", "kind", "layer", "effect"])
    return control_effects(study, frame, None if model is None else study_of(sites(twin, ids=range(6))))


def test_controls_must_stay_below_half_of_the_effect():
    study = study_of(sites(early))
    frame = controlled(study, 0.6, 0.02)
    position, twin = control_claims(frame)
    assert twin.holds and not position.holds
    assert "another route" in twin.claim and "a token outside" in position.claim
    assert "0.60" in position.here and "beside the trace's 0.84" in position.here and "n = 6" in position.here
    assert "half of it is 0.42" in position.here and "upper end" in position.paper
    # The interval decides: 0.41 is below half of 0.835, its interval is not.
    [close] = control_claims(controlled(study, 0.415))
    assert not close.holds
    assert close.here.startswith("0.41 [0.41, 0.42] beside the trace's 0.84, half of it is 0.42")
    numbers = fig3_numbers(study, frame)
    assert numbers["known/mlp/control/other position"].value == pytest.approx(0.6)
    assert numbers["known/mlp/control/other position"].n == 6
    assert not any("none" in name for name in numbers)


def test_controls_of_nothing_prove_nothing():
    nothing = study_of(sites(lambda *at: 0.05 * (-1) ** at[-1]))
    [claim] = control_claims(controlled(nothing, 0.0))
    assert claim.holds is None
    assert "no effect" in claim.here
    none = pd.DataFrame(columns=["control", "part", "kind", "layer", "effect"])
    assert control_claims(control_effects(nothing, none)) == []


def test_the_worst_cell_of_a_control_is_named():
    study = study_of(sites(early, parts=("known", "movies")))
    frame = controlled(study, 0.02)
    worst = frame[(frame["control"] == "other position") & (frame["kind"] == "attention")].assign(
        part="movies", effect=0.5, low=0.4, high=0.6)
    [claim] = control_claims(pd.concat([frame, worst]))
    assert not claim.holds
    assert "movies, self-attention" in claim.here


def test_a_failed_control_is_in_the_closing_sentences():
    study = study_of(sites(early))
    checks = control_claims(controlled(study, 0.6, 0.02))
    told = checks_sentence(checks)
    assert "1 pass" in told and "a token outside of the constraints" in told and "another route" not in told


def at_the_text_constraint(effect):
    """A study of questions with two constraints, of which the text one was corrupted and is read."""
    frame = sites(lambda part, kind, role, layer, q: effect(layer) if role == "constraint_last" else 0.0)
    frame["role"] = frame["role"].replace({"constraint": "text_constraint", "constraint_last": "text_constraint_last"})
    study = study_of(frame)
    return replace(study, questions=study.questions.assign(constraints="multi"))


def test_questions_with_two_constraints_are_read_and_named_at_the_text_constraint():
    study = at_the_text_constraint(lambda layer: 0.8 if layer == 4 else 0.0)
    claims = fig3_claims(study)
    assert [claim.claim for claim in claims] == ["known: MLP at the text constraint",
                                                 "known: self-attention at the text constraint"]
    assert all(claim.holds and "0.80" in claim.here and "layer 4" in claim.here for claim in claims)
    assert claims[0].paper == "high effect in early and middle layers, here 0-4 of 8"
    assert not any(claim.holds for claim in fig3_claims(at_the_text_constraint(lambda layer: 0.8 * (layer == 5))))


def test_questions_of_both_sorts_in_one_run_are_read_each_at_its_own_constraint():
    single = study_of(sites(early, ids=range(4)))
    text = at_the_text_constraint(lambda layer: 0.8 if layer == 1 else 0.0)
    text = text.only([f"known-{q}" for q in range(4, 8)])
    both = replace(single, sites=pd.concat([single.sites, text.sites]),
                   questions=pd.concat([single.questions, text.questions]))
    claim = fig3_claims(both)[0]
    assert claim.claim == "known: MLP at the corrupted constraint"
    assert fig3_numbers(both)["known/mlp/peak_effect"].value == pytest.approx((0.815 + 0.8) / 2, abs=1e-5)


def test_a_model_all_of_whose_layers_are_early_has_no_others_to_compare():
    frame = sites(early)
    study = replace(study_of(frame[frame["layer"] < 1]), n_layers=1)
    statistics = fig3_statistics(study)
    assert len(statistics) == len(fig3_claims(study))
    assert (statistics["p, early > others"] == "unknown").all()
    assert np.isnan(fig3_numbers(study)["known/mlp/early_difference"].value)
