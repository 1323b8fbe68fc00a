"""What claims, numbers and the table say of transplants."""

import numpy as np
import pandas as pd
import pytest

from interventions.attention import transplant as flows
from interventions.claims.transplant import (
    READ,
    flow_claims,
    flow_numbers,
    flow_table,
    transplant_claims,
    transplant_numbers,
    transplant_table,
)
from interventions.studies.transplant import BOTH, CANNOT_SAY, CARRIES, TAKES_AWAY, transplant_shares
from interventions.tracing.transplant import COLUMNS


def shares(fact: float, word: float, part: str = "known", kinds=("mlp", "attention"), n: int = 20) -> pd.DataFrame:
    """Effects of 0.8 at layer 1 and 0.4 at layer 2, of which these shares come with another image's output."""
    rows = [
        {"id": f"{part}-{q}", "other": "o", "part": part, "kind": kind, "layer": layer, "p_own": 0.1 + word * effect,
         "p_other": fact * effect, "p_corrupted_own": 0.1, "p_corrupted_other": 0.0,
         "p_restored": 0.1 + effect + 0.02 * (-1) ** q, "p_clean": 0.9, "p_donor": 0.9}
        for kind in kinds for layer, effect in enumerate((0.0, 0.8, 0.4)) for q in range(n)
    ]
    return transplant_shares(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("fact", "word", "says", "holds"),
    [(1, 0, CARRIES, True), (0, 1, TAKES_AWAY, False), (0.5, 0.5, BOTH, True), (0, 0, CANNOT_SAY, None)],
)
def test_a_claim_for_each_kind_in_the_words_of_the_verdict(fact, word, says, holds):
    claims = transplant_claims({"visual constraint": shares(fact, word)})
    assert [claim.claim for claim in claims] == [
        "transplant: MLP, visual constraint", "transplant: self-attention, visual constraint"]
    for claim in claims:
        assert claim.holds is holds
        assert claim.here.startswith(f"{says} (known: answer {fact:.2f}") and "of 0.80" in claim.here
        assert "not in the paper" in claim.paper


def test_one_part_that_only_takes_the_replacement_away_fails_the_claim():
    parts = pd.concat([shares(1, 0), shares(0, 1, "movies"), shares(1, 0, "okvqa", n=5)])
    claim, _ = transplant_claims({"visual constraint": parts})
    assert claim.holds is False
    assert f"{TAKES_AWAY} (movies: " in claim.here and f"{CANNOT_SAY} (okvqa: " in claim.here
    assert f"{CARRIES} (known: " in claim.here
    [undecided, _] = transplant_claims({"visual constraint": pd.concat([shares(1, 0), shares(1, 0, "okvqa", n=5)])})
    assert undecided.holds is True  # of the part that is decided


def test_series_have_claims_and_numbers_of_their_own():
    both = {"multimodal": shares(1, 0, kinds=("mlp",)), "text only": shares(0, 1, kinds=("mlp",))}
    assert [claim.holds for claim in transplant_claims(both)] == [True, False]
    numbers = transplant_numbers(both)
    place = "known/mlp/transplant/multimodal"
    assert numbers[f"{place}/layer"].value == 1 and numbers[f"{place}/layer"].n == 20
    assert numbers[f"{place}/effect"].value == pytest.approx(0.8)
    assert numbers[f"{place}/layer 2/effect"].value == pytest.approx(0.4)
    assert numbers[f"{place}/fact"].value == pytest.approx(1, abs=1e-6)
    assert numbers["known/mlp/transplant/text only/layer 2/word"].value == pytest.approx(1, abs=1e-6)
    assert f"{place}/layer 0/fact" not in numbers  # no effect to share
    table = transplant_table(both)
    assert table["traced"].tolist() == ["multimodal", "text only"]
    assert table["verdict"].tolist() == [CARRIES, TAKES_AWAY]
    assert table["best layer"].tolist() == [1, 1] and table["kind"].tolist() == ["MLP", "MLP"]


def test_no_effect_and_no_transplant():
    nothing = shares(1, 0).query("layer == 0")
    [claim, _] = transplant_claims({"visual constraint": nothing})
    assert claim.holds is None and claim.here == f"{CANNOT_SAY} (known: effect 0.00)"
    assert transplant_table({"visual constraint": nothing})["share that carries the answer"].isna().all()
    numbers = transplant_numbers({"visual constraint": nothing})
    assert np.isnan(numbers["known/mlp/transplant/visual constraint/fact"].value)
    none = {"visual constraint": transplant_shares(pd.DataFrame(columns=COLUMNS))}
    assert transplant_claims(none) == [] and transplant_numbers(none) == {} and transplant_table(none).empty


# Flows to the last token


def flow_shares(fact: float, word: float, part: str = "known", n: int = 20) -> pd.DataFrame:
    """A flow whose drop of 0.8 has these shares, and one without a drop."""
    return flows.flow_transplant_shares(pd.DataFrame([
        {"id": f"{part}-{q}", "other": "o", "part": part, "flow": flow, "p_own": 0.1 + word * drop,
         "p_other": fact * drop, "p_blocked_own": 0.1, "p_blocked_other": 0.0,
         "p_clean": 0.1 + drop + 0.02 * (-1) ** q, "p_donor": 0.9}
        for flow, drop in (("constraint -> last", 0.8), ("visual -> last", 0.0)) for q in range(n)
    ]))


@pytest.mark.parametrize(
    ("fact", "word", "says", "holds"),
    [(1, 0, CARRIES, True), (0, 1, TAKES_AWAY, False), (0.5, 0.5, BOTH, True), (0, 0, CANNOT_SAY, None)],
)
def test_a_claim_for_each_flow_in_its_own_words(fact, word, says, holds):
    used, unused = flow_claims(flow_shares(fact, word))
    assert (used.claim, unused.claim) == ("transplant: constraint -> last", "transplant: visual -> last")
    assert used.holds is holds and unused.holds is None
    assert used.here.startswith(f"{READ[says]} (known: answer {fact:.2f}") and used.here.endswith("of 0.80)")
    assert unused.here == f"{CANNOT_SAY} (known: effect 0.00)"
    assert "restored" not in used.paper + used.here and "not in the paper" in used.paper


def test_numbers_and_a_table_of_flows():
    shares = pd.concat([flow_shares(1, 0), flow_shares(0, 1, "movies")])
    numbers = flow_numbers(shares)
    assert numbers["known/constraint -> last/transplant/drop"].value == pytest.approx(0.8)
    assert numbers["movies/constraint -> last/transplant/word"].value == pytest.approx(1, abs=1e-6)
    assert np.isnan(numbers["known/visual -> last/transplant/fact"].value)
    table = flow_table(shares)
    assert table["verdict"].tolist() == [READ[CARRIES], CANNOT_SAY, READ[TAKES_AWAY], CANNOT_SAY]
    assert table["share that carries the answer"].isna().tolist() == [False, True, False, True]
    [claim, _] = flow_claims(shares)
    assert claim.holds is False
    none = flows.flow_transplant_shares(pd.DataFrame(columns=flows.COLUMNS))
    assert flow_claims(none) == [] and flow_numbers(none) == {} and flow_table(none).empty
