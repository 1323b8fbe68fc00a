"""A test bed's way on the command line: released files, annotation, verification, replacements, Table 1, Figure 3."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
from notebook_runs import execute
from openai_server import OpenAIServer, completion, good
from released_format import write_as_released

from interventions.__main__ import main
from interventions.reports.record import read_record
from interventions.testbed import load_testbed
from interventions.testbed.provenance import history, rewrite
from interventions.testbed.verification.decisions import LOG, DecisionLog


def run(*arguments) -> int:
    return main(["testbed", *map(str, arguments)])


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Fifteen embedded questions in the released format, imported."""
    root = tmp_path_factory.mktemp("released")
    few = load_testbed().select(constraints="single", split="trained", limit=5)
    given = write_as_released(few, root)
    options = [f"--{name.replace('_', '-')}" for name in given if name not in ("directory", "images")]
    files = [given[name] for name in given if name not in ("directory", "images")]
    pairs = [text for pair in zip(options, files, strict=True) for text in pair]
    assert run("import-released", given["directory"], root / "bed", "--images", given["images"][0], *pairs) == 0
    return root / "bed"


@pytest.fixture
def bed(released, tmp_path):
    return shutil.copytree(released, tmp_path / "bed")


def test_the_imported_questions_are_those_released(released):
    originals = load_testbed().select(constraints="single", split="trained", limit=5).items
    items = load_testbed(released).items
    assert [(i.part, i.question) for i in items] == [(i.part, i.question) for i in originals]
    for item, original in zip(items, originals, strict=True):
        assert set(item.answers) <= set(original.answers)
        assert item.visual_constraint == original.visual_constraint


def test_corruptions_then_table_1_and_figure_3(bed, tmp_path, capsys):
    assert run("corruptions", bed, "--model", "mini", "--results-dir", tmp_path / "results") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith(f"{bed}: 15 phrases")
    assert all(item.visual_replacement for item in load_testbed(bed))
    assert [line.split() for line in printed.splitlines() if line.startswith("chosen")] == [["chosen", "5", "5", "5"]]
    assert history(bed)[-1]["counts"] == {"chosen": 15}
    given = {"testbed": str(bed), "results_dir": str(tmp_path / "results")}
    execute("table1_testbed", tmp_path, given)
    counts = pd.DataFrame(read_record(tmp_path / "table1_testbed.ipynb")["table"])
    assert counts["found"].sum() == counts["questions"].sum() == 15
    execute("fig3_trace", tmp_path, given | {"control_model": "", "controls": 0, "limit": 5})
    record = read_record(tmp_path / "fig3_trace.ipynb")
    sites = pd.DataFrame(record["table"])
    read = sites[(sites["role"] == "constraint_last") & (sites["kind"] == "mlp")]
    assert set(read["dataset"]) == {"known", "okvqa", "movies"}
    assert read.groupby("dataset")["effect"].max().min() > 0.3  # the route that mini was taught is found


def test_without_a_model_phrases_are_chosen_unchecked(bed, capsys):
    assert run("corruptions", bed, "--parts", "known, movies") == 0
    assert "unchecked" in capsys.readouterr().out
    for item in load_testbed(bed):
        assert bool(item.visual_replacement) == (item.part != "okvqa")


