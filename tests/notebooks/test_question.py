"""The notebooks of single questions and of Table 1, run through papermill on a tiny saved model and test bed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from notebook_runs import ROOT, check, execute, parameters, shown

from interventions.studies.parameters import Table1Parameters
from interventions.testbed import load_testbed, save_testbed
from interventions.tracing.parameters import Fig2Parameters, Fig8Parameters

FILES = {"table1": Table1Parameters, "fig2": Fig2Parameters} | {f"fig{n}": Fig8Parameters for n in range(8, 14)}



@pytest.fixture(scope="module")
def saved(saved_models, tmp_path_factory):
    """Of the three questions of each part one has two constraints, and one of the others has a wrong answer."""
    root = shutil.copytree(saved_models, tmp_path_factory.mktemp("saved"), dirs_exist_ok=True)
    items = load_testbed(root / "bed").items
    wrong = [item.id for item in items if item.constraints == "single"][::2]
    save_testbed([replace(item, answers=("Zanzibar",)) if item.id in wrong else item for item in items], root / "bed")
    return root


@pytest.fixture(scope="module")
def run(saved, tmp_path_factory):
    """Run a notebook: its path, and its record. name: of its files, where they have another."""
    def execute_one(notebook: str, *pictures: str, tables: int = 3, name: str = "", **changes) -> tuple[Path, dict]:
        name = name or notebook
        out = tmp_path_factory.mktemp(notebook)
        path = execute(notebook, out, parameters(saved, out / "results", **changes))
        return path, check(path, out / "results", name.partition("_")[0], set(pictures), tables, name=name)
    return execute_one


@pytest.mark.parametrize("name", FILES)
def test_parameter_files_are_accepted_and_name_their_figure(name):
    given = yaml.safe_load((ROOT / "params" / "figures" / f"{name}.yaml").read_text())
    parameters = FILES[name].from_notebook(given)
    assert parameters.record_file.name.startswith(f"{name}_")
    assert parameters.model == ("mini-bunny" if name in ("fig10", "fig11") else "mini")
    if name in ("fig8", "fig10", "fig12"):
        assert parameters.shown_kinds == ["mlp"]
    if name in ("fig9", "fig11", "fig13"):
        assert parameters.shown_kinds == ["attention"]
    if name in ("fig12", "fig13"):
        assert (parameters.window, parameters.constraints, parameters.corrupted) == ("6/32", "multi", "text")


def test_fig8_shows_single_questions_and_replaces_wrong_ones(run):
    named = {"name": "fig9_questions", "figure": "fig9_questions"}
    path, record = run("fig8_questions", "maps", "transplant", tables=4, **named, kinds="attention", limit=1)
    assert {row["kind"] for row in record["table"]} == {"attention"}
    assert {row["dataset"] for row in record["table"]} == {"known", "okvqa", "movies"}  # one of each could be used
    assert len({row["id"] for row in record["table"]}) == 3
    titles = [claim["claim"] for claim in record["claims"]]
    assert len(titles) == 5
    assert all(": self-attention at the visual constraint" in title for title in titles[:3])
    assert titles[3] == "self-attention is weaker than MLP at the visual constraint"
    assert titles[4] == "transplant: self-attention, visual constraint"
    summary, asked, *_ = shown(path, "text/html")
    assert "1 answered wrongly" in summary
    assert "instead of 'Zanzibar'" in asked  # the reason is told


def test_fig8_with_two_constraints(run):
    _, record = run("fig8_questions", "maps", "transplant", constraints="multi", corrupted="text", window=5, limit=5)
    assert {claim["claim"].split(" at the ")[1] for claim in record["claims"]} == {"text constraint"}
    assert len(record["claims"]) == 6
    assert {row["kind"] for row in record["table"]} == {"mlp", "attention"}


def test_fig2_works_one_question_out(run):
    _, record = run("fig2_example", "runs", parts="known,okvqa,movies")
    numbers = {name: entry["value"] for name, entry in record["numbers"].items()}
    assert len({row["id"] for row in record["table"]}) == 1
    best = [row["p_restored"] for row in record["table"] if row["role"] == "constraint_last"]
    assert numbers["p_restored"] == pytest.approx(max(best), abs=1e-5)
    assert numbers["p_clean"] == next(value for name, value in numbers.items() if name.startswith("clean/1/"))
    assert len(record["claims"]) == 3


def test_table1_counts_and_shows(run):
    path, record = run("table1_testbed", "examples", tables=2, examples=1)
    assert [(row["dataset"], row["constraints"], row["questions"], row["found"]) for row in record["table"]] == [
        (part, constraints, n, n) for part in ("known", "okvqa", "movies")
        for constraints, n in (("single", 2), ("multi", 1))]
    held = {claim["claim"]: claim["holds"] for claim in record["claims"]}
    assert held["three parts"]
    assert not held["number of questions"]
    table = shown(path, "text/markdown")[0]
    assert "**this country**" in table
    assert "***B***" in table
