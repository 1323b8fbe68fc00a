"""The committed reports: made by the notebooks as they are now, with their records beside them, and on the index."""

import shutil
from pathlib import Path

import nbformat
import pytest

from interventions.report_page import build_pages, outdated

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports" / "mini"
FIGURES = sorted(path.stem for path in (ROOT / "params" / "figures").glob("*.yaml"))
EXECUTED = sorted(REPORTS.glob("*.ipynb"))


def test_there_is_one_report_a_figure():
    assert sorted(path.stem.partition("_")[0] for path in EXECUTED) == FIGURES


@pytest.mark.parametrize("executed", EXECUTED, ids=lambda path: path.stem)
def test_a_report_is_of_the_notebook_as_it_is(executed):
    source = nbformat.read(executed, as_version=4).metadata.papermill.input_path
    assert outdated(executed, ROOT / source) == ""


def test_the_index_is_what_the_reports_make(tmp_path):
    copy = tmp_path / "mini"
    copy.mkdir()
    for path in EXECUTED:
        shutil.copy(path, copy)
    assert build_pages(copy).read_text() == (REPORTS / "index.html").read_text()
    for page in copy.glob("*.html"):
        assert (REPORTS / page.name).is_file()
    for picture in copy.glob("*_files/*"):
        assert (REPORTS / picture.relative_to(copy)).read_bytes() == picture.read_bytes()
