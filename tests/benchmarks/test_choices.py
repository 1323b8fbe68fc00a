"""The page on the method's choices says what was measured, and the measurement is that of a trace."""

import json
import re

import pytest
import tiny
from answering import questions, speaking

from benchmarks import choices, measure
from interventions.studies.loop import RunOptions
from interventions.tracing.study import trace_study

PAGE = choices.PAGE


def test_the_table_of_the_page_is_made_of_the_results():
    page, results = PAGE.read_text(), json.loads(measure.RESULTS.read_text())
    for made, begin in (
        (choices.table(results), choices.BEGIN), (choices.definition_table(results), choices.BEGIN_DEFINITIONS),
    ):
        assert choices.on_page(page, made, begin) == page
        assert choices.on_page(page, "another", begin) != page


def test_the_page_tells_how_many_questions_the_command_asks(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("sys.argv", ["choices"])
    monkeypatch.setattr(choices, "load_model", lambda name: None)
    monkeypatch.setattr(choices, "measured", lambda model, items, choice: asked.append(len(items)) or {})
    monkeypatch.setattr(choices, "DEFINITIONS", ())
    monkeypatch.setattr(measure, "save", lambda numbers: None)
    monkeypatch.setattr(choices, "PAGE", tmp_path / "page.md")
    text = PAGE.read_text()
    choices.PAGE.write_text(text)
    choices.main()
    assert re.search(r"on the same (\d+) embedded questions", text)[1] == str(asked[0])
    assert "    python -m benchmarks.choices\n" in text


def test_every_definition_is_measured():
    """The clamp of the released script leaves the unedited model; the page says so because it was measured."""
    results = json.loads(measure.RESULTS.read_text())
    for definition in choices.DEFINITIONS:
        assert any(name.startswith(f"definitions/{definition.name}/") for name in results)
    efficacy = {name.rpartition("tokens, ")[2]: entry["value"] for name, entry in results.items() if "P(O*)" in name}
    assert abs(efficacy["authors"] - efficacy["before"]) < 0.005 < 0.2 < efficacy["paper"] - efficacy["before"]


def test_a_choice_is_measured_as_a_study_measures_it(tmp_path):
    model = speaking(tiny.build())
    items = questions(model, tmp_path, n=8)
    study = trace_study(model, items, window=2, run=RunOptions(results_dir=tmp_path), min_p_clean=0.1)
    found = choices.measured(model, items, choices.Choice("window 2", settings={"window": 2}))
    read = study.sites[study.sites["role"] == "constraint_last"]
    mean = read[read["kind"] == "mlp"].groupby("layer")["effect"].mean()
    assert found["choices/window 2/questions"]["value"] == study.questions["used"].sum() > 0
    assert found["choices/window 2/mlp/effect"]["value"] == pytest.approx(mean.max(), abs=1e-6)
    assert found["choices/window 2/mlp/layer"]["value"] == mean.idxmax()
    low, high = (found["choices/window 2/mlp/effect"][name] for name in ("low", "high"))
    assert low <= mean.max() <= high
