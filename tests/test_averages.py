"""Averages, intervals and tests over questions, on sites made by hand."""

import numpy as np
import pandas as pd
import pytest
from sites import sites

from interventions.averages import by_role_layer, early_layers


def test_tokens_are_averaged_within_questions_first():
    frame = sites(lambda part, kind, role, layer, q: 0.1 * q if role == "constraint" else 0.0)
    effects = by_role_layer(frame)
    row = effects.query("kind == 'mlp' and role == 'constraint' and layer == 0").iloc[0]
    assert row["effect"] == pytest.approx(np.mean([0.1 * q + 0.1 for q in range(8)]), abs=1e-6)
    assert row["n"] == 8
    assert row["low"] < row["effect"] < row["high"]
    # A question whose role has three tokens weighs as much as one whose role has one.
    extra = frame.query("id == 'known-7' and role == 'constraint'").assign(position=9)
    longer = by_role_layer(pd.concat([frame, extra]))
    np.testing.assert_allclose(longer["effect"].astype(float), effects["effect"].astype(float), atol=1e-6)


def test_order_and_missing_sites():
    frame = sites(lambda *_: 0.3, parts=("okvqa", "known"))
    frame.loc[(frame["id"] == "known-0") & (frame["role"] == "constraint"), ["effect", "p_restored"]] = np.nan
    effects = by_role_layer(frame)
    assert effects["part"].drop_duplicates().tolist() == ["okvqa", "known"]
    assert effects["role"].drop_duplicates().tolist() == ["constraint", "constraint_last", "last"]
    assert effects["kind"].drop_duplicates().tolist() == ["mlp", "attention"]
    counts = effects.groupby(["part", "role"])["n"].first()
    assert counts["known", "constraint"] == 7
    assert counts["known", "last"] == 8
    restored = by_role_layer(frame, "p_restored")
    np.testing.assert_allclose(restored["p_restored"], effects["effect"] + 0.02, atol=1e-6)


def test_what_is_early():
    assert early_layers(8) == range(4)
    assert early_layers(32) == range(8)
    assert early_layers(2) == range(2)