@pytest.mark.parametrize(("options", "told"), [
    (("--model", "mini", "--tries", "0"), "tries must be at least 1"), (("--model", "mini", "--max-p", "2"), "max_p"),
    (("--model", "mini", "--parts", "knwon"), "no part 'knwon'"), (("--model", "mini", "--limit", "-1"), "limit"),
    (("--remote",), "add --model"), (("--dtype", "float32"), "add --model"), (("--device-map", "auto"), "add --model"),
])
def test_options_that_cannot_be_are_told_before_a_model_is_loaded(bed, monkeypatch, capsys, options, told):
    monkeypatch.setattr("interventions.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert run("corruptions", bed, *options) == 1
    assert told in capsys.readouterr().err
    assert not any(item.visual_replacement for item in load_testbed(bed))


def test_verify_tells_and_applies(bed, capsys):
    assert run("verify", bed) == 1
    assert "holds no decision" in capsys.readouterr().err
    items = load_testbed(bed).items
    log = DecisionLog(bed / LOG)
    for item in items[:3]:
        log.decide(item, "anna", "accept")
    log.decide(items[0], "ben", "reject")
    assert run("verify", bed) == 0
    printed = capsys.readouterr().out
    assert "Cohen's kappa" in printed
    assert printed.count(items[0].id) == 2  # disputed: both decisions are shown
    assert run("verify", bed, "--apply", "--prefer", "ben", "--only-verified") == 0
    assert "= 15 items" in capsys.readouterr().out
    assert [item.id for item in load_testbed(bed)] == [items[1].id, items[2].id]
    assert history(bed)[-1]["settings"]["prefer"] == "ben"


def test_annotate_asks_the_endpoint_of_the_environment(bed, monkeypatch, capsys):
    with OpenAIServer(good) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "nobody-sees-this")
        command = ("annotate", bed, "--model", "parrot", "--which", "incomplete", "--limit", "1", "--price-in", "1")
        assert run(*command) == 1
        assert "price_in and price_out must both be" in capsys.readouterr().err
        assert run(*command, "--price-out", "2") == 0
    printed = capsys.readouterr().out
    assert "dollars" in printed and "nobody-sees-this" not in printed
    assert any(item.visual_replacement for item in load_testbed(bed))
    assert server.keys == ["Bearer nobody-sees-this"] * len(server.requests)


@pytest.mark.parametrize("command", [
    ("corruptions", "embedded"), ("annotate", "embedded", "--model", "parrot", "--which", "all"),
    ("verify", "embedded", "--apply"),
])
def test_the_embedded_test_bed_is_not_written_to(command, capsys):
    assert run(*command) == 1
    assert "stays as it is: copy its folder first" in capsys.readouterr().err


def test_an_endpoint_that_only_talks_nonsense_ends_in_a_sentence(bed, monkeypatch, capsys):
    with OpenAIServer(lambda request, number: completion("I am not JSON")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "nobody-sees-this")
        assert run("annotate", bed, "--model", "parrot", "--which", "all", "--limit", "1") == 1
    printed = capsys.readouterr()
    assert "questions failed" in printed.err
    assert "delete annotations.jsonl" in printed.out


def test_options_of_apply_want_it(bed, capsys):
    assert run("verify", bed, "--prefer", "anna") == 1
    told = capsys.readouterr().err
    assert "--apply" in told and "prefer" in told


def test_a_model_that_can_be_asked_nothing_ends_in_a_sentence(bed, capsys):
    items = [replace(item, visual_constraint="", visual_replacement="") for item in load_testbed(bed)]
    rewrite(load_testbed(bed), items, "unmarked")
    assert run("corruptions", bed, "--model", "mini", "--results-dir", bed / "results") == 1
    told = capsys.readouterr().err
    assert "constraint not marked" in told and told.strip().splitlines()[-1].startswith("Parameter 'model'")


@pytest.mark.parametrize("arguments", [(), ("corruptions",), ("verify", "embedded", "--aply"), ("nothing",)])
def test_a_command_that_cannot_be_read_exits_with_2(arguments):
    assert run(*arguments) == 2


def test_an_interrupt_ends_a_command_quietly(bed, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("interventions.studies.replacements.choose_corruptions", interrupted)
    assert run("corruptions", bed) == 130
    assert capsys.readouterr().err == ""


def test_a_folder_that_takes_no_results_is_refused_before_the_model_is_loaded(bed, capsys, monkeypatch):
    monkeypatch.setattr("interventions.models.loading.load_model", None)  # would fail if it were called
    assert run("corruptions", bed, "--model", "mini", "--results-dir", bed / "items.parquet") == 1
    said = capsys.readouterr().err
    assert "results_dir: " in said and "name a folder that can be written" in said and said.count("\n") == 1
