"""Claims about the test bed follow its counts."""

import pandas as pd

from interventions.claims.table1_testbed import table1_claims, table1_numbers


def counts(**changes) -> pd.DataFrame:
    sizes = {"known/single": 1352, "known/multi": 245, "okvqa/single": 533, "okvqa/multi": 376, "movies/single": 302,
             "movies/multi": 475} | changes
    rows = [(*name.split("/"), n, n, n, 1, n, n) for name, n in sizes.items()]
    columns = ["part", "constraints", "questions", "entities", "images", "relations", "checked", "found"]
    return pd.DataFrame(rows, columns=columns)


def table1(**changes) -> dict[str, bool]:
    return {claim.claim: claim.holds for claim in table1_claims(counts(**changes))}


def test_table_1_is_honest_about_its_size():
    assert table1() == {
        "three parts": True, "questions with one constraint": True, "questions with two constraints": True,
        "number of questions": False, "constraints can be traced": True,
    }
    assert table1(**{"okvqa/single": 9700})["number of questions"]
    assert not table1(**{"okvqa/single": 9700, "okvqa/multi": 0, "movies/multi": 0})["number of questions"]
    size = table1_claims(counts())[3]
    assert size.here == "2,187 with one constraint and 1,096 with two"


def test_table_1_sees_what_is_missing():
    assert not table1(**{"movies/multi": 0})["questions with two constraints"]
    assert table1(**{"known/multi": 0})["questions with two constraints"]  # the paper has none either
    assert not table1(**{"movies/single": 0})["questions with one constraint"]
    two_parts = counts().query("part != 'movies'")
    assert not table1_claims(two_parts)[0].holds
    assert not table1_claims(two_parts)[1].holds
    lost = counts()
    lost.loc[0, "found"] -= 1
    claim = table1_claims(lost)[-1]
    assert not claim.holds
    assert claim.here == "found in the model's tokens in 3,282 of 3,283 questions"
    assert table1_numbers(lost)["known/single/found"].value == 1351
    assert table1_numbers(lost)["all/multi/questions"].value == 1096
