"""Every notebook on the server, as it is; the numbers of some of them beside those that they give here."""

from dataclasses import replace

import pytest
from notebook_runs import BY_HAND, NOTEBOOKS, execute, noise_on_stderr

from interventions import load_testbed
from interventions.editing.items import TASKS, wrong_items
from interventions.remote import http as ndif
from interventions.reports.record import read_record
from interventions.testbed import save_testbed

# What a run takes besides its notebook's defaults: few questions.
FEW = {  # what makes a run quick; `limit` is few where it is not named
    "fig3_trace": {"controls": 1}, "fig4_constraints": {"windows": "1,6"}, "fig6_editing": {"kept": "1,2", "limit": 2},
    "fig7_standard": {"noise_samples": 2}, "fig8_questions": {"transplant": 1},
    "fig15_examples": {"limit": 30}, "fig16_contributions": {"limit": 30},
    "fig17_failure": {"limit": 30, "timed": 1},
}
EDITING = ("fig6_editing", "fig14_layers", "fig18_inserted")
REFUSED = {"precision_modes": "'remote' cannot be True here: a server has its model in one precision"}
REMOTE = sorted({path.stem for path in NOTEBOOKS.glob("*.ipynb")} - set(REFUSED) - BY_HAND)


@pytest.fixture(scope="module")
def few_to_edit(here, tmp_path_factory):
    """A test bed of two questions a task that `mini` answers wrongly, and some others: 200 unrelated ones take long."""
    bed, out = load_testbed("embedded"), tmp_path_factory.mktemp("bed")
    single = list(bed.select(constraints="single", limit=40))
    wrong = [item for task in TASKS for item, _ in wrong_items(here, single, task, 2, results_dir=out)]
    items = {item.id: item for item in [*wrong, *(item for item in single if item.split != "never")][:16]}
    (out / "bed").mkdir()
    (out / "bed" / "images").symlink_to(bed.directory / "images")
    save_testbed(
        [replace(item, image=item.image.relative_to(bed.directory)) for item in items.values()], out / "bed"
    )
    return out / "bed"


@pytest.fixture(scope="module")
def executed():
    """(notebook, where it ran) -> the executed notebook: no notebook runs twice."""
    return {}


@pytest.fixture
def run(executed, ask_as, tmp_path, few_to_edit):
    def run(name: str, where: str, **given):
        """where: "here", or the kind of key it is asked with on the server."""
        if (name, where) not in executed:
            if where != "here":
                ask_as(where)
                given = {"remote": "true"} | given
            if name in EDITING:
                given = {"testbed": str(few_to_edit), "unrelated": 2} | given
            out = tmp_path / where
            out.mkdir()
            told = {"limit": 1, "results_dir": str(out / "results"), "record_path": str(out / f"{name}.record.json")}
            executed[name, where] = execute(name, out, told | FEW.get(name, {}) | given)
        return executed[name, where]
    return run


@pytest.mark.parametrize("name", REMOTE)
def test_the_notebook_runs_remotely(run, name):
    """Its record tells the server, and what went there."""
    path = run(name, "trusted")
    record = read_record(path)
    assert record["parameters"]["remote"] is True and not noise_on_stderr(path)
    if name == "table1_testbed":  # which asks no model
        return
    server = record["environment"]["server"]
    assert server["host"] == ndif.shown(ndif.host()) and server["sandboxed"] is False
    assert server["traffic"]["requests"] >= 1
    assert server["traffic"]["bytes_down"] < 30_000 * server["traffic"]["requests"]
    assert any(number["value"] for number in record["numbers"].values())


def same_numbers(one, other) -> None:
    one, other = read_record(one), read_record(other)
    assert one["numbers"].keys() == other["numbers"].keys() and one["numbers"]
    for name, number in one["numbers"].items():
        assert other["numbers"][name]["value"] == pytest.approx(number["value"], abs=1e-4, nan_ok=True), name
    assert [claim["holds"] for claim in one["claims"]] == [claim["holds"] for claim in other["claims"]]


@pytest.mark.parametrize("name", ["fig3_trace", "fig5_attention", "fig18_inserted"])
def test_the_numbers_are_those_of_a_local_run(run, name):
    here = run(name, "here")
    assert read_record(here)["environment"]["server"] is None
    same_numbers(here, run(name, "trusted"))


def test_a_sandbox_gives_the_same_numbers(run):
    sandboxed = run("fig5_attention", "sandboxed")
    assert read_record(sandboxed)["environment"]["server"]["sandboxed"] is True
    same_numbers(run("fig5_attention", "trusted"), sandboxed)


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_server_can_do_is_refused(run, name):
    with pytest.raises(Exception, match=REFUSED[name]):
        run(name, "trusted")


@pytest.mark.parametrize("name", EDITING)
def test_values_are_not_looked_for_in_a_sandbox(run, name):
    with pytest.raises(Exception, match=r"'remote': .* in a sandbox, which has no gradients"):
        run(name, "sandboxed")


def test_baselines_that_change_weights_are_left_out_and_told(run):
    path = run("fig6_editing", "trusted")
    assert "Left out: fine-tuning and constrained fine-tuning, which change weights" in path.read_text()
    record = read_record(path)
    assert {row["method"] for row in record["table"]} == {"no edit", "MultEdit", "random layer"}
    assert {claim["here"] for claim in record["claims"] if "outperforms" in claim["claim"]} == {"not measured"}
