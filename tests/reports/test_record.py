"""What a notebook found, as data: strict JSON in a file and in the notebook, and as tables."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

import interventions.environment as environment
import interventions.reports.record as module
import interventions.studies.results as results
from interventions.__main__ import main
from interventions.errors import RecordError
from interventions.reports.record import MIME_TYPE, Claim, read_record, record
from interventions.statistics import Number

MODEL = SimpleNamespace(
    name="tiny", revision="0" * 64, device="cpu", dtype="torch.float32", quantization=None, prompt="Q: {question} A:",
    server=None,
)


@pytest.fixture
def displayed(monkeypatch):
    outputs = []
    monkeypatch.setattr(module, "display", lambda data, raw: outputs.append(data))
    return outputs


def make(path) -> dict:
    return record(
        "fig3",
        parameters={"window": 3, "parts": "known"},
        model=MODEL,
        numbers={"known/mlp": Number(0.5, 0.4, 0.6, 7), "alone": Number(0.25)},
        table=pd.DataFrame(
            {
                "dataset": pd.Categorical(["known", "known"]),
                "layer": np.array([0, 1], dtype=np.int16),
                "effect": np.array([0.5, np.nan], dtype=np.float32),
                "note": pd.array(["a", None], dtype="string"),
            }
        ),
        claims=[Claim("early", "layers 1-4", "layer 0", np.bool_(True))],
        path=path,
    )


def save_notebook(content, path):
    output = nbformat.v4.new_output("display_data", data={MIME_TYPE: content, "text/plain": "Record"})
    cells = [nbformat.v4.new_markdown_cell("x"), nbformat.v4.new_code_cell("record(...)", outputs=[output])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, displayed, monkeypatch):
    make(path := tmp_path / "fig3.record.json")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        make(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_file_and_output_hold_the_same_strict_json(tmp_path, displayed):
    content = make(tmp_path / "new" / "fig3.record.json")
    text = (tmp_path / "new" / "fig3.record.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == content
    assert displayed[0][MIME_TYPE] == content
    assert list(tmp_path.glob("new/.*")) == []


def test_a_claim_that_cannot_be_decided_is_null_and_says_so(tmp_path, displayed):
    claims = [Claim(name, "paper", "here", holds) for name, holds in (("a", None), ("b", np.bool_(False)), ("c", True))]
    content = record("x", parameters={}, model=MODEL, numbers={}, table=pd.DataFrame(), claims=claims,
                     path=tmp_path / "a.json")
    assert [claim["holds"] for claim in content["claims"]] == [None, False, True]
    assert json.loads((tmp_path / "a.json").read_text())["claims"] == content["claims"]
    displayed.clear()
    module.paper_versus_here(claims)
    [shown] = displayed
    lines = shown["text/plain"].splitlines()[1:]
    assert [line.partition("here")[2].strip() for line in lines] == ["cannot say", "no", "yes"]
    assert shown["text/html"].count("<td>cannot say</td>") == 1


def test_an_empty_table_is_a_sentence(displayed):
    module.show_table(pd.DataFrame(columns=["part", "layer"]))
    module.paper_versus_here([])
    assert [output["text/markdown"] for output in displayed] == ["These questions give no row for this table."] * 2
    assert not any("text/html" in output for output in displayed)
    module.show_table(pd.DataFrame({"part": ["known"]}))
    assert "known" in displayed[-1]["text/html"]


def test_what_is_missing_is_a_dash_in_every_kind_of_column(displayed):
    missing = {"ratio": [0.5, np.nan], "paper": pd.array([1200, None], dtype="Int64"), "answer": ["Rome", None]}
    module.show_table(pd.DataFrame(missing))
    assert displayed[0]["text/html"].count("<td>-</td>") == 3
    shown = displayed[0]["text/plain"]
    assert "0.500" in shown and "1200" in shown and not any(text in shown for text in ("NaN", "NA", "None"))


def test_a_number_that_is_rounded_to_zero_has_no_sign():
    assert str(Number(-0.004, -0.001, -0.0)) == "0.00 [0.00, 0.00]"
    assert str(Number(np.float32(-0.006), np.float64(-1), np.int64(0))) == "-0.01 [-1.00, 0.00]"
    assert str(Number(3)) == "3.00"


def test_a_record_has_these_fields(tmp_path, displayed):
    content = make(tmp_path / "a.json")
    assert set(content) == {"figure", "parameters", "environment", "computed_by", "numbers", "table", "claims"}
    assert content["numbers"]["known/mlp"] == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 7}
    assert content["numbers"]["alone"]["low"] is None
    assert content["table"] == [
        {"dataset": "known", "layer": 0, "effect": 0.5, "note": "a"},
        {"dataset": "known", "layer": 1, "effect": None, "note": None},
    ]
    assert content["claims"] == [{"claim": "early", "paper": "layers 1-4", "here": "layer 0", "holds": True}]
    environment = content["environment"]
    assert environment["model"] == "tiny"
    assert environment["dtype"] == "float32"
    assert {"torch", "nnsight", "transformers", "python"} <= set(environment["versions"])


def test_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = environment.commit.__wrapped__  # which looks each time
    assert found() in (head, head + "+changes")
    monkeypatch.setattr(environment, "_PACKAGE", tmp_path)
    assert found() is None
    (tmp_path / "__init__.py").touch()
    subprocess.run(["git", "-C", tmp_path, "init", "-q"], check=True)
    assert found() is None  # inside a repository that does not track it


def test_the_record_of_a_notebook_is_printed(tmp_path, displayed, capsys):
    content = make(tmp_path / "a.json")
    path = save_notebook(content, tmp_path / "out.ipynb")
    assert read_record(path) == content
    assert main(["record", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_a_notebook_without_a_record_is_one_sentence(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    (tmp_path / "broken.ipynb").write_text("{")
    for name in ("empty.ipynb", "broken.ipynb", "missing.ipynb"):
        with pytest.raises(RecordError, match=name.removesuffix(".ipynb")):
            read_record(tmp_path / name)
    command = [sys.executable, "-m", "interventions", "record", str(tmp_path / "empty.ipynb")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "holds no record" in result.stderr


def test_tables_are_shown_whole(displayed):
    claim = Claim("c" * 200, "paper", str(Number(0.5, 0.25, 0.75, 9)), False)
    module.paper_versus_here([claim])
    for text in displayed[0].values():
        assert "c" * 200 in text
        assert "0.50 [0.25, 0.75]" in text
        assert "no" in text


def test_a_record_names_what_computed_its_tables(tmp_path, displayed, monkeypatch):
    """Not today's commit: one table is of this commit, two are of others."""
    store = results.ResultStore(tmp_path / "results", device="cpu")
    today = module.commit()

    def stored(commit, *names):
        with monkeypatch.context() as patch:
            patch.setattr(results, "computing", lambda device: {"commit": commit, "device": device})
            for name in names:
                store.get_or_compute({"table": "edit", "version": 2, "name": name}, lambda: pd.DataFrame({"p": [0.5]}))

    results.begin_run()
    stored(today, "a")
    assert make(tmp_path / "a.json")["computed_by"] == [{"commit": today, "device": "cpu", "tables": 1}]
    assert [list(output) for output in displayed] == [[MIME_TYPE, "text/plain"]]  # nothing more to be told
    stored("0123456789abcdef", "b", "c")
    stored(None, "d")
    assert [(one["commit"], one["tables"]) for one in make(tmp_path / "a.json")["computed_by"]] == [
        ("0123456789abcdef", 2), (today, 1), (None, 1)
    ]
    text = displayed[-1]["text/markdown"]
    assert text.startswith("This run (commit ") and text.endswith(
        "reads 4 stored tables, some of which were computed earlier: 2 by commit 0123456789ab and 1 by an installed "
        "package."
    )
    results.begin_run()
