"""Every notebook with a record, run twice in one kernel with one value changed, as by a reader who tries something."""

from dataclasses import replace

import nbformat
import pytest
from nbclient import NotebookClient
from notebook_runs import BY_HAND, NOTEBOOKS, noise_on_stderr
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from interventions.reports.record import read_record
from interventions.testbed import load_testbed, save_testbed

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb") if path.stem not in BY_HAND)
# What a quick run takes; `limit` is 1 if it is not named here, and what is changed then makes it 2.
FEW = {
    "fig1_windows": {"windows": "1,3", "shown": "1,3"}, "fig3_trace": {"controls": 1},
    "fig4_constraints": {"windows": "1,6"}, "fig6_editing": {"kept": "1", "tasks": "correct"},
    "fig7_standard": {"noise_samples": 2}, "fig8_questions": {"transplant": 1}, "fig14_layers": {"tasks": "correct"},
    "fig15_examples": {"limit": 12}, "fig16_contributions": {"limit": 20}, "fig17_failure": {"limit": 20, "timed": 1},
    "precision_modes": {"parts": "known"},
}
CHANGED = {
    "fig15_examples": {"examples": 1}, "fig16_contributions": {"limit": 19}, "fig17_failure": {"limit": 19},
    "precision_modes": {"seed": 1},
}
EDITING = {"fig6_editing", "fig14_layers", "fig18_inserted"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A test bed with few unrelated questions."""
    bed, out = load_testbed("embedded"), tmp_path_factory.mktemp("bed") / "bed"
    out.mkdir()
    (out / "images").symlink_to(bed.directory / "images")
    items = [*bed.select("known", split="trained", constraints="single", limit=40),
             *bed.select("known", split="never", constraints="single", limit=5)]
    save_testbed([replace(item, image=item.image.relative_to(bed.directory)) for item in items], out)
    return out


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_twice_in_one_kernel(name, small, results, tmp_path):
    given = {"limit": 1, "results_dir": str(results)} | FEW.get(name, {})
    if name in EDITING:
        given |= {"testbed": str(small), "parts": "known", "unrelated": 2}
    changed = CHANGED.get(name, {"limit": 2})
    source, records = load_notebook_node(str(NOTEBOOKS / f"{name}.ipynb")), []
    client = NotebookClient(source, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        for n, told in enumerate((given, given | changed)):
            told |= {"record_path": str(tmp_path / f"{n}.record.json")}
            client.nb = parameterize_notebook(source, told)
            for index, cell in enumerate(client.nb.cells):
                client.execute_cell(cell, index)
            nbformat.write(client.nb, tmp_path / f"{n}.ipynb")
            assert noise_on_stderr(tmp_path / f"{n}.ipynb") == []
            records.append(read_record(tmp_path / f"{n}.ipynb"))
    first, second = records
    assert first["parameters"] | given == first["parameters"]
    own = {"record_path": second["parameters"]["record_path"]}
    assert second["parameters"] == first["parameters"] | changed | own
    assert all(first["parameters"][name] != value for name, value in changed.items())
    assert (first["numbers"], first["table"]) != (second["numbers"], second["table"])
    tables = [sum(entry["tables"] for entry in record["computed_by"]) for record in records]
    assert tables == [0, 0] if name == "table1_testbed" else min(tables) > 0  # each run's own, counted anew
