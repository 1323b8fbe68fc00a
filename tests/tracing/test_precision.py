"""Half precision against float32: on tiny models, and on studies made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from answering import questions, renamed, speaking
from sites import early, sites, study_of

from interventions.claims.common import checks_sentence
from interventions.claims.precision import precision_claims, precision_numbers, precision_sentence, precision_table
from interventions.engine.windows import Execution
from interventions.errors import ParameterError
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.studies.loop import RunOptions
from interventions.tracing import precision
from interventions.tracing.causal_trace import trace
from interventions.tracing.parameters import PrecisionParameters
from interventions.tracing.precision import METHOD_NAMES, PrecisionStudy, precision_study
from interventions.tracing.study import trace_study

DTYPES = ("bfloat16", "float16")


@pytest.fixture(scope="module")
def model():
    return renamed(speaking(tiny.build()), revision="one")


@pytest.fixture(scope="module")
def halves():
    return [renamed(speaking(tiny.build(dtype=getattr(torch, dtype))), revision="one") for dtype in DTYPES]


@pytest.fixture(scope="module")
def items(model, tmp_path_factory):
    return [item for item in questions(model, tmp_path_factory.mktemp("bed"), n=6) if item.constraints == "single"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def traced(model, halves, items, results):
    return precision_study(model, halves, items, window=3, run=RunOptions(results))


def test_every_run_is_the_trace_of_its_type_and_method(traced, model, halves, items):
    found = traced.sites()
    assert found["effect"].abs().max() > 0.2
    assert set(zip(found["dtype"], found["method"], strict=True)) == {(d, m) for d in DTYPES for m in METHOD_NAMES}
    item = next(item for item in items if item.id in set(found["id"]))
    for half, dtype in zip(halves, DTYPES, strict=True):
        for own, method in [(half, "packed"), (half, "plain"), (model, "float32")]:
            prompt = clean_prompt(own, item, Conditions())
            corrupted = corrupted_prompt(own, item, prompt, Conditions())
            execution = Execution(method=None if method == "float32" else method)
            frame = trace(own, prompt, corrupted, execution=execution).to_frame().dropna()
            cells = found[(found["id"] == item.id) & (found["dtype"] == dtype)]
            cells = cells[cells["method"] == ("rows" if method == "float32" else method)]
            both = cells.merge(frame, on=["kind", "position", "layer"], suffixes=("", "_traced"))
            assert len(both) == len(cells) == 2 * 5 * cells["position"].nunique()
            column = "float32" if method == "float32" else "effect"
            np.testing.assert_allclose(both[column], both["effect_traced"], rtol=0, atol=1e-7)


def test_the_exact_mode_equals_separate_runs_and_the_fast_mode_does_not(traced):
    table = traced.by_question()
    assert (table["sites"] > 20).all()
    exact, fast = (table[table["method"] == method] for method in ("rows", "packed"))
    assert exact["to_separate"].max() < 1e-6
    assert fast["to_separate"].max() > 1e-4
    assert (table["to_float32"] > 1e-5).all()
    assert table.groupby("dtype")["mean_to_float32"].mean()["bfloat16"] > 4 * (
        table.groupby("dtype")["mean_to_float32"].mean()["float16"]
    )  # three bits less: eight times coarser


def test_stored_results_are_found_again_and_shared_with_figure_3(traced, model, halves, items, results):
    written = {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")}
    answers, traces = 1 + len(halves), 1 + len(halves) * len(METHOD_NAMES)
    assert len(written) == len(items) * (answers + traces)
    again = precision_study(model, halves, items, window=3, run=RunOptions(results))
    trace_study(model, items, window=3, run=RunOptions(results_dir=results))  # as Figure 3 traces
    trace_study(halves[0], items, window=3, method="rows", run=RunOptions(results_dir=results))
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")} == written
    assert traced.sites().equals(again.sites())


def test_an_answer_that_half_precision_changes_is_not_compared(traced, model, halves, items, results, monkeypatch):
    original, changed = precision.trace_study, items[0].id

    def answered_otherwise(own, *arguments, **options):
        study = original(own, *arguments, **options)
        if own.dtype == torch.float16:
            other = study.questions["id"] == changed
            answers = study.questions["answer"].where(~other, "elsewhere")
            study = replace(study, questions=study.questions.assign(answer=answers))
        return study

    monkeypatch.setattr(precision, "trace_study", answered_otherwise)
    study = precision_study(model, halves, items, window=3, run=RunOptions(results))
    assert changed in set(traced.sites()["id"])
    assert set(study.sites()["id"]) == set(traced.sites()["id"]) - {changed}
    summary = study.summary().set_index(["series", "part"])["left out"]
    assert "1 another answer than in float32" in summary["float16", items[0].part]
    assert "another answer" not in summary["bfloat16", items[0].part]


# Studies made by hand


def shifted(by=lambda kind, role, layer, q: 0.0, p_clean: float = 0.95):
    study = study_of(sites(lambda part, kind, role, layer, q: early(part, kind, role, layer, q) + by(
        kind, role, layer, q) * (role == "constraint_last"), n_layers=4))
    return replace(study, n_layers=4, questions=study.questions.assign(p_clean=p_clean))


def by_hand(plain, rows, packed) -> PrecisionStudy:
    runs = zip(METHOD_NAMES, (plain, rows, packed), strict=True)
    return PrecisionStudy(shifted(), {("bfloat16", method): study for method, study in runs})


def rounding(kind, role, layer, q):
    """Moves the peak of question 3 from layer 1 to layer 0, where float32 has 0.1 less."""
    return 0.125 if (kind, layer, q) == ("mlp", 0, 3) else 0.004


def fast(kind, role, layer, q):
    return rounding(kind, role, layer, q) + 0.02 * ((kind, layer, q) == ("attention", 2, 5))


def test_questions_tell_differences_and_peaks():
    study = by_hand(shifted(rounding, p_clean=0.9), shifted(rounding, p_clean=0.9), shifted(fast, p_clean=0.9))
    table = study.by_question().set_index(["method", "id"])
    # Of four tokens, the one whose effects are 0 in every run, and the last one, count as never run.
    assert (table["sites"] == 2 * 4 * 2).all()
    assert (table.loc["rows", ["to_separate", "mean_to_separate"]] == 0).all(axis=None)
    row = table.loc["packed", "known-5"]
    assert row["to_separate"] == pytest.approx(0.02, abs=1e-6)
    assert row["mean_to_separate"] == pytest.approx(0.02 / 16, abs=1e-6)
    assert row["to_float32"] == pytest.approx(0.024, abs=1e-6)
    assert row["mean_to_float32"] == pytest.approx((8 * 0.004 + 0.02) / 16, abs=1e-6)
    assert table["p_clean_change"].to_numpy() == pytest.approx(-0.05)
    moved = table.loc["plain", "known-3"]
    assert (moved["peak_kind"], moved["peak_layer"], bool(moved["same_peak"])) == ("mlp", 0, False)
    assert moved["peak_loss"] == pytest.approx(0.1, abs=1e-6)
    others = table.drop(index="known-3", level="id")
    assert others["same_peak"].all() and (others["peak_loss"] == 0).all() and (others["peak_layer"] == 1).all()


def test_means_are_those_of_questions_at_the_token_that_is_read():
    means = by_hand(shifted(rounding), shifted(rounding), shifted(fast)).means()
    assert len(means) == 3 * 2 * 4 and (means["n"] == 8).all()
    cell = means.set_index(["method", "kind", "layer"]).loc["packed", "attention", 2]
    assert cell["float32"] == pytest.approx(np.mean([0.6 + 0.01 * q for q in range(8)]), abs=1e-6)
    assert cell["separate"] - cell["float32"] == pytest.approx(0.004, abs=1e-6)
    assert cell["effect"] - cell["separate"] == pytest.approx(0.02 / 8, abs=1e-6)


def verdicts(study: PrecisionStudy) -> dict[str, bool]:
    claims = precision_claims(study.by_question(), study.means())
    return {claim.claim.removeprefix("bfloat16: the "): claim.holds for claim in claims}


def test_claims_hold_where_they_should():
    def little(kind, role, layer, q):
        return 0.002 * (layer == 2)

    assert set(verdicts(by_hand(shifted(little), shifted(little), shifted(little))).values()) == {True}
    everywhere = verdicts(by_hand(shifted(little), shifted(), shifted(lambda *site: 0.02)))
    assert everywhere == {
        "exact mode equals separate runs": False,  # by 0.002 at one layer
        "fast mode changes no effect by 0.01": False,
        "fast mode changes no mean of a figure by 0.01": False,
        "exact mode says what float32 says": True,
        "fast mode says what float32 says": False,
    }
    one_site = verdicts(by_hand(shifted(), shifted(), shifted(lambda kind, role, layer, q: 0.04 * (layer + q == 0))))
    assert [claim for claim, holds in one_site.items() if not holds] == ["fast mode changes no effect by 0.01"]
    def peak_moved(kind, role, layer, q):
        """Layer 0 passes layer 1 in one question; means move by 0.06 / 8."""
        return {0: 0.06, 1: -0.06}.get(layer, 0) * (q == 0)

    moved, same = shifted(peak_moved), shifted()
    for mode, study in (("exact", by_hand(moved, moved, same)), ("fast", by_hand(same, same, moved))):
        found = verdicts(study)
        assert found["exact mode equals separate runs"] and found["fast mode changes no mean of a figure by 0.01"]
        assert [claim for claim, holds in found.items() if "says" in claim and not holds] == [
            f"{mode} mode says what float32 says"
        ]


def test_texts_and_numbers_are_those_of_the_study():
    study = by_hand(shifted(rounding), shifted(rounding), shifted(fast))
    questions, means = study.by_question(), study.means()
    rows = precision_table(questions).set_index("method")
    assert list(rows.index) == list(METHOD_NAMES.values())
    assert rows.loc["exact mode", "difference to separate runs (mean)"] == "0 (0)"
    assert rows.loc["fast mode", "difference to separate runs (mean)"] == "0.02 (0.00016)"
    assert rows.loc["fast mode", "peaks as in float32"] == "7 of 8"
    numbers = precision_numbers(questions, means)
    assert numbers["bfloat16/fast mode/to_separate"].value == pytest.approx(0.02, abs=1e-6)
    assert numbers["bfloat16/fast mode/mean_to_separate"].value == pytest.approx(0.02 / 128, abs=1e-6)
    assert numbers["bfloat16/fast mode/means_to_separate"].value == pytest.approx(0.02 / 8, abs=1e-6)
    assert numbers["bfloat16/separate runs/to_float32"].value == pytest.approx(0.125, abs=1e-6)
    assert numbers["bfloat16/exact mode/same_peak"].value == 7 / 8
    # A mean is that of all sites: question 5, the one that differs, is given three times as many as the others.
    uneven = questions.assign(sites=np.where(questions["id"] == "known-5", 48, 16))
    mean = precision_numbers(uneven, means)["bfloat16/fast mode/mean_to_separate"].value
    assert mean == pytest.approx(3 * 0.02 / (16 * 10), abs=1e-6)
    sentence = precision_sentence(questions, "cpu")
    assert "on cpu" in sentence and "the exact mode gives the same bits as separate runs" in sentence
    assert "differs from separate runs by up to 0.02 (mean 0.00016)" in sentence
    assert "separate runs differ from float32 by up to 0.1" in sentence
    other = by_hand(shifted(rounding), shifted(), shifted(fast))
    assert "the exact mode differs by up to 0.1" in precision_sentence(other.by_question(), "cpu")
    assert "the fast mode changes no effect by 0.01" in checks_sentence(precision_claims(questions, means))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dtypes": "bfloat16,half"}, "'dtypes' cannot be 'half': choose from 'bfloat16', 'float16', 'nf4', 'int8'"),
        ({"dtypes": "float32"}, "'dtypes' cannot be 'float32'"),
        ({"dtypes": ""}, "'dtypes' cannot be ''"),
        ({"dtype": "nf4"}, "'dtype' cannot be 'nf4' here, .*: name it in dtypes"),
        ({"remote": True}, "'remote' cannot be True here"),
    ],
)
def test_wrong_parameters_are_one_sentence(given, sentence):
    with pytest.raises(ParameterError, match=sentence):
        PrecisionParameters.from_notebook(given)


def test_models_are_loaded_in_the_precisions_named(model, tmp_path):
    model.module.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    parameters = PrecisionParameters(model=str(tmp_path), dtypes="float16,bfloat16", dtype="bfloat16")
    loaded = list(parameters.models_by_dtype())
    assert [half.dtype for half in loaded] == [torch.float16, torch.bfloat16]
    assert parameters.load_model("model").dtype == torch.float32
    with pytest.raises(ParameterError, match="'model': model 'nowhere' is unknown"):
        PrecisionParameters(model="nowhere").load_model("model")
