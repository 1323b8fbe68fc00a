"""The committed reports: made by the notebooks as they are now, with their records beside them, and on the index."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from outdated import outdated

from interventions.reports.page import build_pages

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports" / "mini"
FIGURES = sorted(path.stem for path in (ROOT / "params" / "figures").glob("*.yaml"))
EXECUTED = sorted(REPORTS.glob("*.ipynb"))


def test_there_is_one_report_a_figure():
    assert sorted(path.stem.partition("_")[0] for path in EXECUTED) == FIGURES


@pytest.mark.parametrize("executed", EXECUTED, ids=lambda path: path.stem)
def test_a_report_is_of_the_notebook_as_it_is(executed):
    source = nbformat.read(executed, as_version=4).metadata.papermill.input_path
    assert outdated(executed, ROOT / source) == ""


@pytest.mark.parametrize("figure", FIGURES)
def test_a_report_has_the_parameters_of_its_figure(figure):
    given = yaml.safe_load((ROOT / "params" / "figures" / f"{figure}.yaml").read_text())
    [record] = REPORTS.glob(f"{figure}_*.record.json")
    parameters = json.loads(record.read_text())["parameters"]
    assert {name: parameters[name] for name in given} == given


def test_the_pages_are_what_the_reports_make(tmp_path):
    copy = tmp_path / "mini"
    copy.mkdir()
    for path in EXECUTED:
        shutil.copy(path, copy)
    assert build_pages(copy).read_text() == (REPORTS / "index.html").read_text()
    for page in copy.glob("*.html"):
        assert page.read_text() == (REPORTS / page.name).read_text(), page.name
    for picture in copy.glob("*_files/*"):
        assert (REPORTS / picture.relative_to(copy)).read_bytes() == picture.read_bytes()
