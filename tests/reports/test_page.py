"""Reports as pages: they show what the notebooks hold, links lead somewhere, and nothing is loaded from outside."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from outdated import outdated

from interventions.__main__ import main
from interventions.errors import RecordError
from interventions.reports.page import build_pages
from interventions.reports.record import MIME_TYPE, read_record

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports" / "mini"
NAMES = ("fig10_questions", "fig2_example", "table1_testbed")


class Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets, self.ids = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.targets += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "mini"
    folder.mkdir()
    for name in NAMES:
        for ending in (".ipynb", ".record.json"):
            shutil.copy(REPORTS / f"{name}{ending}", folder)
    broken = nbformat.read(folder / "fig2_example.ipynb", as_version=4)
    for cell in broken.cells:
        cell.pop("outputs", None) if cell.cell_type != "code" else cell.update(outputs=[])
    nbformat.write(broken, folder / "fig3_stopped.ipynb")
    return build_pages(folder).parent


def test_every_link_leads_somewhere_on_this_disk(pages):
    for page in pages.glob("*.html"):
        links = Links(page)
        assert len(links.targets) > 2
        for target in links.targets:
            path, _, anchor = target.partition("#")
            assert not re.match(r"\w+:", path), f"{page.name} loads {path}"
            assert not path or (page.parent / path).is_file(), f"{page.name} links to {path}"
            assert not anchor or anchor in (links if not path else Links(page.parent / path)).ids


def test_the_index_says_what_the_records_say(pages):
    index = (pages / "index.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", index)
    assert [h.partition(":")[0] for h in headings] == ["Table 1", "Figure 2", "Figure 10", "Made with"]
    assert "Not finished: fig3_stopped." in index
    for name in NAMES:
        record = read_record(pages / f"{name}.ipynb")
        section = index[index.index(f'<section id="{name}">') :].partition("</section>")[0]
        assert len(re.findall(r'<td class="(?:yes|no|unsaid)">', section)) == len(record["claims"])
        for claim in record["claims"]:
            assert claim["here"] in html.unescape(section)
        assert f'{name}_files/' in section
        assert str(record["environment"]["versions"]["torch"]) in index


def test_the_index_names_the_commits_that_computed_the_numbers(tmp_path):
    """Not that of the run which only read them."""
    path = tmp_path / "fig2_example.ipynb"
    notebook = nbformat.read(REPORTS / path.name, as_version=4)
    [record] = [output.data[MIME_TYPE] for cell in notebook.cells for output in cell.get("outputs", ())
                if MIME_TYPE in output.get("data", {})]
    record["environment"]["commit"] = "c" * 40
    record["computed_by"] = [{"commit": "a" * 40, "tables": 3}, {"commit": None, "tables": 1}]
    nbformat.write(notebook, path)
    index = build_pages(tmp_path).read_text()
    assert f"computed by commit {'a' * 40} and unknown;" in index and "c" * 40 not in index
    record["computed_by"] = []
    nbformat.write(notebook, path)
    assert f"computed by commit {'c' * 40};" in build_pages(tmp_path).read_text()


def test_a_page_has_the_outputs_and_the_code_folded(pages):
    page = (pages / "fig2_example.html").read_text()
    cells = nbformat.read(pages / "fig2_example.ipynb", as_version=4).cells
    n_code = sum(cell.cell_type == "code" and bool(cell.source) for cell in cells)
    assert page.count("<details><summary>code</summary>") == n_code
    assert "<details open" not in page
    assert list((pages / "fig2_example_files").glob("*.png"))


def test_the_index_says_which_parameters_were_set(pages):
    index = (pages / "index.html").read_text()
    for name in NAMES:
        section = index[index.index(f'<section id="{name}">') :].partition("</section>")[0]
        given = nbformat.read(pages / f"{name}.ipynb", as_version=4).metadata.papermill.parameters
        told = "; ".join(f"{key} {value}" for key, value in given.items() if key != "record_path")
        seconds = re.search(r"\d+ s · (.*)</p>", section)
        assert html.unescape(seconds[1]) == told != ""
        assert set(given) < set(read_record(pages / f"{name}.ipynb")["parameters"])  # the defaults are not told


def test_a_report_by_hand_has_no_parameters_and_says_none(pages, tmp_path):
    for notebook in (pages / "fig2_example.ipynb", pages / "table1_testbed.ipynb"):
        made = nbformat.read(notebook, as_version=4)
        if "fig2" in notebook.stem:
            del made.metadata["papermill"]
        else:
            made.metadata["papermill"]["parameters"] = {"results_dir": "/elsewhere", "seed": 3}
        nbformat.write(made, tmp_path / notebook.name)
    index = build_pages(tmp_path).read_text()
    assert "0 s</p>" in index  # run in JupyterLab
    assert " s · seed 3</p>" in index
    assert "elsewhere" not in index


def test_pages_prints_where_the_index_is(pages, capsys):
    assert main(["pages", str(pages)]) == 0
    assert capsys.readouterr().out.strip() == str(pages / "index.html")
    with pytest.raises(RecordError, match="holds no finished report"):
        build_pages(pages / "fig2_example_files")


def test_what_is_outdated_is_told(pages, tmp_path):
    executed = tmp_path / "fig2_example.ipynb"
    shutil.copy(pages / "fig2_example.ipynb", executed)
    shutil.copy(pages / "fig2_example.record.json", tmp_path)
    source = nbformat.read(executed, as_version=4)
    source.cells = [cell for cell in source.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    notebook = tmp_path / "source.ipynb"
    nbformat.write(source, notebook)
    assert outdated(executed, notebook) == ""
    source.cells[0].source += "!"
    nbformat.write(source, notebook)
    assert "was made by another version of source.ipynb" in outdated(executed, notebook)
    source.cells[0].source = source.cells[0].source[:-1]
    nbformat.write(source, notebook)
    record = json.loads((tmp_path / "fig2_example.record.json").read_text())
    record["numbers"] = {}
    (tmp_path / "fig2_example.record.json").write_text(json.dumps(record))
    assert "is not the record in" in outdated(executed, notebook)
    for cell in source.cells:
        cell.update(outputs=[]) if cell.cell_type == "code" else None
    nbformat.write(source, executed)  # stopped before its record
    assert "holds no record" in outdated(executed, notebook)
